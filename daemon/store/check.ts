// Owns: reading everything that is kept, on FLASH and mirror, and putting right what one of them has whole.
// Invariants: a segment is read and healed in the writer's turn, so no append of ours is half written meanwhile; segments that were released
// before their turn are passed over. Damage is reported by frame index and never thrown. Must not: decide what is valid (walk.ts, recover.ts).
import type { Device } from '#store/device.ts';
import type { CheckOptions, CheckReport } from '#store/store.ts';
import { healSegment, type SegmentHealed } from './heal.ts';
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
}

interface SegmentFound extends SegmentHealed {
  /** First frame that belongs behind this segment. */
  readonly endIndex: number;
}

async function inTurn(parts: CheckParts, head: Head, heal: boolean): Promise<SegmentFound | null> {
  const { device, mirrored, keeper, dataKey, reader, writer } = parts;
  let found: SegmentFound | null = null;
  await writer.exclusive('a repair', async () => {
    // What an `async` mirror has not got yet is no damage.
    await mirrored?.settle();
    const place = reader.heads.findIndex((one) => one.runIndex === head.runIndex);
    if (place < 0) return;
    const pair = { flash: mirrored?.flash ?? device, mirror: mirrored === null || mirrored.failure !== null ? null : mirrored.mirror };
    const endIndex = reader.heads[place + 1]?.firstIndex ?? writer.durable.nextIndex;
    found = { ...(await healSegment(pair, keeper.current, dataKey, head.segment, head.runIndex - 1, heal)), endIndex };
  });
  return found;
}

/** Puts one segment right from the mirror, as far as that has it. */
export async function healOne(parts: CheckParts, head: Head): Promise<void> {
  await inTurn(parts, head, true);
}

function missingIn(head: Head, found: SegmentFound): Gap[] {
  const gaps: Gap[] = [];
  let next = head.firstIndex;
  for (const frame of found.walk.frames) {
    if (frame.header.index > next) gaps.push({ from: next, to: frame.header.index - 1 });
    next = frame.header.index + 1;
  }
  if (next < found.endIndex) gaps.push({ from: next, to: found.endIndex - 1 });
  return gaps;
}

export async function checkSegments(parts: CheckParts, options: CheckOptions): Promise<CheckReport> {
  const heads = [...parts.reader.heads];
  const missing: Gap[] = [];
  const flashDamaged: number[] = [];
  const mirrorDamaged: number[] = [];
  let frames = 0;
  for (const [done, head] of heads.entries()) {
    const found = await inTurn(parts, head, options.heal);
    if (found !== null) {
      frames += found.walk.frames.length;
      missing.push(...missingIn(head, found));
      flashDamaged.push(...found.flashDamaged);
      mirrorDamaged.push(...found.mirrorDamaged);
    }
    options.onProgress?.(done + 1, heads.length);
  }
  // Beside a writer, segments may have been freed and written again while they were read here.
  if (parts.device.readOnly) parts.reader.forget((await readSuperblock(parts.device, parts.dataKey)).superblock.oldestIndex, []);
  const kept = missing.filter((gap) => gap.to >= parts.reader.oldestIndex);
  return { frames, missing: kept, flashDamaged, mirrorDamaged, healed: options.heal && parts.mirrored !== null };
}
