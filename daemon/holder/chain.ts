// Owns: where the chain of seals stands, and the holder's checkpoint: CBOR [1, headSealHash, nextBatch, nextSequence, front's checkpoint].
// Invariants: pure; `follow` believes a stored batch only with a signature that holds and in its place in the chain; anything
// else is `halted`, because the store has already vouched for the bytes and only a fault or a forger with the data key is left.
import { type Batch, decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import { decodeCbor, encodeCbor, FieldReader } from '#ipc-schema/cbor.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { hashBytes, sha256 } from '#ipc-schema/merkle.ts';
import { newestSigner, type Signers, type Succeed, signersAt } from '#ipc-schema/signers.ts';
import { verifySeal } from '#ipc-schema/verify.ts';

export interface Chain {
  readonly nextBatch: number;
  readonly nextSequence: number;
  /** SHA-256 of the newest seal, or of the enrolment certificate. */
  readonly headSealHash: Uint8Array;
}

export interface Checkpoint {
  readonly chain: Chain;
  readonly front: Uint8Array;
}

export function startOf(certificate: Uint8Array): Chain {
  return { nextBatch: 1, nextSequence: 1, headSealHash: sha256(certificate) };
}

export function encodeCheckpoint(chain: Chain, front: Uint8Array): Uint8Array {
  return encodeCbor([1, chain.headSealHash, chain.nextBatch, chain.nextSequence, front]);
}

/** Throws `halted`. */
export function decodeCheckpoint(bytes: Uint8Array): Checkpoint {
  try {
    const fields = new FieldReader('checkpoint', decodeCbor(bytes, 'checkpoint'));
    fields.version(1);
    const headSealHash = fields.bytes('headSealHash', hashBytes);
    const nextBatch = fields.count('nextBatch');
    const nextSequence = fields.count('nextSequence');
    const front = fields.bytes('front');
    fields.end();
    return { chain: { nextBatch, nextSequence, headSealHash }, front };
  } catch (cause) {
    throw new UkeyError('halted', 'the checkpoint in the store cannot be read', { cause });
  }
}

/** A walk along the chain: where it stands, and the keys that have sealed so far. */
export interface Walk {
  readonly chain: Chain;
  readonly signers: Signers;
}

/** The walk behind one stored batch. Verifies its seal's signature and place, and the succession where the key changes; the entries are the full verifier's. Throws `halted`. */
export function follow({ chain, signers }: Walk, batchBytes: Uint8Array, succeed: Succeed): Walk {
  const { seal, sealHash, signers: next } = openSeal(chain, signers, batchBytes, succeed);
  if (
    seal.batchIndex !== chain.nextBatch ||
    seal.firstSequence !== chain.nextSequence ||
    !isSame(seal.previousSealHash, chain.headSealHash)
  ) {
    throw new UkeyError('halted', `batch ${chain.nextBatch} in the store does not follow the one before it`);
  }
  const behind = { nextBatch: seal.batchIndex + 1, nextSequence: seal.firstSequence + seal.count, headSealHash: sealHash };
  return { chain: behind, signers: next };
}

function openSeal(
  chain: Chain,
  signers: Signers,
  batchBytes: Uint8Array,
  succeed: Succeed,
): { seal: ReturnType<typeof verifySeal>; sealHash: Uint8Array; signers: Signers } {
  try {
    const batch: Batch = decodeBatch(batchBytes);
    const { sealBytes } = batch;
    const head = { batchIndex: chain.nextBatch - 1, sealHash: chain.headSealHash };
    const next = signersAt(signers, batch, head, succeed);
    return { seal: verifySeal(sealBytes, newestSigner(next).key, next.tokenId), sealHash: sealHashOf(sealBytes), signers: next };
  } catch (cause) {
    throw new UkeyError('halted', `the seal of batch ${chain.nextBatch} in the store does not hold`, { cause });
  }
}

const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
