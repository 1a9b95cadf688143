// Owns: what crosses the line between service and ticket server (SPEC.md, Ticket server): paths, probe, enrolment, upload body, acknowledgement.
// Invariants: signed things are COSE_Sign1 (cose.ts); CBOR inside, in one spelling; every size has a maximum. Pure: sealing and HTTP live elsewhere.
import type { KeyObject } from 'node:crypto';
import { decodeCbor, encodeCbor, FieldReader, malformed } from './cbor.ts';
import { decodeSign1, keyIdOfSpki, openSign1, publicKeyFromSpki, toBeSigned, verifySignature } from './cose.ts';
import { hashBytes } from './merkle.ts';
import { sumPattern } from './money.ts';
import { base64Text, check, instantText, nameText, text, z } from './schema.ts';

export const paths = {
  probe: '/v1/probe',
  enrol: '/v1/enrol',
  batches: '/v1/batches',
  tokens: '/v1/tokens',
  authority: '/v1/authority',
} as const;

export const mediaTypes = {
  upload: 'application/ukey-upload+hpke',
  cose: 'application/cose',
  json: 'application/json',
  cbor: 'application/cbor',
  certificate: 'application/pkix-cert',
} as const;

/** Header of an upload: its name in the sender's log, for the server's. Not part of anything that is signed; nothing depends on it. */
export const requestHeader = 'x-request-id';

/** Batches in one upload, and bytes of its body before compression. */
export const uploadMaxBatches = 256;
export const uploadMaxBytes = 8 * 1024 * 1024;
export const nonceBytes = 16;
/** HPKE `info` (RFC 9180 §5.1): binds a ciphertext to its use. */
export const uploadInfo = 'ukey upload 1';
const recoveryInfo = 'ukey recovery 1';
export const recoveryReplyInfo = 'ukey recovery reply 1';

/** Of a recovery slot: names the ledger, so that a permission to recover one opens no other. */
export function recoveryInfoOf(tokenId: Uint8Array): string {
  return `${recoveryInfo} ${Buffer.from(tokenId).toString('hex')}`;
}

/** What may have sealed a recovery slot of this ledger: the second form is of stores that were formatted by version 0.1. */
export function recoveryInfosOf(tokenId: Uint8Array): readonly string[] {
  return [recoveryInfoOf(tokenId), recoveryInfo];
}

// ---- Probe: GET /v1/probe?nonce=<hex> -> COSE_Sign1 of [1, "probe", nonce, serverTimeMs] by the server's ack key.

export interface ProbeAnswer {
  readonly nonce: Uint8Array;
  readonly serverTimeMs: number;
}

export function probePayload(answer: ProbeAnswer): Uint8Array {
  return encodeCbor([1, 'probe', answer.nonce, answer.serverTimeMs]);
}

/** Throws invalid-request unless our server signed this very nonce. */
export function openProbe(bytes: Uint8Array, ackKey: KeyObject, nonce: Uint8Array): ProbeAnswer {
  const fields = new FieldReader('probe', decodeCbor(openSign1(bytes, ackKey, 'probe').payload, 'probe'));
  fields.version(1);
  if (fields.text('purpose') !== 'probe') throw malformed('probe', 'is signed for something else');
  const answer = { nonce: fields.bytes('nonce', nonceBytes), serverTimeMs: fields.instantMs('serverTimeMs') };
  fields.end();
  if (Buffer.compare(answer.nonce, nonce) !== 0) throw malformed('probe', 'answers another nonce');
  return answer;
}

// ---- Alarm: GET /v1/tokens/<id>/alarm?nonce=<hex> -> COSE_Sign1 of [1, "alarm", nonce, tokenId, serverTimeMs, alarm|null] by the ack key,
// alarm = [seal, raisedAtMs]: the newest seal of the token that cannot stand beside what is stored, as long as nobody has settled it.
// The seal is the proof: only the token's own key can have made it.

export interface AlarmAnswer {
  readonly nonce: Uint8Array;
  readonly tokenId: Uint8Array;
  readonly serverTimeMs: number;
  readonly alarm: ForkAlarm | null;
}

export interface ForkAlarm {
  /** Of the batch that was refused (batch.ts). */
  readonly sealBytes: Uint8Array;
  readonly raisedAtMs: number;
}

export function alarmPayload({ nonce, tokenId, serverTimeMs, alarm }: AlarmAnswer): Uint8Array {
  return encodeCbor([1, 'alarm', nonce, tokenId, serverTimeMs, alarm === null ? null : [alarm.sealBytes, alarm.raisedAtMs]]);
}

/**
 * Throws invalid-request unless our server signed it for this very token, and over this very nonce (left out: for an answer that was kept). The seal
 * inside is not verified.
 */
export function openAlarm(bytes: Uint8Array, ackKey: KeyObject, tokenId: Uint8Array, nonce: Uint8Array | null = null): AlarmAnswer {
  const fields = new FieldReader('alarm', decodeCbor(openSign1(bytes, ackKey, 'alarm').payload, 'alarm'));
  fields.version(1);
  if (fields.text('purpose') !== 'alarm') throw malformed('alarm', 'is signed for something else');
  const base = {
    nonce: fields.bytes('nonce', nonceBytes),
    tokenId: fields.bytes('tokenId', 16),
    serverTimeMs: fields.instantMs('serverTimeMs'),
  };
  const raised = fields.any('alarm');
  fields.end();
  if (nonce !== null && Buffer.compare(base.nonce, nonce) !== 0) throw malformed('alarm', 'answers another nonce');
  if (Buffer.compare(base.tokenId, tokenId) !== 0) throw malformed('alarm', 'is of another token');
  return { ...base, alarm: raised === null ? null : forkAlarm(raised) };
}

function forkAlarm(value: unknown): ForkAlarm {
  const fields = new FieldReader('raised alarm', value);
  const alarm = { sealBytes: fields.bytes('seal'), raisedAtMs: fields.instantMs('raisedAtMs') };
  fields.end();
  return alarm;
}

// ---- Upload: POST /v1/batches, body = HPKE-sealed zstd of [1, tokenId, [batch bytes, ...]].
// Sealed: RFC 9180 base mode, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; info = uploadInfo, aad empty; bytes = enc (65) || ciphertext.

export interface Upload {
  readonly tokenId: Uint8Array;
  /** Encoded batches (batch.ts), consecutive. */
  readonly batches: readonly Uint8Array[];
}

export function encodeUpload(upload: Upload): Uint8Array {
  return encodeCbor([1, upload.tokenId, upload.batches]);
}

/** Throws invalid-request unless the bytes are one upload; the batches inside are not looked at, and share the memory of `bytes`. */
export function decodeUpload(bytes: Uint8Array): Upload {
  if (bytes.length > uploadMaxBytes) throw malformed('upload', 'is too long');
  const fields = new FieldReader('upload', decodeCbor(bytes, 'upload', 'views'));
  fields.version(1);
  const tokenId = fields.bytes('tokenId', 16);
  const batches = fields.list('batches').map((batch) => {
    if (!(batch instanceof Uint8Array)) throw malformed('upload', 'has a batch that is not a byte string');
    return batch;
  });
  fields.end();
  if (batches.length < 1 || batches.length > uploadMaxBatches) throw malformed('upload', 'has a number of batches out of range');
  return { tokenId, batches };
}

/** Refusal body of POST /v1/batches, /v1/enrol and those of recovery.ts. `wantBatch`: the index that the server expects next (409). */
export const refusalSchema = z.strictObject({
  code: z.enum([
    ...([
      'bad-request',
      'unknown-token',
      'bad-signature',
      'fork',
      'gap',
      'too-large',
      'poison',
      'code-unknown',
      'busy',
      'internal',
    ] as const),
    'no-recovery-key',
    'not-renewable',
  ]),
  message: z.string(),
  wantBatch: z.int().min(1).optional(),
});
export type Refusal = z.infer<typeof refusalSchema>;

// ---- Acknowledgement: COSE_Sign1 of [1, "ack", tokenId, upToBatch, headSealHash, serverTimeMs, parked] by the server's ack key.

export interface Acknowledgement {
  readonly tokenId: Uint8Array;
  /** All batches up to and with this one are stored. */
  readonly upToBatch: number;
  readonly headSealHash: Uint8Array;
  readonly serverTimeMs: number;
  /** Sequences that are stored but could not be accepted and wait for a person; ascending. */
  readonly parked: readonly number[];
}

export function acknowledgementPayload(ack: Acknowledgement): Uint8Array {
  return encodeCbor([1, 'ack', ack.tokenId, ack.upToBatch, ack.headSealHash, ack.serverTimeMs, ack.parked]);
}

/** Throws invalid-request unless the server signed it. Whether it is for this token and head is the ledger's to decide. */
export function openAcknowledgement(bytes: Uint8Array, ackKey: KeyObject): Acknowledgement {
  return decodeAcknowledgement(openSign1(bytes, ackKey, 'acknowledgement').payload);
}

/** For one that our own seal already covers: it was verified before it became an entry. */
export function openAcknowledgementUnverified(bytes: Uint8Array): Acknowledgement {
  return decodeAcknowledgement(decodeSign1(bytes, 'acknowledgement').payload);
}

function decodeAcknowledgement(payload: Uint8Array): Acknowledgement {
  const fields = new FieldReader('acknowledgement', decodeCbor(payload, 'acknowledgement'));
  fields.version(1);
  if (fields.text('purpose') !== 'ack') throw malformed('acknowledgement', 'is signed for something else');
  const ack = {
    tokenId: fields.bytes('tokenId', 16),
    upToBatch: fields.count('upToBatch'),
    headSealHash: fields.bytes('headSealHash', hashBytes),
    serverTimeMs: fields.instantMs('serverTimeMs'),
    parked: fields.list('parked').map((sequence) => {
      if (typeof sequence !== 'number' || !Number.isSafeInteger(sequence) || sequence < 1)
        throw malformed('acknowledgement', 'parks no sequence');
      return sequence;
    }),
  };
  fields.end();
  if (ack.parked.some((sequence, at) => at > 0 && sequence <= (ack.parked[at - 1] ?? 0)))
    throw malformed('acknowledgement', 'parks sequences out of order');
  return ack;
}

/** Body of an acknowledgement entry: [1, signed ack, releasedCount, releasedAmount, nextOldestMs|null]: what it took off the budget, so that a fold needs no other batch. */
export interface AcknowledgementBody {
  readonly signed: Uint8Array;
  readonly releasedCount: number;
  readonly releasedAmount: string;
  /** issuedAtMs of the oldest document that stays unacknowledged, null if none. */
  readonly nextOldestMs: number | null;
}

export function encodeAcknowledgementBody(body: AcknowledgementBody): Uint8Array {
  return encodeCbor([1, body.signed, body.releasedCount, body.releasedAmount, body.nextOldestMs]);
}

export function decodeAcknowledgementBody(bytes: Uint8Array): AcknowledgementBody {
  const fields = new FieldReader('acknowledgement entry', decodeCbor(bytes, 'acknowledgement entry'));
  fields.version(1);
  const body = {
    signed: fields.bytes('signed'),
    releasedCount: fields.count('releasedCount'),
    releasedAmount: fields.text('releasedAmount'),
    nextOldestMs: fields.countOrNull('nextOldestMs'),
  };
  fields.end();
  if (!sumPattern.test(body.releasedAmount)) throw malformed('acknowledgement entry', 'releases an amount that is not a decimal');
  return body;
}

// ---- Enrolment: POST /v1/enrol with COSE_Sign1 by the new token's key over [1, "enrol", spki, serial, code]; answer enrolmentSchema.

export interface EnrolmentRequest {
  readonly spki: Uint8Array;
  readonly serial: string;
  /** One-time code from the authority. */
  readonly code: string;
}

export function enrolmentPayload(request: EnrolmentRequest): Uint8Array {
  return encodeCbor([1, 'enrol', request.spki, request.serial, request.code]);
}

/** Verifies that the sender holds the private key of the public key inside (proof of possession). Throws invalid-request otherwise. */
export function openEnrolment(bytes: Uint8Array): EnrolmentRequest {
  const sign1 = decodeSign1(bytes, 'enrolment');
  const fields = new FieldReader('enrolment', decodeCbor(sign1.payload, 'enrolment'));
  fields.version(1);
  if (fields.text('purpose') !== 'enrol') throw malformed('enrolment', 'is signed for something else');
  const request = { spki: fields.bytes('spki'), serial: fields.text('serial'), code: fields.text('code') };
  fields.end();
  if (!isSerial(request.serial) || !nameText.safeParse(request.code).success)
    throw malformed('enrolment', 'has a serial or code out of form');
  const key = publicKeyFromSpki(request.spki);
  if (Buffer.compare(keyIdOfSpki(request.spki), sign1.keyId) !== 0) throw malformed('enrolment', 'names another key');
  if (!verifySignature(sign1.algorithm, key, toBeSigned(sign1.protectedBytes, sign1.payload), sign1.signature)) {
    throw malformed('enrolment', 'has a signature that does not hold');
  }
  return request;
}

/** A token's serial as its maker wrote it: 1 to 64 characters. */
function isSerial(serial: string): boolean {
  return text(1, 64).safeParse(serial).success;
}

/** What the authority answers: certificates as DER, signed documents as COSE_Sign1, all base64. */
export const enrolmentSchema = z.strictObject({
  certificate: base64Text,
  authorityCertificate: base64Text,
  charter: base64Text,
  templates: z.array(base64Text).min(1).max(16),
});
export type Enrolment = z.infer<typeof enrolmentSchema>;

/** The slip that headquarters gives to whoever provisions a token: where to enrol, how to know the server and the authority, and a one-time code. */
export const enrolmentTicketSchema = z.strictObject({
  format: z.literal('ukey-enrolment-ticket/1'),
  url: z.url({ protocol: /^https$/ }),
  tlsCertificate: base64Text.nullable(),
  /** SHA-256 of the authority certificate (DER), hex. */
  authorityFingerprint: z.string().regex(/^[0-9a-f]{64}$/),
  code: nameText,
  /** Of the series in the charter that it will bring, so that a device can refuse numbers that it gave before; a ticket may leave it out. */
  prefixes: z.array(z.string().max(16)).max(16).optional(),
  /** Tax id in that charter, so that a place for another issuer refuses it before the code is used up; a ticket may leave it out. */
  issuer: nameText.optional(),
});
export type EnrolmentTicket = z.infer<typeof enrolmentTicketSchema>;

// ---- What the server shows: GET /v1/tokens?after=&limit= -> tokenListSchema; /v1/tokens/<id> -> tokenViewSchema;
// /v1/tokens/<id>/entries?number=|sequence=|from=&limit= -> entryListSchema; /v1/tokens/<id>/batches?from=&limit= -> stored batches as an
// Upload in CBOR (404 past the last); /v1/tokens/<id>/certificate and /v1/authority -> certificates, DER; /v1/tokens/<id>/alarm: above.

export const tokenViewSchema = z.strictObject({
  tokenId: z.string(),
  serial: z.string(),
  issuer: z.string(),
  upToBatch: z.int().min(0),
  lastSequence: z.int().min(0),
  invoices: z.int().min(0),
  lastContact: instantText.nullable(),
  /** The newest contradiction that the token has signed and nobody has settled. `batchIndex`: of the batch that was refused. */
  alarm: z.strictObject({ kind: z.literal('fork'), batchIndex: z.int().min(1), raisedAt: instantText, detail: z.string() }).nullable(),
});
export type TokenView = z.infer<typeof tokenViewSchema>;

export const entryViewSchema = z.strictObject({
  tokenId: z.string(),
  sequence: z.int().min(1),
  batchIndex: z.int().min(1),
  kind: text(1, 20),
  number: z.string().nullable(),
  issuedAt: instantText,
  currency: z.string().nullable(),
  total: z.string().nullable(),
  taxTotal: z.string().nullable(),
  leaf: base64Text,
  body: base64Text,
  /** evidence.ts, base64. */
  evidence: base64Text,
});
export type EntryView = z.infer<typeof entryViewSchema>;

export const tokenListSchema = z.strictObject({ tokens: z.array(tokenViewSchema) });
/** Fewer than asked for when the next entry would make the answer too large: go on after the last. */
export const entryListSchema = z.strictObject({ entries: z.array(entryViewSchema) });

export function parseTicket(value: unknown): EnrolmentTicket {
  return check(enrolmentTicketSchema, value);
}
