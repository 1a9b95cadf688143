// Owns: the shapes of store.check and store.resume: what a check of the store has found, and how a ledger that is behind goes on.
// Invariants: batches are named by their index, from 1; 0 stands for none. Pure.
import { z } from './schema.ts';
import { enrolmentTicketSchema } from './upstream.ts';

const count = z.int().min(0);

export const checkedSchema = z.strictObject({
  /** Where to go on; null: that was the newest segment. */
  nextRun: z.int().min(1).nullable(),
  /** Place of this segment among those that are kept, from 1. */
  done: count,
  segments: count,
  /** Found whole, on one side at least. */
  batches: count,
  /** Not whole there, and whole on the other side; 0 stands for a header or what is carried. */
  flashDamaged: z.array(count),
  mirrorDamaged: z.array(count),
  /** Whether those were put right. */
  healed: z.boolean(),
  /** Whole on neither side, and put back from the ticket server's copies. */
  mended: z.array(z.int().min(1)),
  /** Whole on neither side. */
  missing: z.array(z.int().min(1)),
});

export const resumeParamsSchema = z.strictObject({
  pin: z.string().min(1).max(64),
  useLastTry: z.boolean().optional(),
  /** Where the FLASH cannot be read at its end: what may stand there is given up, and only what nobody knows of. */
  acceptEnd: z.boolean().optional(),
  /** Where batches are lost for good: this ledger ends, the KEY is initialised anew with its SO PIN (the PIN stays), and a new ledger begins. */
  acceptLoss: z
    .strictObject({
      /** For the new ledger: other series than those of the old one, else invalid-request. */
      ticket: enrolmentTicketSchema,
      soPin: z.string().min(4).max(64),
      /** The ledger that ends, by its token id: its FLASH is erased. */
      eraseLedger: z.string().regex(/^[0-9a-f]{32}$/),
    })
    .optional(),
});

export const resumedSchema = z.strictObject({
  /** Newest batch that the FLASH had, that the KEY had seen (0: it remembers none), and that is there now. */
  foundBatch: count,
  anchoredBatch: count,
  healedToBatch: count,
  serverBatch: count,
  /** Where the ledger ended with a loss: batches behind `lastBatch`, at least up to `knownBatch`, are lost. */
  newLedger: z.strictObject({ tokenId: z.string(), ledger: z.string(), lastBatch: count, knownBatch: count }).optional(),
});
