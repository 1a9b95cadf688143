// Owns: the check of one ES256 signature (RFC 9053 §2.1: raw r || s on P-256, over SHA-256), and its two spellings.
// ECDSA lets anybody turn (r, s) into (r, n - s), which holds for the same message. The low spelling is the one whose s is n/2 at most.
// Invariants: pure; says no more than true or false. Node is given the signature as DER and the key as it is: for any other argument than a bare key
// Node 24 makes and throws away an error with its stack, which takes a third as long as the check itself.
import { type KeyObject, verify } from 'node:crypto';

const signatureBytes = 64;
const halfBytes = signatureBytes / 2;
/** Order of P-256 (SP 800-186 §3.2.1.3). */
const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const sequenceTag = 0x30;
const integerTag = 0x02;

/** The key must be one of P-256: the caller has seen to that. */
export function es256Holds(publicKey: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  return signature.length === signatureBytes && verify('sha256', message, publicKey, derOf(signature));
}

/** Whether this is the low spelling. False too for what is no signature. */
export function hasLowS(signature: Uint8Array): boolean {
  const s = sOf(signature);
  return s > 0n && s <= order / 2n;
}

/** The other spelling of a signature; null where s is out of range, so that there is none. */
export function otherSpellingOf(signature: Uint8Array): Uint8Array | null {
  const s = sOf(signature);
  if (s <= 0n || s >= order) return null;
  const other = Uint8Array.from(signature);
  other.set(Buffer.from((order - s).toString(16).padStart(2 * halfBytes, '0'), 'hex'), halfBytes);
  return other;
}

/** The low spelling of a signature; what is none comes back as it is. */
export function lowSpellingOf(signature: Uint8Array): Uint8Array {
  return hasLowS(signature) ? signature : (otherSpellingOf(signature) ?? signature);
}

function sOf(signature: Uint8Array): bigint {
  if (signature.length !== signatureBytes) return 0n;
  return BigInt(`0x${Buffer.from(signature.subarray(halfBytes)).toString('hex')}`);
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
