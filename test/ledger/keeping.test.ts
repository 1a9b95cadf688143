// Shows: what may be forgotten, over all small ledgers: never an unacknowledged or young batch, always all that may be, in few questions.
import { expect, test } from 'vitest';
import { decideKeeping } from '#ledger/keeping.ts';

const keepMs = 10;

/** Follows the decision to its end, answering from `sealed` (the time of batch n at n - 1). */
function run(
  oldestBatch: number,
  ackedBatch: number,
  serverTimeMs: number,
  sealed: readonly number[],
): { upTo: number | null; asked: number[] } {
  const sealedAtMs = new Map<number, number>();
  const asked: number[] = [];
  for (;;) {
    const step = decideKeeping({ oldestBatch, ackedBatch, keepMs, serverTimeMs, sealedAtMs });
    if (step.kind === 'keep') return { upTo: null, asked };
    if (step.kind === 'release') return { upTo: step.upToBatch, asked };
    asked.push(step.batch);
    sealedAtMs.set(step.batch, sealed[step.batch - 1] ?? Number.NaN);
    if (asked.length > 10) throw new Error(`no end: ${asked.join(', ')}`);
  }
}

test('everything that is acknowledged and old enough goes, and nothing else, whatever the times are', () => {
  let cases = 0;
  const batches = 6;
  // Times never go back: each batch is sealed at the instant of the one before, or one step later.
  for (let steps = 0; steps < 2 ** batches; steps += 1) {
    const sealed: number[] = [];
    for (let at = 0; at < batches; at += 1) sealed.push((sealed.at(-1) ?? 100) + ((steps >> at) & 1));
    for (let oldest = 1; oldest <= batches; oldest += 1) {
      for (let acked = oldest - 1; acked <= batches; acked += 1) {
        for (let serverTimeMs = 108; serverTimeMs <= 118; serverTimeMs += 1) {
          const right = sealed.findLastIndex((atMs, place) => place + 1 <= acked && atMs + keepMs <= serverTimeMs) + 1;
          const { upTo, asked } = run(oldest, acked, serverTimeMs, sealed);
          expect(upTo, `${oldest} ${acked} ${serverTimeMs} ${sealed.join(' ')}`).toBe(right < oldest ? null : right);
          for (const batch of asked) expect(batch >= oldest && batch <= acked).toBe(true);
          expect(new Set(asked).size).toBe(asked.length);
          cases += 1;
        }
      }
    }
  }
  expect(cases).toBeGreaterThan(15_000);
});

test('before the server has signed a time nothing is old enough', () => {
  expect(run(1, 3, 0, [100, 101, 102]).upTo).toBeNull();
});

test('a year of batches takes a score of questions', () => {
  const sealedAtMs = new Map<number, number>();
  let asked = 0;
  for (;;) {
    const step = decideKeeping({ oldestBatch: 1, ackedBatch: 1_000_000, keepMs, serverTimeMs: 700_010, sealedAtMs });
    if (step.kind !== 'ask') {
      expect(step).toEqual({ kind: 'release', upToBatch: 700_000 });
      break;
    }
    asked += 1;
    sealedAtMs.set(step.batch, step.batch);
  }
  expect(asked).toBeLessThanOrEqual(22);
});
