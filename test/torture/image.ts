// Owns: devices over one flat image in memory, made for opening a store a million times: a recorder that keeps when each write began and
// ended, and a scratch device whose writes are taken back afterwards.
// Invariants: reads are copies; `Scratch.undo` leaves the image as it was, byte for byte. Without a plan nothing fails here.
import { crc32 } from 'node:zlib';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';

export const sectorBytes = 512;

export interface ImageWrite {
  readonly side: number;
  readonly positionBytes: number;
  readonly bytes: Uint8Array;
}

abstract class ImageDevice implements Device {
  readonly path = 'image';
  readonly sectorBytes = sectorBytes;
  readonly readOnly = false;
  readonly image: Buffer;

  constructor(image: Buffer) {
    this.image = image;
  }

  get sizeBytes(): number {
    return this.image.length;
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return Buffer.from(this.image.subarray(positionBytes, positionBytes + lengthBytes));
  }

  abstract writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void>;

  async close(): Promise<void> {
    // The image stays.
  }
}

/** Remembers what stood where it writes. */
export class Scratch extends ImageDevice {
  readonly written: { readonly positionBytes: number; readonly bytes: Buffer; readonly before: Buffer }[] = [];

  put(positionBytes: number, bytes: Uint8Array): void {
    const before = Buffer.from(this.image.subarray(positionBytes, positionBytes + bytes.length));
    this.image.set(bytes, positionBytes);
    this.written.push({ positionBytes, bytes: Buffer.from(bytes), before });
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void> {
    this.put(positionBytes, bytes);
  }

  /** Takes back all writes but the first `keep`. */
  undo(keep = 0): void {
    while (this.written.length > keep) {
      const last = this.written.pop();
      if (last !== undefined) this.image.set(last.before, last.positionBytes);
    }
  }
}

/** One begin or end of a write, with what the caller knew then. */
export interface TimelineEvent<Known> {
  readonly kind: 'begin' | 'end';
  readonly write: ImageWrite;
  readonly known: Known;
}

/** The sides of one store, FLASH first, written as a device does and written down. */
export class Recording<Known> {
  readonly events: TimelineEvent<Known>[] = [];
  readonly known: () => Known;
  /** The write with this number tears: only sectors that it keeps arrive, and nothing is written any more. */
  cut: { readonly afterWrites: number; readonly keeps: (sector: number) => boolean } | null = null;
  #writes = 0;
  isDead = false;

  constructor(known: () => Known) {
    this.known = known;
  }

  device(image: Buffer, side: number): Device {
    return new Recorded(image, side, this as Recording<unknown>);
  }

  async write(image: Buffer, write: ImageWrite): Promise<void> {
    if (this.isDead) throw new UkeyError('unknown-outcome', 'the power is off');
    this.#writes += 1;
    const cut = this.cut !== null && this.#writes > this.cut.afterWrites ? this.cut : null;
    this.events.push({ kind: 'begin', write, known: this.known() });
    if (cut !== null) this.isDead = true;
    // The other side's write begins meanwhile.
    await Promise.resolve();
    const { positionBytes, bytes } = write;
    if (cut === null && !this.isDead) {
      image.set(bytes, positionBytes);
      this.events.push({ kind: 'end', write, known: this.known() });
      return;
    }
    const keeps = this.cut?.keeps ?? (() => false);
    for (let at = 0; at < bytes.length; at += sectorBytes)
      if (keeps(at / sectorBytes)) image.set(bytes.subarray(at, at + sectorBytes), positionBytes + at);
    throw new UkeyError('unknown-outcome', 'the power went');
  }
}

class Recorded extends ImageDevice {
  readonly #side: number;
  readonly #recording: Recording<unknown>;

  constructor(image: Buffer, side: number, recording: Recording<unknown>) {
    super(image);
    this.#side = side;
    this.#recording = recording;
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void> {
    await this.#recording.write(this.image, { side: this.#side, positionBytes, bytes: Buffer.from(bytes) });
  }
}

/** A sector in flight that differs from what stands there. */
export interface OpenSector {
  readonly side: number;
  readonly positionBytes: number;
  readonly bytes: Uint8Array;
  /** Two numbers that change the state's name when it arrives. */
  readonly deltas: readonly [number, number];
}

function nameOfSector(side: number, positionBytes: number, bytes: Uint8Array): [number, number] {
  const place = side * 0x1000003 + positionBytes;
  return [crc32(bytes, place), crc32(bytes, Math.imul(place ^ 0x5bd1e995, 0x9e3779b1) >>> 0)];
}

export function openSectors(images: readonly Buffer[], writes: readonly ImageWrite[]): OpenSector[] {
  const open: OpenSector[] = [];
  for (const { side, positionBytes, bytes } of writes) {
    for (let at = 0; at < bytes.length; at += sectorBytes) {
      const sector = bytes.subarray(at, at + sectorBytes);
      const before = images[side]?.subarray(positionBytes + at, positionBytes + at + sectorBytes);
      if (before === undefined || before.equals(sector)) continue;
      const [a, b] = nameOfSector(side, positionBytes + at, before);
      const [c, d] = nameOfSector(side, positionBytes + at, sector);
      open.push({ side, positionBytes: positionBytes + at, bytes: sector, deltas: [a ^ c, b ^ d] });
    }
  }
  return open;
}
