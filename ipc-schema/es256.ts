// Owns: the check of one ES256 signature (RFC 9053 §2.1: raw r || s on P-256, over SHA-256).
// Invariants: pure; says no more than true or false. Node is given the signature as DER and the key as it is: for any other argument than a bare key
// Node 24 makes and throws away an error with its stack, which takes a third as long as the check itself.
import { type KeyObject, verify } from 'node:crypto';

const signatureBytes = 64;
const halfBytes = signatureBytes / 2;
const sequenceTag = 0x30;
const integerTag = 0x02;

/** The key must be one of P-256: the caller has seen to that. */
export function es256Holds(publicKey: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  return signature.length === signatureBytes && verify('sha256', message, publicKey, derOf(signature));
}

/** Ecdsa-Sig-Value (RFC 3279 §2.2.3): the shortest DER of two numbers of 32 bytes each. */
function derOf(signature: Uint8Array): Buffer {
  const der = Buffer.allocUnsafe(2 + 2 * (2 + 1 + halfBytes));
  const middle = writeInteger(der, 2, signature, 0);
  const end = writeInteger(der, middle, signature, halfBytes);
  der[0] = sequenceTag;
  der[1] = end - 2;
  return der.subarray(0, end);
}

/** Returns where the next one goes. */
function writeInteger(der: Buffer, at: number, signature: Uint8Array, from: number): number {
  const to = from + halfBytes;
  let first = from;
  while (first < to - 1 && signature[first] === 0) first += 1;
  // Numbers with the top bit set would be negative.
  const zeros = (signature[first] ?? 0) >= 0x80 ? 1 : 0;
  der[at] = integerTag;
  der[at + 1] = to - first + zeros;
  der[at + 2] = 0;
  der.set(signature.subarray(first, to), at + 2 + zeros);
  return at + 2 + zeros + to - first;
}
