import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Ages } from '#ledger/ages.ts';
import { StepClock } from '#test/support/step-clock.ts';

const hourMs = 3_600_000;

test('without jumps the age is the time that has passed', () => {
  const ages = new Ages();
  ages.note(10 * hourMs, 500);
  expect(ages.ageMs(10 * hourMs, 500)).toBe(0);
  expect(ages.ageMs(10 * hourMs, 500 + 3 * hourMs)).toBe(3 * hourMs);
});

test('what an earlier run printed is as old as the wall clock says at the start', () => {
  const ages = new Ages();
  ages.note(10 * hourMs, 500);
  expect(ages.ageMs(6 * hourMs, 500)).toBe(4 * hourMs);
  expect(ages.ageMs(6 * hourMs, 500 + hourMs)).toBe(5 * hourMs);
});

test.each([
  ['a month ahead', 720 * hourMs],
  ['a day back', -24 * hourMs],
  ['an hour back', -hourMs],
])('a clock that is set %s changes no age of what was printed before', (_what, jumpMs) => {
  const clock = new StepClock();
  const ages = new Ages();
  let printedMs = 0;
  const note = (): void => {
    printedMs = Math.max(printedMs, clock.wallMs());
    ages.note(printedMs, clock.monotonicMs());
  };
  note();
  const first = printedMs;
  clock.pass(2 * hourMs);
  note();
  const second = printedMs;
  clock.pass(hourMs);
  clock.jump(jumpMs);
  note();
  clock.pass(5 * hourMs);
  note();
  expect(ages.ageMs(first, clock.monotonicMs())).toBeCloseTo(8 * hourMs, -1);
  // Seen for the first time after the jump, as when an acknowledgement has released the first.
  expect(ages.ageMs(second, clock.monotonicMs())).toBeCloseTo(6 * hourMs, -1);
});

test('an age is never less than the truth, whatever the clock does (to a second)', () => {
  const step = fc.record({
    passMs: fc.nat(2 * hourMs),
    jumpMs: fc.oneof(fc.constant(0), fc.integer({ min: -20 * hourMs, max: 20 * hourMs })),
  });
  const property = fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
    const clock = new StepClock();
    const ages = new Ages();
    const printed: { readonly wallMs: number; readonly bornMs: number }[] = [];
    for (const { passMs, jumpMs } of steps) {
      clock.pass(passMs);
      clock.jump(jumpMs);
      const wallMs = Math.max(clock.wallMs(), printed.at(-1)?.wallMs ?? 0);
      ages.note(wallMs, clock.monotonicMs());
      printed.push({ wallMs, bornMs: clock.monotonicMs() });
    }
    for (const { wallMs, bornMs } of printed)
      expect(ages.ageMs(wallMs, clock.monotonicMs())).toBeGreaterThanOrEqual(clock.monotonicMs() - bornMs - 1_000);
  });
  fc.assert(property, { seed: 4_711, numRuns: 1_000 });
});

test('nothing is kept once nothing waits', () => {
  const ages = new Ages();
  ages.note(hourMs, 0);
  ages.clear();
  ages.note(100 * hourMs, 10);
  expect(ages.ageMs(100 * hourMs, 20)).toBe(10);
});
