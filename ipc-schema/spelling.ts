// Owns: the two spellings of a seal, and of a batch by its seal: the same signed statement with the signature as (r, s) or as (r, n - s).
// Whoever has one can write the other; which of the two the token made is proven by the hash in the seal behind it, which only its key can sign, or in
// the succession behind it. ES256 alone has two: RS256 has one signature per statement, and of PS256 nobody makes another without the key (cose.ts takes whole ones only).
// Invariants: pure; checks no signature: of a seal that holds, the other spelling holds too.
import { decodeBatch, sealHashOf } from './batch.ts';
import { decodeSign1, encodeSign1 } from './cose.ts';
import { hasLowS, otherSpellingOf } from './es256.ts';

/** Null: it has no other spelling. Throws invalid-request when it is no seal. */
export function otherSeal(sealBytes: Uint8Array): Uint8Array | null {
  const { algorithm, protectedBytes, payload, signature } = decodeSign1(sealBytes, 'seal');
  const other = algorithm === 'ES256' ? otherSpellingOf(signature) : null;
  return other === null ? null : encodeSign1(protectedBytes, payload, other);
}

/** True where there is but one spelling. Throws invalid-request when it is no seal. */
export function isLowSeal(sealBytes: Uint8Array): boolean {
  const { algorithm, signature } = decodeSign1(sealBytes, 'seal');
  return algorithm !== 'ES256' || hasLowS(signature);
}

/** The low spelling. Throws invalid-request when it is no seal. */
export function lowSeal(sealBytes: Uint8Array): Uint8Array {
  return isLowSeal(sealBytes) ? sealBytes : (otherSeal(sealBytes) ?? sealBytes);
}

/** Whether this is the hash of the seal's other spelling. */
export function isOtherHash(sealBytes: Uint8Array, sealHash: Uint8Array): boolean {
  const other = otherSeal(sealBytes);
  return other !== null && Buffer.compare(sealHashOf(other), sealHash) === 0;
}

/** Whether two seals carry the same signed statement: they are of the same batch, whatever their signatures are. */
export function isSameStatement(one: Uint8Array, other: Uint8Array): boolean {
  const [a, b] = [decodeSign1(one, 'seal'), decodeSign1(other, 'seal')];
  return Buffer.compare(a.protectedBytes, b.protectedBytes) === 0 && Buffer.compare(a.payload, b.payload) === 0;
}

/** The batch under its seal's other spelling; null: it has none. Throws invalid-request when it is no batch. */
export function otherBatch(bytes: Uint8Array): Uint8Array | null {
  const { sealBytes } = decodeBatch(bytes, 'views');
  const other = otherSeal(sealBytes);
  if (other === null) return null;
  const batch = Uint8Array.from(bytes);
  batch.set(other, sealBytes.byteOffset - bytes.byteOffset); // both spellings have the same length
  return batch;
}
