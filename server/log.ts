// Owns: the ticket server's log: one JSON object a line on standard error.
// Invariants: fields are counts, codes, ids and fingerprints; never a body, a key or an enrolment code.
// A fault of the log stops nobody: a line that cannot be written is lost.

export type LogLevel = 'info' | 'warn' | 'error';
export type LogFields = Readonly<Record<string, string | number | boolean | null>>;
export type Log = (level: LogLevel, event: string, fields?: LogFields) => void;

/** Stack and causes of what was thrown: for the log alone, never for an answer. */
export function faultText(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  const own = thrown.stack ?? thrown.message;
  return thrown.cause === undefined ? own : `${own}\ncaused by: ${faultText(thrown.cause)}`;
}

export const stderrLog: Log = (level, event, fields = {}) => {
  process.stderr.write(`${JSON.stringify({ at: new Date().toISOString(), level, event, ...fields })}\n`);
};

export const noLog: Log = () => {};
