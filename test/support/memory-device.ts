// Owns: a FLASH in memory whose faults a test chooses: failing writes, torn and lost sectors, lies about sync, flipped bits.
// Invariants: the medium is what survives a power cut; a cache lies over it; without faults writeAndSync empties the cache.
// Pages are never changed in place, so a snapshot is cheap. Nothing here is random: tests draw from their printed seed.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device, WriteOptions } from '#store/device.ts';

const pageBytes = 4096;

/** What survives: pages by number; an absent page is zeros. */
export type Medium = ReadonlyMap<number, Uint8Array>;

export interface Write {
  readonly positionBytes: number;
  readonly bytes: Uint8Array;
}

/**
 * `not-written`: error and nothing on the medium. `written`: error although all of it is durable. `torn`: error and only `keeps` is. The others
 * say that all is well: `dropped` writes nothing, `flipped` one bit wrong, `misdirected` the bytes to another place.
 */
export type WriteFault =
  | { readonly kind: 'dropped' }
  | { readonly kind: 'flipped'; readonly bit: number }
  | { readonly kind: 'misdirected'; readonly positionBytes: number }
  | { readonly kind: 'not-written' }
  | { readonly kind: 'written' }
  | { readonly kind: 'torn'; readonly keeps: (sector: number) => boolean };

export interface MemoryDeviceOptions {
  readonly sizeBytes: number;
  readonly sectorBytes?: number;
  readonly medium?: Medium;
  readonly readOnly?: boolean;
  /** Says "durable" at once and leaves everything in the cache. */
  readonly lies?: boolean;
}

export class MemoryDevice implements Device {
  readonly path = 'memory';
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  readonly #lies: boolean;
  #medium: Map<number, Uint8Array>;
  #cached: Write[] = [];
  #closed = false;
  #dead = false;
  readonly #unreadable = new Set<number>();
  readonly #worn = new Set<number>();
  #faults = new Map<number, WriteFault>();
  #stalled: Promise<void> = Promise.resolve();
  /** All that was asked for since opening, also what failed. */
  readonly writes: Write[] = [];
  readonly reads: { readonly positionBytes: number; readonly lengthBytes: number }[] = [];
  /** Most writes that were under way at one time. */
  overlap = 0;
  #underWay = 0;

  constructor(options: MemoryDeviceOptions) {
    this.sizeBytes = options.sizeBytes;
    this.sectorBytes = options.sectorBytes ?? 512;
    this.readOnly = options.readOnly ?? false;
    this.#lies = options.lies ?? false;
    this.#medium = new Map(options.medium);
  }

  /** Fault of the nth write from now, 1 for the next. */
  failWrite(nth: number, fault: WriteFault): void {
    this.#faults.set(this.writes.length + nth, fault);
  }

  /** These bytes cannot be read until they are written again. */
  failReads(positionBytes: number, lengthBytes: number): void {
    for (let at = positionBytes; at < positionBytes + lengthBytes; at += this.sectorBytes)
      this.#unreadable.add(at - (at % this.sectorBytes));
  }

  /** These bytes can neither be read nor written any more. */
  wearOut(positionBytes: number, lengthBytes: number): void {
    this.failReads(positionBytes, lengthBytes);
    for (let at = positionBytes; at < positionBytes + lengthBytes; at += this.sectorBytes) this.#worn.add(at - (at % this.sectorBytes));
  }

  /** Writes wait until the returned function is called. */
  stall(): () => void {
    let release = (): void => undefined;
    this.#stalled = new Promise((resolve) => {
      release = resolve;
    });
    return () => release();
  }

  snapshot(): Medium {
    return new Map(this.#medium);
  }

  /** What is left after the power went: of the cache only sectors that `keeps` names by write and place, in the order of writing. */
  powerCut(keeps: (write: number, sector: number) => boolean = () => false): Medium {
    for (const [nth, write] of this.#cached.entries()) this.#settle(write, (sector) => keeps(nth, sector));
    this.#cached = [];
    this.#dead = true;
    return this.snapshot();
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    this.#check(positionBytes, lengthBytes);
    this.reads.push({ positionBytes, lengthBytes });
    for (const at of this.#unreadable) {
      if (at >= positionBytes && at < positionBytes + lengthBytes)
        throw new UkeyError('halted', 'read failed', { cause: new Error('EIO') });
    }
    const over = new Map(this.#medium);
    for (const write of this.#cached) applyWrite(over, write.positionBytes, write.bytes);
    return readMedium(over, positionBytes, lengthBytes);
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array, { isRepair = false }: WriteOptions = {}): Promise<void> {
    this.#check(positionBytes, bytes.length);
    if (this.readOnly) throw new UkeyError('halted', 'opened for reading only');
    if (this.#dead) throw new UkeyError('unknown-outcome', 'an earlier write failed');
    const write = { positionBytes, bytes: Uint8Array.from(bytes) };
    this.writes.push(write);
    const isWorn = [...this.#worn].some((at) => at >= positionBytes && at < positionBytes + bytes.length);
    const fault = this.#faults.get(this.writes.length) ?? (isWorn ? { kind: 'not-written' as const } : undefined);
    this.#underWay += 1;
    this.overlap = Math.max(this.overlap, this.#underWay);
    await this.#stalled;
    this.#underWay -= 1;
    const silent = fault === undefined ? null : silently(write, fault);
    if (silent !== null) {
      for (const one of silent) this.#settle(one, () => true);
      return;
    }
    if (fault !== undefined) {
      this.#dead = !isRepair;
      if (fault.kind !== 'not-written') this.#settle(write, fault.kind === 'torn' ? fault.keeps : () => true);
      throw new UkeyError('unknown-outcome', `write failed: ${fault.kind}`);
    }
    if (this.#lies) this.#cached.push(write);
    else this.#settle(write, () => true);
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #settle(write: Write, keeps: (sector: number) => boolean): void {
    this.#medium = new Map(tornWrite(this.#medium, write, this.sectorBytes, keeps));
    for (let at = 0; at < write.bytes.length; at += this.sectorBytes) this.#unreadable.delete(write.positionBytes + at);
  }

  #check(positionBytes: number, lengthBytes: number): void {
    if (this.#closed) throw new UkeyError('halted', 'closed');
    const whole = positionBytes % this.sectorBytes === 0 && lengthBytes % this.sectorBytes === 0;
    if (!whole || positionBytes < 0 || lengthBytes <= 0 || positionBytes + lengthBytes > this.sizeBytes) {
      throw new UkeyError('internal', `bytes ${positionBytes}+${lengthBytes} are no whole sectors`);
    }
  }
}

/** What is written instead by a fault that nobody is told of, null for the faults that are errors. */
function silently(write: Write, fault: WriteFault): Write[] | null {
  switch (fault.kind) {
    case 'dropped':
      return [];
    case 'flipped': {
      const bytes = Uint8Array.from(write.bytes);
      const at = (fault.bit >> 3) % bytes.length;
      bytes[at] = (bytes[at] ?? 0) ^ (1 << (fault.bit & 7));
      return [{ ...write, bytes }];
    }
    case 'misdirected':
      return [{ ...write, positionBytes: fault.positionBytes }];
    default:
      return null;
  }
}

function applyWrite(medium: Map<number, Uint8Array>, positionBytes: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) {
    const page = Math.floor((positionBytes + done) / pageBytes);
    const at = (positionBytes + done) % pageBytes;
    const count = Math.min(pageBytes - at, bytes.length - done);
    const copy = Uint8Array.from(medium.get(page) ?? new Uint8Array(pageBytes));
    copy.set(bytes.subarray(done, done + count), at);
    medium.set(page, copy);
    done += count;
  }
}

/** A medium after a write of which only some sectors (numbered from 0 within the write) arrived. */
export function tornWrite(medium: Medium, write: Write, sectorBytes: number, keeps: (sector: number) => boolean): Medium {
  const after = new Map(medium);
  for (let sector = 0; sector * sectorBytes < write.bytes.length; sector += 1) {
    if (!keeps(sector)) continue;
    applyWrite(after, write.positionBytes + sector * sectorBytes, write.bytes.subarray(sector * sectorBytes, (sector + 1) * sectorBytes));
  }
  return after;
}

export function readMedium(medium: Medium, positionBytes: number, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let done = 0; done < lengthBytes; ) {
    const page = Math.floor((positionBytes + done) / pageBytes);
    const at = (positionBytes + done) % pageBytes;
    const count = Math.min(pageBytes - at, lengthBytes - done);
    const from = medium.get(page);
    if (from !== undefined) bytes.set(from.subarray(at, at + count), done);
    done += count;
  }
  return bytes;
}

/** A medium with some bytes replaced, for bit rot and forgery. */
export function patchMedium(medium: Medium, positionBytes: number, bytes: Uint8Array): Medium {
  const after = new Map(medium);
  applyWrite(after, positionBytes, bytes);
  return after;
}

export function flipBit(medium: Medium, positionBytes: number, bit: number): Medium {
  const byte = readMedium(medium, positionBytes, 1)[0] ?? 0;
  return patchMedium(medium, positionBytes, Uint8Array.of(byte ^ (1 << bit)));
}
