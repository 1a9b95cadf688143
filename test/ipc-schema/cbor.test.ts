import { decode, encode, rfc8949EncodeOptions } from 'cborg';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CborValue, cborHead, cborMaxDepth, cborMaxItems, decodeCbor, encodeCbor, FieldReader } from '#ipc-schema/cbor.ts';
import { refusal } from '#test/support/refusal.ts';

const seed = Number(process.env['SEED'] ?? 20_260_301);
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const read = (text: string): unknown => decodeCbor(Buffer.from(text, 'hex'), 'it');

/** RFC 8949 Appendix A, the rows that our formats can hold. */
const examples: readonly (readonly [string, CborValue])[] = [
  ['00', 0],
  ['01', 1],
  ['0a', 10],
  ['17', 23],
  ['1818', 24],
  ['1819', 25],
  ['1864', 100],
  ['1903e8', 1000],
  ['1a000f4240', 1_000_000],
  ['1b000000e8d4a51000', 1_000_000_000_000],
  ['20', -1],
  ['29', -10],
  ['3863', -100],
  ['3903e7', -1000],
  ['f4', false],
  ['f5', true],
  ['f6', null],
  ['40', new Uint8Array(0)],
  ['4401020304', Uint8Array.of(1, 2, 3, 4)],
  ['60', ''],
  ['6161', 'a'],
  ['6449455446', 'IETF'],
  ['62225c', '"\\'],
  ['62c3bc', '\u00fc'],
  ['63e6b0b4', '\u6c34'],
  ['64f0908591', '\u{10151}'],
  ['80', []],
  ['83010203', [1, 2, 3]],
  ['8301820203820405', [1, [2, 3], [4, 5]]],
  ['98190102030405060708090a0b0c0d0e0f101112131415161718181819', Array.from({ length: 25 }, (_, at) => at + 1)],
  ['a0', new Map()],
  [
    'a201020304',
    new Map([
      [1, 2],
      [3, 4],
    ]),
  ],
  [
    'a26161016162820203',
    new Map<string, CborValue>([
      ['a', 1],
      ['b', [2, 3]],
    ]),
  ],
];

/** Other spellings of values, or values that no format of ours has. */
const refused: readonly (readonly [string, string])[] = [
  ['nothing', ''],
  ['0 in two bytes', '1800'],
  ['23 in two bytes', '1817'],
  ['255 in three bytes', '1900ff'],
  ['65535 in five bytes', '1a0000ffff'],
  ['2^32-1 in nine bytes', '1b00000000ffffffff'],
  ['2^53', '1b0020000000000000'],
  ['2^64-1', '1bffffffffffffffff'],
  ['-2^53-1', '3b0020000000000000'],
  ['-2^53', '3b001fffffffffffff'],
  ['-1 in two bytes', '3800'],
  ['reserved additional information', '1c'],
  ['integer without a length', '1f'],
  ['half float 0.0', 'f90000'],
  ['half float -0.0', 'f98000'],
  ['half float 1.0', 'f93c00'],
  ['float 100000.0', 'fa47c35000'],
  ['double 1.1', 'fb3ff199999999999a'],
  ['infinity', 'f97c00'],
  ['not a number', 'f97e00'],
  ['undefined', 'f7'],
  ['simple value 16', 'f0'],
  ['simple value 255', 'f8ff'],
  ['false in two bytes', 'f814'],
  ['a break', 'ff'],
  ['bignum 2^64', 'c249010000000000000000'],
  ['date', 'c11a514b67b0'],
  ['encoded CBOR', 'd818456449455446'],
  ['self-described', 'd9d9f700'],
  ['bytes without a length', '5f42010243030405ff'],
  ['text without a length', '7f657374726561646d696e67ff'],
  ['array without a length', '9fff'],
  ['map without a length', 'bf61610161629f0203ffff'],
  ['bytes with a head too long', '5801aa'],
  ['text with a head too long', '780161'],
  ['array with a head too long', '980101'],
  ['map with a head too long', 'b8010102'],
  ['bytes cut', '43aabb'],
  ['text cut', '636161'],
  ['array cut', '820a'],
  ['map cut', 'a1'],
  ['map without the value', 'a101'],
  ['array of 2^53-1 items', '9b001fffffffffffff'],
  ['array of 2^32 items', '9b0000000100000000'],
  ['bytes of 2^53-1', '5b001fffffffffffff'],
  ['text that is no UTF-8', '62c328'],
  ['overlong text', '62c080'],
  ['a surrogate as text', '63eda080'],
  ['text beyond Unicode', '64f4908080'],
  ['map with a key twice', 'a201020103'],
  ['map out of order', 'a203040102'],
  ['map with the longer text first', 'a2626161016162 02'.replace(' ', '')],
  ['map with a key of bytes', 'a1410100'],
  ['map with a key of null', 'a1f600'],
  ['map with a key of an array', 'a18000'],
  ['one byte left over', '0000'],
];

const leaf = fc.oneof(
  fc.constant(null),
  fc.boolean(),
  fc.maxSafeInteger(),
  fc.nat({ max: 300 }),
  fc.uint8Array({ maxLength: 300 }),
  fc.string({ unit: 'grapheme', maxLength: 60 }).filter((text) => text.isWellFormed()),
);
const { value: anyValue } = fc.letrec<{ value: CborValue }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    leaf,
    fc.array(tie('value'), { maxLength: 30 }),
    fc
      .uniqueArray(fc.tuple(fc.oneof(fc.maxSafeInteger(), fc.string({ maxLength: 30 })), tie('value')), {
        selector: ([key]) => key,
        maxLength: 6,
      })
      .map((pairs) => new Map(pairs)),
  ),
}));

describe('CBOR', () => {
  it.each(examples)('reads and writes %s of RFC 8949 as it stands there', (text, value) => {
    expect(read(text)).toEqual(value);
    expect(hex(encodeCbor(value))).toBe(text);
  });

  it.each(refused)('refuses %s', (name, text) => {
    refusal(() => read(text), 'invalid-request', name);
  });

  it(`gives back what was written (seed ${seed})`, () => {
    fc.assert(
      fc.property(anyValue, (value) => {
        const bytes = encodeCbor(value);
        expect(decodeCbor(bytes, 'it')).toEqual(value);
      }),
      { seed, numRuns: 500 },
    );
  });

  it(`understands what another reader understands (seed ${seed})`, () => {
    fc.assert(
      fc.property(anyValue, (value) => {
        const bytes = encodeCbor(value);
        expect(decode(bytes, { useMaps: true, strict: true })).toEqual(decodeCbor(bytes, 'it'));
      }),
      { seed, numRuns: 300 },
    );
  });

  it(`writes what another writer writes (seed ${seed})`, () => {
    fc.assert(
      fc.property(anyValue, (value) => {
        expect(hex(encodeCbor(value))).toBe(hex(encode(value, rfc8949EncodeOptions)));
      }),
      { seed, numRuns: 1_000 },
    );
    for (const edge of [23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
      for (const value of [edge, -edge, -1 - edge].filter(Number.isSafeInteger)) {
        expect(hex(encodeCbor(value))).toBe(hex(encode(value, rfc8949EncodeOptions)));
      }
    }
    for (const length of [23, 24, 255, 256, 65_535, 65_536, 70_000]) {
      for (const value of ['é'.repeat(length), new Uint8Array(length), Array.from({ length }, () => 1)]) {
        expect(hex(encodeCbor(value))).toBe(hex(encode(value, rfc8949EncodeOptions)));
      }
    }
  });

  it(`accepts of any bytes only those that it would write itself (seed ${seed})`, () => {
    let accepted = 0;
    const attempt = (bytes: Uint8Array): void => {
      let value: unknown;
      try {
        value = decodeCbor(bytes, 'it');
      } catch (error) {
        expect(error).toHaveProperty('code', 'invalid-request');
        return;
      }
      accepted++;
      expect(hex(encodeCbor(value as CborValue))).toBe(hex(bytes));
    };
    fc.assert(fc.property(fc.uint8Array({ minLength: 1, maxLength: 12 }), attempt), { seed, numRuns: 20_000 });
    fc.assert(
      fc.property(anyValue, fc.nat(), fc.nat({ max: 255 }), (value, at, byte) => {
        const bytes = encodeCbor(value);
        attempt(bytes.with(at % bytes.length, byte));
      }),
      { seed, numRuns: 2_000 },
    );
    expect(accepted).toBeGreaterThan(100);
  });

  it('refuses deep nesting without exhausting the stack', () => {
    expect(read(`${'81'.repeat(cborMaxDepth)}00`)).toBeDefined();
    refusal(() => read(`${'81'.repeat(cborMaxDepth + 1)}00`));
    refusal(() => read('81'.repeat(700_000)));
    refusal(() => read('a100'.repeat(300_000)));
  });

  it('reads so many items and no more, whatever they are', () => {
    const full = (item: CborValue, count: number): Uint8Array => encodeCbor(Array.from({ length: count }, () => item));
    for (const item of [0, null, '', new Uint8Array(0), [], new Map()]) {
      expect(decodeCbor(full(item, cborMaxItems), 'it')).toHaveLength(cborMaxItems);
      refusal(() => decodeCbor(full(item, cborMaxItems + 1), 'it'));
    }
    const map = (count: number): Uint8Array => encodeCbor(new Map(Array.from({ length: count }, (_, key) => [key, key])));
    expect(decodeCbor(map(cborMaxItems / 2), 'it')).toHaveProperty('size', cborMaxItems / 2);
    refusal(() => decodeCbor(map(cborMaxItems / 2 + 1), 'it'));
    const pairs = cborMaxItems / 4;
    expect(decodeCbor(full([0, 0, 0], pairs), 'it')).toHaveLength(pairs);
    refusal(() => decodeCbor(encodeCbor([[], ...Array.from({ length: pairs }, () => [0, 0, 0])]), 'it'));
  });

  it('is cheap to refuse, however much is promised', () => {
    const bomb = Buffer.concat([cborHead(4, 8_000_000), Buffer.alloc(8_000_000, 0xa0)]);
    const before = process.cpuUsage();
    refusal(() => decodeCbor(bomb, 'it'));
    expect(process.cpuUsage(before).user).toBeLessThan(200_000);
  });

  it('copies byte strings out of the buffer they came in', () => {
    const buffer = Buffer.from('43010203', 'hex');
    const value = decodeCbor(buffer, 'it') as Uint8Array;
    buffer.fill(0xff);
    expect([...value]).toEqual([1, 2, 3]);
    expect(Buffer.isBuffer(value)).toBe(false);
  });

  it.each([1.5, -0, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, '\ud800', ['\udfff'], new Map([[1, 0.5]])] as CborValue[])(
    'does not write %s, which it would not read',
    (value) => {
      refusal(() => encodeCbor(value), 'internal');
    },
  );

  it('writes heads of every width', () => {
    for (const length of [0, 23, 24, 255, 256, 65_535, 65_536, 100_000]) {
      expect(hex(cborHead(2, length))).toBe(hex(encodeCbor(new Uint8Array(length)).subarray(0, cborHead(2, length).length)));
      expect(cborHead(4, length)[0]).toBe((cborHead(2, length)[0] ?? 0) + 0x40);
    }
  });
});

describe('a field reader', () => {
  it('reads fields in order, each of its type', () => {
    const fields = new FieldReader('it', [1, 5, null, 'a', null, 7, Uint8Array.of(1), [2], 12]);
    fields.version(1);
    expect([fields.count('a'), fields.countOrNull('b'), fields.text('c'), fields.textOrNull('d'), fields.instantMs('e')]).toEqual([
      5,
      null,
      'a',
      null,
      7,
    ]);
    expect([...fields.bytes('f', 1)]).toEqual([1]);
    expect(fields.list('g')).toEqual([2]);
    expect(fields.left).toBe(1);
    expect(fields.any('h')).toBe(12);
    fields.end();
  });

  it.each([
    ['a count below zero', (fields: FieldReader) => fields.count('x'), -1],
    ['a count as text', (fields: FieldReader) => fields.count('x'), '1'],
    ['a count or null that is true', (fields: FieldReader) => fields.countOrNull('x'), true],
    ['text that is bytes', (fields: FieldReader) => fields.text('x'), Uint8Array.of(1)],
    ['text or null that is 0', (fields: FieldReader) => fields.textOrNull('x'), 0],
    ['bytes that are text', (fields: FieldReader) => fields.bytes('x'), 'a'],
    ['bytes of another length', (fields: FieldReader) => fields.bytes('x', 2), Uint8Array.of(1)],
    ['a list that is a map', (fields: FieldReader) => fields.list('x'), new Map()],
    ['an instant that no calendar has', (fields: FieldReader) => fields.instantMs('x'), 253_402_300_800_000],
    ['another version', (fields: FieldReader) => fields.version(1), 2],
  ] as const)('refuses %s', (name, take, value) => {
    refusal(() => take(new FieldReader('it', [value])), 'invalid-request', name);
  });

  it('refuses what is no array, what is missing and what is left', () => {
    refusal(() => new FieldReader('it', new Map()));
    refusal(() => new FieldReader('it', { length: 1, 0: 1 }));
    refusal(() => new FieldReader('it', []).any('x'));
    refusal(() => new FieldReader('it', [1]).end());
  });
});
