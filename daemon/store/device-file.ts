// Owns: a FLASH that is a raw block device or a preallocated image: reading it, writing it durably, and creating images.
// Invariants: a write is made behind every call before it, and a read behind every write before it, up to `readsAtOnce` of them together; reads and syncs
// in Node's pool, so a device that hangs takes so many threads of it and leaves some to the other device; a
// write, which ends in the kernel's memory, is made at once, so that its sync begins before whatever this thread does next (a signature, which blocks it);
// what a log will be written over next is read before (read-ahead.ts), in the pool and behind the sync;
// a write counts as done only when all bytes were taken and fdatasync said yes; after the first write or sync that failed every
// further one is refused (a second fdatasync would say yes without having written), unless it was a repair, on which nobody counts. Positions and
// lengths are whole sectors.
// Errors are UkeyError: no-token (nothing there), halted (in use, mounted, unfit, unreadable), unknown-outcome (a write failed).
import { fdatasync, read, writeSync } from 'node:fs';
import { open as openFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device, WriteOptions } from '#store/device.ts';
import { type Claimed, claimDevice, closeDescriptor } from './device-claim.ts';
import { pieceBytes, ReadAhead, type Stretch } from './read-ahead.ts';

/** How long a writable open waits for a predecessor that is dying. */
export const lockWaitMs = 3000;
/** Calls that may wait for their turn. */
const pendingCallsMax = 1024;
/** FLASH and mirror share the holder's pool, which has room for these and for one that reads ahead of each (ground/runtime). One after the other, the way to a thread and back takes longer than a page does. */
export const readsAtOnce = 4;
const zeroChunkBytes = 1024 * 1024;
const chunksPerSync = 64;

export interface FileDeviceOptions {
  readonly readOnly?: boolean;
  /** Tests shorten it. */
  readonly lockWaitMs?: number;
}

/** Calls that are made one after the other. */
interface Lane {
  last: Promise<unknown>;
  pending: number;
}

class FileDevice implements Device {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  readonly #descriptor: number;
  readonly #lanes: readonly Lane[] = Array.from({ length: readsAtOnce }, () => ({ last: Promise.resolve(), pending: 0 }));
  readonly #ahead: ReadAhead;
  #fetching: Promise<void> | null = null;
  #pending = 0;
  #closing: Promise<void> | null = null;
  #writeFailed = false;

  constructor(path: string, readOnly: boolean, { descriptor, sizeBytes, sectorBytes }: Claimed) {
    this.path = path;
    this.readOnly = readOnly;
    this.sizeBytes = sizeBytes;
    this.sectorBytes = sectorBytes;
    this.#descriptor = descriptor;
    this.#ahead = new ReadAhead(sizeBytes);
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    this.#check(positionBytes, lengthBytes);
    const quietest = this.#lanes.reduce((a, b) => (b.pending < a.pending ? b : a));
    return await this.#inTurn([quietest], () =>
      readAll(this.#descriptor, positionBytes, lengthBytes).catch((cause: unknown) => {
        throw new UkeyError('halted', `${this.path} cannot be read at ${positionBytes}`, { cause });
      }),
    );
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array, { isRepair = false }: WriteOptions = {}): Promise<void> {
    this.#check(positionBytes, bytes.length);
    if (this.readOnly) throw new UkeyError('halted', `${this.path} was opened for reading only`);
    // As they are now: the caller may change its own before their turn comes.
    const taken = this.#pending === 0 ? bytes : Uint8Array.from(bytes);
    await this.#inTurn(this.#lanes, () => this.#write(positionBytes, taken, isRepair));
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await Promise.all(this.#lanes.map(({ last }) => last));
    await this.#fetching;
    await closeDescriptor(this.#descriptor).catch((cause: unknown) => {
      throw new UkeyError('halted', `${this.path} did not close`, { cause });
    });
  }

  async #write(positionBytes: number, bytes: Uint8Array, isRepair: boolean): Promise<void> {
    if (this.#writeFailed) throw new UkeyError('unknown-outcome', `an earlier write to ${this.path} failed`);
    try {
      writeAll(this.#descriptor, positionBytes, bytes);
      // Not durable before this.
      await synced(this.#descriptor);
    } catch (cause) {
      if (!isRepair) this.#writeFailed = true;
      throw new UkeyError('unknown-outcome', `${this.path} failed to write at ${positionBytes}`, { cause });
    }
    this.#ahead.wrote(positionBytes + bytes.length);
    if (this.#ahead.isDue) setImmediate(() => this.#lookAhead()); // whoever waits for the write is told first
  }

  #lookAhead(): void {
    if (this.#closing !== null || this.#fetching !== null) return;
    this.#fetching = this.#fetchAhead().finally(() => {
      this.#fetching = null;
    });
  }

  /** Nobody but `close` waits for it. What cannot be read is told to whoever reads or writes there. */
  async #fetchAhead(): Promise<void> {
    for (let piece = this.#ahead.next(); piece !== null; piece = this.#closing === null ? this.#ahead.next() : null)
      await fetched(this.#descriptor, piece);
  }

  /** Behind what is under way in these lanes; whatever comes in one of them later waits for it. */
  async #inTurn<T>(lanes: readonly Lane[], call: () => Promise<T>): Promise<T> {
    if (this.#pending >= pendingCallsMax) throw new UkeyError('busy', 'too many requests wait for the device');
    this.#pending += 1;
    const before = lanes.filter(({ pending }) => pending > 0).map(({ last }) => last);
    const turn = before.length === 0 ? call() : Promise.all(before).then(call);
    const ended = turn.then(nothing, nothing); // and not what was read
    for (const lane of lanes) {
      lane.last = ended;
      lane.pending += 1;
    }
    try {
      return await turn;
    } finally {
      this.#pending -= 1;
      for (const lane of lanes) lane.pending -= 1;
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

async function readAll(descriptor: number, positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(lengthBytes);
  for (let done = 0; done < lengthBytes; ) {
    const count = await readOnce(descriptor, bytes, done, positionBytes + done);
    if (count === 0) throw new Error(`the device ends at byte ${positionBytes + done}`);
    done += count;
  }
  return bytes;
}

function writeAll(descriptor: number, positionBytes: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) {
    const count = writeSync(descriptor, bytes, done, bytes.length - done, positionBytes + done);
    if (count === 0) throw new Error(`the device takes nothing at byte ${positionBytes + done}`);
    done += count;
  }
}

const nothing = (): void => undefined;

const synced = (descriptor: number): Promise<void> =>
  new Promise((resolve, reject) => fdatasync(descriptor, (error) => (error === null ? resolve() : reject(error))));

/** Only the kernel keeps it; all devices read into this. */
const unread = new Uint8Array(pieceBytes);

const fetched = (descriptor: number, { positionBytes, lengthBytes }: Stretch): Promise<void> =>
  new Promise((resolve) => read(descriptor, unread, 0, lengthBytes, positionBytes, () => resolve()));

const readOnce = (descriptor: number, bytes: Uint8Array, at: number, positionBytes: number): Promise<number> =>
  new Promise((resolve, reject) =>
    read(descriptor, bytes, at, bytes.length - at, positionBytes, (error, count) => (error === null ? resolve(count) : reject(error))),
  );

/**
 * Opens a block device or an image. Writable: for this process alone (O_EXCL, or flock on an image); waits up to
 * `lockWaitMs` for a dying predecessor. Throws `no-token` when nothing is there, `halted` when it is in use, mounted or unfit.
 * Exclusive use is implemented for Linux; elsewhere a writable open is refused.
 */
export async function openFileDevice(path: string, options: FileDeviceOptions = {}): Promise<Device> {
  const readOnly = options.readOnly ?? false;
  if (!readOnly && process.platform !== 'linux') throw new UkeyError('halted', 'a store can be opened for writing on Linux only');
  return new FileDevice(path, readOnly, await claimDevice({ path, readOnly, lockWaitMs: options.lockWaitMs ?? lockWaitMs }));
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
