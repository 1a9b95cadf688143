import { Decimal } from 'decimal.js';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { money, type RoundingMode } from '#ipc-schema/money.ts';
import { powerOfTen, quotient, scaled, scaledText, sumUnits, sumUnitsText } from '#ipc-schema/scaled.ts';

const seed = Number(process.env['SEED'] ?? 20_261_123);
const modes: readonly RoundingMode[] = ['half-up', 'half-even', 'down'];
const texts = fc
  .tuple(fc.bigInt({ min: 0n, max: 10n ** 15n - 1n }), fc.integer({ min: 0, max: 999_999 }), fc.integer({ min: 0, max: 6 }))
  .map(([whole, fraction, decimals]) => (decimals === 0 ? `${whole}` : `${whole}.${String(fraction).padStart(6, '0').slice(0, decimals)}`));

/** Value, decimals, then half-up, half-even, down. */
const roundings: readonly (readonly [string, number, string, string, string])[] = [
  ['0.005', 2, '0.01', '0.00', '0.00'],
  ['0.015', 2, '0.02', '0.02', '0.01'],
  ['0.025', 2, '0.03', '0.02', '0.02'],
  ['0.0249', 2, '0.02', '0.02', '0.02'],
  ['0.0251', 2, '0.03', '0.03', '0.02'],
  ['1.005', 2, '1.01', '1.00', '1.00'],
  ['2.5', 0, '3', '2', '2'],
  ['3.5', 0, '4', '4', '3'],
  ['999999999999999.995', 2, '1000000000000000.00', '1000000000000000.00', '999999999999999.99'],
  ['7', 3, '7.000', '7.000', '7.000'],
];

describe('a scaled amount', () => {
  it.each(roundings)('%s to %i decimals is rounded half up, half even, down', (text, decimals, ...expected) => {
    const units = scaled(text, 6);
    expect(modes.map((mode) => scaledText(quotient(units, powerOfTen(6 - decimals), mode), decimals))).toEqual(expected);
  });

  it('is not read in any other spelling, nor with more decimals than its scale', () => {
    for (const text of ['', '-1', '1e3', '-0', '0x10', '1_000', ' 1', '01', '.5', '5.', 'NaN'])
      expect(() => scaled(text, 6)).toThrow(RangeError);
    expect(() => scaled('1.005', 2)).toThrow(RangeError);
  });

  it(`is what was read (seed ${seed})`, () => {
    fc.assert(
      fc.property(texts, (text) => {
        expect(scaledText(scaled(text, 6), 6)).toBe(new Decimal(text).toFixed(6));
      }),
      { seed, numRuns: 500 },
    );
  });

  it(`divides as decimals of arbitrary precision do (seed ${seed})`, () => {
    const Exact = Decimal.clone({ precision: 80 });
    const roundingOf = { 'half-up': Decimal.ROUND_HALF_UP, 'half-even': Decimal.ROUND_HALF_EVEN, down: Decimal.ROUND_DOWN };
    const any = fc.bigInt({ min: 0n, max: 10n ** 30n });
    fc.assert(
      fc.property(any, any, fc.constantFrom(...modes), (dividend, less, mode) => {
        const divisor = less + 1n;
        const expected = new Exact(dividend.toString()).div(divisor.toString()).toDecimalPlaces(0, roundingOf[mode]).toFixed(0);
        expect(quotient(dividend, divisor, mode).toString()).toBe(expected);
        // Ties are rare among random numbers: halves of odd numbers are all ties.
        const tie = new Exact((2n * less + 1n).toString()).div(2).toDecimalPlaces(0, roundingOf[mode]).toFixed(0);
        expect(quotient(2n * less + 1n, 2n, mode).toString()).toBe(tie);
      }),
      { seed, numRuns: 1_000 },
    );
  });
});

describe('a running sum', () => {
  it(`is spelled as arbitrary decimals spell it (seed ${seed})`, () => {
    const sums = fc
      .tuple(fc.bigInt({ min: 0n, max: 10n ** 30n - 1n }), fc.integer({ min: 0, max: 999_999 }), fc.integer({ min: 0, max: 6 }))
      .map(([whole, fraction, decimals]) =>
        decimals === 0 ? `${whole}` : `${whole}.${String(fraction).padStart(6, '0').slice(0, decimals)}`,
      );
    fc.assert(
      fc.property(sums, texts, (sum, amount) => {
        expect(sumUnitsText(sumUnits(sum) + sumUnits(amount))).toBe(money(sum).plus(money(amount)).toFixed());
        expect(sumUnits(sum) >= sumUnits(amount)).toBe(money(sum).greaterThanOrEqualTo(money(amount)));
      }),
      { seed, numRuns: 2_000 },
    );
    expect(sumUnitsText(0n)).toBe('0');
    expect(sumUnitsText(sumUnits('100.50'))).toBe('100.5');
    expect(sumUnitsText(sumUnits('100.000000'))).toBe('100');
    expect(sumUnits('-0.5')).toBe(-500_000n);
  });

  it('is not read in any other spelling', () => {
    for (const text of ['', '-0', '1e3', '0x10', '01', '.5', '5.', 'NaN', '1.0000000', '1'.repeat(31)])
      expect(() => sumUnits(text)).toThrow(RangeError);
  });
});
