import { createHash, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  type Algorithm,
  decodeSign1,
  encodeSign1,
  keyIdBytes,
  keyIdOf,
  keyIdOfSpki,
  makeSign1,
  openSign1,
  protectedHeader,
  publicKeyFromSpki,
  toBeSigned,
  verifySignature,
} from '#ipc-schema/cose.ts';
import { refusal } from '#test/support/refusal.ts';
import { freshSignature, hex, type KeyName, privateKeys, publicKey, spkiOf, unhex } from '#test/vectors/world.ts';

const payload = Buffer.from('This is the content.');

/** The key '11' of RFC 9052 Appendix C.7.1 (the COSE working group's examples). */
const rfcKey = createPublicKey({
  format: 'jwk',
  key: {
    kty: 'EC',
    crv: 'P-256',
    x: 'usWxHK2PmfnHKwXPS54m0kTcGJ90UiglWiGahtagnv8',
    y: 'IBOL-C3BttVivg-lSreASjpkttcsz-1rb7btKLv8EX4',
  },
});

describe('COSE_Sign1', () => {
  it('signs the structure of RFC 9052 §4.4: the example of its Appendix C.2.1 verifies', () => {
    const signature = unhex(
      '8eb33e4ca31d1c465ab05aac34cc6b23d58fef5c083106c4d25a91aef0b0117e2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36',
    );
    const message = toBeSigned(unhex('a10126'), payload);
    expect(hex(message)).toBe(`846a5369676e61747572653143a101264054${hex(payload)}`);
    expect(verifySignature('ES256', rfcKey, message, signature)).toBe(true);
    expect(verifySignature('ES256', rfcKey, toBeSigned(unhex('a10126'), Buffer.from('This is the content!')), signature)).toBe(false);
  });

  it('refuses that example as a whole: its key id stands in the unprotected header', () => {
    const whole = `d28443a10126a10442313154${hex(payload)}5840${'00'.repeat(64)}`;
    refusal(() => decodeSign1(unhex(whole), 'it'));
  });

  it('spells the protected header {1: alg, 4: kid} for each algorithm', () => {
    const keyId = unhex('00112233445566778899aabbccddeeff');
    expect(hex(protectedHeader('ES256', keyId))).toBe(`a201260450${hex(keyId)}`);
    expect(hex(protectedHeader('PS256', keyId))).toBe(`a20138240450${hex(keyId)}`);
    expect(hex(protectedHeader('RS256', keyId))).toBe(`a2013901000450${hex(keyId)}`);
  });

  it.each([
    ['ES256', 'token'],
    ['RS256', 'rsa'],
    ['PS256', 'rsa'],
  ] as const)('made with %s opens under its key, and under no other', (algorithm, name) => {
    const key = publicKey(name);
    const bytes = makeSign1(algorithm, keyIdOf(key), payload, (message) => freshSignature(privateKeys[name], algorithm, message));
    const opened = openSign1(bytes, key, 'it');
    expect(opened.algorithm).toBe(algorithm);
    expect(hex(opened.payload)).toBe(hex(payload));
    refusal(() => openSign1(bytes, publicKey('stranger'), 'it'));
  });

  it('refuses every bit flipped, every cut and every byte more', () => {
    const key = publicKey('token');
    const bytes = makeSign1('ES256', keyIdOf(key), payload, (message) => freshSignature(privateKeys.token, 'ES256', message));
    for (const [at, byte] of bytes.entries()) {
      for (let bit = 0; bit < 8; bit++)
        refusal(() => openSign1(bytes.with(at, byte ^ (1 << bit)), key, 'it'), 'invalid-request', `${at}.${bit}`);
      refusal(() => openSign1(bytes.subarray(0, at), key, 'it'), 'invalid-request', `cut at ${at}`);
    }
    for (const more of [0x00, 0xf6, 0xff]) refusal(() => openSign1(Buffer.concat([bytes, Uint8Array.of(more)]), key, 'it'));
  });

  it('does not accept a signature of one algorithm as one of another', () => {
    const message = toBeSigned(unhex('a10126'), payload);
    for (const made of ['RS256', 'PS256'] as const) {
      const signature = freshSignature(privateKeys.rsa, made, message);
      for (const asked of ['ES256', 'RS256', 'PS256'] as const) {
        expect(verifySignature(asked, publicKey('rsa'), message, signature), `${made} as ${asked}`).toBe(asked === made);
      }
    }
    const ecdsa = freshSignature(privateKeys.token, 'ES256', message);
    for (const asked of ['RS256', 'PS256'] as const) expect(verifySignature(asked, publicKey('token'), message, ecdsa)).toBe(false);
  });

  it.each([
    ['P-384', () => generateKeyPairSync('ec', { namedCurve: 'secp384r1' }), 'ES256'],
    ['secp256k1', () => generateKeyPairSync('ec', { namedCurve: 'secp256k1' }), 'ES256'],
    ['RSA of 1024 bits', () => generateKeyPairSync('rsa', { modulusLength: 1024 }), 'RS256'],
    ['RSA of 1024 bits', () => generateKeyPairSync('rsa', { modulusLength: 1024 }), 'PS256'],
    ['Ed25519', () => generateKeyPairSync('ed25519'), 'ES256'],
  ] as readonly (readonly [string, () => { publicKey: KeyObject; privateKey: KeyObject }, Algorithm])[])(
    'holds no signature under a key of %s to be valid',
    (name, make, algorithm) => {
      const pair = make();
      let signature = new Uint8Array(64);
      if (name !== 'Ed25519') signature = new Uint8Array(freshSignature(pair.privateKey, algorithm, payload));
      expect(verifySignature(algorithm, pair.publicKey, payload, signature)).toBe(false);
    },
  );

  it.each(['RS256', 'PS256'] as const)('holds no signature of %s to be valid without its leading zero, or with one more', (algorithm) => {
    for (let at = 0; ; at += 1) {
      const message = Buffer.from(`message ${at}`);
      const signature = freshSignature(privateKeys.rsa, algorithm, message);
      if (signature[0] !== 0) continue;
      expect(verifySignature(algorithm, publicKey('rsa'), message, signature)).toBe(true);
      expect(verifySignature(algorithm, publicKey('rsa'), message, signature.subarray(1))).toBe(false);
      expect(verifySignature(algorithm, publicKey('rsa'), message, Uint8Array.of(0, ...signature))).toBe(false);
      return;
    }
  });

  it('never throws on odd signatures', () => {
    for (const algorithm of ['ES256', 'RS256', 'PS256'] as const) {
      for (const name of ['token', 'rsa'] as const satisfies readonly KeyName[]) {
        for (const length of [0, 1, 63, 64, 65, 255, 256, 257, 5_000]) {
          for (const fill of [0, 1, 255])
            expect(verifySignature(algorithm, publicKey(name), payload, new Uint8Array(length).fill(fill))).toBe(false);
        }
      }
    }
  });

  it('refuses an empty signature, written or read', () => {
    refusal(() => makeSign1('ES256', keyIdOf(publicKey('token')), payload, () => new Uint8Array(0)), 'token-failed');
    refusal(() => decodeSign1(encodeSign1(protectedHeader('ES256', keyIdOf(publicKey('token'))), payload, new Uint8Array(0)), 'it'));
    refusal(() => decodeSign1(encodeSign1(protectedHeader('ES256', keyIdOf(publicKey('token'))), payload, new Uint8Array(1_025)), 'it'));
  });
});

describe('a key id', () => {
  it('is the beginning of SHA-256 over the SPKI', () => {
    const spki = spkiOf('token');
    expect(hex(keyIdOf(publicKeyFromSpki(spki)))).toBe(
      createHash('sha256')
        .update(spki)
        .digest('hex')
        .slice(0, 2 * keyIdBytes),
    );
    expect(hex(keyIdOfSpki(spki))).toBe(hex(keyIdOf(publicKey('token'))));
  });

  it('needs a SubjectPublicKeyInfo', () => {
    for (const text of ['', '3000', '04', hex(spkiOf('token')).slice(0, -2)]) refusal(() => publicKeyFromSpki(unhex(text)));
  });
});
