// Owns: the named maxima of the socket (SPEC.md, Limits): what one connection, one terminal and all together may occupy.
// Invariants: everything that a stranger can make grow stands here; waits are monotonic milliseconds.

export interface Limits {
  /** Open connections per door. One more closes the oldest that has not proven who it is; if all have, it is refused `busy`. */
  readonly tillConnections: number;
  readonly adminConnections: number;
  /** Of one terminal: leaves some for the others. */
  readonly connectionsPerTerminal: number;
  /** Of a frame, before and after the caller is known: strangers get no room to fill. */
  readonly strangerFrameBytes: number;
  readonly frameBytes: number;
  /** Of one answer; a larger one is refused `too-large`. The largest batch fits, as base64. */
  readonly answerBytes: number;
  /** Requests being worked on per connection: above, the connection is read no further until one is answered. */
  readonly requestsPerConnection: number;
  /** The same over all connections of one terminal, and over all terminals: above, `busy`. */
  readonly requestsPerTerminal: number;
  readonly requestsInAll: number;
  /** Bytes of the frames behind those requests, counted like them: a few large ones weigh as much as many small ones. */
  readonly requestBytesPerConnection: number;
  readonly requestBytesPerTerminal: number;
  readonly busyRetryMs: number;
  /** Requests that a stranger may send before it authenticates, and failures of authenticate; then the connection is closed. */
  readonly strangerRequests: number;
  readonly authenticationFailures: number;
  /** Frames, and bytes of them, that one connection may have handled before the others have their turn. */
  readonly framesPerTurn: number;
  readonly bytesPerTurn: number;
  /** Of the service's time, before its sockets are read again; terminals take turns in it (rota.ts). */
  readonly turnsMs: number;
  /** Output not yet taken by the reader: above the first, its requests are read no further and its events are dropped and counted; above the second it is closed. */
  readonly outputHighBytes: number;
  readonly outputMaxBytes: number;
  /** A stranger that does not authenticate, a frame that does not end, a reader that does not read: closed after this. */
  readonly strangerWaitMs: number;
  readonly frameWaitMs: number;
  readonly outputWaitMs: number;
  /** After the last word: how long a peer may take to read it. */
  readonly lingerMs: number;
  /** How long `close` waits for requests that are being worked on. */
  readonly closeWaitMs: number;
  readonly sweepMs: number;
  /** Closed connections that are reported one by one between two sweeps; of the rest the number is told: a stranger must not fill the log. */
  readonly reportsPerSweep: number;
}

export const defaultLimits: Limits = {
  tillConnections: 1_200,
  adminConnections: 64,
  connectionsPerTerminal: 1_024,
  strangerFrameBytes: 4 * 1024,
  frameBytes: 256 * 1024,
  answerBytes: 1536 * 1024,
  requestsPerConnection: 128,
  requestsPerTerminal: 1_024,
  requestsInAll: 8_192,
  requestBytesPerConnection: 512 * 1024,
  requestBytesPerTerminal: 2 * 1024 * 1024,
  busyRetryMs: 50,
  strangerRequests: 16,
  authenticationFailures: 3,
  framesPerTurn: 16,
  bytesPerTurn: 64 * 1024,
  turnsMs: 5,
  outputHighBytes: 128 * 1024,
  outputMaxBytes: 8 * 1024 * 1024,
  strangerWaitMs: 10_000,
  frameWaitMs: 30_000,
  outputWaitMs: 30_000,
  lingerMs: 2_000,
  closeWaitMs: 10_000,
  sweepMs: 1_000,
  reportsPerSweep: 5,
};
