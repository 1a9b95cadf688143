// Owns: the verifier: whether a batch, a chain of batches or one entry's evidence holds, with public keys alone.
// Invariants: uses decoders, hashes and signature checks only; nothing of the writer (no encoder, no tree builder), so that a fault there is found here.
// Errors: invalid-request naming what does not hold. A return means that everything holds.
import type { KeyObject } from 'node:crypto';
import { type Batch, decodeBatch, decodeSeal, type Seal, sealHashOf } from './batch.ts';
import { malformed } from './cbor.ts';
import { keyIdOf, toBeSigned, verifySignature } from './cose.ts';
import { decodeLeaf, type Entry, type Leaf } from './entry.ts';
import type { Evidence } from './evidence.ts';
import { leafHash, rootFromPath, sha256 } from './merkle.ts';
import { newestSigner, type Signers, type Succeed, signersAt } from './signers.ts';

export interface ChainHead {
  readonly batchIndex: number;
  readonly nextSequence: number;
  readonly sealHash: Uint8Array;
}

export interface VerifiedEntry extends Entry {
  readonly parsed: Leaf;
}

export interface VerifiedBatch {
  readonly seal: Seal;
  readonly sealBytes: Uint8Array;
  readonly entries: readonly VerifiedEntry[];
  readonly head: ChainHead;
}

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && Buffer.compare(a, b) === 0;

/** Head before the first batch: the enrolment certificate stands where a seal would. */
export function chainStart(enrolmentCertificate: Uint8Array): ChainHead {
  return { batchIndex: 0, nextSequence: 1, sealHash: sha256(enrolmentCertificate) };
}

/**
 * Verifies the seal's signature under a key of the ledger `tokenId`. That id is the one of the ledger's first key: left out, the key must be the first
 * (signers.ts tells which key seals which batch).
 */
export function verifySeal(sealBytes: Uint8Array, tokenKey: KeyObject, tokenId: Uint8Array = keyIdOf(tokenKey)): Seal {
  const { sign1, seal } = decodeSeal(sealBytes);
  if (!same(sign1.keyId, keyIdOf(tokenKey)) || !same(seal.tokenId, tokenId)) throw malformed('seal', 'is of another token');
  if (!verifySignature(sign1.algorithm, tokenKey, toBeSigned(sign1.protectedBytes, sign1.payload), sign1.signature)) {
    throw malformed('seal', 'has a signature that does not hold');
  }
  return seal;
}

/** Verifies one batch and its place behind `head`. `tokenId` as for verifySeal. What it answers shares the memory of `bytes`. */
export function verifyBatch(bytes: Uint8Array, tokenKey: KeyObject, head: ChainHead, tokenId?: Uint8Array): VerifiedBatch {
  return verifyDecoded(decodeBatch(bytes, 'views'), tokenKey, head, tokenId);
}

/** Verifies the next batch of a ledger, whose key may change there; answers the keys as they stand afterwards. */
export function verifyNext(
  bytes: Uint8Array,
  signers: Signers,
  head: ChainHead,
  succeed: Succeed,
): { readonly batch: VerifiedBatch; readonly signers: Signers } {
  const batch = decodeBatch(bytes);
  const next = signersAt(signers, batch, head, succeed);
  return { batch: verifyDecoded(batch, newestSigner(next).key, head, next.tokenId), signers: next };
}

function verifyDecoded(batch: Batch, tokenKey: KeyObject, head: ChainHead, tokenId?: Uint8Array): VerifiedBatch {
  const seal = verifySeal(batch.sealBytes, tokenKey, tokenId);
  if (seal.batchIndex !== head.batchIndex + 1) throw malformed('batch', `has index ${seal.batchIndex}, expected ${head.batchIndex + 1}`);
  if (!same(seal.previousSealHash, head.sealHash)) throw malformed(`batch ${seal.batchIndex}`, 'does not follow the seal before it');
  if (seal.firstSequence !== head.nextSequence)
    throw malformed(`batch ${seal.batchIndex}`, `begins at sequence ${seal.firstSequence}, expected ${head.nextSequence}`);
  if (seal.count !== batch.entries.length) throw malformed(`batch ${seal.batchIndex}`, 'has another number of entries than its seal says');
  const entries = batch.entries.map((entry, at) => verifyEntry(entry, seal.firstSequence + at));
  if (!same(recomputeRoot(entries.map((entry) => leafHash(entry.leaf))), seal.root))
    throw malformed(`batch ${seal.batchIndex}`, 'has another root than its seal says');
  return {
    seal,
    sealBytes: batch.sealBytes,
    entries,
    head: { batchIndex: seal.batchIndex, nextSequence: seal.firstSequence + seal.count, sealHash: sealHashOf(batch.sealBytes) },
  };
}

function verifyEntry(entry: Entry, sequence: number): VerifiedEntry {
  const parsed = decodeLeaf(entry.leaf);
  if (parsed.sequence !== sequence) throw malformed('leaf', `has sequence ${parsed.sequence}, expected ${sequence}`);
  if (!same(parsed.bodyHash, sha256(entry.body))) throw malformed(`entry ${sequence}`, 'has another body than its leaf says');
  return { ...entry, parsed };
}

/** MTH of RFC 9162 §2.1.1, by its recursive definition (the writer builds levels). */
function recomputeRoot(hashes: readonly Uint8Array[]): Uint8Array {
  const [only] = hashes;
  if (hashes.length === 1 && only !== undefined) return only;
  let split = 1;
  while (split * 2 < hashes.length) split *= 2;
  const left = recomputeRoot(hashes.slice(0, split));
  const right = recomputeRoot(hashes.slice(split));
  return sha256(Buffer.concat([Uint8Array.of(1), left, right]));
}

/** Verifies evidence of one entry; with a body, the body too. Returns leaf and seal. `tokenId` as for verifySeal. */
export function verifyEvidence(
  evidence: Evidence,
  tokenKey: KeyObject,
  body?: Uint8Array,
  tokenId?: Uint8Array,
): { readonly leaf: Leaf; readonly seal: Seal } {
  const { leaf, index, count, path, sealBytes } = evidence;
  const seal = verifySeal(sealBytes, tokenKey, tokenId);
  const parsed = decodeLeaf(leaf);
  if (count !== seal.count || parsed.sequence !== seal.firstSequence + index) throw malformed('evidence', 'does not fit its seal');
  const root = rootFromPath(leafHash(leaf), index, count, path);
  if (root === null || !same(root, seal.root)) throw malformed('evidence', 'has a path that does not lead to the sealed root');
  if (body !== undefined && !same(parsed.bodyHash, sha256(body))) throw malformed('evidence', 'is of another document');
  return { leaf: parsed, seal };
}
