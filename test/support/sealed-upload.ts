// Owns: the sender's side of an upload for tests: zstd, then HPKE to the server's raw public key (the tests' only door to the HPKE package).
import { constants, zstdCompressSync } from 'node:zlib';
import { AEAD_AES_256_GCM, CipherSuite, KDF_HKDF_SHA256, KEM_DHKEM_P256_HKDF_SHA256 } from 'hpke';
import { uploadInfo } from '#ipc-schema/upstream.ts';

const suite = new CipherSuite(KEM_DHKEM_P256_HKDF_SHA256, KDF_HKDF_SHA256, AEAD_AES_256_GCM);

/** Sealed bytes: encapsulated key, then ciphertext. `packed` is taken as it is. */
export async function sealTo(rawPublicKey: Uint8Array, packed: Uint8Array, info = uploadInfo): Promise<Uint8Array> {
  const publicKey = await suite.DeserializePublicKey(rawPublicKey);
  const { encapsulatedSecret, ciphertext } = await suite.Seal(publicKey, packed, { info: Buffer.from(info, 'utf8') });
  return Buffer.concat([encapsulatedSecret, ciphertext]);
}

export function pack(bytes: Uint8Array, level = 1): Uint8Array {
  return zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: level } });
}
