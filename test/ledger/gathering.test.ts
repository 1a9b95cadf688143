import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Gathering } from '#ledger/gathering.ts';
import { gatherLongestMs, gatherMs } from '#ledger/rhythm.ts';
import { StepClock } from '#test/support/step-clock.ts';

const meanMs = 250;
const quietMs = gatherMs(meanMs);
const clock = new StepClock();
let ends = 0;
let gathering = new Gathering(clock, () => undefined);

/** Timers first, then what comes in the same turn of the loop. */
async function pass(ms: number, meanwhile: () => void = () => undefined): Promise<void> {
  clock.pass(ms);
  vi.advanceTimersByTime(ms);
  meanwhile();
  await turn();
  await turn();
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  ends = 0;
  gathering = new Gathering(clock, () => {
    ends += 1;
  });
});
afterEach(() => {
  vi.useRealTimers();
});

test('a quick token gathers nothing, and news of others begin nothing', async () => {
  gathering.begin(null);
  gathering.begin(1);
  gathering.news();
  expect(gathering.isOn).toBe(false);
  await pass(10_000);
  expect(ends).toBe(0);
});

test('ends once when nobody comes', async () => {
  gathering.begin(meanMs);
  expect(gathering.isOn).toBe(true);
  await pass(quietMs);
  expect([ends, gathering.isOn]).toEqual([1, false]);
  await pass(10_000);
  expect(ends).toBe(1);
});

test('goes on while one after the other comes, and no longer than its share of a signature', async () => {
  gathering.begin(meanMs);
  let passedMs = 0;
  for (; ends === 0; passedMs += quietMs / 2) {
    await pass(quietMs / 2);
    gathering.news();
  }
  expect(passedMs).toBeGreaterThan(4 * quietMs);
  expect(passedMs).toBeLessThanOrEqual(gatherLongestMs(meanMs) + quietMs / 2);
});

test('who lies in the sockets when the timer runs out still counts', async () => {
  gathering.begin(meanMs);
  await pass(quietMs, () => gathering.news());
  expect([ends, gathering.isOn]).toEqual([0, true]);
  await pass(quietMs);
  expect(ends).toBe(1);
});

test('begun anew or ended, the moment before says nothing', async () => {
  gathering.begin(meanMs);
  await pass(quietMs / 2);
  gathering.begin(meanMs);
  await pass(quietMs / 2);
  expect(ends).toBe(0);
  gathering.end();
  await pass(10_000);
  expect([ends, gathering.isOn]).toEqual([0, false]);
});
