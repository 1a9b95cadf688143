import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { codeOf } from '#test/suites/token-suite.ts';
import { deriveBoxKey, mustOpenBox, openBox, sealBox } from '#token/key-box.ts';

describe('a box', () => {
  const key = randomBytes(32);
  const secret = Buffer.from('thirty-two bytes of a data key..');

  test('opens with its key and purpose only', () => {
    const box = sealBox(key, secret, 'a');
    expect(openBox(key, box, 'a')).toEqual(secret);
    expect(openBox(key, box, 'b')).toBeNull();
    expect(openBox(randomBytes(32), box, 'a')).toBeNull();
    expect(codeOf(() => mustOpenBox(key, box, 'b'))).toBe('token-failed');
  });

  test('does not open when any byte is changed, missing or added', () => {
    const box = sealBox(key, secret, 'a');
    for (let at = 0; at < box.length; at += 1) {
      const damaged = Buffer.from(box);
      damaged[at] = (damaged[at] ?? 0) ^ 0x10;
      expect(openBox(key, damaged, 'a')).toBeNull();
      expect(openBox(key, box.subarray(0, at), 'a')).toBeNull();
    }
    expect(openBox(key, Buffer.concat([box, Buffer.from([0])]), 'a')).toBeNull();
  });

  test('is another each time', () => {
    expect(sealBox(key, secret, 'a').equals(sealBox(key, secret, 'a'))).toBe(false);
  });

  test('its key is HKDF-SHA-256 (RFC 5869, test case 3: no salt, no info; first 32 bytes), and the purpose separates', () => {
    const secretOfRfc = Buffer.alloc(22, 0x0b);
    expect(deriveBoxKey(secretOfRfc, Buffer.alloc(0), '').toString('hex')).toBe(
      '8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d',
    );
    expect(deriveBoxKey(secretOfRfc, Buffer.alloc(0), 'a').equals(deriveBoxKey(secretOfRfc, Buffer.alloc(0), 'b'))).toBe(false);
  });
});
