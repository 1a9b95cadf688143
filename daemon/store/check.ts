// Owns: reading everything that is kept, on FLASH and mirror, a segment at a time, and putting right what one of them has whole.
// Invariants: a segment that is still written is read in the writer's turn, so no append of ours is half written meanwhile; the others are read
// beside it and only what seems damaged is read again, and healed, in that turn: appends do not wait for a check. Segments that were released
// before their turn are passed over. A repair that fails stops no append: nothing of the log's end was written by it, the other side has it whole, and the
// segment is read there from then on, and not repaired again before the log is opened anew. Damage is reported by frame index and never thrown. Must not: decide what is valid (walk.ts, recover.ts).
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device, ReadableDevice } from '#store/device.ts';
import type { CheckOptions, CheckReport, SliceReport } from '#store/store.ts';
import { healSegment, type Pair, type SegmentHealed } from './heal.ts';
import type { SuperblockKeeper } from './keeper.ts';
import type { MirroredDevice } from './mirror.ts';
import { readSuperblock } from './mount.ts';
import type { Reader } from './reader.ts';
import type { Head } from './recover.ts';
import type { Gap } from './walk.ts';
import type { Writer } from './writer.ts';

export interface CheckParts {
  readonly device: Device;
  readonly mirrored: MirroredDevice | null;
  readonly keeper: SuperblockKeeper;
  readonly dataKey: Uint8Array;
  readonly reader: Reader;
  readonly writer: Writer;
  /** Told of each segment that cannot be put right. */
  readonly note: (what: string, error: unknown) => void;
}

export interface SegmentFound extends SegmentHealed {
  /** First frame that belongs behind this segment. */
  readonly endIndex: number;
}

/** Null: it was released meanwhile. */
async function look(parts: CheckParts, head: Head, heal: boolean): Promise<SegmentFound | null> {
  const { device, mirrored, keeper, dataKey, reader, writer } = parts;
  // What an `async` mirror has not got yet is no damage.
  await mirrored?.settle();
  const place = (): number => reader.heads.findIndex((one) => one.runIndex === head.runIndex);
  if (place() < 0) return null;
  const mirror = mirrored === null || mirrored.failure !== null ? null : forRepair(mirrored.mirror);
  const pair: Pair = { flash: forRepair(mirrored?.flash ?? device), mirror };
  const found = await healSegment(pair, keeper.current, dataKey, head.segment, head.runIndex - 1, heal);
  if (place() < 0) return null;
  return { ...found, endIndex: reader.heads[place() + 1]?.firstIndex ?? writer.durable.nextIndex };
}

const forRepair = (device: Device): Device => ({
  path: device.path,
  sizeBytes: device.sizeBytes,
  sectorBytes: device.sectorBytes,
  readOnly: device.readOnly,
  read: (positionBytes, lengthBytes) => device.read(positionBytes, lengthBytes),
  writeAndSync: (positionBytes, bytes) => device.writeAndSync(positionBytes, bytes, { isRepair: true }),
  close: () => device.close(),
});

export async function inTurn(parts: CheckParts, head: Head, heal: boolean): Promise<SegmentFound | null> {
  const { reader, writer, note } = parts;
  let found: SegmentFound | null = null;
  await writer.exclusive(null, async () => {
    found = await look(parts, head, heal && !reader.isGivenUp(head)).catch(async (thrown: unknown) => {
      if (!(thrown instanceof UkeyError) || thrown.code !== 'unknown-outcome') throw thrown;
      // Whatever arrived is what belongs there, and the side that had it whole has it still.
      reader.giveUp(head);
      note(`segment ${head.segment} of the store cannot be put right`, thrown);
      return await look(parts, head, false);
    });
  });
  return found;
}

/** Puts one segment right from the mirror, as far as that has it. Where it cannot be written: what to read instead, else null. */
export async function healOne(parts: CheckParts & { readonly mirrored: MirroredDevice }, head: Head): Promise<ReadableDevice | null> {
  if (!parts.reader.isGivenUp(head)) await inTurn(parts, head, true);
  return parts.reader.isGivenUp(head) ? parts.mirrored.second : null;
}

export function missingIn(head: Pick<Head, 'firstIndex'>, found: Pick<SegmentFound, 'walk' | 'endIndex'>): Gap[] {
  const gaps: Gap[] = [];
  let next = head.firstIndex;
  for (const frame of found.walk.frames) {
    if (frame.header.index > next) gaps.push({ from: next, to: frame.header.index - 1 });
    next = frame.header.index + 1;
  }
  if (next < found.endIndex) gaps.push({ from: next, to: found.endIndex - 1 });
  return gaps;
}

const isWhole = (head: Head, found: SegmentFound): boolean =>
  found.flashDamaged.length === 0 && found.mirrorDamaged.length === 0 && missingIn(head, found).length === 0;

/** The segment that begins with run `fromRun`, or the oldest one that begins later. */
export async function checkSlice(parts: CheckParts, fromRun: number, heal: boolean): Promise<SliceReport> {
  const { heads } = parts.reader;
  const at = heads.findIndex((head) => head.runIndex >= fromRun);
  const head = heads[at];
  const nothing = { frames: 0, missing: [], flashDamaged: [], mirrorDamaged: [], healed: heal && parts.mirrored !== null };
  if (head === undefined) return { ...nothing, nextRun: null, done: heads.length, segments: heads.length };
  const nextRun = heads[at + 1]?.runIndex ?? null;
  const place = { nextRun, done: at + 1, segments: heads.length };
  // Only the newest segment is written; a run that was added since begins behind it.
  const seen = nextRun === null ? null : await look(parts, head, false);
  const found = seen !== null && isWhole(head, seen) ? seen : await inTurn(parts, head, heal);
  // Beside a writer, segments may have been freed and written again while they were read here.
  if (parts.device.readOnly) parts.reader.forget((await readSuperblock(parts.device, parts.dataKey)).superblock.oldestIndex, []);
  if (found === null) return { ...nothing, ...place };
  const { flashDamaged, mirrorDamaged, walk } = found;
  const missing = missingIn(head, found).filter((gap) => gap.to >= parts.reader.oldestIndex);
  const healed = nothing.healed && !parts.reader.isGivenUp(head);
  return { ...nothing, ...place, healed, frames: walk.frames.length, missing, flashDamaged, mirrorDamaged };
}

/** The whole ring, as it stands now: what is begun meanwhile is for the next time. */
export async function checkSegments(parts: CheckParts, options: CheckOptions): Promise<CheckReport> {
  const newestRun = parts.reader.heads.at(-1)?.runIndex ?? 0;
  const slices: SliceReport[] = [];
  for (let fromRun: number | null = 1; fromRun !== null && fromRun <= newestRun; ) {
    const slice: SliceReport = await checkSlice(parts, fromRun, options.heal);
    slices.push(slice);
    options.onProgress?.(slice.done, slice.segments);
    fromRun = slice.nextRun;
  }
  return {
    frames: slices.reduce((sum, { frames }) => sum + frames, 0),
    missing: slices.flatMap(({ missing }) => missing).filter((gap) => gap.to >= parts.reader.oldestIndex),
    flashDamaged: slices.flatMap(({ flashDamaged }) => flashDamaged),
    mirrorDamaged: slices.flatMap(({ mirrorDamaged }) => mirrorDamaged),
    healed: options.heal && parts.mirrored !== null && slices.every(({ healed }) => healed),
  };
}
