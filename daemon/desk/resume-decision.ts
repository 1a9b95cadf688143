// Owns: what may be done with a FLASH that is older than what KEY, ticket server or this machine's index have seen. Pure.
// Invariants: a number that anybody has seen is never issued again: where the server lacks a batch that KEY or index knew, this ledger does not go on.

export interface ResumeFacts {
  /** Newest batch on the FLASH. */
  readonly foundBatch: number;
  /** Newest batch that the KEY has seen; null: it cannot remember. */
  readonly anchoredBatch: number | null;
  /** The KEY knows of a later opening than the FLASH. */
  readonly isOpenedSince: boolean;
  /** The FLASH cannot be read where it ends, and what may stand there is given up. */
  readonly isEndHidden: boolean;
  /** Newest batch that the server holds, by its signature. */
  readonly serverBatch: number;
  /** Newest batch in this machine's index; 0: it has none. */
  readonly indexBatch: number;
  /** Newest batch there that holds more than acknowledgements. */
  readonly indexWeightyBatch: number;
}

export type ResumeDecision =
  /** The FLASH is as new as all that is known, and whole. */
  | { readonly kind: 'nothing' }
  /** Batches from `fromBatch` to `toBatch` are at the server; none where `toBatch` is below. */
  | { readonly kind: 'adopt'; readonly fromBatch: number; readonly toBatch: number }
  /** Batches behind `lastBatch`, up to at least `knownBatch`, are on neither. */
  | { readonly kind: 'lost'; readonly lastBatch: number; readonly knownBatch: number };

export function decideResume(facts: ResumeFacts): ResumeDecision {
  const { foundBatch, serverBatch } = facts;
  const knownBatch = Math.max(facts.anchoredBatch ?? 0, facts.indexBatch);
  const lastBatch = Math.max(foundBatch, serverBatch);
  // Acknowledgements alone are not uploaded, so the newest batch is often one. Only an index that went so far can tell: they bear no number and
  // the server signs another, so that they may be lost.
  const isOnlyAcknowledged = facts.indexBatch >= knownBatch && facts.indexWeightyBatch <= lastBatch;
  if (lastBatch < knownBatch && !isOnlyAcknowledged) return { kind: 'lost', lastBatch, knownBatch };
  if (lastBatch < knownBatch) return { kind: 'adopt', fromBatch: foundBatch + 1, toBatch: lastBatch };
  if (serverBatch <= foundBatch && !facts.isOpenedSince && !facts.isEndHidden) return { kind: 'nothing' };
  return { kind: 'adopt', fromBatch: foundBatch + 1, toBatch: lastBatch };
}
