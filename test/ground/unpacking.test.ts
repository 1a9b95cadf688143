// Packed bytes come out as what they were, at once and aside, or not at all.
import { randomBytes } from 'node:crypto';
import { zstdCompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { mapUnpacked, type Packed, unpack, unpackAside } from '#ground/unpacking.ts';

const plainOf = (bytes: number): Buffer =>
  Buffer.from(
    randomBytes(Math.ceil(bytes / 8))
      .toString('hex')
      .repeat(4)
      .slice(0, bytes),
  );
const packedFrom = (plain: Uint8Array): Packed => ({ isZstd: true, bytes: zstdCompressSync(plain), plainBytes: plain.length });

/** Below and above what goes to a thread. */
const sizes = [1, 63, 64, 2_000, 16 * 1024 - 1, 16 * 1024, 300_000];
const ways = [
  { name: 'at once', open: async (packed: Packed) => unpack(packed) },
  { name: 'aside', open: unpackAside },
];

describe.each(ways)('$name', ({ open }) => {
  test.each(sizes)('%i bytes come back', async (size) => {
    const plain = plainOf(size);
    const unpacked = await open(packedFrom(plain));
    expect(Buffer.compare(unpacked ?? Buffer.alloc(0), plain)).toBe(0);
  });

  test('what stands as it is comes as it is', async () => {
    const bytes = plainOf(100);
    expect(await open({ isZstd: false, bytes, plainBytes: bytes.length })).toBe(bytes);
  });

  test.each(sizes)('%i bytes: more or less than announced is nothing', async (size) => {
    const packed = packedFrom(plainOf(size));
    expect(await open({ ...packed, plainBytes: size - 1 })).toBeNull();
    expect(await open({ ...packed, plainBytes: size + 1 })).toBeNull();
  });

  test('more than memory can hold is nothing', async () => {
    expect(await open({ ...packedFrom(plainOf(100)), plainBytes: 2 ** 52 })).toBeNull();
  });

  test.each([2_000, 300_000])('%i bytes: what is no zstd, or cut short, is nothing', async (size) => {
    const packed = packedFrom(plainOf(size));
    expect(await open({ ...packed, bytes: packed.bytes.subarray(0, -1) })).toBeNull();
    expect(await open({ ...packed, bytes: plainOf(size) })).toBeNull();
  });
});

describe('lent one by one', () => {
  const plains = [100, 200_000, 300, 100_000, 40_000, 70_000, 500].map(plainOf);
  const all = plains.map(packedFrom);
  const lengths = plains.map(({ length }) => length);

  test('each comes in order, as it was, and its memory is given back', async () => {
    const seen: Uint8Array[] = [];
    const found = await mapUnpacked(all, (bytes, place) => {
      seen.push(bytes);
      return Buffer.compare(bytes, plains[place] ?? Buffer.alloc(0)) === 0 ? bytes.length : null;
    });
    expect(found).toEqual(lengths);
    // What is small stands in Node's pool, beside what is others'.
    expect(seen.map(({ length }) => length)).toEqual(lengths.map((length) => (length >= Buffer.poolSize ? 0 : length)));
  });

  test('what stands as it is stays whole: it is not ours', async () => {
    const bytes = plainOf(200_000);
    const lent = await mapUnpacked([{ isZstd: false, bytes, plainBytes: bytes.length }], (each) => each);
    expect(lent.map(({ length }) => length)).toEqual([bytes.length]);
  });

  test('many small ones let others have their turn', async () => {
    let turns = 0;
    let isOver = false;
    const turn = (): void => {
      turns += 1;
      if (!isOver) setImmediate(turn);
    };
    setImmediate(turn);
    const small = packedFrom(plainOf(2_000));
    await mapUnpacked(
      Array.from({ length: 320 }, () => small),
      () => null,
    );
    isOver = true;
    expect(turns).toBeGreaterThanOrEqual(9); // 640,000 bytes, 64 KiB a turn
  });

  test.each([0, 1, 2, 6])('nothing behind the one at place %i, which does not unpack', async (at) => {
    const spoilt = all.map((packed, place) => (place === at ? { ...packed, bytes: Buffer.alloc(20) } : packed));
    expect(await mapUnpacked(spoilt, (_, place) => place)).toEqual(all.map((_, place) => place).slice(0, at));
  });
});
