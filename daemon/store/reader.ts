// Owns: finding and opening frames by index: the list of segments, and the frames of a few of them.
// Invariants: a frame is returned only if its tag fits; memory is bounded by the cached segments, whatever the log's length.
// A frame that cannot be opened is `halted` with its index. Must not: write, or keep frame keys beyond one call.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { Frame } from '#store/store.ts';
import { deriveKey, openFrame } from './cipher.ts';
import { segmentPosition } from './format.ts';
import type { Head } from './recover.ts';
import type { Superblock } from './superblock.ts';
import { type SeenFrame, walkSegment } from './walk.ts';

/** Segments whose frame positions are kept, besides the newest. */
export const cachedSegmentsMax = 8;

export interface ReaderParts {
  readonly device: Device;
  readonly superblock: Superblock;
  /** Borrowed: the log wipes it after close(). */
  readonly dataKey: Uint8Array;
  /** Oldest first. */
  readonly heads: readonly Head[];
  readonly newestFrames: readonly SeenFrame[];
  readonly nextIndex: number;
}

export class Reader {
  readonly #parts: ReaderParts;
  readonly #heads: Head[];
  readonly #cache = new Map<number, readonly SeenFrame[]>();
  #newest: SeenFrame[];
  #nextIndex: number;

  constructor(parts: ReaderParts) {
    this.#parts = parts;
    this.#heads = [...parts.heads];
    this.#newest = [...parts.newestFrames];
    this.#nextIndex = parts.nextIndex;
  }

  get segments(): number {
    return this.#heads.length;
  }

  /** A frame became durable. */
  add(frame: SeenFrame): void {
    const { segment, runIndex, firstIndex, oldestIndex } = frame.run.header;
    if (this.#heads.at(-1)?.segment !== segment) {
      this.#heads.push({ segment, runIndex, firstIndex, oldestIndex });
      this.#newest = [];
    }
    this.#newest.push(frame);
    this.#nextIndex = frame.header.index + 1;
  }

  async read(fromIndex: number, maxBytes: number): Promise<Frame[]> {
    if (fromIndex >= this.#nextIndex) return [];
    const head = this.#headOf(fromIndex);
    if (head === null) throw new UkeyError('not-found', `frame ${fromIndex} is not kept any more`);
    const frames = await this.#framesOf(head.segment);
    const first = locate(frames, fromIndex);
    if (first === null) throw damaged(fromIndex);
    let payloadBytes = 0;
    let end = first;
    for (let place = first; place < frames.length; place += 1) {
      const header = frames[place]?.header;
      // A hole ends this answer; the next call names it.
      if (header === undefined || header.index !== fromIndex + place - first || header.index >= this.#nextIndex) break;
      payloadBytes += header.payloadBytes;
      if (place > first && payloadBytes > maxBytes) break;
      end = place + 1;
    }
    return await this.#open(head.segment, frames.slice(first, end));
  }

  #headOf(index: number): Head | null {
    let low = 0;
    let high = this.#heads.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#heads[middle]?.firstIndex ?? 0) <= index) low = middle + 1;
      else high = middle;
    }
    return this.#heads[low - 1] ?? null;
  }

  async #framesOf(segment: number): Promise<readonly SeenFrame[]> {
    if (segment === this.#heads.at(-1)?.segment) return this.#newest;
    const cached = this.#cache.get(segment);
    if (cached !== undefined) {
      this.#cache.delete(segment);
      this.#cache.set(segment, cached);
      return cached;
    }
    const { device, superblock } = this.#parts;
    const { frames } = walkSegment({
      bytes: await device.read(segmentPosition(superblock, segment), superblock.segmentBytes),
      segment,
      geometry: superblock,
      storeId: superblock.storeId,
      aboveRunIndex: 0,
      // Every frame that is handed out is opened with its tag below.
      isRunWhole: () => true,
      isFrameWhole: () => true,
    });
    this.#cache.set(segment, frames);
    for (const oldest of this.#cache.keys()) {
      if (this.#cache.size <= cachedSegmentsMax) break;
      this.#cache.delete(oldest);
    }
    return frames;
  }

  async #open(segment: number, frames: readonly SeenFrame[]): Promise<Frame[]> {
    const { device, superblock, dataKey } = this.#parts;
    const first = frames[0];
    const last = frames.at(-1);
    if (first === undefined || last === undefined) return [];
    const bytes = await device.read(segmentPosition(superblock, segment) + first.offset, last.offset + last.frameBytes - first.offset);
    const opened: Frame[] = [];
    let runIndex = 0;
    let key: Buffer = Buffer.alloc(0);
    try {
      for (const { header, run, offset, frameBytes } of frames) {
        if (run.header.runIndex !== runIndex) {
          key.fill(0);
          key = deriveKey(dataKey, run.header.salt, 'frame');
          runIndex = run.header.runIndex;
        }
        const at = offset - first.offset;
        const payload = openFrame(key, superblock, segment, header, bytes.subarray(at, at + frameBytes));
        // What lies before the damage is handed out; the next call starts at the damage and names it.
        if (payload === null && opened.length > 0) break;
        if (payload === null) throw damaged(header.index);
        opened.push({ index: header.index, payload });
      }
    } finally {
      key.fill(0);
    }
    return opened;
  }
}

/** Place of a frame in a list that is sorted by index. */
function locate(frames: readonly SeenFrame[], index: number): number | null {
  let low = 0;
  let high = frames.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((frames[middle]?.header.index ?? 0) < index) low = middle + 1;
    else high = middle;
  }
  return frames[low]?.header.index === index ? low : null;
}

const damaged = (index: number): UkeyError =>
  new UkeyError('halted', `the store is damaged: frame ${index} was durable and cannot be read`);
