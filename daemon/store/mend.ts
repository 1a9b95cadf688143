// Owns: putting frames back that neither FLASH nor mirror has whole, from payloads that somebody else kept (FORMAT.md §10, "Mending").
// Invariants: a frame is written only if it is, byte for byte, the one that stood there: its (key, nonce) pair was used already, and another
// content under it would break the cipher. The witness is the tag and the place that the next frame, the next run's header or the end of the
// log keep of it. What does not match, or has no witness or no run header, is left alone. Must not: judge where a payload comes from.
import { type CheckParts, inTurn, missingIn, type SegmentFound } from './check.ts';
import { deriveKey, pack, sealFrame } from './cipher.ts';
import { dataKind, decodeRunHeader, frameHeaderBytes, type RunHeader, runHeaderBytes, segmentPosition, tagBytes, view } from './format.ts';
import type { Head } from './recover.ts';
import type { Frame } from './store.ts';
import type { Gap, SeenRun } from './walk.ts';

/** What is kept elsewhere of the last frame of a gap. */
interface Witness {
  /** 8 bytes or all 16. */
  readonly tag: Uint8Array;
  readonly endPosition: number;
}

interface Start {
  readonly position: number;
  readonly previousTag: Uint8Array;
}

/** Indexes of the frames that are whole on the FLASH (and mirror) now. `frames`: any, in any order. */
export async function mendFrames(parts: CheckParts, frames: readonly Frame[]): Promise<number[]> {
  const payloads = new Map(frames.map(({ index, payload }) => [index, payload]));
  const mended: number[] = [];
  const heads = [...parts.reader.heads];
  for (const [at, head] of heads.entries()) {
    const endIndex = heads[at + 1]?.firstIndex ?? Number.POSITIVE_INFINITY;
    if (!frames.some(({ index }) => index >= head.firstIndex && index < endIndex)) continue;
    const found = await inTurn(parts, head, parts.mirrored !== null);
    if (found === null) continue;
    for (const gap of gapsByRun(head, found)) mended.push(...(await mendGap(parts, head, found, gap, payloads)));
    parts.reader.renew(head.segment);
  }
  return mended;
}

interface RunGap extends Gap {
  readonly run: SeenRun;
  /** Place of the run in the walk. */
  readonly at: number;
}

/** What is missing, by the run that it stood in, as far as the runs are known. */
function gapsByRun(head: Head, found: SegmentFound): RunGap[] {
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

async function mendGap(
  parts: CheckParts,
  head: Head,
  found: SegmentFound,
  gap: RunGap,
  payloads: ReadonlyMap<number, Uint8Array>,
): Promise<number[]> {
  const { device, keeper, dataKey, writer } = parts;
  const superblock = keeper.current;
  const { header } = gap.run;
  const wanted = Array.from({ length: gap.to - gap.from + 1 }, (_, at) => payloads.get(gap.from + at) ?? null);
  const witness = await witnessOf(parts, found, head, gap);
  const start = await startOf(parts, found, head, gap);
  if (witness === null || start === null || wanted.includes(null)) return [];
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
  const isSame = position === witness.endPosition && view(previousTag).subarray(0, witness.tag.length).equals(witness.tag);
  if (!isSame) return [];
  // Every byte is what stood there, so a crash in the middle leaves a gap that is mended again. Nothing whole lies between start and end.
  await writer.exclusive('a mended frame', () => device.writeAndSync(start.position, Buffer.concat(pieces)));
  return wanted.map((_, at) => gap.from + at);
}

/** Where the first missing frame stood: behind the whole one before it, or behind its run's header. */
async function startOf({ device, keeper }: CheckParts, found: SegmentFound, head: Head, gap: RunGap): Promise<Start | null> {
  const base = segmentPosition(keeper.current, head.segment);
  const { header, offset } = gap.run;
  if (gap.from === header.firstIndex) return { position: base + offset + runHeaderBytes, previousTag: header.previousTag };
  const before = found.walk.frames.find((frame) => frame.header.index === gap.from - 1 && frame.header.runIndex === header.runIndex);
  if (before === undefined) return null;
  const bytes = await device.read(base + before.offset, before.frameBytes);
  const tagAt = frameHeaderBytes + before.header.sealedBytes;
  return { position: base + before.offset + before.frameBytes, previousTag: bytes.subarray(tagAt, tagAt + tagBytes) };
}

async function witnessOf(parts: CheckParts, found: SegmentFound, head: Head, gap: RunGap): Promise<Witness | null> {
  const { keeper, reader, writer } = parts;
  const base = segmentPosition(keeper.current, head.segment);
  const after = found.walk.frames.find((frame) => frame.header.index === gap.to + 1 && frame.header.runIndex === gap.run.header.runIndex);
  if (after !== undefined) return { tag: after.header.previousTag, endPosition: base + after.offset };
  const place = reader.heads.findIndex(({ runIndex }) => runIndex === head.runIndex);
  const nextHead = reader.heads[place + 1];
  const inSegment = found.walk.runs[gap.at + 1]?.header;
  if (inSegment === undefined && nextHead === undefined) {
    const { nextIndex, lastTag, endPosition } = writer.durable;
    return nextIndex === gap.to + 1 ? { tag: lastTag, endPosition } : null;
  }
  const next = inSegment ?? (nextHead === undefined ? null : await headerAt(parts, nextHead.segment));
  if (next === null || next.firstIndex !== gap.to + 1) return null;
  return { tag: next.previousTag, endPosition: next.previousEndPosition };
}

async function headerAt({ device, keeper }: CheckParts, segment: number): Promise<RunHeader | null> {
  const position = segmentPosition(keeper.current, segment);
  return decodeRunHeader(await device.read(position, runHeaderBytes), keeper.current.storeId, segment, position)?.header ?? null;
}
