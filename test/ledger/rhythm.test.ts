import fc from 'fast-check';
import { expect, test } from 'vitest';
import { gatherLongestMs, gatherMaxMs, gatherMs, signatureMeanMs, slowSignatureMs } from '#ledger/rhythm.ts';

test('a quick token, and one that has not signed yet, gather nothing', () => {
  expect([null, 0, 0.1, slowSignatureMs - 0.1].map(gatherMs)).toEqual([0, 0, 0, 0]);
});

test('a slow one gathers a small share of its signature, never longer than the most', () => {
  const property = fc.property(fc.double({ min: slowSignatureMs, max: 60_000, noNaN: true }), (meanMs) => {
    expect(gatherMs(meanMs)).toBeGreaterThan(0);
    expect(gatherMs(meanMs)).toBeLessThanOrEqual(Math.min(gatherMaxMs, meanMs / 10));
    expect(gatherLongestMs(meanMs)).toBeGreaterThan(gatherMs(meanMs));
    expect(gatherLongestMs(meanMs)).toBeLessThan(meanMs / 2);
  });
  fc.assert(property, { seed: 7, numRuns: 300 });
});

test('the mean follows a token that becomes slow, or quick again, within a few signatures, and never leaves their range', () => {
  const mean = (signatures: readonly number[]): number => signatures.reduce<number | null>(signatureMeanMs, null) ?? 0;
  expect(mean([250])).toBe(250);
  expect(mean([...Array(50).fill(0.1), ...Array(8).fill(250)])).toBeGreaterThan(200);
  expect(mean([...Array(50).fill(250), ...Array(16).fill(0.1)])).toBeLessThan(slowSignatureMs);
});
