import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decimalPattern, decimalsOf, money, moneyText, nonNegativePattern, positivePattern, sumPattern, zero } from '#ipc-schema/money.ts';

const seed = Number(process.env['SEED'] ?? 20_260_304);

/** Text, then whether it is any decimal, one not below zero, one above zero. */
const spellings: readonly (readonly [string, boolean, boolean, boolean])[] = [
  ['0', true, true, false],
  ['0.00', true, true, false],
  ['0.01', true, true, true],
  ['1', true, true, true],
  ['12.50', true, true, true],
  ['999999999999999.999999', true, true, true],
  ['-1', true, false, false],
  ['-0.01', true, false, false],
  ['-0', false, false, false],
  ['-0.00', false, false, false],
  ['', false, false, false],
  ['.5', false, false, false],
  ['5.', false, false, false],
  ['01', false, false, false],
  ['00', false, false, false],
  ['+1', false, false, false],
  ['1e3', false, false, false],
  ['1,5', false, false, false],
  ['1 ', false, false, false],
  ['1\n', false, false, false],
  ['0x1', false, false, false],
  ['Infinity', false, false, false],
  ['NaN', false, false, false],
  ['١', false, false, false],
  ['1000000000000000', false, false, false],
  ['0.0000001', false, false, false],
];

describe('a decimal', () => {
  it.each(spellings)('spelled %j', (text, any, nonNegative, positive) => {
    expect([decimalPattern, nonNegativePattern, positivePattern].map((pattern) => pattern.test(text))).toEqual([
      any,
      nonNegative,
      positive,
    ]);
  });

  it('of a sum may have 30 digits before the point', () => {
    expect(sumPattern.test(`${'9'.repeat(30)}.99`)).toBe(true);
    expect(sumPattern.test('9'.repeat(31))).toBe(false);
    expect(moneyText(money('9'.repeat(30)), 0)).toBe('9'.repeat(30));
  });

  it('is not read in any other spelling', () => {
    for (const text of ['', '1e3', '-0', '0x10', '1_000', ' 1', 'NaN']) expect(() => money(text)).toThrow(RangeError);
  });

  it('that is nothing is written without a sign', () => {
    expect(moneyText(zero.times(-1), 2)).toBe('0.00');
  });

  it('says how many decimals its text carries', () => {
    expect(['1', '1.5', '1.500', '-0.01'].map(decimalsOf)).toEqual([0, 1, 3, 2]);
  });

  it(`adds and multiplies exactly, as integers do (seed ${seed})`, () => {
    const cents = fc.bigInt({ min: 0n, max: 10n ** 17n - 1n });
    const text = (value: bigint): string => `${value / 100n}.${String(value % 100n).padStart(2, '0')}`;
    fc.assert(
      fc.property(cents, cents, (a, b) => {
        expect(moneyText(money(text(a)).plus(money(text(b))), 2)).toBe(text(a + b));
        const product = a * b;
        expect(moneyText(money(text(a)).times(money(text(b))), 4)).toBe(
          `${product / 10_000n}.${String(product % 10_000n).padStart(4, '0')}`,
        );
      }),
      { seed, numRuns: 300 },
    );
  });
});
