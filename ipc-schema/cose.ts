// Owns: COSE_Sign1 (RFC 9052 §4.2) in its tagged form, and the algorithms that may sign (RFC 9053 §2.1, RFC 8812 §2).
// Invariants: protected header is {1: alg, 4: kid}, unprotected is empty, external_aad is empty, one spelling only.
// What is made here with ES256 is in the low spelling (es256.ts), whatever the signer returns: its bytes are hashed with the signature in them.
// Must not: hold or use a private key: who signs is handed the bytes to sign and gives back the signature.
import { createHash, createPublicKey, constants as cryptoConstants, type KeyObject, verify } from 'node:crypto';
import { decodeCbor, encodeCbor, FieldReader, malformed } from './cbor.ts';
import { UkeyError } from './errors.ts';
import { es256Holds, lowSpellingOf } from './es256.ts';

export type Algorithm = 'ES256' | 'PS256' | 'RS256';

const algorithmIds: Readonly<Record<Algorithm, number>> = { ES256: -7, PS256: -37, RS256: -257 };
const sign1Tag = 0xd2; // CBOR tag 18
const signatureMaxBytes = 1024;
const rsaMinBits = 2048;
export const keyIdBytes = 16;

export interface Sign1 {
  readonly algorithm: Algorithm;
  readonly keyId: Uint8Array;
  readonly payload: Uint8Array;
  readonly signature: Uint8Array;
  /** The protected header's exact bytes: they are signed. */
  readonly protectedBytes: Uint8Array;
}

/** Exporting a key costs more than verifying with it, and one key verifies many seals. */
const knownIds = new WeakMap<KeyObject, Uint8Array>();

/** Key id of a public key: the first 16 bytes of SHA-256 over its SPKI (DER). */
export function keyIdOf(publicKey: KeyObject): Uint8Array {
  const keyId = knownIds.get(publicKey) ?? keyIdOfSpki(publicKey.export({ type: 'spki', format: 'der' }));
  knownIds.set(publicKey, keyId);
  return keyId.slice();
}

export function keyIdOfSpki(spki: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(spki).digest().subarray(0, keyIdBytes));
}

export function publicKeyFromSpki(spki: Uint8Array): KeyObject {
  try {
    return createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  } catch (cause) {
    throw malformed('public key', 'is not a SubjectPublicKeyInfo', cause);
  }
}

export function protectedHeader(algorithm: Algorithm, keyId: Uint8Array): Uint8Array {
  // A map of two, written out: the library takes several times as long, and every seal has one.
  return Buffer.concat([Uint8Array.of(0xa2, 0x01), encodeCbor(algorithmIds[algorithm]), Uint8Array.of(0x04), encodeCbor(keyId)]);
}

/** Sig_structure (RFC 9052 §4.4): exactly what is signed. */
export function toBeSigned(protectedBytes: Uint8Array, payload: Uint8Array): Uint8Array {
  return encodeCbor(['Signature1', protectedBytes, new Uint8Array(0), payload]);
}

export function encodeSign1(protectedBytes: Uint8Array, payload: Uint8Array, signature: Uint8Array): Uint8Array {
  return Buffer.concat([Uint8Array.of(sign1Tag), encodeCbor([protectedBytes, new Map(), payload, signature])]);
}

/** Throws invalid-request unless the bytes are one COSE_Sign1 of the form above. Checks no signature. */
export function decodeSign1(bytes: Uint8Array, what: string): Sign1 {
  if (bytes[0] !== sign1Tag) throw malformed(what, 'is not a tagged COSE_Sign1');
  const fields = new FieldReader(what, decodeCbor(bytes.subarray(1), what));
  const protectedBytes = fields.bytes('protected header');
  const unprotected = fields.any('unprotected header');
  const payload = fields.bytes('payload');
  const signature = fields.bytes('signature');
  fields.end();
  if (!(unprotected instanceof Map) || unprotected.size !== 0) throw malformed(what, 'has an unprotected header');
  if (signature.length === 0 || signature.length > signatureMaxBytes) throw malformed(what, 'has no signature');
  const header = decodeCbor(protectedBytes, what);
  if (!(header instanceof Map) || header.size !== 2) throw malformed(what, 'has an unknown protected header');
  const algorithm = (Object.keys(algorithmIds) as Algorithm[]).find((name) => algorithmIds[name] === header.get(1));
  const keyId: unknown = header.get(4);
  if (algorithm === undefined) throw malformed(what, 'is signed with an unknown algorithm');
  if (!(keyId instanceof Uint8Array) || keyId.length !== keyIdBytes) throw malformed(what, 'names no key');
  if (!Buffer.from(protectedHeader(algorithm, keyId)).equals(protectedBytes)) throw malformed(what, 'has a header in another spelling');
  return { algorithm, keyId, payload, signature, protectedBytes };
}

/**
 * True when `signature` over `message` (hashed with SHA-256) is valid. ES256 is raw r||s on P-256, RSA keys have 2048 bits or more. Never throws.
 * Both spellings of an ES256 signature hold: ledgers have both. Which one counts is said by the hash in the next seal (spelling.ts).
 */
export function verifySignature(algorithm: Algorithm, publicKey: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  try {
    switch (algorithm) {
      case 'ES256':
        return (
          publicKey.asymmetricKeyType === 'ec' &&
          publicKey.asymmetricKeyDetails?.namedCurve === 'prime256v1' &&
          es256Holds(publicKey, message, signature)
        );
      case 'RS256':
        return isStrongRsa(publicKey) && isWhole(publicKey, signature) && verify('sha256', message, publicKey, signature);
      case 'PS256':
        return (
          isStrongRsa(publicKey) &&
          isWhole(publicKey, signature) &&
          verify('sha256', message, { key: publicKey, padding: cryptoConstants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }, signature)
        );
    }
  } catch {
    return false; // a key of the wrong kind is a signature that does not hold
  }
}

function isStrongRsa(publicKey: KeyObject): boolean {
  return publicKey.asymmetricKeyType === 'rsa' && (publicKey.asymmetricKeyDetails?.modulusLength ?? 0) >= rsaMinBits;
}

/** RFC 8017 §8.1.2: as long as the modulus. Of PS256, OpenSSL would take one without its leading zeros too: a second spelling. */
function isWhole(publicKey: KeyObject, signature: Uint8Array): boolean {
  return signature.length === Math.ceil((publicKey.asymmetricKeyDetails?.modulusLength ?? 0) / 8);
}

/** Decodes and verifies under the one key that is expected. Throws invalid-request naming `what` otherwise. */
export function openSign1(bytes: Uint8Array, publicKey: KeyObject, what: string): Sign1 {
  const sign1 = decodeSign1(bytes, what);
  if (!Buffer.from(keyIdOf(publicKey)).equals(sign1.keyId)) throw malformed(what, 'is signed by another key');
  if (!verifySignature(sign1.algorithm, publicKey, toBeSigned(sign1.protectedBytes, sign1.payload), sign1.signature)) {
    throw malformed(what, 'has a signature that does not hold');
  }
  return sign1;
}

/** Makes a COSE_Sign1 with a signer that is passed in (a token, or the server's own key). */
export function makeSign1(
  algorithm: Algorithm,
  keyId: Uint8Array,
  payload: Uint8Array,
  sign: (message: Uint8Array) => Uint8Array,
): Uint8Array {
  const header = protectedHeader(algorithm, keyId);
  const signature = sign(toBeSigned(header, payload));
  if (signature.length === 0) throw new UkeyError('token-failed', 'the signer gave an empty signature');
  return encodeSign1(header, payload, algorithm === 'ES256' ? lowSpellingOf(signature) : signature);
}
