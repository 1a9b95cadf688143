// Owns: a second opinion on JSON: whether a value says exactly what the text says. By the engine's own reader with the source of each number, and
// whole-number arithmetic; nothing of ipc-schema/json.ts.
import { isDeepStrictEqual } from 'node:util';
import { Changed } from './target.ts';

/** Decimal as sign, digits without zeros at their end, power of ten. */
function decimalOf(text: string): { readonly digits: bigint; readonly exponent: number } {
  const [, sign = '', whole = '', fraction = '', power = '0'] = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(text) ?? [];
  let digits = BigInt(`${sign}${whole}${fraction}`);
  let exponent = Number(power) - fraction.length;
  while (digits !== 0n && digits % 10n === 0n) {
    digits /= 10n;
    exponent += 1;
  }
  return digits === 0n ? { digits, exponent: 0 } : { digits, exponent };
}

const isSameNumber = (a: string, b: string): boolean => isDeepStrictEqual(decimalOf(a), decimalOf(b));

/** Throws Changed where the value is not what the text says, and where the text could be read as two things. */
export function exactMeaning(input: Uint8Array, value: unknown): void {
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(input);
  let members = 0;
  const again: unknown = JSON.parse(text, (_key, part: unknown, context?: { readonly source?: string }) => {
    members += 1;
    if (typeof part === 'number' && !isSameNumber(String(part), context?.source ?? ''))
      throw new Changed(`the number ${context?.source} was taken as ${part}`);
    if (typeof part === 'string' && !part.isWellFormed()) throw new Changed('a lone surrogate was taken');
    return part;
  });
  if (!isDeepStrictEqual(again, value)) throw new Changed('the value is not what the text says');
  // A key that stands there twice is one member of the value and two of the text.
  const written = membersIn(text);
  if (written !== members) throw new Changed(`${written} values stand in the text, and ${members} came out`);
}

/** Values in a JSON text: one for each scalar, each array and each object; a key is none. */
function membersIn(text: string): number {
  const words = text.match(/"(?:\\.|[^"\\])*"|-?\d[\d.eE+-]*|true|false|null|[[{]/g) ?? [];
  const keys = text.match(/"(?:\\.|[^"\\])*"\s*:/g) ?? [];
  return words.length - keys.length;
}
