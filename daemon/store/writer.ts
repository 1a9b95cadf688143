// Owns: appending: where the next frame goes, sealing it, and the one queue of writes.
// Invariants: a place is given and the frame sealed when append is called (so sealing overlaps the sync of the frame before),
// writes happen one after the other, each with its own sync: at most one frame is ever on the device unsynced. After the first
// failed write nothing more is written by this object: what became of that frame is only known after opening again.
// Must not: read the device, or write to a place that may hold anything durable.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { deriveKey, type Packed, pack, sealCheckpoint, sealFrame } from './cipher.ts';
import {
  checkpointMaxBytes,
  dataKind,
  encodeRunHeader,
  frameBytesFor,
  maxPayloadBytes,
  pageBytes,
  type RunHeader,
  roundUp,
  runHeaderBytes,
  saltBytes,
  segmentPosition,
} from './format.ts';
import type { Superblock } from './superblock.ts';
import type { SeenFrame, SeenRun } from './walk.ts';

/** Frames that may wait for the device. The ledger has two under way; more is a caller out of control. */
export const pendingAppendsMax = 256;

export type RandomBytes = (size: number) => Uint8Array;

/** Where the log ends. */
export interface WriteCursor {
  /** -1 while the log is empty. */
  readonly segment: number;
  readonly offset: number;
  readonly nextIndex: number;
  readonly lastTag: Uint8Array;
  readonly runIndex: number;
  readonly runPosition: number;
  readonly endPosition: number;
}

interface OpenRun {
  readonly seen: SeenRun;
  readonly key: Buffer;
}

interface Job {
  readonly index: number;
  readonly position: number;
  readonly bytes: Uint8Array;
  readonly frame: SeenFrame;
  readonly tag: Uint8Array;
}

interface Place {
  readonly segment: number;
  readonly offset: number;
  readonly newRun: boolean;
}

export interface WriterParts {
  readonly device: Device;
  readonly superblock: Superblock;
  /** Borrowed: the log wipes it after close(). */
  readonly dataKey: Uint8Array;
  readonly cursor: WriteCursor;
  readonly randomBytes: RandomBytes;
  /** Told in order, after the frame is durable. */
  readonly onDurable: (frame: SeenFrame) => void;
}

export class Writer {
  readonly #parts: WriterParts;
  readonly #oldestIndex: number;
  #cursor: WriteCursor;
  #run: OpenRun | null = null;
  #last: Promise<unknown> = Promise.resolve();
  #pending = 0;
  #failed: UkeyError | null = null;
  /** The end of the log as far as it is durable. */
  durable: WriteCursor;
  bytesWritten = 0;

  constructor(parts: WriterParts, oldestIndex: number) {
    this.#parts = parts;
    this.#oldestIndex = oldestIndex;
    this.#cursor = parts.cursor;
    this.durable = parts.cursor;
  }

  get failed(): UkeyError | null {
    return this.#failed;
  }

  hasRoomFor(payloadBytes: number): boolean {
    const { segmentBytes, sectorBytes } = this.#parts.superblock;
    return payloadBytes <= maxPayloadBytes(segmentBytes) && this.#placeFor(frameBytesFor(payloadBytes, sectorBytes)) !== null;
  }

  /** The synchronous part (place and seal) runs before this returns, so call order is log order. */
  async append(payload: Uint8Array, checkpoint: Uint8Array): Promise<number> {
    this.#refuseIfFailed();
    if (this.#pending >= pendingAppendsMax) {
      throw new UkeyError('busy', `${this.#pending} frames wait for the device already`, { retryAfterMs: 100 });
    }
    const job = this.#plan(payload, checkpoint);
    this.#pending += 1;
    const done = this.#commit(job, this.#last);
    // Whoever called that append gets its error; the queue itself goes on and finds #failed set.
    this.#last = done.catch(() => undefined);
    return await done;
  }

  /** Resolves when nothing is under way any more. */
  async drain(): Promise<void> {
    await this.#last;
  }

  wipe(): void {
    this.#run?.key.fill(0);
    this.#run = null;
  }

  #refuseIfFailed(): void {
    if (this.#failed === null) return;
    throw new UkeyError('unknown-outcome', 'an earlier write failed: the store must be opened again', { cause: this.#failed });
  }

  async #commit(job: Job, before: Promise<unknown>): Promise<number> {
    try {
      await before;
      this.#refuseIfFailed();
      // Durable now: everything before this frame. A crash from here on leaves any subset of this write's sectors, which
      // the next mount cuts, or the whole frame, which it keeps: the caller was told nothing yet.
      await this.#parts.device.writeAndSync(job.position, job.bytes).catch((cause: unknown) => {
        this.#failed = new UkeyError('unknown-outcome', `writing frame ${job.index} failed`, { cause });
        throw this.#failed;
      });
      // Durable now: this frame. A crash here means that the caller repeats and finds it.
      this.bytesWritten += job.bytes.length;
      this.durable = cursorBehind(job, this.#parts.superblock);
      this.#parts.onDurable(job.frame);
      return job.index;
    } finally {
      this.#pending -= 1;
    }
  }

  /** Where a frame of this size goes, or null when nothing is free. A new run begins on a fresh page. */
  #placeFor(frameBytes: number): Place | null {
    const { segmentBytes, segmentCount } = this.#parts.superblock;
    const { segment, offset } = this.#cursor;
    if (segment >= 0) {
      const at = this.#run === null ? roundUp(offset, pageBytes) : offset;
      const needed = this.#run === null ? runHeaderBytes + frameBytes : frameBytes;
      if (at + needed <= segmentBytes) return { segment, offset: at, newRun: this.#run === null };
    }
    return segment + 1 < segmentCount ? { segment: segment + 1, offset: 0, newRun: true } : null;
  }

  #plan(payload: Uint8Array, checkpoint: Uint8Array): Job {
    const { superblock } = this.#parts;
    if (payload.length > maxPayloadBytes(superblock.segmentBytes)) {
      throw new UkeyError('too-large', `a frame of ${payload.length} bytes does not fit a segment`);
    }
    if (checkpoint.length > checkpointMaxBytes) throw new UkeyError('too-large', `a checkpoint has ${checkpoint.length} bytes`);
    const packed = pack(payload);
    const place = this.#placeFor(frameBytesFor(packed.bytes.length, superblock.sectorBytes));
    if (place === null) throw new UkeyError('store-full', 'no free segment is left on the FLASH');
    if (!place.newRun && this.#run !== null) return this.#seal(this.#run, place.offset, payload.length, packed, null);
    const { run, page } = this.#beginRun(place, checkpoint);
    return this.#seal(run, place.offset + runHeaderBytes, payload.length, packed, page);
  }

  /** A fresh salt, so a fresh key: whatever was written under the key before can never meet this run's nonces. */
  #beginRun(place: Place, checkpoint: Uint8Array): { run: OpenRun; page: Buffer } {
    const { superblock, dataKey, randomBytes } = this.#parts;
    const header: RunHeader = {
      storeId: superblock.storeId,
      runIndex: this.#cursor.runIndex + 1,
      mountEpoch: superblock.mountEpoch,
      position: segmentPosition(superblock, place.segment) + place.offset,
      segment: place.segment,
      firstIndex: this.#cursor.nextIndex,
      oldestIndex: this.#oldestIndex,
      salt: Uint8Array.from(randomBytes(saltBytes)),
      previousTag: this.#cursor.lastTag,
      previousRunPosition: this.#cursor.runPosition,
      previousEndPosition: this.#cursor.endPosition,
      checkpointBytes: checkpoint.length,
    };
    const sealed = sealCheckpoint(dataKey, superblock, header, checkpoint);
    this.#run?.key.fill(0);
    const run: OpenRun = { seen: { header, sealed, offset: place.offset }, key: deriveKey(dataKey, header.salt, 'frame') };
    this.#run = run;
    return { run, page: encodeRunHeader(header, sealed) };
  }

  #seal(run: OpenRun, offset: number, payloadBytes: number, packed: Packed, runPage: Buffer | null): Job {
    const { superblock } = this.#parts;
    const { header } = run.seen;
    const place = {
      index: this.#cursor.nextIndex,
      runIndex: header.runIndex,
      mountEpoch: header.mountEpoch,
      position: segmentPosition(superblock, header.segment) + offset,
      ordinal: this.#cursor.nextIndex - header.firstIndex + 1,
      previousTag: this.#cursor.lastTag,
    };
    const { bytes, tag } = sealFrame(run.key, superblock, header.segment, place, payloadBytes, packed, superblock.sectorBytes);
    const frame: SeenFrame = {
      header: {
        ...place,
        kind: dataKind,
        flags: packed.flags,
        storeId: superblock.storeId,
        sealedBytes: packed.bytes.length,
        payloadBytes,
      },
      run: run.seen,
      offset,
      frameBytes: bytes.length,
    };
    const job: Job = {
      index: place.index,
      // The first frame of a run is written together with its header: a run on the device is never empty on purpose.
      position: runPage === null ? place.position : header.position,
      bytes: runPage === null ? bytes : Buffer.concat([runPage, bytes]),
      frame,
      tag,
    };
    this.#cursor = cursorBehind(job, superblock);
    return job;
  }
}

function cursorBehind(job: Job, superblock: Superblock): WriteCursor {
  const { run, offset, frameBytes } = job.frame;
  return {
    segment: run.header.segment,
    offset: offset + frameBytes,
    nextIndex: job.index + 1,
    lastTag: job.tag,
    runIndex: run.header.runIndex,
    runPosition: run.header.position,
    endPosition: segmentPosition(superblock, run.header.segment) + offset + frameBytes,
  };
}
