// Owns: what may be concluded from what was read: which superblock copy rules, which segment is the newest, where the log ends.
// Invariants: pure functions of facts, each a table tested over all its inputs. A torn tail is cut only when nothing that
// was ever durable can stand behind it: one unsynced write is under way at most, so anything valid behind a broken place,
// or anything that promises more frames than were read, means damage and is never taken for a torn tail.
// Must not: read a device, or repair.
import type { CopyState, Superblock } from './superblock.ts';
import type { Gap, LostRun } from './walk.ts';

export type CopyChoice =
  | { readonly kind: 'empty' }
  | { readonly kind: 'foreign' }
  | { readonly kind: 'newer-format'; readonly version: number }
  /** Ours, but no copy is whole, or copies of different stores are mixed. */
  | { readonly kind: 'damage' }
  /** `stale`: numbers of the copies that have to be written again. */
  | { readonly kind: 'chosen'; readonly superblock: Superblock; readonly stale: readonly number[] };

/**
 * Two equal whole copies of the highest counter rule; a single one of the highest counter rules too. That is safe: a
 * single newest copy exists only while an update is under way (or its twins rotted), nothing is done on the strength of an
 * update before all four copies are durable, so taking it completes the update and not having it would undo it; both are true states.
 */
export function chooseCopy(copies: readonly CopyState[]): CopyChoice {
  for (const copy of copies) if (copy.kind === 'newer-format') return { kind: 'newer-format', version: copy.version };
  let best: (CopyState & { kind: 'valid' }) | null = null;
  let bestEqual = 0;
  for (const copy of copies) {
    if (copy.kind !== 'valid') continue;
    if (best !== null && !copy.bytes.subarray(40, 56).equals(best.bytes.subarray(40, 56))) return { kind: 'damage' };
    const equal = copies.filter((other) => other.kind === 'valid' && other.bytes.equals(copy.bytes)).length;
    const newer = copy.superblock.updateCounter - (best?.superblock.updateCounter ?? -1);
    if (newer > 0 || (newer === 0 && equal > bestEqual)) {
      best = copy;
      bestEqual = equal;
    }
  }
  if (best !== null) {
    const chosen = best;
    const stale = copies.flatMap((copy, number) => (copy.kind === 'valid' && copy.bytes.equals(chosen.bytes) ? [] : [number]));
    return { kind: 'chosen', superblock: chosen.superblock, stale };
  }
  if (copies.some((copy) => copy.kind === 'damaged')) return { kind: 'damage' };
  return copies.every((copy) => copy.kind === 'blank') ? { kind: 'empty' } : { kind: 'foreign' };
}

/**
 * Where nobody can check who wrote a copy: if copies name a store of this token, those of other stores count as damaged. Copies of one store are left to
 * their counters, whatever token they name, and so are two stores of one token: that is damage.
 */
export function withoutStrays(copies: readonly CopyState[], tokenKeyId: Uint8Array | null): readonly CopyState[] {
  if (tokenKeyId === null) return copies;
  const storeOf = ({ superblock }: CopyState & { kind: 'valid' }): string => Buffer.from(superblock.storeId).toString('hex');
  const ours = new Set<string>();
  for (const copy of copies)
    if (copy.kind === 'valid' && Buffer.compare(copy.superblock.tokenKeyId, tokenKeyId) === 0) ours.add(storeOf(copy));
  if (ours.size === 0) return copies;
  return copies.map((copy) => (copy.kind === 'valid' && !ours.has(storeOf(copy)) ? { kind: 'damaged' } : copy));
}

/** First run header of a segment, as read; segments without a valid one are not listed. */
export interface Head {
  readonly segment: number;
  readonly runIndex: number;
  readonly firstIndex: number;
  /** Run that the oldest segment began with when this one was begun. */
  readonly oldestRun: number;
  readonly carryFrameBytes: number;
}

export interface HeadOrder {
  /** Kept segments in the order of the log, oldest first. */
  readonly heads: readonly Head[];
  /** Places in `heads` before which segments are missing: their heads must have been damaged. */
  readonly holesBefore: readonly number[];
}

/**
 * Run indexes only go up, and segments follow each other round the ring. What lies before the oldest kept run was reclaimed:
 * it may be there still, half overwritten, or gone. `promisedOldestRun` is what the superblock says, 1 when nothing was ever freed.
 */
export function orderHeads(seen: readonly Head[], segmentCount: number, promisedOldestRun = 1): HeadOrder {
  const oldestRun = seen.reduce((oldest, head) => Math.max(oldest, head.oldestRun), promisedOldestRun);
  const heads = seen.filter((head) => head.runIndex >= oldestRun).sort((a, b) => a.runIndex - b.runIndex);
  const holesBefore = heads.flatMap((head, place) => {
    const before = heads[place - 1];
    if (before === undefined) return head.runIndex > oldestRun ? [place] : [];
    const follows = head.segment === (before.segment + 1) % segmentCount && head.firstIndex >= before.firstIndex;
    return follows ? [] : [place];
  });
  return { heads, holesBefore };
}

/** What was read around the end of the log. */
export interface TailFound {
  /** Frames that are missing although something newer counts on them. */
  readonly gaps: readonly Gap[];
  /** Last frame that was read whole with all before it in its segment, 0 for none. */
  readonly lastIndex: number;
  /** Any run header of this store was read. */
  readonly started: boolean;
  /** Frames of a newer run without its header. */
  readonly lostRun: LostRun | null;
  /** Last frame that the superblock knows of. */
  readonly promisedIndex: number;
  /** What is carried forward was durable and cannot be read, or the run that the superblock knows as the newest is not there. */
  readonly carryLost: boolean;
  /** Bytes behind the last frame that look like a write that was cut. */
  readonly tornBytes: number;
}

export type TailDecision =
  | { readonly kind: 'empty'; readonly tornBytes: number }
  | { readonly kind: 'tail'; readonly lastIndex: number; readonly tornBytes: number }
  | { readonly kind: 'damage'; readonly missing: readonly Gap[]; readonly carryLost: boolean };

interface TailRow {
  readonly name: string;
  readonly when: (found: TailFound) => boolean;
  readonly decision: (found: TailFound) => TailDecision;
}

const missingUpTo = (found: TailFound, to: number): TailDecision => ({
  kind: 'damage',
  missing: [...found.gaps, { from: found.lastIndex + 1, to: Math.max(to, found.lastIndex + 1) }],
  carryLost: found.carryLost,
});

/** FORMAT.md §8, row by row; the first that fits decides. */
export const tailRows: readonly TailRow[] = [
  {
    name: 'superblock promises more frames than were read',
    when: (found) => found.promisedIndex > found.lastIndex,
    decision: (found) => missingUpTo(found, Math.max(found.promisedIndex, found.lostRun?.index ?? 0)),
  },
  {
    name: 'second or later frame of a newer run whose header is gone',
    when: (found) => found.lostRun !== null && found.lostRun.ordinal > 1,
    decision: (found) => missingUpTo(found, found.lostRun?.index ?? 0),
  },
  {
    name: 'frames missing between valid ones',
    when: (found) => found.gaps.length > 0,
    decision: (found) => ({ kind: 'damage', missing: found.gaps, carryLost: found.carryLost }),
  },
  {
    name: 'what is carried forward is not there',
    when: (found) => found.carryLost,
    decision: () => ({ kind: 'damage', missing: [], carryLost: true }),
  },
  {
    name: 'nothing was ever made durable',
    when: (found) => !found.started,
    decision: (found) => ({ kind: 'empty', tornBytes: found.tornBytes }),
  },
  {
    name: 'end of the log; what stands behind it is one write that was cut',
    when: () => true,
    decision: (found) => ({ kind: 'tail', lastIndex: found.lastIndex, tornBytes: found.tornBytes }),
  },
];

export function decideTail(found: TailFound): TailDecision {
  const row = tailRows.find((candidate) => candidate.when(found));
  return row === undefined ? { kind: 'damage', missing: found.gaps, carryLost: found.carryLost } : row.decision(found);
}

/** What cannot be read though it was durable. */
export interface Damage {
  readonly kind: 'damage';
  readonly missing: readonly Gap[];
  readonly carryLost: boolean;
}

/** The damage that a `halted` of this room tells of, null for any other error. */
export function damageOf(thrown: unknown): Damage | null {
  const cause: unknown = thrown instanceof Error ? thrown.cause : null;
  return typeof cause === 'object' && cause !== null && 'kind' in cause && cause.kind === 'damage' ? (cause as Damage) : null;
}

/** In order, each frame once. */
export function joinGaps(gaps: readonly Gap[]): Gap[] {
  const all: Gap[] = [];
  for (const gap of gaps.toSorted((a, b) => a.from - b.from)) {
    const last = all.at(-1);
    if (last !== undefined && gap.from <= last.to + 1) all[all.length - 1] = { from: last.from, to: Math.max(last.to, gap.to) };
    else all.push(gap);
  }
  return all;
}

/** For a person: `7, 9-12`. */
export const nameFrames = (missing: readonly Gap[]): string =>
  missing.map((gap) => (gap.from === gap.to ? `${gap.from}` : `${gap.from}-${gap.to}`)).join(', ');

/** What one device shows where a run header or frame of the log belongs. */
export type UnitState = 'valid' | 'broken' | 'missing';

export interface UnitFound {
  readonly flash: UnitState;
  /** `other`: valid, but not what rules here (an older life of the mirror). */
  readonly mirror: UnitState | 'other' | 'off';
  /** Something that was written later is valid on either of them, or the superblock counts on this. */
  readonly behind: boolean;
}

export type UnitDecision = 'keep' | 'heal-flash' | 'heal-mirror' | 'damage' | 'cut' | 'end';

interface UnitRow {
  readonly name: string;
  readonly when: (found: UnitFound) => boolean;
  readonly decision: UnitDecision;
}

/** FORMAT.md §10, row by row; the first that fits decides. */
export const unitRows: readonly UnitRow[] = [
  { name: 'both have it', when: ({ flash, mirror }) => flash === 'valid' && (mirror === 'valid' || mirror === 'off'), decision: 'keep' },
  { name: 'the FLASH has it', when: ({ flash }) => flash === 'valid', decision: 'heal-mirror' },
  { name: 'the mirror has it', when: ({ mirror }) => mirror === 'valid', decision: 'heal-flash' },
  { name: 'nobody has it, and something counts on it', when: ({ behind }) => behind, decision: 'damage' },
  {
    name: 'nobody has it whole, and nothing follows',
    when: ({ flash, mirror }) => flash === 'broken' || mirror === 'broken',
    decision: 'cut',
  },
  { name: 'nobody has any of it', when: () => true, decision: 'end' },
];

export const decideUnit = (found: UnitFound): UnitDecision => unitRows.find((row) => row.when(found))?.decision ?? 'damage';

/** How the ends of two copies stand to what was read from both together. */
export interface HistoriesFound {
  /** The last frame of the FLASH is part of it. */
  readonly flashKept: boolean;
  readonly mirrorKept: boolean;
  /** The FLASH was opened without the mirror since they were last written together. */
  readonly flashLeads: boolean;
  /** The mirror alone has more frames than both together would keep. */
  readonly mirrorLonger: boolean;
}

/** `discard-mirror`: what only the mirror has was never answered, or was given up when the FLASH was opened without it. */
export type HistoriesDecision = 'go-on' | 'discard-mirror' | 'halt';

export function decideHistories({ flashKept, mirrorKept, flashLeads, mirrorLonger }: HistoriesFound): HistoriesDecision {
  if (!flashKept) return 'halt';
  if (mirrorKept) return 'go-on';
  return flashLeads && !mirrorLonger ? 'discard-mirror' : 'halt';
}
