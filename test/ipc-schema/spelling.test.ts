// The two spellings of an ES256 signature: both hold, anybody can write the other one, and what is signed here is the low one.
import { sign } from 'node:crypto';
import { expect, test } from 'vitest';
import { decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import { decodeSign1, keyIdOf, makeSign1, verifySignature } from '#ipc-schema/cose.ts';
import { hasLowS, lowSpellingOf, otherSpellingOf } from '#ipc-schema/es256.ts';
import { isLowSeal, isOtherHash, isSameStatement, lowSeal, otherBatch, otherSeal } from '#ipc-schema/spelling.ts';
import { chainStart, verifyBatch, verifySeal } from '#ipc-schema/verify.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { hex, privateKeys, publicKey, unhex } from '#test/vectors/world.ts';

const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
const bytes32 = (value: bigint): string => value.toString(16).padStart(64, '0');
const withS = (s: bigint): Uint8Array => unhex(`${bytes32(7n)}${bytes32(s)}`);

test('the other spelling holds for the same message and key, and its other one is the first again', () => {
  for (let at = 0; at < 300; at += 1) {
    const message = Buffer.from(`message ${at}`);
    const signature = sign('sha256', message, { key: privateKeys.token, dsaEncoding: 'ieee-p1363' });
    const other = otherSpellingOf(signature) as Uint8Array;
    expect(hex(other)).not.toBe(hex(signature));
    expect(verifySignature('ES256', publicKey('token'), message, other)).toBe(true);
    expect(hasLowS(other)).toBe(!hasLowS(signature));
    expect(hex(otherSpellingOf(other) as Uint8Array)).toBe(hex(signature));
    expect(hex(lowSpellingOf(other))).toBe(hex(lowSpellingOf(signature)));
  }
});

test('is low up to n/2; an s out of range, or another length, has no spellings and stays as it is', () => {
  expect([1n, order / 2n, order / 2n + 1n, order - 1n].map((s) => hasLowS(withS(s)))).toEqual([true, true, false, false]);
  expect(hex(lowSpellingOf(withS(order - 1n)))).toBe(hex(withS(1n)));
  for (const odd of [withS(0n), withS(order), withS(order + 1n), withS(2n ** 256n - 1n), new Uint8Array(0), new Uint8Array(63)]) {
    expect(hasLowS(odd)).toBe(false);
    expect(otherSpellingOf(odd)).toBeNull();
    expect(lowSpellingOf(odd)).toBe(odd);
  }
});

test('whatever the signer returns, what is made of it is low', () => {
  const keyId = keyIdOf(publicKey('token'));
  for (const wanted of ['low', 'high'])
    for (let at = 0; at < 20; at += 1) {
      const made = makeSign1('ES256', keyId, Buffer.from(`payload ${at}`), (message) => {
        const low = lowSpellingOf(sign('sha256', message, { key: privateKeys.token, dsaEncoding: 'ieee-p1363' }));
        return wanted === 'low' ? low : (otherSpellingOf(low) as Uint8Array);
      });
      expect(hasLowS(decodeSign1(made, 'it').signature), wanted).toBe(true);
    }
});

test('a seal and its batch hold in both spellings, and are the same statement under two hashes', () => {
  const token = new BuiltToken();
  const { bytes, sealBytes } = token.batch(3);
  const other = otherSeal(sealBytes) as Uint8Array;
  expect(hex(sealHashOf(other))).not.toBe(hex(sealHashOf(sealBytes)));
  expect(verifySeal(other, token.publicKey)).toEqual(verifySeal(sealBytes, token.publicKey));
  expect([isLowSeal(sealBytes), isLowSeal(other)]).toEqual([true, false]);
  expect(hex(lowSeal(other))).toBe(hex(sealBytes));
  expect(isOtherHash(sealBytes, sealHashOf(other))).toBe(true);
  expect(isOtherHash(sealBytes, sealHashOf(sealBytes))).toBe(false);
  expect(isSameStatement(sealBytes, other)).toBe(true);
  expect(isSameStatement(sealBytes, token.batch(1).sealBytes)).toBe(false);
  // Also where the batch stands inside of other bytes.
  const inside = Buffer.concat([Buffer.alloc(9), bytes, Buffer.alloc(9)]).subarray(9, 9 + bytes.length);
  const batch = otherBatch(inside) as Uint8Array;
  expect(hex(inside)).toBe(hex(bytes));
  expect(hex(decodeBatch(batch).sealBytes)).toBe(hex(other));
  expect(decodeBatch(batch).entries).toEqual(decodeBatch(bytes).entries);
  expect(hex(otherBatch(batch) as Uint8Array)).toBe(hex(bytes));
  expect(verifyBatch(batch, token.publicKey, chainStart(new Uint8Array(0))).entries).toHaveLength(3);
});

test('a seal of RS256 has one spelling', () => {
  const { bytes, sealBytes } = new BuiltToken('RS256').batch(1);
  expect([otherSeal(sealBytes), otherBatch(bytes), isLowSeal(sealBytes)]).toEqual([null, null, true]);
  expect(lowSeal(sealBytes)).toBe(sealBytes);
});
