import { generateKeyPairSync, sign, verify } from 'node:crypto';
import { expect, test } from 'vitest';
import { es256Holds } from '#ipc-schema/es256.ts';

const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey;
const node = (message: Uint8Array, signature: Uint8Array): boolean =>
  verify('sha256', message, { key: publicKey, dsaEncoding: 'ieee-p1363' }, signature);

test('a signature holds for its message and key alone, whatever zeros and top bits r and s begin with', () => {
  const starts = new Set<string>();
  for (let at = 0; at < 2_000; at += 1) {
    const message = Buffer.from(`message ${at}`);
    const signature = sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' });
    for (const from of [0, 32]) starts.add(signature[from] === 0 ? 'zero' : (signature[from] ?? 0) >= 0x80 ? 'top bit' : 'plain');
    expect(es256Holds(publicKey, message, signature), signature.toString('hex')).toBe(true);
    if (at % 100 === 0) {
      expect(es256Holds(publicKey, Buffer.from('another'), signature)).toBe(false);
      expect(es256Holds(other, message, signature)).toBe(false);
    }
  }
  expect(starts).toEqual(new Set(['zero', 'top bit', 'plain']));
});

test('what is no signature is refused, as Node refuses it in the raw form', () => {
  const message = Buffer.from('message');
  const good = sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' });
  const half = (byte: number): Buffer => Buffer.alloc(32, byte);
  const order = Buffer.from('ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551', 'hex');
  const wrong = [
    ...[half(0), half(0xff), order, Buffer.concat([half(0).subarray(1), Buffer.of(1)])].flatMap((odd) => [
      Buffer.concat([odd, good.subarray(32)]),
      Buffer.concat([good.subarray(0, 32), odd]),
      Buffer.concat([odd, odd]),
    ]),
    ...Array.from({ length: 64 }, (_, at) => Buffer.from(good.map((byte, place) => (place === at ? byte ^ 1 : byte)))),
  ];
  for (const signature of wrong) {
    expect(node(message, signature)).toBe(false);
    expect(es256Holds(publicKey, message, signature), signature.toString('hex')).toBe(false);
  }
  for (const bytes of [0, 63, 65, 70, 128]) expect(es256Holds(publicKey, message, new Uint8Array(bytes))).toBe(false);
  expect(es256Holds(publicKey, message, sign('sha256', message, privateKey))).toBe(false);
});
