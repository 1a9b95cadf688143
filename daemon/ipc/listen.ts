// Owns: one listening socket ("door"); the only file of the service that imports node-ipc.
// Invariants: bytes reach us undecoded: each of node-ipc's text modes has replaced bad UTF-8 before a parser could refuse it.
// So its parser hook is given a parser that asks for raw chunks, and nothing a peer sends becomes an event name, a
// prototype key or an exception inside node-ipc. node-ipc removes no path (unlink: false; socket-path.ts does, under a lock),
// changes no directory's mode, logs nothing.
// Must not: know frames' meaning, callers or methods.
import type { Socket } from 'node:net';
import { isMainThread } from 'node:worker_threads';
import { IPCModule, type IpcParser } from 'node-ipc';
import type { Lock } from '#ground/lock.ts';
import type { Report } from '#ipc/report.ts';
import { claimSocketPath, hasSocketFiles, setSocketAccess } from '#ipc/socket-path.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

/** One connection as the room above sees it. All calls are safe after the end; then they do nothing. */
export interface Wire {
  /** Whole frames, in one write. */
  send(frames: string): void;
  /** Handed to the socket and not yet taken by the kernel. */
  readonly pendingBytes: number;
  pause(): void;
  resume(): void;
  /** Writes what is pending, then closes. */
  finish(): void;
  destroy(): void;
}

/** What the room above does with it. Nothing here may throw. */
export interface WireSink {
  onBytes(chunk: Buffer): void;
  /** Everything written has been taken. */
  onDrain(): void;
  /** The peer sends no more; it may still read. */
  onEnd(): void;
  /** Last call. */
  onClosed(): void;
}

export interface DoorOptions {
  /** File path, or `\\.\pipe\NAME` on Windows. */
  readonly path: string;
  readonly mode: number;
  readonly group?: string | undefined;
  /** Hard stop below the limits of the room above, which answers before it is reached. */
  readonly maxConnections: number;
  readonly open: (wire: Wire) => WireSink;
  readonly report: Report;
}

export interface Door {
  readonly path: string;
  /** Takes no new connection and frees the path; open connections go on. */
  stopAccepting(): void;
  /** Destroys what is open, waits for the end, gives the lock back. */
  close(): Promise<void>;
}

const pipePrefix = '\\\\.\\pipe\\';

/** Throws invalid-request or busy as claimSocketPath, internal when the system refuses to listen. */
export async function openDoor(options: DoorOptions): Promise<Door> {
  const lock = hasSocketFiles ? await claimSocketPath(options.path, options.group, options.report) : null;
  try {
    return await listen(options, lock);
  } catch (thrown) {
    lock?.release();
    throw thrown;
  }
}

const sinks = new WeakMap<Socket, WireSink>();

/** The parser hook: `read` is what each chunk goes through, `encode` takes frames that envelope.ts has made. */
const parser: IpcParser = {
  raw: true,
  encode: (_type, frames) => String(frames),
  read: (sink, chunk) => {
    (sink as WireSink).onBytes(chunk);
    return sink;
  },
};

async function listen(options: DoorOptions, lock: Lock | null): Promise<Door> {
  const ipc = new IPCModule();
  Object.assign(ipc.config, {
    parser,
    silent: true,
    logPayloads: false,
    unlink: false,
    secureSocketRoot: false,
    readableAll: false,
    writableAll: false,
    maxConnections: options.maxConnections,
  });
  let started = (): void => undefined;
  const ready = new Promise<void>((resolve) => {
    started = resolve;
  });
  // On Windows node-ipc puts the prefix there itself, in front of whatever it is given.
  ipc.serve(options.path.startsWith(pipePrefix) ? options.path.slice(pipePrefix.length) : options.path, () => started());
  const { server } = ipc;
  const failed = new Promise<never>((_, reject) => {
    server.on('error', (cause) => {
      // After the start this is one connection's end (reset, broken pipe), which its own 'close' tells as well.
      reject(new UkeyError('internal', `cannot listen on ${options.path}: ${cause.message}`, { cause }));
    });
  });
  failed.catch(() => undefined);
  server.on('connect', (socket) => welcome(socket, server.write.bind(server), options));
  server.on('data', (chunk, socket) => {
    const sink = sinks.get(socket);
    if (sink !== undefined) parser.read(sink, chunk, unused);
  });
  server.on('close', (socket) => {
    const sink = sinks.get(socket);
    sinks.delete(socket);
    sink?.onClosed();
  });

  startNarrow(() => server.start());
  await Promise.race([ready, failed]);
  server.server.on('error', (cause) =>
    options.report('error', 'the listening socket failed', { path: options.path, cause: cause.message }),
  );
  if (hasSocketFiles) setSocketAccess(options.path, options.mode, options.group, options.report);
  return door(options.path, server, lock);
}

const unused = (): void => undefined;

/**
 * Binding happens inside `start`, in this turn of the loop. The socket is born for its owner alone and widened afterwards, so that there is no
 * moment in which the admin door stands open to the group. (Worker threads cannot set the umask; the service never listens in one.)
 */
function startNarrow(start: () => void): void {
  const before = isMainThread ? process.umask(0o177) : null;
  try {
    start();
  } finally {
    if (before !== null) process.umask(before);
  }
}

function welcome(socket: Socket, write: (socket: Socket, frames: string) => boolean, options: DoorOptions): void {
  // A client that has said all it wants (shutdown for writing) still gets its answers.
  socket.allowHalfOpen = true;
  const wire: Wire = {
    send: (frames) => {
      if (socket.writable) write(socket, frames);
    },
    get pendingBytes() {
      return socket.writableLength;
    },
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    finish: () => void socket.end(),
    destroy: () => void socket.destroy(),
  };
  const sink = options.open(wire);
  sinks.set(socket, sink);
  socket.on('drain', () => sink.onDrain());
  socket.on('end', () => sink.onEnd());
}

function door(path: string, server: IPCModule['server'], lock: Lock | null): Door {
  let stopped: Promise<void> | null = null;
  const stopAccepting = (): Promise<void> => {
    // Closing the listener removes its path; the lock is still held, so it is still ours.
    stopped ??= new Promise((resolve) => server.server.close(() => resolve()));
    return stopped;
  };
  return {
    path,
    stopAccepting: () => void stopAccepting(),
    close: async () => {
      const ended = stopAccepting();
      server.stop();
      await ended;
      lock?.release();
    },
  };
}
