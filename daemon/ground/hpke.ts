// Owns: sealing bytes to a public key (HPKE, RFC 9180, base mode); the daemon's only door to the hpke package.
// Suite: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. Output: enc (65 bytes) || ciphertext and tag, empty associated data.
// `info` binds a ciphertext to its use (upstream.ts: uploadInfo, recoveryInfo).
// Opening: only with a key pair of one errand that was made here and is never exported; for all else who holds the private key opens.

import { createPublicKey, generateKeyPairSync } from 'node:crypto';
import { AEAD_AES_256_GCM, CipherSuite, KDF_HKDF_SHA256, KEM_DHKEM_P256_HKDF_SHA256 } from 'hpke';
import { UkeyError } from '#ipc-schema/errors.ts';

const encapsulatedBytes = 65;
const suite = new CipherSuite(KEM_DHKEM_P256_HKDF_SHA256, KDF_HKDF_SHA256, AEAD_AES_256_GCM);

/** Seals to a raw uncompressed P-256 point (65 bytes). Throws invalid-request when the bytes are no such key. */
export async function sealTo(publicKeyRaw: Uint8Array, info: string, plaintext: Uint8Array): Promise<Uint8Array> {
  const publicKey = await readKey(publicKeyRaw);
  const sealed = await suite.Seal(publicKey, plaintext, { info: new TextEncoder().encode(info) });
  return Buffer.concat([sealed.encapsulatedSecret, sealed.ciphertext]);
}

/** A key pair for one answer. */
export interface ReplyKey {
  /** Raw uncompressed P-256 point. */
  readonly publicKey: Uint8Array;
  /** Throws invalid-request when it was not sealed to this key for this use. The caller wipes the result. */
  open(sealed: Uint8Array, info: string): Promise<Uint8Array>;
}

export function makeReplyKey(): ReplyKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const curve = { name: 'ECDH', namedCurve: 'P-256' };
  const recipient = {
    privateKey: privateKey.toCryptoKey(curve, false, ['deriveBits']),
    publicKey: createPublicKey(privateKey).toCryptoKey(curve, true, []),
  };
  return {
    publicKey: new Uint8Array(publicKey.export({ type: 'spki', format: 'der' }).subarray(-encapsulatedBytes)), // an SPKI of P-256 ends with the point
    open: async (sealed, info) => {
      if (sealed.length <= encapsulatedBytes) throw new UkeyError('invalid-request', 'the sealed answer is too short');
      try {
        const encapsulated = sealed.subarray(0, encapsulatedBytes);
        return await suite.Open(recipient, encapsulated, sealed.subarray(encapsulatedBytes), { info: new TextEncoder().encode(info) });
      } catch (cause) {
        throw new UkeyError('invalid-request', 'the answer was not sealed to the key that was sent', { cause });
      }
    },
  };
}

async function readKey(publicKeyRaw: Uint8Array): Promise<Awaited<ReturnType<typeof suite.DeserializePublicKey>>> {
  try {
    return await suite.DeserializePublicKey(publicKeyRaw);
  } catch (cause) {
    throw new UkeyError('invalid-request', 'the HPKE public key is not an uncompressed P-256 point', { cause });
  }
}
