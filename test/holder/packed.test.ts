// Batches that were read packed come out in order, and nothing stands behind one that does not unpack.
import { zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import type { PackedBatch } from '#holder/holder.ts';
import { unpackBatches } from '#holder/packed.ts';

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
