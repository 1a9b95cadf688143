// Owns: a secret sealed under a 32-byte key: AES-256-GCM (SP 800-38D), random 96-bit nonce, 128-bit tag.
// Shape: nonce (12) || ciphertext || tag (16). The associated data names the purpose, so that no box opens in another's place.
// Invariants: a box that does not open says so with one code and no detail; the caller wipes keys and results.
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';

const nonceBytes = 12;
const tagBytes = 16;
export const boxKeyBytes = 32;

export function sealBox(key: Uint8Array, secret: Uint8Array, purpose: string): Buffer {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: tagBytes });
  cipher.setAAD(Buffer.from(purpose, 'utf8'));
  return Buffer.concat([nonce, cipher.update(secret), cipher.final(), cipher.getAuthTag()]);
}

/** null when the key or the purpose is another, or the box is damaged. */
export function openBox(key: Uint8Array, box: Uint8Array, purpose: string): Buffer | null {
  if (box.length < nonceBytes + tagBytes) return null;
  const decipher = createDecipheriv('aes-256-gcm', key, box.subarray(0, nonceBytes), { authTagLength: tagBytes });
  decipher.setAAD(Buffer.from(purpose, 'utf8'));
  decipher.setAuthTag(box.subarray(box.length - tagBytes));
  const secret = decipher.update(box.subarray(nonceBytes, box.length - tagBytes));
  try {
    return Buffer.concat([secret, decipher.final()]);
  } catch {
    // The tag did not hold; OpenSSL's text tells nothing more.
    return null;
  } finally {
    secret.fill(0);
  }
}

/** As openBox; throws token-failed instead of null. */
export function mustOpenBox(key: Uint8Array, box: Uint8Array, purpose: string): Buffer {
  const secret = openBox(key, box, purpose);
  if (secret === null) throw new UkeyError('token-failed', `the wrapped key does not open (${purpose})`);
  return secret;
}

/** HKDF-SHA-256 (RFC 5869) to one box key. */
export function deriveBoxKey(secret: Uint8Array, salt: Uint8Array, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, salt, purpose, boxKeyBytes));
}
