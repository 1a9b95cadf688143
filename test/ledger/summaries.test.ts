// What is remembered of batches behind the last acknowledgement: the newest, and nothing but what it says.
import { expect, test } from 'vitest';
import { sealHashOf } from '#ipc-schema/batch.ts';
import { summaryOf } from '#ledger/batches.ts';
import { Summaries, summariesMax } from '#ledger/summaries.ts';

const seal = (at: number): Uint8Array => Buffer.from(`seal ${at}`);

test('a summary that is kept keeps no other memory alive', () => {
  const { sealHash } = summaryOf([], seal(1));
  expect(Buffer.from(sealHash).equals(sealHashOf(seal(1)))).toBe(true);
  expect(sealHash.buffer.byteLength).toBe(sealHash.length);
});

test('no more are remembered than may be, the newest of them, and none that was acknowledged', () => {
  const summaries = new Summaries();
  for (let at = 1; at <= summariesMax + 10; at += 1) summaries.note(at, summaryOf([], seal(at)));
  expect(summaries.size).toBe(summariesMax);
  expect([summaries.get(10), summaries.get(11)?.count, summaries.get(summariesMax + 10)?.count]).toEqual([null, 0, 0]);
  summaries.forgetUpTo(summariesMax);
  expect(summaries.size).toBe(10);
});
