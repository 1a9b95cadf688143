// Half a minute of `npm run soak`: tills under every kind of trouble, and the last look at everything.
import { expect, test } from 'vitest';
import { seedOf } from '#test/support/seed.ts';
import { soak } from './soak.ts';
import { soakTable } from './table.ts';

test('half a minute of a shop under trouble loses, doubles and skips nothing', { timeout: 300_000 }, async () => {
  const report = await soak({ seed: seedOf(), minutes: 0.5, quietMs: 500, note: () => undefined });
  console.log(soakTable(report));
  const { book, verdict, faults, happened } = report;
  expect(book.wrong).toEqual([]);
  expect(verdict.told).toEqual([]);
  expect(verdict).toMatchObject({ lost: 0, doubled: 0, gaps: 0, different: 0 });
  expect(faults).toBe(0);
  expect(book.answered.size).toBeGreaterThan(100);
  expect([...happened.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(4);
});
