// Owns: the only door to decimal arithmetic. Amounts cross borders as decimal strings (`-?digits[.digits]`, no exponent, no leading zeros)
// and are computed with decimal.js at a precision no invoice can exhaust; never a float.
// Must not: know templates or invoices.
import { Decimal } from 'decimal.js';

/** EN 16931 and most tax rules round half up, away from zero; some ask for half even. */
export type RoundingMode = 'half-up' | 'half-even' | 'down';

const exact = Decimal.clone({ precision: 60, toExpNeg: -60, toExpPos: 60, rounding: Decimal.ROUND_HALF_UP });
/** Spelling of a decimal on the wire: at most 15 digits before and 6 after the point; no minus before nothing. */
export const decimalPattern = /^(?!-0(?:\.0+)?$)-?(?:0|[1-9]\d{0,14})(?:\.\d{1,6})?$/;
export const nonNegativePattern = /^(?:0|[1-9]\d{0,14})(?:\.\d{1,6})?$/;
export const positivePattern = /^(?!0(?:\.0+)?$)(?:0|[1-9]\d{0,14})(?:\.\d{1,6})?$/;
/** Sums over many documents (backlog, budget) may outgrow a single amount: 30 digits before the point. */
export const sumPattern = /^(?!-0(?:\.0+)?$)-?(?:0|[1-9]\d{0,29})(?:\.\d{1,6})?$/;

export type Money = Decimal;

/** Throws RangeError when the text is not a decimal of the wire's spelling (sums included); schemas check first. */
export function money(text: string): Money {
  if (!sumPattern.test(text)) throw new RangeError('not a decimal string');
  return new exact(text);
}

export const zero: Money = new exact(0);

/** Fixed number of decimals, as printed and signed. The value must already be rounded. */
export function moneyText(value: Money, decimals: number): string {
  return (value.isZero() ? zero : value).toFixed(decimals);
}

/** What most currencies have, where no template says otherwise. */
export const usualDecimals = 2;

/** A sum as printed: at least so many decimals, and more where it has more: nothing is rounded away. */
export function sumTextOf(value: Money, decimalsMin: number = usualDecimals): string {
  return moneyText(value, Math.max(decimalsMin, value.decimalPlaces()));
}

/** Digits after the point that the text carries. */
export function decimalsOf(text: string): number {
  const point = text.indexOf('.');
  return point < 0 ? 0 : text.length - point - 1;
}
