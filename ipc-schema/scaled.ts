// Owns: amounts as whole numbers of a decimal unit (`scale` digits after the point), in BigInt: exact at any size, and several times
// quicker than arbitrary decimals. For what every document passes: its own arithmetic (nothing in it is negative), the running sum, the limits.
// Invariants: a result is rounded once, from the exact quotient; texts in and out have the wire's spelling (money.ts).
import { unreachable } from './errors.ts';
import { nonNegativePattern, type RoundingMode, sumPattern } from './money.ts';

const powers: readonly bigint[] = Array.from({ length: 31 }, (_, at) => 10n ** BigInt(at));

/** 10^exponent, for exponents from 0 to 30. */
export function powerOfTen(exponent: number): bigint {
  const power = powers[exponent];
  if (power === undefined) throw new RangeError(`no power of ten ${exponent}`);
  return power;
}

/** Whole number of units of 10^-scale. Throws RangeError when the text is no decimal of the wire's spelling, or has more than `scale` decimals. */
export function scaled(text: string, scale: number): bigint {
  if (!nonNegativePattern.test(text)) throw new RangeError('not a decimal string');
  const point = text.indexOf('.');
  if (point < 0) return BigInt(text) * powerOfTen(scale);
  const missing = scale - (text.length - point - 1);
  return BigInt(text.slice(0, point) + text.slice(point + 1)) * powerOfTen(missing);
}

/** dividend / divisor as a whole number. Neither is negative, the divisor is not zero. */
export function quotient(dividend: bigint, divisor: bigint, mode: RoundingMode): bigint {
  const whole = dividend / divisor;
  const twiceRest = 2n * (dividend - whole * divisor);
  switch (mode) {
    case 'down':
      return whole;
    case 'half-up':
      return twiceRest >= divisor ? whole + 1n : whole;
    case 'half-even':
      return twiceRest > divisor || (twiceRest === divisor && whole % 2n === 1n) ? whole + 1n : whole;
    default:
      return unreachable(mode);
  }
}

/** Always with `scale` decimals, as printed and signed. */
export function scaledText(units: bigint, scale: number): string {
  const digits = units.toString().padStart(scale + 1, '0');
  return scale === 0 ? digits : `${digits.slice(0, -scale)}.${digits.slice(-scale)}`;
}

/** Decimals that any amount or sum on the wire may have. */
export const wireDecimals = 6;

/** A sum or an amount in units of 10^-wireDecimals. Throws RangeError as `money` does. */
export function sumUnits(text: string): bigint {
  if (!sumPattern.test(text)) throw new RangeError('not a decimal string');
  const point = text.indexOf('.');
  if (point < 0) return BigInt(text) * powerOfTen(wireDecimals);
  return BigInt(text.slice(0, point) + text.slice(point + 1).padEnd(wireDecimals, '0'));
}

/** The shortest spelling: no zero at the end of a fraction, and no point without one. Not for negative sums. */
export function sumUnitsText(units: bigint): string {
  const text = scaledText(units, wireDecimals);
  let end = text.length;
  while (text.charCodeAt(end - 1) === 0x30) end -= 1;
  return text.slice(0, text.charCodeAt(end - 1) === 0x2e ? end - 1 : end);
}
