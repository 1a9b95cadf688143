// Owns: which segments may be forgotten, and whether what is carried must be moved first.
// Invariants: a pure function of facts, tested over all small cases. Segments are freed whole, from the oldest on, and only when every
// frame in them lies at or below the release point and before the newest checkpoint; the newest segment is never freed, so
// mounting never needs what was freed. The newest carried bytes are moved before their segment goes, or the segment stays.
// Must not: free what nobody released.

/** What a segment begins with. Its last frame is the one before the next segment's first. */
export interface KeptSegment {
  readonly runIndex: number;
  readonly firstIndex: number;
}

export interface ReclaimFacts {
  /** Oldest first; the last one is being written. */
  readonly segments: readonly KeptSegment[];
  /** Frames up to and with this index may be forgotten. */
  readonly upToIndex: number;
  /** First frame that the newest checkpoint does not cover: mounting reads from here on. 0 while there is none. */
  readonly checkpointIndex: number;
  /** Place in `segments` of what was carried last, null when nothing is carried. */
  readonly carryPlace: number | null;
  /** There is room to write the carried bytes again. */
  readonly carryFits: boolean;
}

export interface ReclaimDecision {
  /** Segments to free, from the oldest on. */
  readonly freed: number;
  /** The carried bytes stand in one of them. */
  readonly moveCarry: boolean;
}

export function decideReclaim(facts: ReclaimFacts): ReclaimDecision {
  const { segments, upToIndex, checkpointIndex, carryPlace, carryFits } = facts;
  const keepFrom = Math.min(upToIndex + 1, Math.max(1, checkpointIndex));
  let freed = 0;
  while (freed + 1 < segments.length && (segments[freed + 1]?.firstIndex ?? Number.POSITIVE_INFINITY) <= keepFrom) freed += 1;
  if (carryPlace === null || carryPlace >= freed) return { freed, moveCarry: false };
  return carryFits ? { freed, moveCarry: true } : { freed: carryPlace, moveCarry: false };
}
