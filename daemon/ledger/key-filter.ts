// Owns: which request keys were certainly never used, so that a new sale asks no database: a Bloom filter over key hashes (lookup.ts).
// Invariants: never says "never used" of a key that was added; the other way round it may be wrong, ever more often past its capacity.
// Must not: be asked before everything older was added (ledger-index.ts sees to that).
import { UkeyError } from '#ipc-schema/errors.ts';

const bitsPerKey = 12;
const probes = 6;
const capacityMin = 1 << 18;

export class KeyFilter {
  readonly #words: Uint32Array;
  readonly #bits: number;

  /** `capacity`: keys up to which about one new key in 300 is taken for a used one. */
  constructor(capacity: number) {
    // A filter without bits would call every key new, and a repeated sale would become a second invoice.
    if (!Number.isSafeInteger(capacity) || capacity < 0) throw new UkeyError('internal', `a filter for ${capacity} keys`);
    this.#words = new Uint32Array(Math.ceil((Math.max(capacityMin, capacity) * bitsPerKey) / 32));
    this.#bits = this.#words.length * 32;
  }

  add(keyHash: string): void {
    const bytes = Buffer.from(keyHash, 'base64url');
    for (let at = 0; at < probes; at += 1) {
      const bit = this.#bit(bytes, at);
      this.#words[bit >>> 5] = (this.#words[bit >>> 5] ?? 0) | (1 << (bit & 31));
    }
  }

  /** False: it was never added. */
  mayHave(keyHash: string): boolean {
    const bytes = Buffer.from(keyHash, 'base64url');
    for (let at = 0; at < probes; at += 1) {
      const bit = this.#bit(bytes, at);
      if (((this.#words[bit >>> 5] ?? 0) & (1 << (bit & 31))) === 0) return false;
    }
    return true;
  }

  /** A key hash is random already: two parts of it serve all probes (Kirsch and Mitzenmacher, Less Hashing, Same Performance). */
  #bit(keyHash: Buffer, probe: number): number {
    return (keyHash.readUInt32LE(0) + probe * keyHash.readUInt32LE(4)) % this.#bits;
  }
}
