// Owns: the server's only door to the HPKE package (RFC 9180): opening what was sealed to one of the server's keys, and sealing a recovered data key.
// Suite: DHKEM(P-256, HKDF-SHA256) 0x0010, HKDF-SHA256 0x0001, AES-256-GCM 0x0002; base mode; aad empty; `info` names the use (upstream.ts).
// Sealed form: encapsulated key (65 bytes, uncompressed point), then ciphertext with its 16-byte tag.
// Must not: know what is inside. HPKE hides a body from the line; who sent it is proved by the seals inside, not here.
import { createPublicKey, type KeyObject } from 'node:crypto';
import { AEAD_AES_256_GCM, CipherSuite, KDF_HKDF_SHA256, KEM_DHKEM_P256_HKDF_SHA256 } from 'hpke';
import { malformed } from '#ipc-schema/cbor.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

export const encapsulatedBytes = 65;
export const tagBytes = 16;
const curve = { name: 'ECDH', namedCurve: 'P-256' };

const suite = new CipherSuite(KEM_DHKEM_P256_HKDF_SHA256, KDF_HKDF_SHA256, AEAD_AES_256_GCM);

/** Opens `sealed` for `info`. Throws invalid-request when it was not sealed to this key for this use. */
export type Opener = (sealed: Uint8Array, info: string) => Promise<Uint8Array>;

export function makeOpener(privateKey: KeyObject): Opener {
  if (privateKey.asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw new UkeyError('internal', 'the upload key is not on P-256');
  // Keys are handed over as Web Crypto keys and as a pair: from a scalar the package would derive the public one by an API that
  // Node calls experimental and warns of.
  const recipient = {
    privateKey: privateKey.toCryptoKey(curve, false, ['deriveBits']),
    publicKey: createPublicKey(privateKey).toCryptoKey(curve, true, []),
  };
  return async (sealed, info) => {
    if (sealed.length < encapsulatedBytes + tagBytes) throw malformed('sealed body', 'is too short');
    try {
      return await suite.Open(recipient, sealed.subarray(0, encapsulatedBytes), sealed.subarray(encapsulatedBytes), {
        info: Buffer.from(info, 'utf8'),
      });
    } catch (cause) {
      throw malformed('sealed body', 'was not sealed to this server', cause);
    }
  };
}

/** Seals for `info` to a raw public key (an uncompressed P-256 point). Throws invalid-request when the bytes are no such key. */
export async function sealTo(publicKeyRaw: Uint8Array, info: string, plaintext: Uint8Array): Promise<Uint8Array> {
  let recipient: Awaited<ReturnType<typeof suite.DeserializePublicKey>>;
  try {
    recipient = await suite.DeserializePublicKey(publicKeyRaw);
  } catch (cause) {
    throw malformed('reply key', 'is not an uncompressed P-256 point', cause);
  }
  const sealed = await suite.Seal(recipient, plaintext, { info: Buffer.from(info, 'utf8') });
  return Buffer.concat([sealed.encapsulatedSecret, sealed.ciphertext]);
}

/** Raw form (SEC 1 uncompressed point) of a P-256 public key: how HPKE public keys stand in charters. */
export function rawPublicKey(publicKey: KeyObject): Uint8Array {
  const { x, y } = publicKey.export({ format: 'jwk' });
  if (x === undefined || y === undefined) throw new UkeyError('internal', 'not a P-256 public key');
  return Buffer.concat([Uint8Array.of(4), Buffer.from(x, 'base64url'), Buffer.from(y, 'base64url')]);
}
