// Owns: the only door to CBOR. Deterministic encoding (RFC 8949 §4.2.1) out, maps by the library; strict decoding in: shortest
// heads, definite lengths, UTF-8 that is UTF-8, map keys in bytewise order and once, no tags, no floats, no integer beyond 2^53, nothing left over, so many items and no more. Byte strings come out as copies, unless views are asked for: a frame's buffer may be used again.
// Why by hand: the library's reader replaces bad UTF-8, drops a byte order mark, reads the half float 0.0 as the integer 0 and does not
// look at the order of keys, so that two spellings would mean one thing; its writer takes twice as long.
// Must not: know what any array means; the files that own a format name their fields through `FieldReader`.
import { isUtf8 } from 'node:buffer';
import { encode, rfc8949EncodeOptions } from 'cborg';
import { UkeyError } from './errors.ts';

export type CborValue = null | boolean | number | string | Uint8Array | readonly CborValue[] | ReadonlyMap<number | string, CborValue>;

/** Arrays and maps inside each other; our deepest format (an upload's batch) has three. */
export const cborMaxDepth = 8;
/**
 * Items in arrays and maps, each key and each value being one; the most that a format of ours has is a batch's 3075. An item may be a single byte and a map
 * of no keys takes two hundred in memory, so that bytes alone bound neither the memory nor the time of reading.
 */
export const cborMaxItems = 4_096;

/** RFC 8949 §4.2.1. Throws internal for what the reader would refuse: a number that is no safe integer, text that is no Unicode. */
export function encodeCbor(value: CborValue): Uint8Array {
  const out = Buffer.allocUnsafe(sizeOf(value));
  writeItem(out, 0, value);
  return new Uint8Array(out.buffer, out.byteOffset, out.length); // no Buffer, as in reading
}

const unwritable = (): UkeyError => new UkeyError('internal', 'a value that has no deterministic spelling');
type CborList = readonly CborValue[];
const isList = (value: CborList | ReadonlyMap<number | string, CborValue>): value is CborList => Array.isArray(value);

/** Bytes that the value takes. Throws internal for what cannot be written. */
function sizeOf(value: CborValue): number {
  if (value === null || typeof value === 'boolean') return 1;
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) throw unwritable();
    return headBytes(value < 0 ? -1 - value : value);
  }
  if (typeof value === 'string') {
    if (!value.isWellFormed()) throw unwritable();
    const length = Buffer.byteLength(value);
    return headBytes(length) + length;
  }
  if (value instanceof Uint8Array) return headBytes(value.length) + value.length;
  if (!isList(value)) return mapBytes(value).length;
  let size = headBytes(value.length);
  for (const item of value) size += sizeOf(item);
  return size;
}

/** A head with its argument (RFC 8949 §3) in the shortest form. */
function headBytes(argument: number): number {
  if (argument < 24) return 1;
  if (argument < 0x100) return 2;
  if (argument < 0x1_0000) return 3;
  return argument < 0x1_0000_0000 ? 5 : 9;
}

/** Answers where the next item goes. `out` has room: sizeOf has measured it. */
function writeItem(out: Buffer, at: number, value: CborValue): number {
  if (typeof value === 'number') return value < 0 ? writeHead(out, at, 1, -1 - value) : writeHead(out, at, 0, value);
  if (typeof value === 'string') {
    const start = writeHead(out, at, 3, Buffer.byteLength(value));
    return start + out.write(value, start, 'utf8');
  }
  if (value === null) return out.writeUInt8(0xf6, at);
  if (typeof value === 'boolean') return out.writeUInt8(value ? 0xf5 : 0xf4, at);
  if (value instanceof Uint8Array) return writeBytes(out, writeHead(out, at, 2, value.length), value);
  if (!isList(value)) return writeBytes(out, at, mapBytes(value));
  let next = writeHead(out, at, 4, value.length);
  for (const item of value) next = writeItem(out, next, item);
  return next;
}

function writeBytes(out: Buffer, at: number, bytes: Uint8Array): number {
  out.set(bytes, at);
  return at + bytes.length;
}

/** The library puts the keys in order. Maps stand in signed headers alone, one per batch. */
function mapBytes(map: ReadonlyMap<number | string, CborValue>): Uint8Array {
  for (const part of map) sizeOf(part); // throws for what the library would write and we would not read
  return encode(map, rfc8949EncodeOptions);
}

function writeHead(out: Buffer, at: number, major: number, argument: number): number {
  const top = major << 5;
  if (argument < 24) return out.writeUInt8(top | argument, at);
  if (argument < 0x100) return out.writeUInt16BE(((top | 24) << 8) | argument, at);
  if (argument < 0x1_0000) return out.writeUInt16BE(argument, out.writeUInt8(top | 25, at));
  if (argument < 0x1_0000_0000) return out.writeUInt32BE(argument, out.writeUInt8(top | 26, at));
  const low = out.writeUInt32BE(Math.floor(argument / 0x1_0000_0000), out.writeUInt8(top | 27, at));
  return out.writeUInt32BE(argument % 0x1_0000_0000, low);
}

/** `views`: byte strings that share the memory of what is read. For whoever owns that, changes nothing in it and keeps no part of it for long. */
export type ByteStrings = 'copies' | 'views';

/** Throws invalid-request for any spelling but the deterministic one. `what` names the thing for the message. */
export function decodeCbor(bytes: Uint8Array, what: string, byteStrings: ByteStrings = 'copies'): unknown {
  const source = new Source(bytes, what, byteStrings);
  const value = readItem(source, 0);
  if (source.at !== bytes.length) throw source.bad('has bytes left over');
  return value;
}

/** The bytes and how far they are read. */
class Source {
  readonly bytes: Uint8Array;
  readonly what: string;
  readonly byteStrings: ByteStrings;
  at = 0;
  #itemsLeft = cborMaxItems;

  constructor(bytes: Uint8Array, what: string, byteStrings: ByteStrings) {
    this.bytes = bytes;
    this.what = what;
    this.byteStrings = byteStrings;
  }

  bad(why: string): UkeyError {
    return malformed(this.what, `is not deterministic CBOR: it ${why}`);
  }

  /** Takes what an array or map says it holds off the budget, before any of it is read. */
  hold(items: number): void {
    this.#itemsLeft -= items;
    if (this.#itemsLeft < 0) throw this.bad(`has more than ${cborMaxItems} items`);
  }

  byte(): number {
    const byte = this.bytes[this.at++];
    if (byte === undefined) throw this.bad('is cut short');
    return byte;
  }

  /** Where the next `length` bytes begin; steps over them. */
  skip(length: number): number {
    const start = this.at;
    if (length > this.bytes.length - start) throw this.bad('is cut short');
    this.at = start + length;
    return start;
  }

  /** The argument of a head (RFC 8949 §3) in its shortest form. */
  argument(low: number): number {
    if (low < 24) return low;
    if (low > 27) throw this.bad('has a length without an end');
    const widthBytes = 1 << (low - 24);
    let value = 0;
    for (let left = widthBytes; left > 0; left--) value = value * 256 + this.byte();
    if (value < (low === 24 ? 24 : 2 ** (widthBytes * 4))) throw this.bad('has a head longer than needed');
    if (value > Number.MAX_SAFE_INTEGER) throw this.bad('has a number beyond 2^53');
    return value;
  }
}

function readItem(source: Source, depth: number): unknown {
  const head = source.byte();
  const low = head & 31;
  switch (head >> 5) {
    case 0:
      return source.argument(low);
    case 1: {
      const value = -1 - source.argument(low);
      if (!Number.isSafeInteger(value)) throw source.bad('has a number beyond 2^53');
      return value;
    }
    case 2: {
      const start = source.skip(source.argument(low));
      const { buffer, byteOffset } = source.bytes;
      const view = new Uint8Array(buffer, byteOffset + start, source.at - start); // no Buffer, whose `slice` would share memory
      return source.byteStrings === 'views' ? view : new Uint8Array(view);
    }
    case 3:
      return readText(source, low);
    case 4:
      return readArray(source, source.argument(low), depth);
    case 5:
      return readMap(source, source.argument(low), depth);
    default:
      if (head === 0xf4) return false;
      if (head === 0xf5) return true;
      if (head === 0xf6) return null;
      throw source.bad('has a tag, a float or a simple value');
  }
}

/** Shorter ASCII texts are read by hand, which is faster than a call into the engine. */
const handReadBytes = 40;

function readText(source: Source, low: number): string {
  const start = source.skip(source.argument(low));
  if (source.at - start < handReadBytes) {
    let text = '';
    let at = start;
    for (let byte = source.bytes[at]; at < source.at && byte !== undefined && byte < 0x80; byte = source.bytes[++at]) {
      text += String.fromCharCode(byte);
    }
    if (at === source.at) return text;
  }
  const bytes = source.bytes.subarray(start, source.at);
  if (!isUtf8(bytes)) throw source.bad('has text that is not UTF-8');
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
}

function readArray(source: Source, length: number, depth: number): unknown[] {
  if (depth >= cborMaxDepth) throw source.bad('is too deep');
  source.hold(length);
  const items: unknown[] = [];
  for (let left = length; left > 0; left--) items.push(readItem(source, depth + 1));
  return items;
}

function readMap(source: Source, length: number, depth: number): Map<number | string, unknown> {
  if (depth >= cborMaxDepth) throw source.bad('is too deep');
  source.hold(2 * length);
  const map = new Map<number | string, unknown>();
  let previous: Uint8Array | null = null;
  for (let left = length; left > 0; left--) {
    const start = source.at;
    const key = readItem(source, depth + 1);
    if (typeof key !== 'number' && typeof key !== 'string') throw source.bad('has a key that is neither integer nor text');
    const keyBytes = source.bytes.subarray(start, source.at);
    if (previous !== null && Buffer.compare(previous, keyBytes) >= 0) throw source.bad('has keys out of order');
    previous = keyBytes;
    map.set(key, readItem(source, depth + 1));
  }
  return map;
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

/** The last instant that RFC 3339 can write, 9999-12-31T23:59:59.999Z. */
const instantMaxMs = 253_402_300_799_999;

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
    if (!isCount(value)) throw malformed(this.#what, `${field} is not a count`);
    return value;
  }

  countOrNull(field: string): number | null {
    const value = this.#take(field);
    if (value !== null && !isCount(value)) throw malformed(this.#what, `${field} is neither a count nor null`);
    return value;
  }

  /** Milliseconds since 1970, up to the year 9999, so that each has an RFC 3339 spelling. */
  instantMs(field: string): number {
    const value = this.count(field);
    if (value > instantMaxMs) throw malformed(this.#what, `${field} is beyond the year 9999`);
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

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
