// Owns: a FLASH that is a raw block device or a preallocated image: opening it for one process alone, and creating images.
// Invariants: system calls run in device-thread.ts, one after the other; a writable open excludes every other writer until
// this process dies; a read-only open locks nothing and writes nothing. Positions and lengths are whole sectors.
// Errors are UkeyError: no-token (nothing there), halted (in use, mounted, unfit, unreadable), unknown-outcome (a write failed).
import { open as openFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import {
  bellWord,
  lengthWord,
  type OpenFailure,
  type Slot,
  sharedBytes,
  slotBytes,
  slotOf,
  type ThreadAnswer,
  type ThreadRequest,
  type ThreadStart,
} from './device-protocol.ts';

/** How long a writable open waits for a predecessor that is dying. */
export const lockWaitMs = 3000;
/** Requests that may wait for the thread. */
const pendingRequestsMax = 1024;
const zeroChunkBytes = 1024 * 1024;
const chunksPerSync = 64;

export interface FileDeviceOptions {
  readonly readOnly?: boolean;
  /** Tests shorten it. */
  readonly lockWaitMs?: number;
}

/** The shipped program is compiled: then the thread stands beside it as .js. */
const threadUrl = new URL(import.meta.url.endsWith('.ts') ? './device-thread.ts' : './device-thread.js', import.meta.url);

interface Waiter {
  readonly resolve: (answer: ThreadAnswer) => void;
  readonly reject: (error: UkeyError) => void;
}

/** The near end of the thread: answers come in the order of requests. */
class Thread {
  /** One that has no device: it is taken by the next that is opened. */
  static #spare: Thread | null = null;

  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #slot: Slot;
  readonly #waiters: Waiter[] = [];
  #dead: UkeyError | null = null;

  /** The spare one, else a new one. */
  static take(): Thread {
    const taken = Thread.#spare ?? new Thread();
    Thread.#spare = null;
    return taken;
  }

  static ready(): void {
    Thread.#spare ??= new Thread();
  }

  private constructor() {
    const { port1, port2 } = new MessageChannel();
    const shared = new SharedArrayBuffer(sharedBytes);
    const start: ThreadStart = { port: port2, shared };
    this.#port = port1;
    this.#slot = slotOf(shared);
    this.#worker = new Worker(threadUrl, { workerData: start, transferList: [port2], execArgv: [] });
    this.#worker.on('error', (cause) => this.#die(new UkeyError('unknown-outcome', "the device's thread died", { cause })));
    this.#worker.on('exit', () => this.#die(new UkeyError('unknown-outcome', "the device's thread ended")));
    this.#port.on('message', (answer: ThreadAnswer) => this.#answered(answer));
    // Only a request under way keeps the process alive.
    this.#worker.unref();
    this.#port.unref();
  }

  ask(request: ThreadRequest): Promise<ThreadAnswer> {
    if (this.#waiters.length >= pendingRequestsMax) return Promise.reject(new UkeyError('busy', 'too many requests wait for the device'));
    const idle = this.#waiters.length === 0;
    const answer = this.#next();
    if (this.#dead === null) {
      this.#send(request, idle);
      Atomics.add(this.#slot.words, bellWord, 1);
      Atomics.notify(this.#slot.words, bellWord);
    }
    return answer;
  }

  /** The bytes are taken now; the caller may change its own afterwards. */
  #send(request: ThreadRequest, idle: boolean): void {
    if (request.kind !== 'write') {
      this.#port.postMessage(request);
    } else if (idle && request.bytes.length <= slotBytes) {
      this.#slot.data.set(request.bytes);
      this.#slot.position[0] = request.positionBytes;
      Atomics.store(this.#slot.words, lengthWord, request.bytes.length);
    } else {
      // A copy of these bytes alone: cloning a view would clone all of the memory under it.
      const bytes = new Uint8Array(request.bytes);
      this.#port.postMessage({ ...request, bytes } satisfies ThreadRequest, [bytes.buffer]);
    }
  }

  /** The next answer that nobody waits for yet. */
  #next(): Promise<ThreadAnswer> {
    if (this.#dead !== null) return Promise.reject(this.#dead);
    if (this.#waiters.length === 0) this.#port.ref();
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** It has no device any more. */
  async release(): Promise<void> {
    if (Thread.#spare === null && this.#dead === null && this.#waiters.length === 0) Thread.#spare = this;
    else await this.end();
  }

  async end(): Promise<void> {
    this.#port.close();
    await this.#worker.terminate();
  }

  #answered(answer: ThreadAnswer): void {
    this.#waiters.shift()?.resolve(answer);
    if (this.#waiters.length === 0) this.#port.unref();
  }

  #die(error: UkeyError): void {
    this.#dead ??= error;
    if (Thread.#spare === this) Thread.#spare = null;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(this.#dead);
    this.#port.unref();
  }
}

class FileDevice implements Device {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  readonly #thread: Thread;
  #closing: Promise<void> | null = null;
  #writeFailed = false;

  constructor(path: string, readOnly: boolean, thread: Thread, size: { readonly sizeBytes: number; readonly sectorBytes: number }) {
    this.path = path;
    this.readOnly = readOnly;
    this.sizeBytes = size.sizeBytes;
    this.sectorBytes = size.sectorBytes;
    this.#thread = thread;
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    this.#check(positionBytes, lengthBytes);
    const answer = await this.#thread.ask({ kind: 'read', positionBytes, lengthBytes });
    if (answer.kind === 'bytes') return answer.bytes;
    throw new UkeyError('halted', `${this.path} cannot be read at ${positionBytes}`, { cause: answer });
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void> {
    this.#check(positionBytes, bytes.length);
    if (this.readOnly) throw new UkeyError('halted', `${this.path} was opened for reading only`);
    if (this.#writeFailed) throw new UkeyError('unknown-outcome', `an earlier write to ${this.path} failed`);
    const answer = await this.#thread.ask({ kind: 'write', positionBytes, bytes });
    if (answer.kind === 'done') return;
    this.#writeFailed = true;
    throw new UkeyError('unknown-outcome', `${this.path} failed to write at ${positionBytes}`, { cause: answer });
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    let isClosed = false;
    try {
      const answer = await this.#thread.ask({ kind: 'close' });
      isClosed = answer.kind === 'done';
      if (!isClosed) throw new UkeyError('halted', `${this.path} did not close`, { cause: answer });
    } finally {
      await (isClosed ? this.#thread.release() : this.#thread.end());
    }
  }

  #check(positionBytes: number, lengthBytes: number): void {
    if (this.#closing !== null) throw new UkeyError('halted', `${this.path} is closed`);
    const whole = positionBytes % this.sectorBytes === 0 && lengthBytes % this.sectorBytes === 0;
    if (!whole || positionBytes < 0 || lengthBytes <= 0 || positionBytes + lengthBytes > this.sizeBytes) {
      throw new UkeyError('internal', `bytes ${positionBytes}+${lengthBytes} are no whole sectors of ${this.path}`);
    }
  }
}

const codeOfFailure: Readonly<Record<OpenFailure, ErrorCode>> = {
  absent: 'no-token',
  'in-use': 'halted',
  mounted: 'halted',
  unfit: 'halted',
  failed: 'halted',
};

/**
 * Opens a block device or an image. Writable: for this process alone (O_EXCL, or flock on an image); waits up to
 * `lockWaitMs` for a dying predecessor. Throws `no-token` when nothing is there, `halted` when it is in use, mounted or unfit.
 * Exclusive use is implemented for Linux; elsewhere a writable open is refused.
 */
export async function openFileDevice(path: string, options: FileDeviceOptions = {}): Promise<Device> {
  const readOnly = options.readOnly ?? false;
  if (!readOnly && process.platform !== 'linux') throw new UkeyError('halted', 'a store can be opened for writing on Linux only');
  const thread = Thread.take();
  const answer = await thread.ask({ kind: 'open', path, readOnly, lockWaitMs: options.lockWaitMs ?? lockWaitMs });
  if (answer.kind === 'open') return new FileDevice(path, readOnly, thread, answer);
  await thread.release();
  if (answer.kind === 'not-open') throw new UkeyError(codeOfFailure[answer.reason], answer.text);
  throw new UkeyError('internal', `unexpected answer ${answer.kind} of the device's thread`);
}

/** Starts the thread of the device that is opened next, beside whatever comes before that. */
export function readyThread(): void {
  Thread.ready();
}

/**
 * Creates an image, mode 0600, filled with zeros and durable. Zeros are written rather than reserved: blocks that are only
 * reserved make the file system write its journal at each first sync. Throws `halted` when the path exists or cannot be filled.
 */
export async function createImage(
  path: string,
  sizeBytes: number,
  onProgress: (doneBytes: number) => void = () => undefined,
): Promise<void> {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % zeroChunkBytes !== 0) {
    throw new UkeyError('internal', 'the size of an image is a whole number of MiB');
  }
  const file = await openFile(path, 'wx', 0o600).catch((cause: unknown) => {
    throw new UkeyError('halted', `${path} cannot be created`, { cause });
  });
  try {
    const zeros = Buffer.alloc(zeroChunkBytes);
    for (let at = 0; at < sizeBytes; at += zeroChunkBytes) {
      for (let done = 0; done < zeroChunkBytes; ) done += (await file.write(zeros, done, zeroChunkBytes - done, at + done)).bytesWritten;
      // Beside tills whose syncs go to the same disk: never much of it waits to be written.
      if ((at / zeroChunkBytes) % chunksPerSync === chunksPerSync - 1) await file.datasync();
      onProgress(at + zeroChunkBytes);
    }
    await file.sync();
    await file.close();
    // The name is durable too: a crash here leaves a whole blank image.
    const folder = await openFile(dirname(path), 'r');
    await folder.sync().finally(() => folder.close());
  } catch (cause) {
    await file.close().catch(() => undefined);
    await rm(path, { force: true });
    throw new UkeyError('halted', `${path} cannot be filled with ${sizeBytes} bytes`, { cause });
  }
}
