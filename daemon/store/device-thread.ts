// Owns: the thread in which a device's system calls block: open, lock, read, write + fdatasync, close. Started by device-file.ts only.
// Invariants: one request after the other; a write counts as done only when all bytes were taken and fdatasync said yes; after
// the first failed write or sync every further one is refused (a second fdatasync would say yes without having written).
// When a device is closed the thread is there for another one: starting one takes longer than opening a device.
// Requests are fetched synchronously: sleeping in Atomics.wait wakes sooner than an event loop. A short write that finds the
// thread idle lies in shared memory (the slot), everything else comes as a message.
import { spawnSync } from 'node:child_process';
import { closeSync, constants, fdatasyncSync, fstatSync, openSync, readFileSync, readSync, type Stats, writeSync } from 'node:fs';
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import {
  bellWord,
  type DeviceRequest,
  lengthWord,
  type OpenFailure,
  type OpenRequest,
  type Slot,
  slotOf,
  type ThreadAnswer,
  type ThreadRequest,
  type ThreadStart,
} from './device-protocol.ts';

/** Sector of an image: files are written in sectors of at least this size on every disk. */
const imageSectorBytes = 512;
const lockRetryMs = 50;

class OpenError extends Error {
  readonly reason: OpenFailure;
  constructor(reason: OpenFailure, text: string) {
    super(text);
    this.reason = reason;
  }
}

const textOf = (thrown: unknown): string => (thrown instanceof Error ? thrown.message : String(thrown));
const codeOf = (thrown: unknown): string => (thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '');

const pause = (waitMs: number): void => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, waitMs);
};

/** Major and minor number as Linux packs them into st_rdev (makedev(3)). */
function numberOf(rdev: number): string {
  const wide = BigInt(rdev);
  const major = ((wide >> 8n) & 0xfffn) | ((wide >> 32n) & ~0xfffn);
  const minor = (wide & 0xffn) | ((wide >> 12n) & ~0xffn);
  return `${major}:${minor}`;
}

function isMounted(number: string): boolean {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return lines.some((line) => line.split(' ')[2] === number);
}

function sysNumber(path: string): number | null {
  try {
    return Number(readFileSync(path, 'utf8').trim());
  } catch (thrown) {
    if (codeOf(thrown) === 'ENOENT') return null;
    throw thrown;
  }
}

/** flock(1) locks the open file description that it inherits; the kernel frees it when this process dies, however it dies. */
function tryLock(fd: number): boolean {
  const done = spawnSync('flock', ['-n', '-x', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] });
  if (done.error !== undefined) throw new OpenError('failed', `flock(1) is needed to lock an image: ${done.error.message}`);
  if (done.status !== 0 && done.status !== 1) throw new OpenError('failed', `flock(1) ended with ${done.status ?? done.signal}`);
  return done.status === 0;
}

interface Opened {
  readonly fd: number;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
}

function openOnce(path: string, readOnly: boolean): Opened | 'in-use' {
  const access = readOnly ? constants.O_RDONLY : constants.O_RDWR;
  let fd = openSync(path, access | constants.O_NONBLOCK);
  let isKept = false;
  let stat: Stats;
  try {
    stat = fstatSync(fd);
    isKept = stat.isFile() && (readOnly || tryLock(fd));
  } finally {
    if (!isKept) closeSync(fd); // and with it the lock: this thread serves on
  }
  if (isKept) return { fd, sizeBytes: stat.size - (stat.size % imageSectorBytes), sectorBytes: imageSectorBytes };
  if (stat.isFile()) return 'in-use';
  if (!stat.isBlockDevice()) throw new OpenError('unfit', `${path} is neither a block device nor a file`);
  const number = numberOf(stat.rdev);
  if (!readOnly && isMounted(number)) throw new OpenError('mounted', `${path} is mounted as a file system`);
  const folder = `/sys/dev/block/${number}`;
  const sectors = sysNumber(`${folder}/size`);
  // A partition has no queue of its own: it is its disk's.
  const sectorBytes = sysNumber(`${folder}/queue/logical_block_size`) ?? sysNumber(`${folder}/../queue/logical_block_size`);
  if (sectors === null || sectorBytes === null) throw new OpenError('unfit', `${path}: the kernel does not tell its size`);
  if (sectors === 0) throw new OpenError('absent', `${path} has no medium`);
  try {
    fd = openSync(path, readOnly ? access : access | constants.O_EXCL);
  } catch (thrown) {
    if (codeOf(thrown) === 'EBUSY') return 'in-use';
    throw thrown;
  }
  // Sizes in /sys are in units of 512 bytes whatever the sector.
  const sizeBytes = sectors * 512;
  return { fd, sizeBytes: sizeBytes - (sizeBytes % sectorBytes), sectorBytes };
}

/** A killed predecessor needs a moment to die: waits for it, but not for ever. */
function open({ path, readOnly, lockWaitMs }: OpenRequest): Opened {
  const giveUpAtMs = performance.now() + lockWaitMs;
  for (;;) {
    const opened = openOnce(path, readOnly);
    if (opened !== 'in-use') return opened;
    if (performance.now() >= giveUpAtMs) throw new OpenError('in-use', `${path} is in use by another process`);
    pause(lockRetryMs);
  }
}

function readAll(fd: number, positionBytes: number, lengthBytes: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(lengthBytes);
  for (let done = 0; done < lengthBytes; ) {
    const count = readSync(fd, bytes, done, lengthBytes - done, positionBytes + done);
    if (count === 0) throw new Error(`the device ends at byte ${positionBytes + done}`);
    done += count;
  }
  return bytes;
}

function writeAll(fd: number, positionBytes: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) {
    const count = writeSync(fd, bytes, done, bytes.length - done, positionBytes + done);
    if (count === 0) throw new Error(`the device takes nothing at byte ${positionBytes + done}`);
    done += count;
  }
}

/** The device that this thread has, from its open to its close. */
class Served {
  readonly #fd: number;
  #writesFail = false;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Throws what the system says. */
  answer(request: DeviceRequest): ThreadAnswer {
    switch (request.kind) {
      case 'read':
        return { kind: 'bytes', bytes: readAll(this.#fd, request.positionBytes, request.lengthBytes) };
      case 'write':
        this.#write(request.positionBytes, request.bytes);
        return { kind: 'done' };
      case 'close':
        closeSync(this.#fd);
        return { kind: 'done' };
    }
  }

  #write(positionBytes: number, bytes: Uint8Array): void {
    if (this.#writesFail) throw new Error('an earlier write failed');
    try {
      writeAll(this.#fd, positionBytes, bytes);
      // Not durable before this line has returned.
      fdatasyncSync(this.#fd);
    } catch (thrown) {
      this.#writesFail = true;
      throw thrown;
    }
  }
}

function nextRequest(port: MessagePort, slot: Slot): ThreadRequest | null {
  const lengthBytes = Atomics.load(slot.words, lengthWord);
  if (lengthBytes > 0) {
    Atomics.store(slot.words, lengthWord, 0);
    // The near end fills the slot again only after this request was answered.
    return { kind: 'write', positionBytes: slot.position[0] ?? 0, bytes: slot.data.subarray(0, lengthBytes) };
  }
  const message = receiveMessageOnPort(port);
  return message === undefined ? null : (message.message as ThreadRequest);
}

let served: Served | null = null;

function opened(request: OpenRequest): ThreadAnswer {
  try {
    const { fd, sizeBytes, sectorBytes } = open(request);
    served = new Served(fd);
    return { kind: 'open', sizeBytes, sectorBytes };
  } catch (thrown) {
    const absent = ['ENOENT', 'ENXIO', 'ENODEV', 'ENOMEDIUM'].includes(codeOf(thrown));
    const reason = thrown instanceof OpenError ? thrown.reason : absent ? 'absent' : 'failed';
    return { kind: 'not-open', reason, text: textOf(thrown) };
  }
}

function answered(request: ThreadRequest): ThreadAnswer {
  if (request.kind === 'open') return opened(request);
  try {
    if (served === null) throw new Error('no device is open');
    return served.answer(request);
  } catch (thrown) {
    return { kind: 'failed', text: textOf(thrown) };
  } finally {
    if (request.kind === 'close') served = null;
  }
}

/** For ever: the near end ends this thread, because ending by itself could overtake the last answer. */
function serve({ port, shared }: ThreadStart): never {
  const slot = slotOf(shared);
  for (;;) {
    const rung = Atomics.load(slot.words, bellWord);
    const request = nextRequest(port, slot);
    if (request === null) {
      Atomics.wait(slot.words, bellWord, rung);
      continue;
    }
    const reply = answered(request);
    port.postMessage(reply, reply.kind === 'bytes' ? [reply.bytes.buffer as ArrayBuffer] : []);
  }
}

serve(workerData as ThreadStart);
