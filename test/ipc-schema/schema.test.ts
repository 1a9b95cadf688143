// Shows: texts that are taken without their checks one by one are texts that the checks take, and nothing else is taken; base32 is RFC 4648's.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeBase32, encodeBase32 } from '#ipc-schema/evidence.ts';
import { nonNegativeDecimalText, positiveDecimalText, text, type z } from '#ipc-schema/schema.ts';

/** The same checks, without the short way: what is derived from a schema does not have it. */
const checksOf = (schema: z.ZodString): z.ZodString => schema.regex(/(?:)/u);

const decimals = fc.oneof(
  fc
    .tuple(fc.bigInt({ min: -20n, max: 10n ** 17n }), fc.string({ unit: fc.constantFrom(...'0123456789'), maxLength: 8 }))
    .map(([whole, rest]) => (rest === '' ? String(whole) : `${whole}.${rest}`)),
  fc.string({ unit: fc.constantFrom(...'0123456789.-+e '), maxLength: 24 }),
);
const anyText = fc.oneof(
  fc.string({ maxLength: 80 }),
  fc.string({ unit: 'grapheme', maxLength: 80 }),
  fc.string({ unit: 'binary', maxLength: 80 }),
  fc.string({ unit: fc.constantFrom(' ', '\t', '\u007f', '\u00a0', '\u200b', '\u2028', '\u202e', '\u2800', 'a', '😀'), maxLength: 12 }),
);

describe('the short way of a text', () => {
  test.each([
    ['of 1 to 300 characters', text(1, 300), anyText],
    ['of 1 to 6', text(1, 6), anyText],
    ['that may be empty', text(0, 20), anyText],
    ['decimal, not below zero', nonNegativeDecimalText, decimals],
    ['decimal, above zero', positiveDecimalText, decimals],
  ] as const)('%s: what it takes and refuses is what the checks take and refuse', (_, schema, values) => {
    const checks = checksOf(schema);
    let taken = 0;
    const compare = (value: unknown): void => {
      const [short, long] = [schema.safeParse(value), checks.safeParse(value)];
      expect(short.success).toBe(long.success);
      if (short.success) taken += 1;
      else expect(short.error.issues.map(({ code }) => code)).toEqual(long.error?.issues.map(({ code }) => code));
    };
    fc.assert(fc.property(values, compare), { numRuns: 3_000, seed: 20261128 });
    for (const value of [undefined, null, 0, true, [], {}, ' ', '', 'a'.repeat(301)]) compare(value);
    expect(taken).toBeGreaterThan(100);
  });
});

test('a long text that is no ASCII at its end costs no more than another', () => {
  const checks = text(1, 4_096);
  const ms = (value: string): number => {
    const before = process.cpuUsage(); // whatever else the machine does
    for (let at = 0; at < 50; at += 1) checks.safeParse(value);
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1_000;
  };
  ms('x'.repeat(4_095));
  expect(ms(`${'x'.repeat(4_095)}é`)).toBeLessThan(200); // each character looked at again for each before it: 650
});

test('base32 of any length is that of RFC 4648 §10, without padding', () => {
  const vectors = { '': '', f: 'MY', fo: 'MZXQ', foo: 'MZXW6', foob: 'MZXW6YQ', fooba: 'MZXW6YTB', foobar: 'MZXW6YTBOI' };
  for (const [plain, spelled] of Object.entries(vectors)) expect(encodeBase32(Buffer.from(plain))).toBe(spelled);
  fc.assert(fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => void expect(decodeBase32(encodeBase32(bytes))).toEqual(bytes)));
});
