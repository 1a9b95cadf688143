// Owns: finding and opening frames by index: the list of segments, and the frames of a few of them.
// Invariants: a frame is returned only if its tag fits; memory is bounded by the cached segments, whatever the log's length.
// A frame that cannot be opened is `halted` with its index. Must not: write, or keep frame keys beyond one call.
import { unpack } from '#ground/unpacking.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device, ReadableDevice } from '#store/device.ts';
import type { Frame, PackedFrame } from '#store/store.ts';
import { deriveKey, openPacked } from './cipher.ts';
import { segmentPosition } from './format.ts';
import { damaged, headOf } from './mount.ts';
import type { Head } from './recover.ts';
import { salvage } from './salvage.ts';
import type { Superblock } from './superblock.ts';
import { type SeenFrame, type SeenRun, walkSegment } from './walk.ts';

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
  /** First frame that is kept. */
  readonly oldestIndex: number;
  /**
   * Called when a frame cannot be read, before it is tried again: puts the segment right, or learns that it was released. Where it cannot be put right:
   * where else to read it; null: where it was.
   */
  readonly heal: (head: Head) => Promise<ReadableDevice | null>;
}

export class Reader {
  readonly #parts: ReaderParts;
  readonly #heads: Head[];
  readonly #cache = new Map<number, readonly SeenFrame[]>();
  /** By first run: segments that cannot be put right, and where they are read. */
  readonly #givenUp = new Map<number, ReadableDevice>();
  #scans: Promise<unknown> = Promise.resolve();
  #newest: SeenFrame[];
  #nextIndex: number;
  #oldestIndex: number;

  constructor(parts: ReaderParts) {
    this.#parts = parts;
    this.#heads = [...parts.heads];
    this.#newest = [...parts.newestFrames];
    this.#nextIndex = parts.nextIndex;
    this.#oldestIndex = parts.oldestIndex;
  }

  get segments(): number {
    return this.#heads.length;
  }

  get oldestIndex(): number {
    return this.#oldestIndex;
  }

  /** A run's header or a frame became durable. */
  add(run: SeenRun, frame: SeenFrame | null): void {
    const head = headOf(run);
    if (this.#heads.at(-1)?.segment !== head.segment) {
      this.#heads.push(head);
      this.#cache.delete(head.segment);
      this.#newest = [];
    }
    if (frame === null) return;
    this.#newest.push(frame);
    this.#nextIndex = frame.header.index + 1;
  }

  /** These segments were released and may be overwritten from now on. */
  forget(oldestIndex: number, segments: readonly number[]): void {
    this.#oldestIndex = oldestIndex;
    while (segments.includes(this.#heads[0]?.segment ?? -1)) this.#givenUp.delete(this.#heads.shift()?.runIndex ?? -1);
  }

  /** It cannot be put right, and is not tried again. */
  giveUp({ runIndex }: Head): void {
    this.#givenUp.set(runIndex, this.#parts.device);
  }

  isGivenUp({ runIndex }: Head): boolean {
    return this.#givenUp.has(runIndex);
  }

  /** What is remembered of the segment is void: frames came back. */
  renew(segment: number): void {
    this.#cache.delete(segment);
  }

  async readPacked(fromIndex: number, maxBytes: number): Promise<PackedFrame[]> {
    if (fromIndex >= this.#nextIndex) return [];
    const head = this.#headOf(fromIndex);
    if (fromIndex < this.#oldestIndex || head === null) throw forgotten(fromIndex);
    try {
      return await this.#readHealed(head, fromIndex, maxBytes);
    } catch (thrown) {
      // It was released while it was read, and something else stands there now.
      if (fromIndex < this.#oldestIndex) throw forgotten(fromIndex);
      throw thrown;
    }
  }

  async #readHealed(head: Head, fromIndex: number, maxBytes: number): Promise<PackedFrame[]> {
    const tried = this.#givenUp.get(head.runIndex) ?? this.#parts.device;
    try {
      return await this.#readIn(head, tried, fromIndex, maxBytes);
    } catch (thrown) {
      if (!(thrown instanceof UkeyError) || thrown.code !== 'halted') throw thrown;
      // What can be read in one place alone is found there, whichever was tried first.
      const other = tried === this.#parts.device ? ((await this.#parts.heal(head)) ?? tried) : this.#parts.device;
      if (this.isGivenUp(head)) this.#givenUp.set(head.runIndex, other);
      this.#cache.delete(head.segment);
      return await this.#readIn(head, other, fromIndex, maxBytes);
    }
  }

  /** Kept segments, oldest first. */
  get heads(): readonly Head[] {
    return this.#heads;
  }

  async #readIn(head: Head, device: ReadableDevice, fromIndex: number, maxBytes: number): Promise<PackedFrame[]> {
    const frames = await this.#framesOf(head, device);
    const first = locate(frames, fromIndex);
    if (first === null) throw lostFrame(fromIndex);
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
    return await this.#open(head.segment, device, frames.slice(first, end));
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

  async #framesOf(head: Head, device: ReadableDevice): Promise<readonly SeenFrame[]> {
    const { segment } = head;
    if (segment === this.#heads.at(-1)?.segment) return this.#newest;
    const cached = this.#cached(segment);
    if (cached !== null) return cached;
    // One at a time, because each takes as much memory as a segment; who waited finds what was read meanwhile.
    const turn = this.#scans.then(async () => this.#cached(segment) ?? (await this.#scan(head, device)));
    this.#scans = turn.then(
      () => undefined, // and not what was read
      () => undefined,
    );
    return await turn;
  }

  #cached(segment: number): readonly SeenFrame[] | null {
    const cached = this.#cache.get(segment);
    if (cached === undefined) return null;
    this.#cache.delete(segment); // to the end of the order in which they are forgotten
    this.#cache.set(segment, cached);
    return cached;
  }

  async #scan(head: Head, device: ReadableDevice): Promise<readonly SeenFrame[]> {
    const { segment } = head;
    const { superblock } = this.#parts;
    const place = [segmentPosition(superblock, segment), superblock.segmentBytes] as const;
    const bytes = this.isGivenUp(head) ? (await salvage(device, ...place)).bytes : await device.read(...place);
    const { frames } = walkSegment({
      sides: [bytes],
      segment,
      geometry: superblock,
      storeId: superblock.storeId,
      aboveRunIndex: head.runIndex - 1,
      // Every frame that is handed out is opened with its tag below.
      isRunWhole: () => true,
      isFrameWhole: () => true,
    });
    // Released while it was read: not to be found again in the segment's next life.
    if (this.#heads.includes(head)) this.#cache.set(segment, frames);
    for (const oldest of this.#cache.keys()) {
      if (this.#cache.size <= cachedSegmentsMax) break;
      this.#cache.delete(oldest);
    }
    return frames;
  }

  async #open(segment: number, device: ReadableDevice, frames: readonly SeenFrame[]): Promise<PackedFrame[]> {
    const { superblock, dataKey } = this.#parts;
    const first = frames[0];
    const last = frames.at(-1);
    if (first === undefined || last === undefined) return [];
    const bytes = await device.read(segmentPosition(superblock, segment) + first.offset, last.offset + last.frameBytes - first.offset);
    const opened: PackedFrame[] = [];
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
        const packed = openPacked(key, superblock, segment, header, bytes.subarray(at, at + frameBytes));
        // What lies before the damage is handed out; the next call starts at the damage and names it.
        if (packed === null && opened.length > 0) break;
        if (packed === null) throw lostFrame(header.index);
        opened.push({ index: header.index, packed });
      }
    } finally {
      key.fill(0);
    }
    return opened;
  }
}

/** Throws halted for the first that does not unpack; those before another one are handed out, as in reading. */
export function unpackedFrames(frames: readonly PackedFrame[]): Frame[] {
  const unpacked: Frame[] = [];
  for (const frame of frames) {
    const payload = unpack(frame.packed);
    if (payload === null && unpacked.length > 0) break;
    if (payload === null) throw lostFrame(frame.index);
    unpacked.push({ index: frame.index, payload });
  }
  return unpacked;
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

const lostFrame = (index: number): UkeyError => damaged({ kind: 'damage', missing: [{ from: index, to: index }], carryLost: false });

const forgotten = (index: number): UkeyError => new UkeyError('not-found', `frame ${index} is not kept any more`);
