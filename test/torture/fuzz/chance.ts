// Owns: drawing from a seeded source: whole numbers and members of lists. Numbers in [0, 1) come from test/support/seed.ts.
import { seededRandom } from '#test/support/seed.ts';

export interface Chance {
  /** From 0 to `below` - 1. */
  upTo(below: number): number;
  /** One of a list that is not empty. */
  one<T>(list: readonly T[]): T;
  /** With this probability. */
  happens(probability: number): boolean;
}

/** `name` makes the streams of two users of one seed different. */
export function chanceOf(seed: number, name: string): Chance {
  let mixed = seed;
  for (const char of name) mixed = Math.imul(mixed ^ char.charCodeAt(0), 0x01000193);
  const random = seededRandom(mixed);
  const upTo = (below: number): number => Math.floor(random() * below);
  return {
    upTo,
    one: <T>(list: readonly T[]): T => {
      const drawn = list[upTo(list.length)];
      if (drawn === undefined) throw new Error('nothing to draw from');
      return drawn;
    },
    happens: (probability) => random() < probability,
  };
}
