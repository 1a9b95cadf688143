// Owns: repeatable chance for tests. The seed is printed by the test that draws it; TEST_SEED=<number> runs it again.
import { randomInt } from 'node:crypto';

export function seedOf(): number {
  const given = process.env['TEST_SEED'];
  return given === undefined ? randomInt(2 ** 31) : Number(given);
}

/** Numbers in [0, 1): mulberry32. */
export function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
