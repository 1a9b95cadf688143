import { describe, expect, it } from 'vitest';
import { KeyFilter } from '#ledger/key-filter.ts';
import { keyHashOf } from '#ledger/lookup.ts';

const hashes = (terminal: string, count: number): string[] => Array.from({ length: count }, (_, at) => keyHashOf(terminal, `key-${at}`));

describe('the filter of request keys', () => {
  it('never calls a key new that was used, not even far past its capacity', () => {
    const filter = new KeyFilter(0);
    const used = hashes('till-1', 400_000);
    for (const hash of used) filter.add(hash);
    expect(used.filter((hash) => !filter.mayHave(hash))).toEqual([]);
  });

  it('takes few new keys for used ones while it is within its capacity', () => {
    const filter = new KeyFilter(0);
    for (const hash of hashes('till-1', 250_000)) filter.add(hash);
    const mistaken = hashes('till-2', 50_000).filter((hash) => filter.mayHave(hash)).length;
    expect(mistaken).toBeLessThan(500);
    expect(new KeyFilter(0).mayHave(keyHashOf('till-1', 'key-0'))).toBe(false);
  });

  it('is not made for a number of keys that is none: without bits it would call every key new', () => {
    for (const capacity of [Number.NaN, Number.POSITIVE_INFINITY, -1]) {
      expect(() => new KeyFilter(capacity)).toThrowError(expect.objectContaining({ code: 'internal' }));
    }
  });
});
