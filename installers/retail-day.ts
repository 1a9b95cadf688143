// Owns: making test/data/retail-day.csv: the raw lines of one whole day of the Online Retail data set (test/data/README.md).
// Use: node installers/retail-day.ts FILE.csv[.gz] [YYYY-MM-DD]
// Invariants: lines are copied byte for byte, in their order; no invoice of the day is cut in two.
import { readFileSync, writeFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { readRetail } from '#ctl/retail.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

const defaultDay = '2010-12-02';
const output = new URL('../test/data/retail-day.csv', import.meta.url);

/** Header and lines of that day. Throws invalid-request when an invoice of the day has lines on another one, or there is none. */
export function linesOfDay(text: string, day: string): string {
  const [header = '', ...lines] = text.split(/(?<=\n)/);
  const kept = [header, ...lines.filter((line) => line.includes(`,${day} `))].join('');
  const whole = new Map(readRetail(text).map((invoice) => [invoice.number, invoice.rows.length]));
  const invoices = readRetail(kept);
  if (invoices.length === 0) throw new UkeyError('invalid-request', `no invoice of ${day}`, { field: 'day' });
  const cut = invoices.find((invoice) => whole.get(invoice.number) !== invoice.rows.length);
  if (cut !== undefined) throw new UkeyError('invalid-request', `invoice ${cut.number} has lines on another day`, { field: 'day' });
  return kept;
}

if (import.meta.main) {
  const [file, day = defaultDay] = process.argv.slice(2);
  if (file === undefined) throw new UkeyError('invalid-request', 'name the CSV file', { field: 'FILE' });
  const bytes = readFileSync(file);
  const dayText = linesOfDay((file.endsWith('.gz') ? gunzipSync(bytes) : bytes).toString('utf8'), day);
  writeFileSync(output, dayText);
  process.stderr.write(`${readRetail(dayText).length} invoices and credit notes of ${day}\n`);
}
