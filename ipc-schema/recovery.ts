// Owns: what crosses the line when another KEY goes on with a ledger: the recovery ticket, the two requests of the new key, and their answers.
// 1. POST /v1/recover-key: COSE_Sign1 by the new key over CBOR [1, "recover-key", spki, serial, code, tokenId, slot, replyKey]: the server opens the
//    store's recovery slot with the authority's recovery key and answers the data key, sealed to replyKey: recoveredKeySchema.
// 2. POST /v1/succeed: COSE_Sign1 by the new key over CBOR [1, "succeed", spki, code, tokenId, fromBatch, previousSealHash, afterSerial, reason]: where its ledger ended
//    is known only once the store is open. The answer is the succession: successionAnswerSchema.
// Invariants: a code belongs to the first key that used it; that key may repeat both requests and gets the same succession. Pure.
import { encodeCbor, malformed } from './cbor.ts';
import type { Sign1 } from './cose.ts';
import { hashBytes } from './merkle.ts';
import { beginRequest, provePossession } from './possession.ts';
import { base64Text, check, nameText, text, z } from './schema.ts';
import { type SuccessionReason, successionReasons } from './succession.ts';

export const recoveryPaths = { key: '/v1/recover-key', succession: '/v1/succeed' } as const;

const tokenIdBytes = 16;
/** A recovery slot is an encapsulated key, a data key and a tag; the store takes no longer one. */
const slotMaxBytes = 2_048;
/** Raw uncompressed P-256 point. */
const replyKeyBytes = 65;

export interface KeyRequest {
  /** Of the new key. */
  readonly spki: Uint8Array;
  readonly serial: string;
  readonly code: string;
  /** The ledger. */
  readonly tokenId: Uint8Array;
  /** The store's `hpke-recovery` slot. */
  readonly slot: Uint8Array;
  /** HPKE public key (raw) that the data key is to be sealed to. */
  readonly replyKey: Uint8Array;
}

export interface SuccessionRequest {
  readonly spki: Uint8Array;
  readonly code: string;
  readonly tokenId: Uint8Array;
  /** First batch that the new key would seal. */
  readonly fromBatch: number;
  readonly previousSealHash: Uint8Array;
  /** Succession of the newest key that the copy knows; 0: the ledger's first. A copy that lacks one may hold batches of a key whose turn is over. */
  readonly afterSerial: number;
  readonly reason: SuccessionReason;
}

export function keyRequestPayload({ spki, serial, code, tokenId, slot, replyKey }: KeyRequest): Uint8Array {
  return encodeCbor([1, 'recover-key', spki, serial, code, tokenId, slot, replyKey]);
}

/** Throws invalid-request unless the sender holds the private key of the public key inside. */
export function openKeyRequest(bytes: Uint8Array): KeyRequest {
  const { sign1, fields } = beginRequest(bytes, 'recover-key');
  const request: KeyRequest = {
    spki: fields.bytes('spki'),
    serial: fields.text('serial'),
    code: fields.text('code'),
    tokenId: fields.bytes('tokenId', tokenIdBytes),
    slot: fields.bytes('slot'),
    replyKey: fields.bytes('replyKey', replyKeyBytes),
  };
  fields.end();
  if (!text(1, 64).safeParse(request.serial).success) throw malformed('recover-key', 'has a serial out of form');
  if (request.slot.length === 0 || request.slot.length > slotMaxBytes) throw malformed('recover-key', 'has no slot');
  proven(sign1, request, 'recover-key');
  return request;
}

export function successionRequestPayload(request: SuccessionRequest): Uint8Array {
  const { spki, code, tokenId, fromBatch, previousSealHash, afterSerial, reason } = request;
  return encodeCbor([1, 'succeed', spki, code, tokenId, fromBatch, previousSealHash, afterSerial, reason]);
}

/** Throws invalid-request unless the sender holds the private key of the public key inside. */
export function openSuccessionRequest(bytes: Uint8Array): SuccessionRequest {
  const { sign1, fields } = beginRequest(bytes, 'succeed');
  const request: SuccessionRequest = {
    spki: fields.bytes('spki'),
    code: fields.text('code'),
    tokenId: fields.bytes('tokenId', tokenIdBytes),
    fromBatch: fields.count('fromBatch'),
    previousSealHash: fields.bytes('previousSealHash', hashBytes),
    afterSerial: fields.count('afterSerial'),
    reason: reasonIn(fields.text('reason')),
  };
  fields.end();
  if (request.fromBatch < 2) throw malformed('succeed', 'is of a ledger without a batch: there is nothing to go on with');
  proven(sign1, request, 'succeed');
  return request;
}

function reasonIn(text: string): SuccessionReason {
  const reason = successionReasons.find((one) => one === text);
  if (reason === undefined) throw malformed('succeed', 'has a reason that is none');
  return reason;
}

function proven(sign1: Sign1, { spki, code }: { readonly spki: Uint8Array; readonly code: string }, what: string): void {
  if (!nameText.safeParse(code).success) throw malformed(what, 'has a code out of form');
  provePossession(sign1, spki, what);
}

/** The data key, sealed to the request's replyKey (HPKE, info: recoveryReplyInfo of upstream.ts); base64. */
export const recoveredKeySchema = z.strictObject({ sealedDataKey: base64Text.max(1_024) });
export type RecoveredKey = z.infer<typeof recoveredKeySchema>;

/** The authority's certificate (DER) and the succession (COSE_Sign1, succession.ts), base64. */
export const successionAnswerSchema = z.strictObject({ authorityCertificate: base64Text, succession: base64Text });
export type SuccessionAnswer = z.infer<typeof successionAnswerSchema>;

/** The slip that headquarters gives to whoever puts a ledger on another token. */
export const recoveryTicketSchema = z.strictObject({
  format: z.literal('ukey-recovery-ticket/1'),
  url: z.url({ protocol: /^https$/ }),
  tlsCertificate: base64Text.nullable(),
  /** SHA-256 of the authority certificate (DER), hex. */
  authorityFingerprint: z.string().regex(/^[0-9a-f]{64}$/),
  /** The ledger, hex. */
  tokenId: z.string().regex(/^[0-9a-f]{32}$/),
  code: nameText,
});
export type RecoveryTicket = z.infer<typeof recoveryTicketSchema>;

export function parseRecoveryTicket(value: unknown): RecoveryTicket {
  return check(recoveryTicketSchema, value);
}

/** Parameters of the local method store.restore. */
export const restoreParamsSchema = z.strictObject({
  /** Absolute path of the copy on the service's machine. */
  from: text(1, 4_096),
  pin: z.string().min(4).max(64),
  /** Both for a blank token only. */
  soPin: z.string().min(4).max(64).optional(),
  label: text(1, 32).optional(),
  /** For another KEY than the copy's. */
  ticket: recoveryTicketSchema.optional(),
  erase: z.boolean().optional(),
});

/** Its result, but for the standing. */
export const restoredSchema = z.strictObject({
  tokenId: z.string(),
  /** Another KEY goes on with the ledger. */
  successor: z.boolean(),
  /** The KEY before it had handed the ledger over. */
  planned: z.boolean(),
  batches: z.int().min(0),
  entries: z.int().min(0),
  keyWrapping: z.string(),
});
