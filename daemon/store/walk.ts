// Owns: reading one segment's bytes into facts: runs, frames, what is missing between them, what stands behind the last one.
// Two sides (FLASH and mirror) are read as one: each header and frame is taken from the first side that has it whole.
// Invariants: pure; the cost is one pass; a run header rules over what the run before it left behind: frames that it does not
// count were cut by the mount that wrote it. Only frames in the order of their indexes are listed.
// Must not: decide whether a missing frame is damage or a torn tail (recover.ts), or touch a device.
import {
  carryKind,
  type DecodedRun,
  dataKind,
  decodeFrameHeader,
  decodeRunHeader,
  type FrameHeader,
  frameBytesFor,
  frameHeaderBytes,
  type Geometry,
  isBlank,
  pageBytes,
  previousTagBytes,
  roundUp,
  runHeaderBytes,
  segmentPosition,
  tagBytes,
  view,
} from './format.ts';

export interface SeenRun extends DecodedRun {
  readonly offset: number;
  /** Number of the side that it was taken from. */
  readonly side: number;
  /** The same for its carried frame; 0 in a run of data. */
  readonly carrySide: number;
}

export interface SeenFrame {
  readonly header: FrameHeader;
  readonly run: SeenRun;
  readonly offset: number;
  readonly frameBytes: number;
  readonly side: number;
}

/** Frames that must have been there: `from` to `to`, both included. */
export interface Gap {
  readonly from: number;
  readonly to: number;
}

/** Frames of a run whose header is not there. Only ordinals above 1 prove that the header was durable once. */
export interface LostRun {
  readonly runIndex: number;
  readonly ordinal: number;
  readonly index: number;
}

export interface Walk {
  readonly runs: readonly SeenRun[];
  readonly frames: readonly SeenFrame[];
  readonly gaps: readonly Gap[];
  readonly lostRun: LostRun | null;
  /** Index that would come next; 0 when no run header was found. */
  readonly nextIndex: number;
  /** Tag of the frame before nextIndex, null when no run header was found. */
  readonly lastTag: Uint8Array | null;
  /** First byte behind the last good header or frame, inside the segment. */
  readonly endOffset: number;
  /** From there to the end of the last sector that is not blank. */
  readonly strayBytes: number;
  /** The same, counting only sectors that carry a mark of this store. */
  readonly markedBytes: number;
}

export interface WalkInput {
  /** The segment on the FLASH, on the mirror, or on both, of one length. */
  readonly sides: readonly Uint8Array[];
  readonly segment: number;
  readonly geometry: Geometry;
  readonly storeId: Uint8Array;
  /** Only runs above this are news; 0 for all. */
  readonly aboveRunIndex: number;
  /** Whether run header and frame carry valid tags; constant true where they are opened later anyway. */
  readonly isRunWhole: (run: DecodedRun) => boolean;
  readonly isFrameWhole: (run: DecodedRun, frame: FrameHeader, bytes: Uint8Array) => boolean;
}

type Found =
  | { readonly kind: 'run'; readonly run: SeenRun }
  | { readonly kind: 'frame'; readonly frame: SeenFrame }
  | { readonly kind: 'none' };

class Walker {
  readonly #input: WalkInput;
  readonly #base: number;
  readonly length: number;
  readonly runs: SeenRun[] = [];
  readonly frames: SeenFrame[] = [];
  readonly gaps: Gap[] = [];
  lostRun: LostRun | null = null;
  run: SeenRun | null = null;
  nextIndex = 0;
  lastTag: Uint8Array | null = null;
  offset = 0;
  strayEnd = 0;
  markedEnd = 0;
  /** Behind what a run was to carry that is not whole. */
  #tornEnd = 0;

  constructor(input: WalkInput) {
    this.#input = input;
    this.#base = segmentPosition(input.geometry, input.segment);
    this.length = input.sides[0]?.length ?? 0;
  }

  get #runFloor(): number {
    return this.run?.header.runIndex ?? this.#input.aboveRunIndex;
  }

  /** The newest run header of any side; of two with one index the one of the later mount, which knew of the other. */
  #runAt(offset: number): SeenRun | null {
    const { sides, storeId, segment } = this.#input;
    if (offset + runHeaderBytes > this.length) return null;
    let best: SeenRun | null = null;
    for (const [side, bytes] of sides.entries()) {
      const decoded = decodeRunHeader(bytes.subarray(offset, offset + runHeaderBytes), storeId, segment, this.#base + offset);
      if (decoded === null || decoded.header.runIndex <= this.#runFloor || !this.#input.isRunWhole(decoded)) continue;
      const { runIndex, mountEpoch } = decoded.header;
      const isNewer: boolean =
        best === null || runIndex > best.header.runIndex || (runIndex === best.header.runIndex && mountEpoch > best.header.mountEpoch);
      const carrySide: number | null = isNewer ? this.#carrySideOf(decoded, offset) : null;
      if (isNewer && carrySide === null) this.#tornEnd = Math.max(this.#tornEnd, offset + runHeaderBytes + decoded.header.carryFrameBytes);
      if (carrySide !== null) best = { ...decoded, offset, side, carrySide };
    }
    return best;
  }

  /** A run that carries is one write: without its frame it counts as torn (null), and what it would have replaced still stands. */
  #carrySideOf(run: DecodedRun, offset: number): number | null {
    const { carryFrameBytes, runIndex } = run.header;
    if (carryFrameBytes === 0) return 0;
    const at = offset + runHeaderBytes;
    if (at + carryFrameBytes > this.length) return null;
    for (const [side, bytes] of this.#input.sides.entries()) {
      const header = this.#headerAt(bytes, at);
      if (header === null || header.kind !== carryKind || header.runIndex !== runIndex) continue;
      if (frameBytesFor(header.sealedBytes, this.#input.geometry.sectorBytes) !== carryFrameBytes) continue;
      if (this.#input.isFrameWhole(run, header, bytes.subarray(at, at + carryFrameBytes))) return side;
    }
    return null;
  }

  #headerAt(bytes: Uint8Array, offset: number): FrameHeader | null {
    return decodeFrameHeader(bytes.subarray(offset, offset + frameHeaderBytes), this.#input.storeId, this.#base + offset);
  }

  /** A frame of the run that we are in, whole, with an index from `nextIndex` on. */
  #frameAt(side: number, bytes: Uint8Array, offset: number, header: FrameHeader): SeenFrame | null {
    const run = this.run;
    if (run === null || header.runIndex !== run.header.runIndex || header.mountEpoch !== run.header.mountEpoch) return null;
    if (header.kind !== dataKind || run.header.carryFrameBytes > 0) return null;
    if (header.index < this.nextIndex || header.ordinal !== header.index - run.header.firstIndex + 1) return null;
    const frameBytes = frameBytesFor(header.sealedBytes, this.#input.geometry.sectorBytes);
    if (offset + frameBytes > bytes.length) return null;
    if (!this.#input.isFrameWhole(run, header, bytes.subarray(offset, offset + frameBytes))) return null;
    return { header, run, offset, frameBytes, side };
  }

  /** The frame that must stand at `offset` if the log goes on. */
  nextFrame(): SeenFrame | null {
    for (const [side, bytes] of this.#input.sides.entries()) {
      const header = this.#headerAt(bytes, this.offset);
      if (header === null || header.index !== this.nextIndex || this.lastTag === null) continue;
      if (!view(this.lastTag).subarray(0, previousTagBytes).equals(header.previousTag)) continue;
      const frame = this.#frameAt(side, bytes, this.offset, header);
      if (frame !== null) return frame;
    }
    return null;
  }

  /** A newer run on the next page that does not count on more frames than were seen. */
  nextRun(): SeenRun | null {
    const run = this.#runAt(roundUp(this.offset, pageBytes));
    return run !== null && (this.run === null || run.header.firstIndex <= this.nextIndex) ? run : null;
  }

  takeFrame(frame: SeenFrame): void {
    if (frame.header.index > this.nextIndex) this.gaps.push({ from: this.nextIndex, to: frame.header.index - 1 });
    this.frames.push(frame);
    this.nextIndex = frame.header.index + 1;
    this.offset = frame.offset + frame.frameBytes;
    this.lastTag = tagOf(this.#input.sides, frame);
  }

  takeRun(run: SeenRun): void {
    const { firstIndex, previousTag } = run.header;
    if (this.run !== null && firstIndex > this.nextIndex) this.gaps.push({ from: this.nextIndex, to: firstIndex - 1 });
    // What the newer run does not count was cut by the mount that wrote it.
    while ((this.frames.at(-1)?.header.index ?? 0) >= firstIndex) this.frames.pop();
    const last = this.frames.at(-1);
    if (last !== undefined && last.header.index === firstIndex - 1 && !tagOf(this.#input.sides, last).equals(previousTag)) {
      // The run header vouches for another frame than the one that stands here.
      this.frames.pop();
      this.gaps.push({ from: firstIndex - 1, to: firstIndex - 1 });
    }
    if (this.lostRun !== null && this.lostRun.runIndex < run.header.runIndex) this.lostRun = null;
    this.runs.push(run);
    this.run = run;
    this.nextIndex = firstIndex;
    this.lastTag = previousTag;
    this.offset = run.offset + runHeaderBytes + run.header.carryFrameBytes;
  }

  /** Looks behind a broken place for anything valid that is newer. */
  scan(): Found {
    const { sides, geometry } = this.#input;
    this.strayEnd = this.offset;
    this.markedEnd = this.offset;
    for (let offset = this.#behindBlank(this.offset); offset < this.length; offset = this.#behindBlank(offset + geometry.sectorBytes)) {
      const used = [...sides.entries()].filter(([, bytes]) => !isBlank(bytes.subarray(offset, offset + geometry.sectorBytes)));
      if (used.length === 0) continue;
      this.strayEnd = offset + geometry.sectorBytes;
      const run = offset % pageBytes === 0 ? this.#runAt(offset) : null;
      if (run !== null) return { kind: 'run', run };
      this.markedEnd = Math.max(this.markedEnd, Math.min(this.length, this.#tornEnd));
      for (const [side, bytes] of used) {
        const header = this.#headerAt(bytes, offset);
        if (header === null) continue;
        const frame = this.#frameAt(side, bytes, offset, header);
        if (frame !== null && header.index > this.nextIndex) return { kind: 'frame', frame };
        if (header.runIndex < this.#runFloor) continue;
        this.markedEnd = Math.max(this.markedEnd, Math.min(this.length, offset + frameBytesFor(header.sealedBytes, geometry.sectorBytes)));
        if (header.runIndex > this.#runFloor) this.#noteLost(header);
      }
    }
    return { kind: 'none' };
  }

  /** Passes over whole pages that are blank on all sides: most of what stands behind the end of a log. */
  #behindBlank(offset: number): number {
    let at = offset;
    while (at % pageBytes === 0 && at < this.length && this.#input.sides.every((bytes) => isBlank(bytes.subarray(at, at + pageBytes))))
      at += pageBytes;
    return at;
  }

  #noteLost(header: FrameHeader): void {
    const before = this.lostRun;
    this.lostRun = {
      runIndex: Math.max(header.runIndex, before?.runIndex ?? 0),
      ordinal: Math.max(header.ordinal, before?.ordinal ?? 0),
      index: Math.max(header.index, before?.index ?? 0),
    };
  }
}

/** The tag of a frame of these sides, as a copy. */
export function tagOf(sides: readonly Uint8Array[], frame: SeenFrame): Buffer {
  const at = frame.offset + frameHeaderBytes + frame.header.sealedBytes;
  return Buffer.from((sides[frame.side] ?? new Uint8Array(0)).subarray(at, at + tagBytes));
}

export function walkSegment(input: WalkInput): Walk {
  const walker = new Walker(input);
  while (walker.offset < walker.length) {
    const run = walker.nextRun();
    if (run !== null) {
      walker.takeRun(run);
      continue;
    }
    const frame = walker.nextFrame();
    if (frame !== null) {
      walker.takeFrame(frame);
      continue;
    }
    const found = walker.scan();
    if (found.kind === 'none') break;
    if (found.kind === 'run') walker.takeRun(found.run);
    else walker.takeFrame(found.frame);
  }
  return {
    runs: walker.runs,
    frames: walker.frames,
    gaps: walker.gaps,
    lostRun: walker.lostRun,
    nextIndex: walker.nextIndex,
    lastTag: walker.lastTag,
    endOffset: walker.offset,
    strayBytes: Math.max(0, walker.strayEnd - walker.offset),
    markedBytes: Math.max(0, walker.markedEnd - walker.offset),
  };
}
