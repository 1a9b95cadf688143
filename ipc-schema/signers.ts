// Owns: the keys of a ledger: which one seals from which batch on.
// Invariants: a ledger keeps its name (tokenId: the id of its first key) whoever goes on with it; another key begins only with a succession
// (succession.ts) as the first entry of its first batch. Pure, and without the schemas: every opening of a token walks a ledger.
// Must not: verify seals (verify.ts does, with the key that is found here).
import { type KeyObject, X509Certificate } from 'node:crypto';
import { type Batch, decodeSeal } from './batch.ts';
import { malformed } from './cbor.ts';
import { keyIdOf } from './cose.ts';

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

/**
 * The ledger's keys with the one that this batch's first entry lets go on. Throws invalid-request where there is none that the authority has signed
 * (succession.ts makes it: it needs the schemas, which whoever walks a ledger of one key does not).
 */
export type Succeed = (signers: Signers, batch: Batch) => Signers;

/** Where nobody can say who may succeed. */
export const nobodySucceeds: Succeed = () => {
  throw malformed('batch', "is sealed by a successor, which only the authority's certificate can prove");
};

/**
 * One step of a walk: the ledger's keys as they stand at the batch behind `head`. Where the seal names another key than the last one, the batch's
 * first entry must be the succession that lets it. Verifies the succession and not the seal. Throws invalid-request.
 */
export function signersAt(
  signers: Signers,
  batch: Batch,
  head: { readonly batchIndex: number; readonly sealHash: Uint8Array },
  succeed: Succeed,
): Signers {
  const what = `batch ${head.batchIndex + 1}`;
  const { keyId } = decodeSeal(batch.sealBytes).sign1;
  if (same(keyId, newestSigner(signers).keyId)) return signers;
  if (signers.list.some((signer) => same(signer.keyId, keyId))) throw malformed(what, 'is sealed by a key whose turn is over');
  const next = succeed(signers, batch);
  const { fromBatch, succession, keyId: nextKeyId } = newestSigner(next);
  if (!same(nextKeyId, keyId)) throw malformed(what, 'carries the succession of another key than the one that sealed it');
  if (fromBatch !== head.batchIndex + 1) throw malformed(what, `carries a succession that begins at batch ${fromBatch}`);
  if (succession === null || !same(succession.previousSealHash, head.sealHash))
    throw malformed(what, 'carries a succession that follows another seal');
  return next;
}

/** Of a ledger's certificates (DER), each before those that renew it: the newest one of the key that made this seal; null where none is. */
export function certificateFor(sealBytes: Uint8Array, certificates: readonly Uint8Array[]): Uint8Array | null {
  const { keyId } = decodeSeal(sealBytes).sign1;
  return certificates.findLast((der) => same(keyIdOf(readCertificate(der).publicKey), keyId)) ?? null;
}

/**
 * Throws invalid-request unless `next` renews `current` (both DER): the authority's (null: that is not asked), for the same key and ledger, from the same
 * beginning to a later end. So whoever has the newest certificate of a key can judge all that this key has sealed, and the older ones hold as before.
 */
export function checkRenewal(next: Uint8Array, current: Uint8Array, tokenId: Uint8Array, authorityKey: KeyObject | null): void {
  const [before, after] = [readCertificate(current), readCertificate(next)];
  const named = ledgerIdIn(after);
  if (authorityKey !== null && !after.verify(authorityKey)) throw malformed('renewed certificate', 'is not signed by the authority');
  if (named === null || !same(named, tokenId)) throw malformed('renewed certificate', 'is of another ledger');
  if (!after.publicKey.equals(before.publicKey)) throw malformed('renewed certificate', 'is of another key');
  if (after.validFromDate.getTime() !== before.validFromDate.getTime()) throw malformed('renewed certificate', 'begins at another time');
  if (after.validToDate.getTime() <= before.validToDate.getTime()) throw malformed('renewed certificate', 'does not end later');
}

/** DER. Throws invalid-request. */
export function readCertificate(der: Uint8Array): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    throw malformed('certificate', 'is not an X.509 certificate', cause);
  }
}
