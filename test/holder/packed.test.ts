// Batches that were read packed come out in order, and nothing stands behind one that does not unpack.
import { zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import type { PackedBatch } from '#holder/holder.ts';
import { mapUnpacked, unpackBatches } from '#holder/packed.ts';

/** Large ones are unpacked in other threads, which end in any order. */
const sizes = [100, 200_000, 300, 100_000, 40_000, 70_000, 500];
const plain = (batchIndex: number, bytes: number): Buffer => Buffer.alloc(bytes, `batch ${batchIndex} `);

const batches: readonly PackedBatch[] = sizes.map((size, at) => ({
  batchIndex: 7 + at,
  packed: { isZstd: true, bytes: zstdCompressSync(plain(7 + at, size)), plainBytes: size },
}));
const spoilt = (at: number): PackedBatch[] =>
  batches.map((batch, place) => (place === at ? { ...batch, packed: { ...batch.packed, bytes: Buffer.alloc(20) } } : batch));

test('in order, each as it was', async () => {
  const unpacked = await unpackBatches(batches);
  expect(
    unpacked.map(({ batchIndex, bytes }) => [batchIndex, Buffer.compare(bytes, plain(batchIndex, bytes.length)), bytes.length]),
  ).toEqual(sizes.map((size, at) => [7 + at, 0, size]));
});

test.each([1, 2, 6])('what stands before the one at place %i is handed out, and nothing behind it', async (at) => {
  expect((await unpackBatches(spoilt(at))).map(({ batchIndex }) => batchIndex)).toEqual(
    batches.slice(0, at).map(({ batchIndex }) => batchIndex),
  );
});

test('the first that does not unpack is named', async () => {
  await expect(unpackBatches(spoilt(0))).rejects.toMatchObject({ code: 'halted', message: expect.stringContaining('batch 7') });
});

test('lent one by one they are the same, and their memory is given back', async () => {
  const seen: Uint8Array[] = [];
  const sums = await mapUnpacked(batches, ({ batchIndex, bytes }) => {
    seen.push(bytes);
    return [batchIndex, Buffer.compare(bytes, plain(batchIndex, bytes.length)), bytes.length];
  });
  expect(sums).toEqual(sizes.map((size, at) => [7 + at, 0, size]));
  // What is small stands in Node's pool, beside what is others'.
  expect(seen.map(({ length }) => length)).toEqual(sizes.map((size) => (size >= Buffer.poolSize ? 0 : size)));
});

test('what is lent as it was read stays whole', async () => {
  const bytes = plain(7, 200_000);
  const lent = await mapUnpacked([{ batchIndex: 7, packed: { isZstd: false, bytes, plainBytes: bytes.length } }], (batch) => batch.bytes);
  expect(lent).toEqual([plain(7, 200_000)]);
});

test.each([1, 2, 6])('lent: nothing behind the one at place %i that does not unpack', async (at) => {
  const lent = await mapUnpacked(spoilt(at), ({ batchIndex }) => batchIndex);
  expect(lent).toEqual(batches.slice(0, at).map(({ batchIndex }) => batchIndex));
});

test('lent: the first that does not unpack is named', async () => {
  await expect(mapUnpacked(spoilt(0), () => 1)).rejects.toMatchObject({ code: 'halted', message: expect.stringContaining('batch 7') });
});
