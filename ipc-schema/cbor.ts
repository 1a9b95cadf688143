// Owns: the only door to CBOR. Deterministic encoding (RFC 8949 §4.2.1) out; strict decoding in: shortest integers and lengths,
// definite lengths, no tags, no floats where a number is expected by the readers below, no duplicate map keys, nothing left over.
// Must not: know what any array means; the files that own a format name their fields through `reader`.
import { decode, encode, rfc8949EncodeOptions } from 'cborg';
import { UkeyError } from './errors.ts';

export type CborValue = null | boolean | number | string | Uint8Array | readonly CborValue[] | ReadonlyMap<number | string, CborValue>;

export function encodeCbor(value: CborValue): Uint8Array {
  return encode(value, rfc8949EncodeOptions);
}

/** Throws invalid-request for any spelling but the deterministic one. `what` names the thing for the message. */
export function decodeCbor(bytes: Uint8Array, what: string): unknown {
  try {
    return decode(bytes, {
      strict: true,
      allowIndefinite: false,
      allowUndefined: false,
      allowInfinity: false,
      allowNaN: false,
      allowBigInt: false,
      rejectDuplicateMapKeys: true,
      useMaps: true,
    });
  } catch (cause) {
    throw malformed(what, 'is not deterministic CBOR', cause);
  }
}

/** `[…]` headers of definite arrays and byte strings, for formats that are concatenated from finished parts. */
export function cborHead(major: 2 | 4, length: number): Uint8Array {
  const top = major << 5;
  if (length < 24) return Uint8Array.of(top | length);
  if (length < 0x100) return Uint8Array.of(top | 24, length);
  if (length < 0x10000) return Uint8Array.of(top | 25, length >> 8, length & 0xff);
  return Uint8Array.of(top | 26, (length >>> 24) & 0xff, (length >>> 16) & 0xff, (length >>> 8) & 0xff, length & 0xff);
}

export function malformed(what: string, why: string, cause?: unknown): UkeyError {
  return new UkeyError('invalid-request', `${what} ${why}`, { cause });
}

/** Reads the fields of one CBOR array in order; each step checks the type; `end` refuses what is left. */
export class FieldReader {
  readonly #what: string;
  readonly #fields: readonly unknown[];
  #next = 0;

  constructor(what: string, value: unknown) {
    if (!Array.isArray(value)) throw malformed(what, 'is not an array');
    this.#what = what;
    this.#fields = value;
  }

  #take(field: string): unknown {
    if (this.#next >= this.#fields.length) throw malformed(this.#what, `lacks ${field}`);
    return this.#fields[this.#next++];
  }

  get left(): number {
    return this.#fields.length - this.#next;
  }

  any(field: string): unknown {
    return this.#take(field);
  }

  /** A non-negative integer below 2^53. */
  count(field: string): number {
    const value = this.#take(field);
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw malformed(this.#what, `${field} is not a count`);
    return value;
  }

  version(expected: number): void {
    const value = this.count('version');
    if (value !== expected) throw malformed(this.#what, `has version ${value}, this reader knows ${expected}`);
  }

  text(field: string): string {
    const value = this.#take(field);
    if (typeof value !== 'string') throw malformed(this.#what, `${field} is not text`);
    return value;
  }

  textOrNull(field: string): string | null {
    const value = this.#take(field);
    if (value !== null && typeof value !== 'string') throw malformed(this.#what, `${field} is neither text nor null`);
    return value;
  }

  countOrNull(field: string): number | null {
    const value = this.#take(field);
    if (value === null) return null;
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
      throw malformed(this.#what, `${field} is neither a count nor null`);
    return value;
  }

  bytes(field: string, length?: number): Uint8Array {
    const value = this.#take(field);
    if (!(value instanceof Uint8Array)) throw malformed(this.#what, `${field} is not a byte string`);
    if (length !== undefined && value.length !== length) throw malformed(this.#what, `${field} is not ${length} bytes long`);
    return value;
  }

  list(field: string): readonly unknown[] {
    const value = this.#take(field);
    if (!Array.isArray(value)) throw malformed(this.#what, `${field} is not an array`);
    return value;
  }

  end(): void {
    if (this.left !== 0) throw malformed(this.#what, 'has fields too many');
  }
}
