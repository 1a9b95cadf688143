// Owns: the succession: the document, signed by the authority, by which another KEY goes on with a ledger (signers.ts tells which key seals what).
// Form: COSE_Sign1 (cose.ts) by the authority's key; payload = the UTF-8 JSON below. The ledger carries it as the body of an admin entry
// (admin.ts), the FIRST entry of batch `fromBatch`, which is the first batch that the new key seals.
// Invariants: a ledger keeps its name (tokenId: the id of its first key) through every succession; serials rise, and fromBatch never falls: of two that
// begin at the same batch the later one counts, because the earlier never sealed anything.
import type { KeyObject } from 'node:crypto';
import { decodeAdminEvent } from './admin.ts';
import type { Batch } from './batch.ts';
import { malformed } from './cbor.ts';
import { keyIdOf, openSign1 } from './cose.ts';
import { decodeLeaf } from './entry.ts';
import { decodeJson } from './json.ts';
import { base64Text, check, instantText, z } from './schema.ts';
import {
  firstSigner,
  ledgerIdIn,
  newestSigner,
  nobodySucceeds,
  readCertificate,
  type Signer,
  type Signers,
  type Succeed,
} from './signers.ts';

/** `token-replaced`: the key before it had handed the ledger over (admin.ts). */
export const successionReasons = ['token-lost', 'token-replaced'] as const;
export type SuccessionReason = (typeof successionReasons)[number];

export const successionSchema = z.strictObject({
  format: z.literal('ukey-succession/1'),
  /** The ledger: id of its first key. */
  tokenId: z.string().regex(/^[0-9a-f]{32}$/),
  /** The n-th succession of this ledger, from 1. */
  serial: z.int().min(1),
  /** First batch that the new key seals. Batch 1 is always the first key's. */
  fromBatch: z.int().min(2),
  /** Of the newest batch before it, hex. */
  previousSealHash: z.string().regex(/^[0-9a-f]{64}$/),
  /** Of the new key, with the ledger's name in its subject; DER, base64. */
  certificate: base64Text.max(8 * 1024),
  reason: z.enum(successionReasons),
  issuedAt: instantText,
});
export type Succession = z.infer<typeof successionSchema>;

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && Buffer.compare(a, b) === 0;
/** Verifies the authority's signature, the form, and that the certificate is the authority's and names the ledger. Throws invalid-request. */
export function openSuccession(signed: Uint8Array, authorityKey: KeyObject): Succession & { readonly signer: Signer } {
  const content = check(successionSchema, decodeJson(openSign1(signed, authorityKey, 'succession').payload));
  const der = new Uint8Array(Buffer.from(content.certificate, 'base64'));
  const certificate = readCertificate(der);
  const named = ledgerIdIn(certificate);
  if (!certificate.verify(authorityKey)) throw malformed('succession', 'has a certificate that is not signed by the authority');
  if (named === null || Buffer.from(named).toString('hex') !== content.tokenId)
    throw malformed('succession', 'has a certificate of another ledger');
  const { publicKey } = certificate;
  const previousSealHash = new Uint8Array(Buffer.from(content.previousSealHash, 'hex'));
  const { serial, fromBatch } = content;
  const signer = {
    serial,
    fromBatch,
    key: publicKey,
    keyId: keyIdOf(publicKey),
    certificate: der,
    succession: { signed, previousSealHash },
  };
  return { ...content, signer };
}

/** The ledger's keys with one more. Throws invalid-request when it is of another ledger, or not newer than those that are known. */
export function withSuccession(signers: Signers, signed: Uint8Array, authorityKey: KeyObject): Signers {
  const { tokenId, signer } = openSuccession(signed, authorityKey);
  const last = newestSigner(signers);
  if (tokenId !== Buffer.from(signers.tokenId).toString('hex')) throw malformed('succession', 'is of another ledger');
  if (signer.serial <= last.serial) throw malformed('succession', `has serial ${signer.serial}, and ${last.serial} was there before it`);
  if (signer.fromBatch < last.fromBatch) throw malformed('succession', 'begins before the one that it follows');
  if (signers.list.some(({ keyId }) => same(keyId, signer.keyId))) throw malformed('succession', 'is of a key that this ledger had before');
  const [first, ...others] = signers.list;
  return { tokenId: signers.tokenId, list: [first, ...others.filter(({ fromBatch }) => fromBatch < signer.fromBatch), signer] };
}

/** From the enrolment certificate and the signed successions, oldest first; `authorityKey` null: none is believed. Throws invalid-request. */
export function signersOf(certificate: Uint8Array, successions: readonly Uint8Array[], authorityKey: KeyObject | null): Signers {
  if (authorityKey === null) return firstSigner(certificate);
  return successions.reduce((signers, signed) => withSuccession(signers, signed, authorityKey), firstSigner(certificate));
}

/** The signed succession that a batch begins with, or null. */
export function successionIn(batch: Batch): Uint8Array | null {
  const [first] = batch.entries;
  if (first === undefined || decodeLeaf(first.leaf).kind !== 'admin') return null;
  return successionOf(first.body);
}

/** The signed succession in the body of an admin entry; null when it tells another event. Throws invalid-request when it tells none. */
export function successionOf(body: Uint8Array): Uint8Array | null {
  const event = decodeAdminEvent(body);
  return event.event === 'succession' ? new Uint8Array(Buffer.from(event.succession, 'base64')) : null;
}

/** For a walk: what a batch begins with is believed under the authority's key; null: not at all. */
export function succeedBy(authorityKey: KeyObject | null): Succeed {
  if (authorityKey === null) return nobodySucceeds;
  return (signers, batch) => {
    const signed = successionIn(batch);
    if (signed === null) throw malformed('batch', 'is sealed by another key than the one whose turn it is');
    return withSuccession(signers, signed, authorityKey);
  };
}
