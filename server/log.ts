// Owns: the ticket server's log: one JSON object a line on standard error.
// What an HTTP request causes bears the name that its sender gave it (`duringRequest`): the same stands in the sender's log.
// Invariants: fields are counts, codes, ids and fingerprints; never a body, a key or an enrolment code.
// A fault of the log stops nobody: a line that cannot be written (full disk, closed pipe) is lost, counted, and told once writing works again.
import { AsyncLocalStorage } from 'node:async_hooks';
import { writeSync } from 'node:fs';

export type LogLevel = 'info' | 'warn' | 'error';
export type LogFields = Readonly<Record<string, string | number | boolean | null>>;
export type Log = (level: LogLevel, event: string, fields?: LogFields) => void;

const asking = new AsyncLocalStorage<string>();
const namePattern = /^[A-Za-z0-9._:-]{1,64}$/;

/** Anything but a short plain name is left out: a log does not repeat whatever a sender sends. */
export function duringRequest<T>(name: string | readonly string[] | undefined, act: () => T): T {
  return typeof name === 'string' && namePattern.test(name) ? asking.run(name, act) : act();
}

/** Stack and causes of what was thrown: for the log alone, never for an answer. */
export function faultText(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  const own = thrown.stack ?? thrown.message;
  return thrown.cause === undefined ? own : `${own}\ncaused by: ${faultText(thrown.cause)}`;
}

/** Standard streams report a failed write as an event, which unheard would end the process. */
export function outliveStreams(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
}

/** A log of JSON lines; `write` writes some of the bytes and says how many, or throws. */
export function lineLog(write: (bytes: Uint8Array) => number): Log {
  let lostCount = 0;
  let isTorn = false;
  const put = (line: string): boolean => {
    let rest: Uint8Array = Buffer.from(isTorn ? `\n${line}` : line, 'utf8');
    const fullBytes = rest.length;
    try {
      while (rest.length > 0) rest = rest.subarray(write(rest));
      isTorn = false;
      return true;
    } catch {
      isTorn ||= rest.length < fullBytes;
      lostCount += 1;
      return false;
    }
  };
  const log: Log = (level, event, fields = {}) => {
    const request = asking.getStore();
    const name = request === undefined ? {} : { request };
    const isWritten = put(`${JSON.stringify({ at: new Date().toISOString(), level, event, ...name, ...fields })}\n`);
    if (!isWritten || lostCount === 0) return;
    const count = lostCount;
    lostCount = 0;
    log('warn', 'log-lines-lost', { count });
  };
  return log;
}

const stderrDescriptor = 2;
/** Straight to the descriptor: Node's stream would be of no use any more after its first error. */
export const stderrLog: Log = lineLog((bytes) => writeSync(stderrDescriptor, bytes));

export const noLog: Log = () => {};
