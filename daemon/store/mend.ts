// Owns: putting frames back that neither FLASH nor mirror has whole, from payloads that somebody else kept (FORMAT.md §10, "Mending").
// Invariants: a frame is written only if it is, byte for byte, the one that stood there: its (key, nonce) pair was used already, and another
// content under it would break the cipher. The witness is the tag (and, but for the superblock's, the place) that the next frame, the next run's header or the
// end of the log keep of it. What does not match, or has no witness or no run header, is left alone. Must not: judge where a payload comes from.
import type { Device } from '#store/device.ts';
import { type CheckParts, inTurn, missingIn, type SegmentFound } from './check.ts';
import { deriveKey, pack, sealFrame } from './cipher.ts';
import { dataKind, decodeRunHeader, frameHeaderBytes, type RunHeader, runHeaderBytes, segmentPosition, tagBytes, view } from './format.ts';
import type { Head } from './recover.ts';
import type { Frame } from './store.ts';
import type { Superblock } from './superblock.ts';
import type { Gap, SeenRun } from './walk.ts';

/** What is kept elsewhere of the last frame of a gap. */
export interface Witness {
  /** 8 bytes or all 16. */
  readonly tag: Uint8Array;
  /** Null: not known. The tag alone covers the frame's header, and so its place and length. */
  readonly endPosition: number | null;
}

/** A store whose frames are put back: open (mendFrames), or one that does not open (damaged-log.ts). */
export interface MendScope {
  readonly device: Device;
  readonly superblock: Superblock;
  readonly dataKey: Uint8Array;
  /** Kept segments, oldest first, as they are now. */
  heads(): readonly Head[];
  /** What is known of the frame that the log ends with, whatever stands there now. */
  end(): { readonly index: number; readonly witness: Witness } | null;
  write(positionBytes: number, bytes: Uint8Array): Promise<void>;
}

interface Start {
  readonly position: number;
  readonly previousTag: Uint8Array;
}

type Payloads = ReadonlyMap<number, Uint8Array>;

/** Indexes of the frames that are whole on the FLASH (and mirror) now. `frames`: any, in any order. */
export async function mendFrames(parts: CheckParts, frames: readonly Frame[]): Promise<number[]> {
  const { device, keeper, dataKey, reader, writer } = parts;
  const payloads = new Map(frames.map(({ index, payload }) => [index, payload]));
  const scope: MendScope = {
    ...{ device, superblock: keeper.current, dataKey, heads: () => reader.heads },
    end: () => {
      const { nextIndex, lastTag, endPosition } = writer.durable;
      return { index: nextIndex - 1, witness: { tag: lastTag, endPosition } };
    },
    write: (positionBytes, bytes) => writer.exclusive('a mended frame', () => device.writeAndSync(positionBytes, bytes)),
  };
  const mended: number[] = [];
  const heads = [...reader.heads];
  for (const [at, head] of heads.entries()) {
    const endIndex = heads[at + 1]?.firstIndex ?? Number.POSITIVE_INFINITY;
    if (!frames.some(({ index }) => index >= head.firstIndex && index < endIndex)) continue;
    const found = await inTurn(parts, head, parts.mirrored !== null);
    if (found === null) continue;
    mended.push(...(await mendSegment(scope, head, found, payloads)));
    reader.renew(head.segment);
  }
  return mended;
}

type Found = Pick<SegmentFound, 'walk' | 'endIndex'>;

/** Indexes of the frames of this segment that were put back. */
export async function mendSegment(scope: MendScope, head: Head, found: Found, payloads: Payloads): Promise<number[]> {
  const mended: number[] = [];
  for (const gap of gapsByRun(head, found)) mended.push(...(await mendGap(scope, head, found, gap, payloads)));
  return mended;
}

interface RunGap extends Gap {
  readonly run: SeenRun;
  /** Place of the run in the walk. */
  readonly at: number;
}

/** What is missing, by the run that it stood in, as far as the runs are known. */
function gapsByRun(head: Head, found: Found): RunGap[] {
  const { runs } = found.walk;
  const missing = missingIn(head, found);
  return runs.flatMap((run, at) => {
    if (run.header.carryFrameBytes > 0) return [];
    const first = run.header.firstIndex;
    const last = (runs[at + 1]?.header.firstIndex ?? found.endIndex) - 1;
    return missing
      .map(({ from, to }) => ({ run, at, from: Math.max(from, first), to: Math.min(to, last) }))
      .filter(({ from, to }) => from <= to);
  });
}

async function mendGap(scope: MendScope, head: Head, found: Found, gap: RunGap, payloads: Payloads): Promise<number[]> {
  const { superblock, dataKey } = scope;
  const { header } = gap.run;
  const wanted = Array.from({ length: gap.to - gap.from + 1 }, (_, at) => payloads.get(gap.from + at) ?? null);
  if (wanted.includes(null)) return [];
  const witness = await witnessOf(scope, found, head, gap);
  const start = await startOf(scope, found, head, gap);
  if (witness === null || start === null) return [];
  const key = deriveKey(dataKey, header.salt, 'frame');
  const pieces: Buffer[] = [];
  let { position, previousTag } = start;
  try {
    for (const [at, payload] of wanted.entries()) {
      if (payload === null) return [];
      const index = gap.from + at;
      const { runIndex, mountEpoch, firstIndex } = header;
      const place = { kind: dataKind, index, runIndex, mountEpoch, position, ordinal: index - firstIndex + 1, previousTag };
      const sealed = sealFrame(key, superblock, head.segment, place, payload.length, pack(payload), superblock.sectorBytes);
      pieces.push(sealed.bytes);
      position += sealed.bytes.length;
      previousTag = sealed.tag;
    }
  } finally {
    key.fill(0);
  }
  const endsRight = witness.endPosition === null || position === witness.endPosition;
  const isSame = endsRight && view(previousTag).subarray(0, witness.tag.length).equals(witness.tag);
  if (!isSame) return [];
  // Every byte is what stood there, so a crash in the middle leaves a gap that is mended again. Nothing whole lies between start and end.
  await scope.write(start.position, Buffer.concat(pieces));
  return wanted.map((_, at) => gap.from + at);
}

/** Where the first missing frame stood: behind the whole one before it, or behind its run's header. */
async function startOf({ device, superblock }: MendScope, found: Found, head: Head, gap: RunGap): Promise<Start | null> {
  const base = segmentPosition(superblock, head.segment);
  const { header, offset } = gap.run;
  if (gap.from === header.firstIndex) return { position: base + offset + runHeaderBytes, previousTag: header.previousTag };
  const before = found.walk.frames.find((frame) => frame.header.index === gap.from - 1 && frame.header.runIndex === header.runIndex);
  if (before === undefined) return null;
  const bytes = await device.read(base + before.offset, before.frameBytes);
  const tagAt = frameHeaderBytes + before.header.sealedBytes;
  return { position: base + before.offset + before.frameBytes, previousTag: bytes.subarray(tagAt, tagAt + tagBytes) };
}

async function witnessOf(scope: MendScope, found: Found, head: Head, gap: RunGap): Promise<Witness | null> {
  const base = segmentPosition(scope.superblock, head.segment);
  const after = found.walk.frames.find((frame) => frame.header.index === gap.to + 1 && frame.header.runIndex === gap.run.header.runIndex);
  if (after !== undefined) return { tag: after.header.previousTag, endPosition: base + after.offset };
  const heads = scope.heads();
  const place = heads.findIndex(({ runIndex }) => runIndex === head.runIndex);
  const nextHead = heads[place + 1];
  const inSegment = found.walk.runs[gap.at + 1]?.header;
  if (inSegment === undefined && nextHead === undefined) {
    const end = scope.end();
    return end !== null && end.index === gap.to ? end.witness : null;
  }
  const next = inSegment ?? (nextHead === undefined ? null : await headerAt(scope, nextHead.segment));
  if (next === null || next.firstIndex !== gap.to + 1) return null;
  return { tag: next.previousTag, endPosition: next.previousEndPosition };
}

async function headerAt({ device, superblock }: MendScope, segment: number): Promise<RunHeader | null> {
  const position = segmentPosition(superblock, segment);
  return decodeRunHeader(await device.read(position, runHeaderBytes), superblock.storeId, segment, position)?.header ?? null;
}
