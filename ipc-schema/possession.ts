// Owns: requests by which a key asks the ticket server for something: COSE_Sign1 by that key over CBOR [1, purpose, spki, ...].
// Invariants: whoever reads one knows that the sender holds the private key of the public key inside; a signature for one purpose is of no use for another. Pure.
import { decodeCbor, FieldReader, malformed } from './cbor.ts';
import { decodeSign1, keyIdOfSpki, publicKeyFromSpki, type Sign1, toBeSigned, verifySignature } from './cose.ts';

export interface BegunRequest {
  readonly sign1: Sign1;
  /** What stands behind the purpose. */
  readonly fields: FieldReader;
}

/** Nothing is proven yet. Throws invalid-request. */
export function beginRequest(bytes: Uint8Array, purpose: string): BegunRequest {
  const sign1 = decodeSign1(bytes, purpose);
  const fields = new FieldReader(purpose, decodeCbor(sign1.payload, purpose));
  fields.version(1);
  if (fields.text('purpose') !== purpose) throw malformed(purpose, 'is signed for something else');
  return { sign1, fields };
}

/** Throws invalid-request unless this very key has signed the request. */
export function provePossession(sign1: Sign1, spki: Uint8Array, what: string): void {
  if (Buffer.compare(keyIdOfSpki(spki), sign1.keyId) !== 0) throw malformed(what, 'names another key');
  if (!verifySignature(sign1.algorithm, publicKeyFromSpki(spki), toBeSigned(sign1.protectedBytes, sign1.payload), sign1.signature))
    throw malformed(what, 'has a signature that does not hold');
}
