import { expect, test } from 'vitest';
import { daysToTell, warnDays } from '#ledger/certificate-term.ts';

const dayMs = 24 * 3_600_000;
const untilMs = Date.UTC(2030, 0, 1);

test.each([
  ['long before', -400 * dayMs, null],
  ['when the last sixty days have not begun', -warnDays * dayMs, null],
  ['a moment later', -warnDays * dayMs + 1, warnDays - 1],
  ['a day before', -dayMs, 1],
  ['in the last hours', -1, 0],
  ['at its end', 0, 0],
  ['long after it', 400 * dayMs, 0],
])('%s a person is told of %s', (_when, offsetMs, days) => {
  expect(daysToTell(untilMs, untilMs + offsetMs)).toBe(days);
});
