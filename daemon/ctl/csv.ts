// Owns: reading comma-separated values as RFC 4180 has them: quoted fields, doubled quotes, line feeds inside quotes.
// Invariants: strict, because money is read from it: a stray quote, text after a closing quote, a row of another length or
// an unfinished quote is refused with its line; nothing is trimmed, guessed or skipped. A line ends with LF or CRLF.
// Errors: invalid-request with the line number.
import { UkeyError } from '#ipc-schema/errors.ts';

const quote = '"';

/** Rows as objects of the header's names. The header must be exactly `columns`, in that order. */
export function readCsv<Name extends string>(text: string, columns: readonly Name[]): Record<Name, string>[] {
  const cursor = { text: text.startsWith('\ufeff') ? text.slice(1) : text, at: 0, line: 1 };
  const header = readRow(cursor);
  if (header === null || header.join(',') !== columns.join(',')) throw refuse(1, `the header must be ${columns.join(',')}`);
  const rows: Record<Name, string>[] = [];
  for (;;) {
    const line = cursor.line;
    const fields = readRow(cursor);
    if (fields === null) return rows;
    if (fields.length !== columns.length) throw refuse(line, `has ${fields.length} fields instead of ${columns.length}`);
    rows.push(Object.fromEntries(columns.map((name, at) => [name, fields[at] ?? ''])) as Record<Name, string>);
  }
}

interface Cursor {
  readonly text: string;
  at: number;
  line: number;
}

/** The next row's fields, or null at the end. Leaves the cursor behind the row's line end. */
function readRow(cursor: Cursor): string[] | null {
  if (cursor.at >= cursor.text.length) return null;
  const fields: string[] = [];
  for (;;) {
    fields.push(cursor.text[cursor.at] === quote ? quotedField(cursor) : plainField(cursor));
    if (cursor.text[cursor.at] !== ',') break;
    cursor.at += 1;
  }
  if (cursor.text[cursor.at] === '\r' && cursor.text[cursor.at + 1] === '\n') cursor.at += 1;
  else if (cursor.at < cursor.text.length && cursor.text[cursor.at] !== '\n') throw refuse(cursor.line, 'has text after a closing quote');
  cursor.at += 1;
  cursor.line += 1;
  return fields;
}

function plainField(cursor: Cursor): string {
  const start = cursor.at;
  for (; cursor.at < cursor.text.length; cursor.at += 1) {
    const char = cursor.text[cursor.at];
    if (char === ',' || char === '\n' || (char === '\r' && cursor.text[cursor.at + 1] === '\n')) break;
    if (char === quote) throw refuse(cursor.line, 'has a quote inside a field that does not begin with one');
    if (char === '\r') throw refuse(cursor.line, 'has a carriage return inside a field');
  }
  return cursor.text.slice(start, cursor.at);
}

function quotedField(cursor: Cursor): string {
  const opened = cursor.line;
  let value = '';
  for (;;) {
    const close = cursor.text.indexOf(quote, cursor.at + 1);
    if (close < 0) throw refuse(opened, 'opens a quote that is never closed');
    const part = cursor.text.slice(cursor.at + 1, close);
    for (let at = part.indexOf('\n'); at >= 0; at = part.indexOf('\n', at + 1)) cursor.line += 1;
    value += part;
    cursor.at = close + 1;
    if (cursor.text[cursor.at] !== quote) return value;
    value += quote;
  }
}

function refuse(line: number, what: string): UkeyError {
  return new UkeyError('invalid-request', `line ${line} ${what}`, { field: `line ${line}` });
}
