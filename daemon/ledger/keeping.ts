// Owns: the decision up to which batch the FLASH may forget: what the server has acknowledged and the charter's keep-time has left behind. Pure.
// How: batches are sealed in the order of time, so the newest that is old enough is found by halving; each step asks for the time of one batch.
// Invariants: never past the acknowledged batch, never younger than the keep-time; "now" is the server's signed time, so that a clock of this
// machine that jumps forgets nothing, nor keeps for years what it sealed while it was ahead (reclaiming.ts); it ends after at most log2(batches) + 2 questions.

export interface KeepingFacts {
  /** First batch that is kept. */
  readonly oldestBatch: number;
  readonly ackedBatch: number;
  readonly keepMs: number;
  /** Newest time that the server has signed; 0: none yet. */
  readonly serverTimeMs: number;
  /** When batches were sealed, as far as it was asked: by this machine's clock then, or what the server has proven against it. */
  readonly sealedAtMs: ReadonlyMap<number, number>;
}

export type KeepingStep =
  | { readonly kind: 'ask'; readonly batch: number }
  | { readonly kind: 'release'; readonly upToBatch: number }
  /** Nothing may be forgotten yet. */
  | { readonly kind: 'keep' };

export function decideKeeping(facts: KeepingFacts): KeepingStep {
  const { oldestBatch, ackedBatch, keepMs, serverTimeMs, sealedAtMs } = facts;
  let old = oldestBatch - 1; // the newest that is known to be old enough
  let young = ackedBatch + 1; // the oldest that is known not to be, or not acknowledged
  for (const [batch, atMs] of sealedAtMs) {
    if (batch > ackedBatch || batch < oldestBatch) continue;
    if (atMs + keepMs <= serverTimeMs) old = Math.max(old, batch);
    else young = Math.min(young, batch);
  }
  if (young - old > 1) return { kind: 'ask', batch: old < oldestBatch ? oldestBatch : old + Math.ceil((young - old) / 2) };
  return old < oldestBatch ? { kind: 'keep' } : { kind: 'release', upToBatch: old };
}
