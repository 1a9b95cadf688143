// Owns: what a process said last of its trouble, out of its log: one sentence fit for a sentence of ours.
// Invariants: reads the log's end alone; never throws: whoever asks has a failure to tell already. A full disk is a reason that no log can hold,
// so it is looked for first.
import { closeSync, fstatSync, openSync, readSync, statfsSync } from 'node:fs';
import path from 'node:path';

const readMaxBytes = 65_536;
const textMaxChars = 400;
const fullBelowBytes = 64 * 1024;
const troubled: readonly unknown[] = ['error', 'warn'];

/** Of what stands in the log from byte `from` on; empty when it tells of no trouble. */
export function lastWordsIn(logFile: string, from: number): string {
  const folder = path.dirname(logFile);
  try {
    const { bavail, bsize } = statfsSync(folder);
    if (bavail * bsize < fullBelowBytes) return `the disk that holds ${folder} is full`;
    return troubleIn(endOf(logFile, from));
  } catch (thrown) {
    return `its log cannot be read (${String((thrown as NodeJS.ErrnoException).code)})`;
  }
}

function endOf(file: string, from: number): string {
  const fd = openSync(file, 'r');
  try {
    const { size } = fstatSync(fd);
    // A log that was put aside begins anew.
    const begin = Math.max(from > size ? 0 : from, size - readMaxBytes);
    const bytes = Buffer.alloc(size - begin);
    return bytes.toString('utf8', 0, readSync(fd, bytes, 0, bytes.length, begin));
  } finally {
    closeSync(fd);
  }
}

/** The last line of a log that tells of trouble: its message and why, without stacks and JSON. Pure. */
export function troubleIn(log: string): string {
  const said = log.split('\n').map(troubleOf);
  return (said.findLast((text) => text !== '') ?? '').slice(0, textMaxChars);
}

function troubleOf(line: string): string {
  const fields = fieldsOf(line);
  // Not a log's line: what a program says before it has a log, or the first line of a stack.
  if (fields === null) return /^\s/.test(line) || !/error|: /i.test(line) ? '' : line.trim();
  if (!troubled.includes(fields['level'])) return '';
  return [fields['message'] ?? fields['event'], fields['why']]
    .filter((part) => typeof part === 'string')
    .map((part) => part.split('\n')[0])
    .join(': ');
}

function fieldsOf(line: string): Readonly<Record<string, unknown>> | null {
  if (!line.startsWith('{')) return null;
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    // Cut off, where the log's end was read or the disk was full.
    return {};
  }
}
