// Owns: public keys as node:crypto wants them, from PKCS#11 attributes, and the check that every signature passes before it is used.
// Source: PKCS#11 v2.40 §2.3.3 (CKA_EC_POINT is a DER OCTET STRING; some modules give the bare point), RFC 9053 §2.1, RFC 8812 §2.
// Must not: call a token.
import { constants, createHash, createPublicKey, type KeyObject, verify } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import { es256Holds } from '#ipc-schema/es256.ts';
import type { SignatureAlgorithm } from '#token/token.ts';

/** DER of the object identifier 1.2.840.10045.3.1.7 (P-256). */
export const p256Params = Buffer.from('06082a8648ce3d030107', 'hex');
/** DER head of DigestInfo for SHA-256 (RFC 8017 §9.2, note 1). */
const sha256DigestInfo = Buffer.from('3031300d060960864801650304020105000420', 'hex');
const pointBytes = 65;
const rsaMinBits = 2048;

export const sha256 = (message: Uint8Array): Buffer => createHash('sha256').update(message).digest();

/** What CKM_RSA_PKCS is given, so that the hash is ours and no module needs CKM_SHA256_RSA_PKCS. */
export const digestInfo = (message: Uint8Array): Buffer => Buffer.concat([sha256DigestInfo, sha256(message)]);

/** The bare uncompressed point out of CKA_EC_POINT, wrapped or not. Throws token-failed. */
export function barePoint(value: Buffer): Buffer {
  const bare = value.length === pointBytes + 2 && value[0] === 0x04 && value[1] === pointBytes ? value.subarray(2) : value;
  if (bare.length !== pointBytes || bare[0] !== 0x04)
    throw new UkeyError('token-failed', 'the token gave a public point that is none of P-256');
  return bare;
}

/** DER OCTET STRING around a point, which some modules want in CKM_ECDH1_DERIVE. */
export const wrappedPoint = (point: Buffer): Buffer => Buffer.concat([Buffer.from([0x04, pointBytes]), point]);

export function ecPublicKey(point: Buffer): KeyObject {
  const bare = barePoint(point);
  return createPublicKey({
    format: 'jwk',
    key: { kty: 'EC', crv: 'P-256', x: bare.subarray(1, 33).toString('base64url'), y: bare.subarray(33).toString('base64url') },
  });
}

export function rsaPublicKey(modulus: Buffer, exponent: Buffer): KeyObject {
  const key = createPublicKey({ format: 'jwk', key: { kty: 'RSA', n: modulus.toString('base64url'), e: exponent.toString('base64url') } });
  if ((key.asymmetricKeyDetails?.modulusLength ?? 0) < rsaMinBits)
    throw new UkeyError('token-failed', `an RSA key below ${rsaMinBits} bits seals nothing`);
  return key;
}

/** SHA-256 of the SubjectPublicKeyInfo. */
export const fingerprintOf = (key: KeyObject): Buffer => sha256(key.export({ type: 'spki', format: 'der' }));

export function algorithmOf(key: KeyObject): SignatureAlgorithm {
  return key.asymmetricKeyType === 'ec' ? 'ES256' : 'RS256';
}

/** COSE form: raw r||s for ES256. False for an empty or odd signature too. */
export function signatureHolds(key: KeyObject, message: Uint8Array, signature: Uint8Array): boolean {
  if (signature.length === 0) return false;
  return algorithmOf(key) === 'ES256'
    ? es256Holds(key, message, signature)
    : verify('sha256', message, { key, padding: constants.RSA_PKCS1_PADDING }, signature);
}
