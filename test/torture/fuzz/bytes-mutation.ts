// Owns: mutations of bytes of no known form: flips, cuts, insertions, stretches moved, repeated or taken from another input.
// Must not: know any format; cbor-mutation.ts and json-mutation.ts do.
import type { Chance } from './chance.ts';

/** No mutated input is longer: most decoders refuse a long one by its length alone. */
export const inputMaxBytes = 64 * 1024;

/** Where decoders change their minds: signs, halves, ends of ranges, CBOR heads, quotes, line ends, lone UTF-8 bytes. */
const telling = [
  0x00, 0x01, 0x0a, 0x0c, 0x0d, 0x17, 0x18, 0x19, 0x1b, 0x1f, 0x22, 0x5c, 0x5f, 0x7f, 0x80, 0x9f, 0xbf, 0xc0, 0xed, 0xf6, 0xf9, 0xfe, 0xff,
];

type Mutation = (bytes: Buffer, chance: Chance, others: readonly Uint8Array[]) => Buffer;

const around = (bytes: Buffer, from: number, to: number, between: Uint8Array): Buffer =>
  Buffer.concat([bytes.subarray(0, from), between, bytes.subarray(to)]);

/** A stretch of a length that is short more often than long. */
function stretch(bytes: Buffer, chance: Chance): { readonly from: number; readonly to: number } {
  const from = chance.upTo(bytes.length + 1);
  const longest = chance.happens(0.8) ? 8 : bytes.length;
  return { from, to: Math.min(bytes.length, from + chance.upTo(longest + 1)) };
}

const changed = (bytes: Buffer, at: number, byte: number): Buffer => {
  if (at < bytes.length) bytes[at] = byte;
  return bytes;
};

const mutations: readonly Mutation[] = [
  (bytes, chance) => {
    const at = chance.upTo(bytes.length);
    return changed(bytes, at, (bytes[at] ?? 0) ^ (1 << chance.upTo(8)));
  },
  (bytes, chance) => changed(bytes, chance.upTo(bytes.length), chance.one(telling)),
  (bytes, chance) => changed(bytes, chance.upTo(bytes.length), chance.upTo(256)),
  (bytes, chance) => {
    const at = chance.upTo(bytes.length);
    return changed(bytes, at, ((bytes[at] ?? 0) + (chance.happens(0.5) ? 1 : 255)) & 0xff);
  },
  (bytes, chance) => {
    const { from, to } = stretch(bytes, chance);
    return around(bytes, from, to, Buffer.alloc(0));
  },
  (bytes, chance) => {
    const { from, to } = stretch(bytes, chance);
    return around(bytes, to, to, bytes.subarray(from, to));
  },
  (bytes, chance) => {
    const at = chance.upTo(bytes.length + 1);
    return around(bytes, at, at, Buffer.from(Array.from({ length: 1 + chance.upTo(4) }, () => chance.one(telling))));
  },
  (bytes, chance, others) => {
    const { from, to } = stretch(bytes, chance);
    const other = Buffer.from(chance.one(others));
    const taken = stretch(other, chance);
    return around(bytes, from, to, other.subarray(taken.from, taken.to));
  },
  (bytes, chance) => bytes.subarray(0, chance.upTo(bytes.length + 1)),
  (bytes, chance) => {
    const { from, to } = stretch(bytes, chance);
    return Buffer.from(bytes.fill(chance.one(telling), from, to));
  },
];

/** A changed copy; what was given stays as it is. */
export function mutateBytes(input: Uint8Array, chance: Chance, others: readonly Uint8Array[]): Buffer {
  return chance.one(mutations)(Buffer.from(input), chance, others).subarray(0, inputMaxBytes);
}
