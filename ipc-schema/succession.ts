// Owns: the succession: the document, signed by the authority, by which another KEY goes on with a ledger; and which key seals from which batch on.
// Form: COSE_Sign1 (cose.ts) by the authority's key; payload = the UTF-8 JSON below. The ledger carries it as the body of an admin entry
// (admin.ts), the FIRST entry of batch `fromBatch`, which is the first batch that the new key seals.
// Invariants: a ledger keeps its name (tokenId: the id of its first key) through every succession; serials rise, and fromBatch never falls: of two that
// begin at the same batch the later one counts, because the earlier never sealed anything.
// Must not: verify seals (verify.ts does, with the key that is found here).
import { type KeyObject, X509Certificate } from 'node:crypto';
import { decodeAdminEvent } from './admin.ts';
import { type Batch, decodeSeal } from './batch.ts';
import { malformed } from './cbor.ts';
import { keyIdOf, openSign1 } from './cose.ts';
import { decodeLeaf } from './entry.ts';
import { decodeJson } from './json.ts';
import { base64Text, check, instantText, z } from './schema.ts';

export const successionReasons = ['token-lost', 'token-replaced'] as const;

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

/** One key of a ledger. */
export interface Signer {
  /** 0: the first key. */
  readonly serial: number;
  /** First batch that it seals. */
  readonly fromBatch: number;
  readonly key: KeyObject;
  readonly keyId: Uint8Array;
  /** DER. */
  readonly certificate: Uint8Array;
  /** The signed succession and the seal hash that it begins behind; null for the first key. */
  readonly succession: { readonly signed: Uint8Array; readonly previousSealHash: Uint8Array } | null;
}

/** The keys of one ledger in the order in which they seal; never empty. */
export interface Signers {
  readonly tokenId: Uint8Array;
  readonly list: readonly [Signer, ...Signer[]];
}

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && Buffer.compare(a, b) === 0;
const subjectPattern = /^CN=ukey token ([0-9a-f]{32})$/;

/** The ledger that a token's certificate names in its subject; null where it names none. */
export function ledgerIdIn(certificate: X509Certificate): Uint8Array | null {
  const [, tokenId] = subjectPattern.exec(certificate.subject) ?? [];
  return tokenId === undefined ? null : new Uint8Array(Buffer.from(tokenId, 'hex'));
}

/** A ledger that no other key has gone on with. `certificate`: the enrolment certificate (DER). Throws invalid-request. */
export function firstSigner(certificate: Uint8Array): Signers {
  const { publicKey } = readCertificate(certificate);
  const keyId = keyIdOf(publicKey);
  return { tokenId: keyId, list: [{ serial: 0, fromBatch: 1, key: publicKey, keyId, certificate, succession: null }] };
}

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

/** From the enrolment certificate and the signed successions, oldest first. Throws invalid-request. */
export function signersOf(certificate: Uint8Array, successions: readonly Uint8Array[], authorityKey: KeyObject): Signers {
  return successions.reduce((signers, signed) => withSuccession(signers, signed, authorityKey), firstSigner(certificate));
}

/** The key that seals this batch. */
export function signerAt(signers: Signers, batchIndex: number): Signer {
  return signers.list.findLast(({ fromBatch }) => fromBatch <= batchIndex) ?? signers.list[0];
}

export function newestSigner(signers: Signers): Signer {
  return signers.list.at(-1) ?? signers.list[0];
}

/** Those that seal before this batch: what a walk from that batch on must know beforehand. */
export function signersBefore(signers: Signers, batchIndex: number): Signers {
  const [first, ...others] = signers.list;
  return { tokenId: signers.tokenId, list: [first, ...others.filter(({ fromBatch }) => fromBatch < batchIndex)] };
}

/** The key of the ledger that a seal names, or null. Verifies nothing. */
export function namedSigner(signers: Signers, sealBytes: Uint8Array): Signer | null {
  const { keyId } = decodeSeal(sealBytes).sign1;
  return signers.list.find((signer) => same(signer.keyId, keyId)) ?? null;
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

/**
 * One step of a walk: the ledger's keys as they stand at the batch behind `head`. Where the seal names another key than the last one, the batch's
 * first entry must be the succession that lets it. Verifies the succession and not the seal. `authorityKey` null: nobody can say who may succeed.
 * Throws invalid-request.
 */
export function signersAt(
  signers: Signers,
  batch: Batch,
  head: { readonly batchIndex: number; readonly sealHash: Uint8Array },
  authorityKey: KeyObject | null,
): Signers {
  const what = `batch ${head.batchIndex + 1}`;
  const { keyId } = decodeSeal(batch.sealBytes).sign1;
  if (same(keyId, newestSigner(signers).keyId)) return signers;
  const signed = namedSigner(signers, batch.sealBytes) === null ? successionIn(batch) : null;
  if (signed === null) throw malformed(what, 'is sealed by another key than the one whose turn it is');
  if (authorityKey === null) throw malformed(what, "is sealed by a successor, which only the authority's certificate can prove");
  const next = withSuccession(signers, signed, authorityKey);
  const { fromBatch, succession, keyId: nextKeyId } = newestSigner(next);
  if (!same(nextKeyId, keyId)) throw malformed(what, 'carries the succession of another key than the one that sealed it');
  if (fromBatch !== head.batchIndex + 1) throw malformed(what, `carries a succession that begins at batch ${fromBatch}`);
  if (succession === null || !same(succession.previousSealHash, head.sealHash))
    throw malformed(what, 'carries a succession that follows another seal');
  return next;
}

/** Of a ledger's certificates (DER), the one of the key that made this seal; null where none is. */
export function certificateFor(sealBytes: Uint8Array, certificates: readonly Uint8Array[]): Uint8Array | null {
  const { keyId } = decodeSeal(sealBytes).sign1;
  return certificates.find((der) => same(keyIdOf(readCertificate(der).publicKey), keyId)) ?? null;
}

function readCertificate(der: Uint8Array): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    throw malformed('certificate', 'is not an X.509 certificate', cause);
  }
}
