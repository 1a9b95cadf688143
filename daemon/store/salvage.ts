// Owns: reading what a device still gives: again after a moment, whole segments, page by page where the whole cannot be read.
// Invariants: a page that cannot be read is zeros and named; it is never taken for what was written. What is lent is given back.
import { setTimeout as pause } from 'node:timers/promises';
import { giveBack } from '#ground/give-back.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device, ReadableDevice } from '#store/device.ts';
import { pageBytes, segmentPosition } from './format.ts';
import type { Superblock } from './superblock.ts';

/** The cause of a refusal: of this device nothing can be read. It may have gone away, and come back. */
export class SilentDevice extends Error {}

export const isOfSilence = (thrown: unknown): boolean => thrown instanceof UkeyError && thrown.cause instanceof SilentDevice;

/** The cause of a refusal: the mirror cannot be brought to the state of the FLASH. The FLASH alone may go on. */
export class UnfitMirror extends Error {}

/** Before what could not be read is read again: a bus that was reset is back after a moment. */
export const unsurePauseMs = 200;
/** Of one opening, together: a device that is gone for good costs no more. */
const pausesMax = 5;

/** The device gave nothing; anything else is a fault of the caller's, or the device is closed. */
const isUnread = (thrown: unknown): boolean => thrown instanceof UkeyError && thrown.code === 'halted' && thrown.cause !== undefined;

/** Null where the device cannot be read: that counts as damage of what should stand there. */
export async function readOrNull(device: ReadableDevice, positionBytes: number, lengthBytes: number): Promise<Uint8Array | null> {
  try {
    return await device.read(positionBytes, lengthBytes);
  } catch (thrown) {
    if (isUnread(thrown)) return null;
    throw thrown;
  }
}

/** A device of which what cannot be read is read again, until a second has gone by in such pauses: whoever opens decides by what is not there, too. */
export class PatientDevice implements Device {
  /** Readings that were given up. */
  failures = 0;
  /** Positions and lengths of those that were no more than a page, as long as nothing was written there. */
  readonly unread = new Map<number, number>();
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  readonly #device: Device;
  #pausesLeft = pausesMax;
  #pausing: Promise<void> | null = null;

  constructor(device: Device) {
    this.path = device.path;
    this.sizeBytes = device.sizeBytes;
    this.sectorBytes = device.sectorBytes;
    this.readOnly = device.readOnly;
    this.#device = device;
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    for (;;) {
      try {
        return await this.#device.read(positionBytes, lengthBytes);
      } catch (thrown) {
        if (!isUnread(thrown) || !(await this.#hasPaused())) {
          this.failures += 1;
          if (lengthBytes <= pageBytes) this.unread.set(positionBytes, lengthBytes);
          throw thrown;
        }
      }
    }
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void> {
    await this.#device.writeAndSync(positionBytes, bytes);
    for (const [at, lengthBytes] of this.unread)
      if (at >= positionBytes && at + lengthBytes <= positionBytes + bytes.length) this.unread.delete(at);
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  /** Readings that fail together share a pause. False: there was none left. */
  async #hasPaused(): Promise<boolean> {
    if (this.#pausing === null) {
      if (this.#pausesLeft === 0) return false;
      this.#pausesLeft -= 1;
      this.#pausing = pause(unsurePauseMs).finally(() => {
        this.#pausing = null;
      });
    }
    await this.#pausing;
    return true;
  }
}

const pageOf = (positionBytes: number): number => positionBytes - (positionBytes % pageBytes);

/** A device that knows how many readings have failed, and of which pages. */
export class CountedReads {
  failures = 0;
  readonly path: string;
  readonly #unread = new Set<number>();
  readonly #device: ReadableDevice;

  constructor(device: ReadableDevice) {
    this.path = device.path;
    this.#device = device;
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    try {
      return await this.#device.read(positionBytes, lengthBytes);
    } catch (thrown) {
      this.failures += 1;
      if (lengthBytes <= pageBytes) this.#unread.add(positionBytes);
      throw thrown;
    }
  }

  /** Positions of the pages that could not be read, from the one of `fromBytes` up to that of `toBytes`. */
  unreadPages(fromBytes: number, toBytes: number): number[] {
    return [...this.#unread].filter((at) => at >= pageOf(fromBytes) && at <= pageOf(toBytes)).sort((a, b) => a - b);
  }
}

export interface Salvaged {
  readonly bytes: Uint8Array;
  /** Offsets of pages that the device refuses to read; zeros in `bytes`. */
  readonly unreadable: readonly number[];
}

/** One reading of the device: a write waits no longer than for this. */
const salvageBytes = 1024 * 1024;

/** All that can be read, page by page where the whole cannot. Positions and lengths are whole pages. */
export async function salvage(device: ReadableDevice, positionBytes: number, lengthBytes: number): Promise<Salvaged> {
  const first = lengthBytes <= salvageBytes ? await readOrNull(device, positionBytes, lengthBytes) : null;
  if (first !== null) return { bytes: first, unreadable: [] };
  const bytes = new Uint8Array(lengthBytes);
  const unreadable: number[] = [];
  for (let at = 0; at < lengthBytes; at += salvageBytes) {
    const pieceBytes = Math.min(salvageBytes, lengthBytes - at);
    const piece = lengthBytes <= salvageBytes ? null : await readOrNull(device, positionBytes + at, pieceBytes);
    if (piece !== null) {
      bytes.set(piece, at);
      giveBack(piece);
    } else unreadable.push(...(await salvagePages(device, positionBytes, bytes, at, at + pieceBytes)));
  }
  return { bytes, unreadable };
}

/** Fills `bytes` from `from` to `to`; answers the offsets of pages that cannot be read. */
async function salvagePages(device: ReadableDevice, positionBytes: number, bytes: Uint8Array, from: number, to: number): Promise<number[]> {
  const unreadable: number[] = [];
  for (let at = from; at < to; at += pageBytes) {
    const page = await readOrNull(device, positionBytes + at, pageBytes);
    if (page === null) unreadable.push(at);
    else bytes.set(page, at);
  }
  return unreadable;
}

/**
 * A segment on one device or more, lent for the call: its memory goes back at once, so that whoever walks many leaves none behind. `use` keeps no view
 * of it.
 */
export async function lendSegment<const D extends readonly ReadableDevice[], T>(
  devices: D,
  superblock: Superblock,
  segment: number,
  use: (sides: { readonly [K in keyof D]: Salvaged }) => T | Promise<T>,
): Promise<T> {
  const position = segmentPosition(superblock, segment);
  const sides = (await Promise.all(devices.map((device) => salvage(device, position, superblock.segmentBytes)))) as {
    readonly [K in keyof D]: Salvaged;
  };
  try {
    return await use(sides);
  } finally {
    for (const { bytes } of sides) giveBack(bytes);
  }
}
