// Owns: everything that is written after opening: where the next run goes, sealing it, freeing segments, and the one queue of writes.
// Invariants: a place is given and the frame sealed when the call is made (so sealing overlaps the sync of the frame before), writes happen one
// after the other in call order, each with its own sync: at most one is ever on the device unsynced. A segment is planned over only
// behind the queued superblock that frees it. After the first failed write nothing more is written by this object: what became of it
// is only known after opening again. Must not: read the device, or write to a place that may hold anything durable and kept.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { deriveKey, type FrameContent, pack, sealCheckpoint, sealFrame } from './cipher.ts';
import { type Checkpoint, type RingSegment, tailOf, type WriteCursor } from './cursor.ts';
import {
  carryKind,
  carryMaxBytesFor,
  carryReserveSegmentsFor,
  checkpointMaxBytes,
  dataKind,
  encodeRunHeader,
  frameBytesFor,
  maxPayloadBytes,
  pageBytes,
  type RunHeader,
  reserveSegmentsFor,
  roundUp,
  runHeaderBytes,
  saltBytes,
  segmentOf,
  segmentPosition,
} from './format.ts';
import { type SuperblockKeeper, superblockWriteBytes } from './keeper.ts';
import { decideReclaim } from './reclaim.ts';
import type { Superblock } from './superblock.ts';
import type { SeenFrame, SeenRun } from './walk.ts';

/** Writes that may wait for the device. The ledger has two under way; more is a caller out of control. */
export const pendingWritesMax = 256;

export type RandomBytes = (size: number) => Uint8Array;

interface OpenRun {
  readonly seen: SeenRun;
  readonly key: Buffer;
}

interface Job {
  readonly what: string;
  readonly position: number;
  readonly bytes: Uint8Array;
  readonly run: SeenRun;
  /** Null when the run carries. */
  readonly frame: SeenFrame | null;
  readonly after: WriteCursor;
}

interface Place {
  readonly segment: number;
  readonly offset: number;
  readonly newRun: boolean;
}

export interface WriterParts {
  readonly device: Device;
  readonly keeper: SuperblockKeeper;
  /** Borrowed: the log wipes it after close(). */
  readonly dataKey: Uint8Array;
  readonly cursor: WriteCursor;
  /** Kept segments, oldest first. */
  readonly segments: readonly RingSegment[];
  readonly checkpoint: Checkpoint;
  readonly carried: Uint8Array | null;
  readonly randomBytes: RandomBytes;
  /** Told in order, after the run's header or the frame is durable. */
  readonly onDurable: (run: SeenRun, frame: SeenFrame | null) => void;
  /** Told before the first byte of it may be overwritten. */
  readonly onForget: (oldestIndex: number, segments: readonly number[]) => void;
}

export class Writer {
  readonly #parts: WriterParts;
  readonly #superblock: Superblock;
  readonly #segments: RingSegment[];
  #cursor: WriteCursor;
  #checkpoint: Checkpoint;
  #carried: Uint8Array | null;
  #oldestRun: number;
  #oldestIndex: number;
  #run: OpenRun | null = null;
  #last: Promise<unknown> = Promise.resolve();
  #pending = 0;
  #failed: UkeyError | null = null;
  /** The end of the log as far as it is durable. */
  durable: WriteCursor;

  constructor(parts: WriterParts) {
    this.#parts = parts;
    this.#superblock = parts.keeper.current;
    this.#segments = [...parts.segments];
    this.#cursor = parts.cursor;
    this.durable = parts.cursor;
    this.#checkpoint = parts.checkpoint;
    this.#carried = parts.carried;
    this.#oldestRun = this.#superblock.oldestRun;
    this.#oldestIndex = this.#superblock.oldestIndex;
  }

  get failed(): UkeyError | null {
    return this.#failed;
  }

  get freeSegments(): number {
    return this.#superblock.segmentCount - this.#segments.length;
  }

  /** Bytes that plain appends may still take, headers and padding included. */
  get freeBytes(): number {
    const { segmentBytes, segmentCount } = this.#superblock;
    const spare = this.freeSegments - reserveSegmentsFor(segmentCount);
    if (spare < 0) return 0;
    return spare * segmentBytes + (this.#cursor.segment < 0 ? 0 : segmentBytes - Math.min(segmentBytes, this.#cursor.offset));
  }

  hasRoomFor(payloadBytes: number, reserved: boolean): boolean {
    const { segmentBytes, sectorBytes } = this.#superblock;
    if (payloadBytes > maxPayloadBytes(segmentBytes)) return false;
    return this.#placeFor(frameBytesFor(payloadBytes, sectorBytes), false, this.#mustKeep(reserved)) !== null;
  }

  /** The synchronous part (place and seal) runs before this returns, so call order is log order. */
  async append(payload: Uint8Array, checkpoint: Uint8Array, reserved: boolean): Promise<number> {
    this.#refuseIfBusy();
    const job = this.#planFrame(payload, checkpoint, reserved);
    await this.#enqueue(job.what, () => this.#write(job));
    return job.after.nextIndex - 1;
  }

  async carry(bytes: Uint8Array): Promise<void> {
    this.#refuseIfBusy();
    const { segmentBytes, segmentCount } = this.#superblock;
    if (bytes.length > carryMaxBytesFor(segmentBytes)) throw new UkeyError('too-large', `${bytes.length} bytes cannot be carried`);
    const taken = Uint8Array.from(bytes);
    const job = this.#planCarry(taken, carryReserveSegmentsFor(segmentCount));
    if (job === null) throw new UkeyError('store-full', 'no free segment is left on the FLASH');
    this.#carried = taken;
    await this.#enqueue(job.what, () => this.#write(job));
  }

  /** Frees what it can; resolves with the number of segments when that is durable. */
  async release(upToIndex: number): Promise<number> {
    this.#refuseIfBusy();
    const carryPlace = this.#carryPlace();
    const carryFrameBytes = frameBytesFor(this.#carried?.length ?? 0, this.#superblock.sectorBytes);
    const { freed, moveCarry } = decideReclaim({
      segments: this.#segments,
      upToIndex,
      checkpointIndex: this.#checkpoint.index,
      carryPlace,
      carryFits: this.#placeFor(carryFrameBytes, true, 0) !== null,
    });
    if (freed === 0) return 0;
    const jobs: Promise<unknown>[] = [];
    if (moveCarry && this.#carried !== null) {
      const job = this.#planCarry(this.#carried, 0);
      // The decision rests on there being room for it.
      if (job === null) throw new UkeyError('internal', 'the carried bytes lost their place');
      // Durable afterwards: the carried bytes a second time. A crash before leaves the first, which is not freed yet.
      jobs.push(this.#enqueue(job.what, () => this.#write(job)));
    }
    const gone = this.#segments.splice(0, freed).map(({ segment }) => segment);
    const oldest = this.#segments[0];
    this.#oldestRun = oldest?.runIndex ?? this.#oldestRun;
    this.#oldestIndex = oldest?.firstIndex ?? this.#oldestIndex;
    const { oldestRun, oldestIndex } = { oldestRun: this.#oldestRun, oldestIndex: this.#oldestIndex };
    this.#parts.onForget(oldestIndex, gone);
    this.#cursor = { ...this.#cursor, lifeBytes: this.#cursor.lifeBytes + superblockWriteBytes };
    // Durable afterwards: that these segments may be overwritten. Whatever goes there is queued behind this.
    jobs.push(this.#enqueue('the superblock', () => this.#writeRelease(oldestRun, oldestIndex)));
    await Promise.all(jobs);
    return freed;
  }

  /** Runs something in the queue's turn: no write of ours is under way meanwhile. `what` null: as long as it may fail without ending the writing. */
  async exclusive(what: string | null, run: () => Promise<void>): Promise<void> {
    this.#refuseIfBusy();
    await this.#enqueue(what, run);
  }

  /** Resolves when nothing is under way any more. */
  async drain(): Promise<void> {
    await this.#last;
  }

  wipe(): void {
    this.#run?.key.fill(0);
    this.#run = null;
  }

  #mustKeep(reserved: boolean): number {
    const { segmentCount } = this.#superblock;
    return reserved ? carryReserveSegmentsFor(segmentCount) : reserveSegmentsFor(segmentCount);
  }

  #refuseIfFailed(): void {
    if (this.#failed === null) return;
    throw new UkeyError('unknown-outcome', 'an earlier write failed: the store must be opened again', { cause: this.#failed });
  }

  #refuseIfBusy(): void {
    this.#refuseIfFailed();
    if (this.#pending < pendingWritesMax) return;
    throw new UkeyError('busy', `${this.#pending} writes wait for the device already`, { retryAfterMs: 100 });
  }

  /** Runs `write` after all that was enqueued before, unless something failed. */
  #enqueue(what: string | null, write: () => Promise<void>): Promise<void> {
    this.#pending += 1;
    const done = this.#next(what, write, this.#last);
    // Whoever made that call gets its error; the queue itself goes on and finds #failed set.
    this.#last = done.catch(() => undefined);
    return done;
  }

  async #next(what: string | null, write: () => Promise<void>, before: Promise<unknown>): Promise<void> {
    try {
      await before;
      this.#refuseIfFailed();
      await write().catch((cause: unknown) => {
        if (what === null) throw cause; // nothing of the log's end was written by it
        this.#failed = new UkeyError('unknown-outcome', `writing ${what} failed`, { cause });
        throw this.#failed;
      });
    } finally {
      this.#pending -= 1;
    }
  }

  /**
   * Durable before: everything that was planned earlier. A crash during the write leaves any subset of its sectors, which the next
   * mount cuts, or all of them, which it keeps: the caller was told nothing yet.
   */
  async #write(job: Job): Promise<void> {
    await this.#parts.device.writeAndSync(job.position, job.bytes);
    // Durable now: this frame. A crash here means that the caller repeats and finds it.
    this.durable = job.after;
    this.#parts.onDurable(job.run, job.frame);
  }

  async #writeRelease(oldestRun: number, oldestIndex: number): Promise<void> {
    const { keeper } = this.#parts;
    const lifeBytes = this.durable.lifeBytes + superblockWriteBytes;
    await keeper.write({ oldestRun, oldestIndex, carryPosition: this.durable.carryPosition, tail: tailOf(this.durable), lifeBytes });
    this.durable = { ...this.durable, lifeBytes };
  }

  #carryPlace(): number | null {
    const { carryPosition } = this.#cursor;
    if (carryPosition === 0) return null;
    const segment = segmentOf(this.#superblock, carryPosition);
    const place = this.#segments.findIndex((kept) => kept.segment === segment);
    return place < 0 ? null : place;
  }

  /** Where a frame of this size goes so that `keep` segments stay free, or null. A new run begins on a fresh page. */
  #placeFor(frameBytes: number, newRun: boolean, keep: number): Place | null {
    const { segmentBytes, segmentCount } = this.#superblock;
    const { segment, offset } = this.#cursor;
    const begins = newRun || this.#run === null;
    if (segment >= 0 && this.freeSegments >= keep) {
      const at = begins ? roundUp(offset, pageBytes) : offset;
      if (at + (begins ? runHeaderBytes : 0) + frameBytes <= segmentBytes) return { segment, offset: at, newRun: begins };
    }
    return this.freeSegments > keep ? { segment: (segment + 1) % segmentCount, offset: 0, newRun: true } : null;
  }

  #planFrame(payload: Uint8Array, checkpoint: Uint8Array, reserved: boolean): Job {
    const { segmentBytes, sectorBytes } = this.#superblock;
    if (payload.length > maxPayloadBytes(segmentBytes)) {
      throw new UkeyError('too-large', `a frame of ${payload.length} bytes does not fit a segment`);
    }
    if (checkpoint.length > checkpointMaxBytes) throw new UkeyError('too-large', `a checkpoint has ${checkpoint.length} bytes`);
    const packed = pack(payload);
    const place = this.#placeFor(frameBytesFor(packed.bytes.length, sectorBytes), false, this.#mustKeep(reserved));
    if (place === null) throw new UkeyError('store-full', 'no free segment is left on the FLASH');
    if (!place.newRun && this.#run !== null) return this.#seal(this.#run, place.offset, payload.length, packed, null);
    this.#checkpoint = { bytes: Uint8Array.from(checkpoint), index: this.#cursor.nextIndex };
    const { run, page } = this.#beginRun(place, 0);
    return this.#seal(run, place.offset + runHeaderBytes, payload.length, packed, page);
  }

  /** A run of its own, with the newest checkpoint again: who opens next finds both in one header. */
  #planCarry(bytes: Uint8Array, keep: number): Job | null {
    const packed = pack(bytes);
    const frameBytes = frameBytesFor(packed.bytes.length, this.#superblock.sectorBytes);
    const place = this.#placeFor(frameBytes, true, keep);
    if (place === null) return null;
    const { run, page } = this.#beginRun(place, frameBytes);
    const job = this.#seal(run, place.offset + runHeaderBytes, bytes.length, packed, page);
    this.wipe();
    return job;
  }

  /** A fresh salt, so a fresh key: whatever was written under the key before can never meet this run's nonces. */
  #beginRun(place: Place, carryFrameBytes: number): { run: OpenRun; page: Buffer } {
    const { dataKey, randomBytes } = this.#parts;
    const cursor = this.#cursor;
    const header: RunHeader = {
      storeId: this.#superblock.storeId,
      runIndex: cursor.runIndex + 1,
      mountEpoch: this.#superblock.mountEpoch,
      position: segmentPosition(this.#superblock, place.segment) + place.offset,
      segment: place.segment,
      firstIndex: cursor.nextIndex,
      oldestIndex: this.#oldestIndex,
      salt: Uint8Array.from(randomBytes(saltBytes)),
      previousTag: cursor.lastTag,
      previousRunPosition: cursor.runPosition,
      previousEndPosition: cursor.endPosition,
      checkpointBytes: this.#checkpoint.bytes.length,
      checkpointIndex: this.#checkpoint.index,
      oldestRun: this.#oldestRun,
      carryPosition: cursor.carryPosition,
      lifeBytes: cursor.lifeBytes,
      carryFrameBytes,
    };
    if (place.offset === 0) {
      this.#segments.push({ segment: place.segment, runIndex: header.runIndex, firstIndex: header.firstIndex });
    }
    const sealed = sealCheckpoint(dataKey, this.#superblock, header, this.#checkpoint.bytes);
    this.wipe();
    const run: OpenRun = {
      seen: { header, sealed, offset: place.offset, side: 0, carrySide: 0 },
      key: deriveKey(dataKey, header.salt, 'frame'),
    };
    this.#run = run;
    return { run, page: encodeRunHeader(header, sealed) };
  }

  /** `runPage` is the header when this is the first frame of its run: both are one write, so a run on the device is never empty on purpose. */
  #seal(run: OpenRun, offset: number, payloadBytes: number, packed: FrameContent, runPage: Buffer | null): Job {
    const superblock = this.#superblock;
    const { header } = run.seen;
    const carries = header.carryFrameBytes > 0;
    const cursor = this.#cursor;
    const place = {
      kind: carries ? carryKind : dataKind,
      index: cursor.nextIndex,
      runIndex: header.runIndex,
      mountEpoch: header.mountEpoch,
      position: segmentPosition(superblock, header.segment) + offset,
      ordinal: cursor.nextIndex - header.firstIndex + 1,
      previousTag: cursor.lastTag,
    };
    const { bytes, tag } = sealFrame(run.key, superblock, header.segment, place, payloadBytes, packed, superblock.sectorBytes);
    const after = {
      segment: header.segment,
      offset: offset + bytes.length,
      runIndex: header.runIndex,
      runPosition: header.position,
      lifeBytes: cursor.lifeBytes + bytes.length + (runPage?.length ?? 0),
    };
    const { storeId } = superblock;
    const lengths = { flags: packed.flags, sealedBytes: packed.bytes.length, payloadBytes };
    const job: Job = {
      what: carries ? 'the carried bytes' : `frame ${place.index}`,
      position: runPage === null ? place.position : header.position,
      bytes: runPage === null ? bytes : Buffer.concat([runPage, bytes]),
      run: run.seen,
      frame: carries ? null : { header: { ...place, ...lengths, storeId }, run: run.seen, offset, frameBytes: bytes.length, side: 0 },
      after: carries
        ? { ...cursor, ...after, carryPosition: header.position }
        : { ...cursor, ...after, nextIndex: place.index + 1, lastTag: tag, endPosition: place.position + bytes.length },
    };
    this.#cursor = job.after;
    return job;
  }
}
