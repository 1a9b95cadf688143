import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { modes } from '#ipc-schema/charter.ts';
import { money } from '#ipc-schema/money.ts';
import { links } from '#ipc-schema/status.ts';
import { budgetOf, clockToleranceMs, judge, judgeClock, judgeStanding, type LimitFacts, stampMs, type Verdict } from '#ledger/limits.ts';

const hourMs = 3_600_000;
const nowMs = Date.parse('2030-06-01T12:00:00Z');

const free: LimitFacts = {
  mode: 'hybrid',
  limits: { hours: null, count: null, amount: null, single: null },
  validFromMs: nowMs - 1_000 * hourMs,
  validUntilMs: nowMs + 1_000 * hourMs,
  pendingCount: 0,
  pendingAmount: '0',
  oldestAgeMs: null,
  link: 'up',
  wallMs: nowMs,
  provenNowMs: null,
  newestEntryMs: nowMs - hourMs,
  ackedServerMs: 0,
};
const facts = (change: Partial<LimitFacts>, limits: Partial<LimitFacts['limits']> = {}): LimitFacts => ({
  ...free,
  ...change,
  limits: { ...free.limits, ...limits },
});
const codeOf = (verdict: Verdict): string => (verdict.kind === 'refuse' ? verdict.code : 'allow');
const judged = (of: LimitFacts, total = '1.00'): string => codeOf(judge(of, total));

describe('each limit at its edge', () => {
  test.each([
    [0, 'allow'],
    [1, 'allow'],
    [9, 'allow'],
    [10, 'limit-count'],
    [11, 'limit-count'],
  ])('count 10 with %i pending: %s', (pendingCount, code) => {
    expect(judged(facts({ pendingCount }, { count: 10 }))).toBe(code);
  });

  test.each([
    ['0', '100.00', 'allow'],
    ['0', '100.01', 'limit-amount'],
    ['99.99', '0.01', 'allow'],
    ['99.99', '0.02', 'limit-amount'],
    ['100', '0.01', 'limit-amount'],
    ['100.00', '0', 'limit-amount'],
    ['99.999999', '0.000001', 'allow'],
  ])('amount 100 with %s pending and a document of %s: %s', (pendingAmount, total, code) => {
    expect(judged(facts({ pendingAmount }, { amount: '100' }), total)).toBe(code);
  });

  test.each([
    ['49.99', 'allow'],
    ['50', 'allow'],
    ['50.000001', 'limit-single'],
  ])('single 50 with a document of %s: %s', (total, code) => {
    expect(judged(facts({}, { single: '50' }), total)).toBe(code);
  });

  test.each([
    [null, 'allow'],
    [0, 'allow'],
    [2 * hourMs - 1, 'allow'],
    [2 * hourMs, 'limit-hours'],
  ])('2 hours with an oldest of %s ms: %s', (oldestAgeMs, code) => {
    expect(judged(facts({ oldestAgeMs }, { hours: 2 }))).toBe(code);
  });

  test('hours may be a fraction', () => {
    expect(judged(facts({ oldestAgeMs: hourMs / 2 - 1 }, { hours: 0.5 }))).toBe('allow');
    expect(judged(facts({ oldestAgeMs: hourMs / 2 }, { hours: 0.5 }))).toBe('limit-hours');
  });

  test('validity begins with its first and ends before its last instant', () => {
    const valid = { validFromMs: nowMs, validUntilMs: nowMs + 10 };
    const at = (wallMs: number): string => judged(facts({ ...valid, wallMs }));
    expect([at(nowMs - 1), at(nowMs), at(nowMs + 9), at(nowMs + 10)]).toEqual(['limit-deadline', 'allow', 'allow', 'limit-deadline']);
  });

  test('a clock behind what is recorded is trusted up to the tolerance', () => {
    const at = (wallMs: number): string => judged(facts({ wallMs }));
    expect(at(free.newestEntryMs - clockToleranceMs)).toBe('allow');
    expect(at(free.newestEntryMs - clockToleranceMs - 1)).toBe('clock-untrusted');
    expect(at(0)).toBe('clock-untrusted');
  });

  test('only the mode online asks for the line', () => {
    const codes = modes.flatMap((mode) => links.map((link) => [mode, link, judged(facts({ mode, link }))]));
    expect(codes.filter(([, , code]) => code !== 'allow')).toEqual([
      ['online', 'unknown', 'offline'],
      ['online', 'down', 'offline'],
    ]);
  });
});

describe('the clock', () => {
  const edge = clockToleranceMs;
  const offsets = [-30 * 24 * hourMs, -edge - 1, -edge, 0, edge, edge + 1, 30 * 24 * hourMs];
  const recorded = offsets.map((offset) => nowMs + offset);
  const cases = recorded.flatMap((wallMs) =>
    recorded.flatMap((newestEntryMs) =>
      [0, ...recorded].flatMap((ackedServerMs) =>
        [null, nowMs].map((provenNowMs) => ({ wallMs, provenNowMs, newestEntryMs, ackedServerMs })),
      ),
    ),
  );

  test('with a proof is trusted exactly where it is near it, whatever is recorded', () => {
    const proven = cases.filter((each) => each.provenNowMs !== null);
    expect(proven.length).toBe(7 * 7 * 8);
    for (const each of proven)
      expect(codeOf(judgeClock(each)), JSON.stringify(each)).toBe(Math.abs(each.wallMs - nowMs) <= edge ? 'allow' : 'clock-untrusted');
  });

  test('without one is trusted exactly where it is not behind what is recorded', () => {
    const unproven = cases.filter((each) => each.provenNowMs === null);
    expect(unproven.length).toBe(7 * 7 * 8);
    for (const each of unproven) {
      const isBehind = each.wallMs < each.newestEntryMs - edge || each.wallMs < each.ackedServerMs - edge;
      expect(codeOf(judgeClock(each)), JSON.stringify(each)).toBe(isBehind ? 'clock-untrusted' : 'allow');
    }
  });

  test('refused, both times are named', () => {
    for (const each of cases) {
      const verdict = judgeClock(each);
      if (verdict.kind === 'allow') continue;
      const other = each.provenNowMs ?? Math.max(each.newestEntryMs, each.ackedServerMs);
      for (const ms of [each.wallMs, other]) expect(verdict.why).toContain(new Date(ms).toISOString());
    }
  });

  test('that is refused does not get into own entries where the time is proven', () => {
    for (const each of cases) {
      const isRefusedByProof = each.provenNowMs !== null && judgeClock(each).kind === 'refuse';
      expect(stampMs(each)).toBe(isRefusedByProof ? nowMs : each.wallMs);
    }
  });
});

test('what a person mends first is told first', () => {
  const all = facts(
    { mode: 'online', link: 'down', pendingCount: 5, pendingAmount: '500', oldestAgeMs: 9 * hourMs, wallMs: 0, validUntilMs: -1 },
    { hours: 1, count: 1, amount: '1', single: '1' },
  );
  const mended: LimitFacts[] = [
    all,
    { ...all, limits: { ...all.limits, single: null } },
    { ...all, limits: { ...all.limits, single: null }, wallMs: nowMs, validUntilMs: nowMs },
  ];
  const valid = { ...mended[2], validUntilMs: nowMs + 1 } as LimitFacts;
  mended.push(
    valid,
    { ...valid, limits: { ...valid.limits, hours: null } },
    { ...valid, limits: { ...valid.limits, hours: null, count: null } },
    { ...valid, limits: free.limits },
    { ...valid, limits: free.limits, link: 'up' },
  );
  expect(mended.map((each) => judged(each, '2'))).toEqual([
    'limit-single',
    'clock-untrusted',
    'limit-deadline',
    'limit-hours',
    'limit-count',
    'limit-amount',
    'offline',
    'allow',
  ]);
});

test('the standing is the verdict without the document', () => {
  expect(codeOf(judgeStanding(facts({}, { single: '1' })))).toBe('allow');
  expect(codeOf(judgeStanding(facts({ pendingAmount: '99.99' }, { amount: '100' })))).toBe('allow');
  expect(codeOf(judgeStanding(facts({ pendingAmount: '100' }, { amount: '100' })))).toBe('limit-amount');
});

describe('the budget', () => {
  test('is never negative and never above what is granted', () => {
    const amount = fc.integer({ min: 0, max: 10_000 }).map((cents) => money(String(cents)).div(100).toFixed());
    const property = fc.property(
      fc.record({ pendingCount: fc.nat(50), pendingAmount: amount, oldestAgeMs: fc.option(fc.nat(10 * hourMs)) }),
      fc.record({ hours: fc.option(fc.integer({ min: 1, max: 8 })), count: fc.option(fc.integer({ min: 1, max: 40 })) }),
      fc.option(amount.filter((text) => text !== '0')),
      (pending, limits, limit) => {
        const of = facts(pending, { ...limits, amount: limit });
        const budget = budgetOf(of);
        expect(budget.countLeft === null || (budget.countLeft >= 0 && budget.countLeft <= (limits.count ?? 0))).toBe(true);
        expect(budget.hoursLeft === null || (budget.hoursLeft >= 0 && budget.hoursLeft <= (limits.hours ?? 0))).toBe(true);
        expect(budget.amountLeft === null || !money(budget.amountLeft).isNegative()).toBe(true);
        expect(budget.usedPercent).toBeGreaterThanOrEqual(0);
        expect(budget.usedPercent).toBeLessThanOrEqual(100);
        // 100 % and "refused" are the same moment (the single amount aside).
        expect(codeOf(judgeStanding(of)) !== 'allow').toBe(budget.usedPercent === 100);
      },
    );
    fc.assert(property, { seed: 20_300_304, numRuns: 2_000 });
  });

  test('counts percents without a float: 29 of 100 are 29 %', () => {
    for (let pendingCount = 0; pendingCount <= 100; pendingCount += 1)
      expect(budgetOf(facts({ pendingCount }, { count: 100 })).usedPercent).toBe(pendingCount);
    for (let cents = 0; cents <= 100; cents += 1)
      expect(budgetOf(facts({ pendingAmount: (cents / 100).toFixed(2) }, { amount: '1.00' })).usedPercent).toBe(cents);
  });

  test('shows the single amount as it is, and nothing where there is no limit', () => {
    expect(budgetOf(free)).toEqual({ hoursLeft: null, countLeft: null, amountLeft: null, single: null, usedPercent: 0 });
    expect(budgetOf(facts({}, { single: '5' })).single).toBe('5');
    expect(budgetOf(facts({ oldestAgeMs: 90 * 60_000 }, { hours: 2 }))).toMatchObject({ hoursLeft: 0.5, usedPercent: 75 });
  });

  test.each([
    ['99999999', '1.5', 2, '99999997.50'],
    ['100', '100', 2, '0.00'],
    ['100', '0.005', 2, '99.995'],
    ['100', '1', 0, '99'],
    ['100', '0.5', 0, '99.5'],
  ])('of %s with %s pending is printed with at least %i decimals: %s', (amount, pendingAmount, decimals, left) => {
    expect(budgetOf(facts({ pendingAmount }, { amount }), decimals).amountLeft).toBe(left);
  });

  test('is used up to the last cent and the last document: no overshoot, no undershoot', () => {
    const cents = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 60 });
    const property = fc.property(cents, fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 30 }), (totals, limitCents, count) => {
      let pendingCents = 0;
      let pendingCount = 0;
      for (const total of totals) {
        const amount = (limitCents / 100).toFixed(2);
        const of = facts({ pendingCount, pendingAmount: (pendingCents / 100).toFixed(2) }, { amount, count });
        const fits = pendingCount < count && pendingCents + total <= limitCents;
        expect(judge(of, (total / 100).toFixed(2)).kind).toBe(fits ? 'allow' : 'refuse');
        if (fits) [pendingCents, pendingCount] = [pendingCents + total, pendingCount + 1];
      }
    });
    fc.assert(property, { seed: 77, numRuns: 500 });
  });
});
