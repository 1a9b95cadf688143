// Owns: how the ipc room tells its house what a person may want to know; compose joins it to the log.
// Invariants: facts never hold what a caller sent (a request may carry a PIN or a buyer), only what was counted or configured.

export type Report = (level: 'info' | 'warn' | 'error', what: string, facts?: Readonly<Record<string, string | number>>) => void;
