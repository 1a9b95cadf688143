// Owns: what is fuzzed: a decoder with inputs to begin from, and the judgement of one input.
// Invariants: a judgement returns for what was refused with a code of the closed table, and for what was decoded and says the very same when it is
// written again; it throws Changed where something came out otherwise, and whatever else it throws is the decoder's fault.
import { isDeepStrictEqual } from 'node:util';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';

export type Outcome = 'refused' | 'decoded';

/** Something was decoded and is not what stood there. */
export class Changed extends Error {}

export interface FuzzTarget {
  /** kebab-case; corpus and violations name it. */
  readonly name: string;
  /** Which mutations beside those of plain bytes. */
  readonly form: 'bytes' | 'cbor' | 'text';
  /** At least one; those of the vectors that are refused are worth as much as the good ones. */
  readonly seeds: readonly Uint8Array[];
  judge(input: Uint8Array): Outcome | Promise<Outcome>;
}

/** What a decoder may refuse with: it is the input's fault. */
const refusals: readonly ErrorCode[] = ['invalid-request', 'too-large'];

/** Whether the decoder refused as it should; throws what it threw where it should not have. */
export function isRefusal(thrown: unknown, codes: readonly ErrorCode[] = refusals): boolean {
  if (thrown instanceof UkeyError && codes.includes(thrown.code)) return true;
  throw thrown;
}

/** The decoded value in a box, or null for a refusal. */
export function decoded<T>(decode: () => T, codes?: readonly ErrorCode[]): { readonly value: T } | null {
  try {
    return { value: decode() };
  } catch (thrown) {
    isRefusal(thrown, codes);
    return null;
  }
}

export function same(what: string, a: Uint8Array, b: Uint8Array): void {
  if (Buffer.compare(a, b) !== 0) throw new Changed(`${what} is written again as other bytes`);
}

export function equal(what: string, a: unknown, b: unknown): void {
  if (!isDeepStrictEqual(a, b)) throw new Changed(`${what} is read again as another value`);
}

/** A format with one spelling: what is decoded is encoded to the very bytes that it came from. */
export function oneSpelling<T>(
  decode: (input: Uint8Array) => T,
  encode: (value: T) => Uint8Array,
  codes?: readonly ErrorCode[],
): FuzzTarget['judge'] {
  return (input) => {
    const found = decoded(() => decode(input), codes);
    if (found === null) return 'refused';
    same('what was decoded', encode(found.value), input);
    return 'decoded';
  };
}

/** A format with several spellings of one value: what is decoded, encoded and decoded again is the same value. */
export function oneMeaning<T>(
  decode: (input: Uint8Array) => T,
  encode: (value: T) => Uint8Array,
  codes?: readonly ErrorCode[],
): FuzzTarget['judge'] {
  return (input) => {
    const found = decoded(() => decode(input), codes);
    if (found === null) return 'refused';
    equal('what was decoded', decode(encode(found.value)), found.value);
    return 'decoded';
  };
}

export const utf8 = (text: string): Buffer => Buffer.from(text, 'utf8');
export const json = (value: unknown): Buffer => utf8(JSON.stringify(value));
