import { describe, expect, test } from 'vitest';
import {
  daysToTell,
  decideRenewal,
  type RenewalFacts,
  renewalDays,
  renewalFirstPauseMs,
  renewalLongestPauseMs,
  renewalShare,
  warnDays,
} from '#ledger/certificate-term.ts';

const dayMs = 24 * 3_600_000;
const untilMs = Date.UTC(2030, 0, 1);
const term = { fromMs: Date.UTC(2020, 0, 1), untilMs };

test.each([
  ['long before', -400 * dayMs, null],
  ['when the last sixty days have not begun', -warnDays * dayMs, null],
  ['a moment later', -warnDays * dayMs + 1, warnDays - 1],
  ['a day before', -dayMs, 1],
  ['in the last hours', -1, 0],
  ['at its end', 0, 0],
  ['long after it', 400 * dayMs, 0],
])('%s a person is told of %s', (_when, offsetMs, days) => {
  expect(daysToTell(term, untilMs + offsetMs)).toBe(days);
});

describe('a certificate is renewed', () => {
  const decide = (offsetMs: number, more: Partial<RenewalFacts> = {}) =>
    decideRenewal({ term, nowMs: untilMs + offsetMs, failures: 0, sinceFailureMs: 0, ...more });

  test.each([
    ['not at its beginning', -3_650 * dayMs, 'early'],
    ['not a moment too early', -renewalDays * dayMs - 1, 'early'],
    ['from the day on that is named', -renewalDays * dayMs, 'renew'],
    ['long before a person is told', -(warnDays + 1) * dayMs, 'renew'],
    ['to its last moment', -1, 'renew'],
    ['not when it has ended', 0, 'ended'],
    ['nor long after', 400 * dayMs, 'ended'],
  ] as const)('%s', (_when, offsetMs, decision) => {
    expect(decide(offsetMs)).toBe(decision);
  });

  test('a short one in the last share of its term', () => {
    const short = { fromMs: untilMs - 8 * dayMs, untilMs };
    const fromMs = -8 * dayMs * renewalShare;
    expect([decide(fromMs - 1, { term: short }), decide(fromMs, { term: short })]).toEqual(['early', 'renew']);
  });

  test('ever more rarely while it fails, and without an end', () => {
    const pauses: number[] = [];
    for (const failures of [1, 2, 3, 7, 8, 40, 5_000]) {
      const mayGo = (sinceFailureMs: number) => decide(-dayMs, { failures, sinceFailureMs }) === 'renew';
      let pauseMs = renewalFirstPauseMs;
      while (!mayGo(pauseMs)) pauseMs *= 2;
      expect(mayGo(Math.min(pauseMs, renewalLongestPauseMs) - 1)).toBe(false);
      pauses.push(Math.min(pauseMs, renewalLongestPauseMs));
    }
    expect(pauses).toEqual([1, 2, 4, 64, 96, 96, 96].map((times) => times * renewalFirstPauseMs));
  });

  test('whatever failed before, when it has ended it is too late', () => {
    expect(decide(1, { failures: 1, sinceFailureMs: 0 })).toBe('ended');
  });
});
