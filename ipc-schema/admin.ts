// Owns: the body of an admin entry: UTF-8 JSON that says what was done to this ledger, as one of a closed list of events.
// Invariants: an event says what an auditor needs to follow it without asking anybody; nothing secret stands in one.
import { auditRecordSchema, auditRecordsMax } from './audit.ts';
import type { Batch } from './batch.ts';
import { decodeLeaf } from './entry.ts';
import { decodeJson } from './json.ts';
import { base64Text, check, z } from './schema.ts';

const batchIndex = z.int().min(0);
const hashText = z.string().regex(/^[0-9a-f]{64}$/);
const tokenIdText = z.string().regex(/^[0-9a-f]{32}$/);

export const adminEventSchema = z.discriminatedUnion('event', [
  /** Another KEY goes on with this ledger: the authority's signed succession (succession.ts). First entry of the first batch that the new KEY seals. */
  z.strictObject({ event: z.literal('succession'), succession: base64Text }),
  /** This KEY hands the ledger over, as planned: it seals nothing after this. Last entry of its batch. */
  z.strictObject({ event: z.literal('handover') }),
  /** The handover before it is void: nobody has gone on, and this KEY does. First entry of the batch behind. */
  z.strictObject({ event: z.literal('handover-cancelled') }),
  /** The KEY in force has another certificate from here on (DER, base64): signers.ts says which one may take the place of another. */
  z.strictObject({ event: z.literal('certificate-renewed'), certificate: base64Text.max(8 * 1024) }),
  /** An older FLASH was put back, or its end could not be read, and the ticket server's copies brought it up to what is known, without a loss. */
  z.strictObject({
    event: z.literal('rollback-healed'),
    /** Newest batch that the FLASH had, that the KEY had seen, and that the server gave. */
    foundBatch: batchIndex,
    anchoredBatch: batchIndex,
    healedToBatch: batchIndex,
    /** The FLASH could not be read where it ended, and a person gave up what may have stood there. */
    endGivenUp: z.literal(true).optional(),
  }),
  /** This ledger begins because another one could not go on: batches of it were lost for good. */
  z.strictObject({
    event: z.literal('continues'),
    ledger: tokenIdText,
    /** Its newest batch that the ticket server has, and the hash of its seal. */
    lastBatch: batchIndex,
    lastSealHash: hashText,
    /** Its newest batch that its KEY, or the index beside it, had seen: at least so far went what was lost. */
    anchoredBatch: batchIndex,
  }),
  /** What was done to the service or its token, in the order in which it was noted. A record may stand in two entries where a crash came between them. */
  z.strictObject({
    event: z.literal('audit'),
    records: z.array(auditRecordSchema).min(1).max(auditRecordsMax),
    /** Records that were lost behind these, because too many waited. */
    omitted: z.int().min(1).optional(),
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

/** The event in the body of an admin entry; null for what is none of this list (whoever verifies a ledger uses decodeAdminEvent, and finds it). */
export function adminEventIn(body: Uint8Array): AdminEvent['event'] | null {
  try {
    return decodeAdminEvent(body).event;
  } catch {
    return null;
  }
}

/** The certificate (DER) in the body of an admin entry that renews one; null for any other body. Verifies nothing. */
export function renewedCertificateIn(body: Uint8Array): Uint8Array | null {
  if (adminEventIn(body) !== 'certificate-renewed') return null;
  const event = decodeAdminEvent(body);
  return event.event === 'certificate-renewed' ? new Uint8Array(Buffer.from(event.certificate, 'base64')) : null;
}

/** Whether the ledger was handed over with this batch: its KEY seals nothing more. */
export function handsOver({ entries }: Pick<Batch, 'entries'>): boolean {
  const last = entries.at(-1);
  return last !== undefined && decodeLeaf(last.leaf).kind === 'admin' && adminEventIn(last.body) === 'handover';
}
