// Owns: pages that cannot be read where a log seems to end: whether frames that somebody was told of may stand in them, and writing the pages over.
// Invariants: a page is written over only where whoever opens knows that nobody was told of a frame in it, or a person has said so.
// Must not: read the device.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { KnownEnd } from '#store/store.ts';
import { pageBytes, roundUp, segmentPosition, view } from './format.ts';
import type { LogFound } from './mount.ts';
import type { CountedReads } from './salvage.ts';

type End = Pick<LogFound, 'superblock' | 'heads' | 'walk' | 'lastIndex' | 'behindBytes'>;

/**
 * Positions of pages that could not be read, where the log may go on in one of them; else none. It goes on with a frame at its end, with a run on the next page, or with
 * one that begins the next segment of the ring; the header of a frame, or of a run that carries, may be there, and its other pages not.
 */
function hiddenPages({ superblock, heads, walk, behindBytes }: End, reads: CountedReads): number[] {
  const segment = heads.at(-1)?.segment ?? 0;
  const end = segmentPosition(superblock, segment) + (walk?.endOffset ?? 0);
  const nextHead = segmentPosition(superblock, (segment + 1) % superblock.segmentCount);
  const behind = reads.unreadPages(end, segmentPosition(superblock, segment + 1) - 1);
  const next = walk === null ? [] : reads.unreadPages(nextHead, nextHead + Math.max(0, behindBytes - 1));
  const reach = Math.max(roundUp(end, pageBytes), end + (walk?.markedBytes ?? 0) - 1);
  return behind.some((at) => at <= reach) || next.length > 0 ? [...behind, ...next] : [];
}

/** Whether nothing that anybody was told of can stand behind this end. */
function isKnownEnd(known: KnownEnd | null, { superblock, lastIndex }: End): boolean {
  if (known === null) return false;
  if ('givenUpBehind' in known) return known.givenUpBehind <= lastIndex;
  // An opening since then would have raised the epoch.
  const isSameLog = view(known.storeId).equals(superblock.storeId) && known.mountEpoch === superblock.mountEpoch;
  return isSameLog && known.lastIndex <= lastIndex;
}

const hiddenEnd = (path: string): UkeyError =>
  new UkeyError('busy', `${path} cannot be read where its log seems to end: more may stand there`, {
    retryAfterMs: 1_000,
    action:
      'Wait, or plug the token in again. If it stays so the FLASH is broken at that place: ukeyctl store resume --accept-end (docs/trouble.md).',
  });

/** Pages behind this end that cannot be read, and where nothing stands that counts. Throws `busy` where nobody knows that. */
export function hiddenBehind(end: End, reads: CountedReads, known: KnownEnd | null): readonly number[] {
  const hidden = hiddenPages(end, reads);
  if (hidden.length > 0 && !isKnownEnd(known, end)) throw hiddenEnd(reads.path);
  return hidden;
}

/** Durable afterwards: that nothing stands there. Whole pages, which is when a disk gives a broken place another one, and what is written next need not read them. */
export async function giveUpPages(device: Device, positions: readonly number[]): Promise<void> {
  for (const at of positions) await device.writeAndSync(at, new Uint8Array(pageBytes));
}
