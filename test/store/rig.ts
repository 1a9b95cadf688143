// Owns: a small store in memory for the tests of this room: fixed ids, payloads that tell their index, and reading everything back.
// Invariants: deterministic; a payload can be recomputed from its index, so a wrong one is always seen.
import { createHash } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import { formatStore, openLog } from '#store/log.ts';
import type { Frame, MirrorMode, StoreLog } from '#store/store.ts';
import { type Medium, MemoryDevice } from '#test/support/memory-device.ts';

export const segmentBytes = 64 * 1024;
export const storeId = Uint8Array.from({ length: 16 }, (_, at) => at + 1);
export const tokenKeyId = Uint8Array.from({ length: 16 }, (_, at) => 0xa0 + at);
export const dataKey = Uint8Array.from({ length: 32 }, (_, at) => 0x40 + at);
export const identity = Buffer.from('certificate and charter of a branch');
export const slots = [{ method: 'soft-scrypt', blob: Uint8Array.of(1, 2, 3) }];
export const formatOptions = { storeId, tokenKeyId, dataKey, slots, identity, erase: false, segmentBytes };

export const sizeFor = (segments: number): number => 4 * 1024 * 1024 + segments * segmentBytes;

/** Small generator with a seed (mulberry32): numbers from 0 to 1. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function randomSource(seed: number): (size: number) => Uint8Array {
  const next = seeded(seed);
  return (size) => Uint8Array.from({ length: size }, () => Math.floor(next() * 256));
}

/** Incompressible bytes that depend on index, length and label. */
export function payloadOf(index: number, bytes: number, label = ''): Buffer {
  const parts: Buffer[] = [];
  for (let block = 0; block * 32 < bytes; block += 1) parts.push(createHash('sha256').update(`${label}/${index}/${block}`).digest());
  return Buffer.concat(parts).subarray(0, bytes);
}

export const checkpointBefore = (index: number): Buffer => Buffer.from(`state before ${index}`);

export async function newStore(segments: number, sectorBytes = 512): Promise<MemoryDevice> {
  const device = new MemoryDevice({ sizeBytes: sizeFor(segments), sectorBytes });
  await formatStore(device, formatOptions, randomSource(1));
  return device;
}

export const deviceOn = (
  medium: Medium,
  segments: number,
  more: { readOnly?: boolean; lies?: boolean; sectorBytes?: number } = {},
): MemoryDevice => new MemoryDevice({ sizeBytes: sizeFor(segments), medium, ...more });

export async function appendAll(log: StoreLog, fromIndex: number, sizes: readonly number[], label = ''): Promise<void> {
  for (const [place, bytes] of sizes.entries()) {
    const index = fromIndex + place;
    await log.append(payloadOf(index, bytes, label), checkpointBefore(index));
  }
}

export async function readAll(log: StoreLog, maxBytes = 8192): Promise<Frame[]> {
  const all: Frame[] = [];
  for (let next = log.usage().oldestIndex; ; ) {
    const frames = await log.read(next, maxBytes);
    if (frames.length === 0) return all;
    all.push(...frames);
    next = (all.at(-1)?.index ?? 0) + 1;
  }
}

export const open = (device: MemoryDevice, seed = 2): Promise<StoreLog> => openLog(device, dataKey, { randomBytes: randomSource(seed) });

/** With a mirror, on two media or devices. */
export const openBoth = (flash: MemoryDevice, mirror: MemoryDevice, mode: MirrorMode = 'sync', seed = 2): Promise<StoreLog> =>
  openLog(flash, dataKey, { mirror: { device: mirror, mode }, randomBytes: randomSource(seed) });

/** Two equal copies with some frames of 900 bytes: the first 4096 behind the log's start, each two sectors. */
export async function pairOf(
  segments: number,
  frames: number,
  mode: MirrorMode = 'sync',
): Promise<{ readonly flash: MemoryDevice; readonly mirror: MemoryDevice }> {
  const [flash, mirror] = [await newStore(segments), new MemoryDevice({ sizeBytes: sizeFor(segments) })];
  const log = await openBoth(flash, mirror, mode);
  if (log.mounted.mirror?.remade !== true) throw new Error('the mirror was not made');
  await appendAll(
    log,
    1,
    Array.from({ length: frames }, () => 900),
  );
  return { flash, mirror };
}

/** Every kept frame is there and right. */
export async function expectWhole(log: StoreLog, sizeOf: (index: number) => number): Promise<void> {
  const frames = await readAll(log, 1_000_000);
  if (frames.length !== log.mounted.nextIndex - log.mounted.oldestIndex) throw new Error(`${frames.length} frames were read`);
  for (const frame of frames)
    if (!payloadOf(frame.index, sizeOf(frame.index)).equals(frame.payload)) throw new Error(`${frame.index} is wrong`);
}

/** The error's code and text, or null when there was none. */
export async function failureOf(promise: Promise<unknown>): Promise<{ code: string; message: string } | null> {
  try {
    await promise;
    return null;
  } catch (thrown) {
    const { code, message } = thrown as { code?: string; message: string };
    return { code: code ?? 'no code', message };
  }
}

/** Gives a stretch only after so many readings of it have failed; Infinity: it is deaf there. */
export class StutteringDevice extends MemoryDevice {
  failuresLeft = 0;
  fromBytes = 0;
  toBytes = Number.MAX_SAFE_INTEGER;

  override async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    if (this.failuresLeft > 0 && positionBytes < this.toBytes && positionBytes + lengthBytes > this.fromBytes) {
      this.failuresLeft -= 1;
      throw new UkeyError('halted', 'it cannot be read', { cause: new Error('EIO') });
    }
    return await super.read(positionBytes, lengthBytes);
  }
}

export const stuttering = (
  medium: Medium,
  segments: number,
  faults: Pick<StutteringDevice, 'failuresLeft'> & Partial<Pick<StutteringDevice, 'fromBytes' | 'toBytes'>>,
): StutteringDevice => Object.assign(new StutteringDevice({ sizeBytes: sizeFor(segments), medium }), faults);
