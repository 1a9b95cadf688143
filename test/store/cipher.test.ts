// What sealing a frame leaves behind besides the frame.
import { expect, test } from 'vitest';
import { pack, sealFrame } from '#store/cipher.ts';
import { dataKind } from '#store/format.ts';

const id = new Uint8Array(16);

test('the tag of a frame, which the next frame remembers, keeps no other memory alive', () => {
  const place = { kind: dataKind, index: 1, runIndex: 1, mountEpoch: 1, position: 0, ordinal: 1, previousTag: new Uint8Array(16) };
  const payload = Buffer.from('an invoice');
  const { bytes, tag } = sealFrame(new Uint8Array(32), { storeId: id, sealedFor: id }, 0, place, payload.length, pack(payload), 512);
  expect(bytes.includes(Buffer.from(tag))).toBe(true);
  expect(tag.buffer.byteLength).toBe(tag.length);
});
