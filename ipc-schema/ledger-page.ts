// Owns: the shapes of ledger.read: a page of sealed batches, and what it is asked for with.
// Invariants: the largest batch (batch.ts), and a page of the smallest ones, fit an answer as base64.
import { batchMaxBytes } from './batch.ts';
import { z } from './schema.ts';

/** Bytes of a page where the caller names none. */
export const ledgerPageBytes = 256 * 1024;

const batchIndex = z.int().min(1);

/** At most one of fromBatch and fromSequence. */
export const ledgerPageParams = z.strictObject({
  fromBatch: batchIndex.optional(),
  fromSequence: z.int().min(1).optional(),
  maxBytes: z.int().min(1).max(batchMaxBytes).optional(),
});

/** Of the service's own making, so its spelling is not judged here: a regular expression over a whole batch costs more than reading it. */
const batchText = z.string().max(1_400_000).meta({ description: 'base64 (RFC 4648 §4)', contentEncoding: 'base64' });

export const ledgerPageSchema = z.strictObject({
  /** In order; at least one, where there is one. */
  batches: z.array(z.strictObject({ batchIndex, bytes: batchText })),
  /** Where to go on; null: nothing is behind these yet. */
  nextBatch: batchIndex.nullable(),
  oldestBatch: batchIndex,
  /** 0: there is none yet. */
  newestBatch: z.int().min(0),
});
