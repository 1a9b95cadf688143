// Owns: the body of an admin entry: UTF-8 JSON that says what was done to this ledger, as one of a closed list of events.
// Invariants: an event says what an auditor needs to follow it without asking anybody; nothing secret stands in one.
import { decodeJson } from './json.ts';
import { base64Text, check, z } from './schema.ts';

const batchIndex = z.int().min(0);
const hashText = z.string().regex(/^[0-9a-f]{64}$/);
const tokenIdText = z.string().regex(/^[0-9a-f]{32}$/);

export const adminEventSchema = z.discriminatedUnion('event', [
  /** Another KEY goes on with this ledger: the authority's signed succession (succession.ts). First entry of the first batch that the new KEY seals. */
  z.strictObject({ event: z.literal('succession'), succession: base64Text }),
  /** An older FLASH was put back, and the ticket server's copies brought it up to what the KEY has seen, without a loss. */
  z.strictObject({
    event: z.literal('rollback-healed'),
    /** Newest batch that the FLASH had, that the KEY had seen, and that the server gave. */
    foundBatch: batchIndex,
    anchoredBatch: batchIndex,
    healedToBatch: batchIndex,
  }),
  /** This ledger begins because another one could not go on: batches of it were lost for good. */
  z.strictObject({
    event: z.literal('continues'),
    ledger: tokenIdText,
    /** Its newest batch that the ticket server has, and the hash of its seal. */
    lastBatch: batchIndex,
    lastSealHash: hashText,
    /** Its newest batch that its KEY had seen: at least so far went what was lost. */
    anchoredBatch: batchIndex,
  }),
]);
export type AdminEvent = z.infer<typeof adminEventSchema>;

export function encodeAdminEvent(event: AdminEvent): Uint8Array {
  return Buffer.from(JSON.stringify(check(adminEventSchema, event, 'internal')), 'utf8');
}

/** Throws invalid-request for another shape. */
export function decodeAdminEvent(body: Uint8Array): AdminEvent {
  return check(adminEventSchema, decodeJson(body));
}
