// Owns: sealing bytes to a public key (HPKE, RFC 9180, base mode); the daemon's only door to the hpke package.
// Suite: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. Output: enc (65 bytes) || ciphertext and tag, empty associated data.
// `info` binds a ciphertext to its use (upstream.ts: uploadInfo, recoveryInfo).
// Must not: open what was sealed; who holds the private key does.

import { AEAD_AES_256_GCM, CipherSuite, KDF_HKDF_SHA256, KEM_DHKEM_P256_HKDF_SHA256 } from 'hpke';
import { UkeyError } from '#ipc-schema/errors.ts';

const suite = new CipherSuite(KEM_DHKEM_P256_HKDF_SHA256, KDF_HKDF_SHA256, AEAD_AES_256_GCM);

/** Seals to a raw uncompressed P-256 point (65 bytes). Throws invalid-request when the bytes are no such key. */
export async function sealTo(publicKeyRaw: Uint8Array, info: string, plaintext: Uint8Array): Promise<Uint8Array> {
  const publicKey = await readKey(publicKeyRaw);
  const sealed = await suite.Seal(publicKey, plaintext, { info: new TextEncoder().encode(info) });
  return Buffer.concat([sealed.encapsulatedSecret, sealed.ciphertext]);
}

async function readKey(publicKeyRaw: Uint8Array): Promise<Awaited<ReturnType<typeof suite.DeserializePublicKey>>> {
  try {
    return await suite.DeserializePublicKey(publicKeyRaw);
  } catch (cause) {
    throw new UkeyError('invalid-request', 'the HPKE public key is not an uncompressed P-256 point', { cause });
  }
}
