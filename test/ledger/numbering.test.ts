import { describe, expect, test } from 'vitest';
import { batchMaxBytes } from '#ipc-schema/batch.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { bodyMaxBytes } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { CreditBook } from '#ledger/credits.ts';
import type { LimitFacts } from '#ledger/limits.ts';
import { type Circumstance, type Draft, giveBackCredits, type Outcome, planBatch } from '#ledger/numbering.ts';
import { emptyTip, type Tip } from '#ledger/tip.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { charterFor, documentDraft, noLimits } from '#test/support/ledger-rig.ts';

const token = new BuiltToken();
const wallMs = Date.parse('2030-01-01T00:00:00Z');
const charter = (change: Partial<Charter> = {}): Charter => charterFor(token.tokenId, token.publicKey, change);
const series = charter().series.map(({ prefix, digits }) => ({ prefix, digits }));
const tip: Tip = { ...emptyTip, charter: { serial: 1, batch: 1, series }, nextBatch: 2, nextSequence: 2 };

function circumstance(change: Partial<Circumstance> & { readonly limits?: Charter['limits'] } = {}): Circumstance {
  const { limits = noLimits, ...rest } = change;
  return {
    charter: charter({ limits }),
    wallMs,
    credits: new CreditBook(),
    limitFacts: (at, by): LimitFacts => ({
      mode: by.mode,
      limits: by.limits,
      validFromMs: Date.parse(by.validFrom),
      validUntilMs: Date.parse(by.validUntil),
      pendingCount: at.pending.count,
      pendingAmount: at.pending.amount,
      oldestAgeMs: at.pending.oldestMs === null ? null : 0,
      link: 'up',
      wallMs,
      provenNowMs: null,
      newestEntryMs: at.lastIssuedAtMs,
      ackedServerMs: 0,
    }),
    ...rest,
  };
}

const told = (outcomes: readonly Outcome[]): string[] =>
  outcomes.map((outcome) => (outcome.kind === 'refused' ? outcome.error.code : (outcome.entry.leaf.number ?? outcome.entry.leaf.kind)));
const own = (body: () => Uint8Array): Draft => ({ kind: 'own', entryKind: 'admin', bodyMaxBytes: 10, body });

describe('a plan', () => {
  test('numbers in order, without a hole where one is refused', () => {
    const drafts = [
      documentDraft('a'),
      documentDraft('b', { total: '999' }),
      documentDraft('c'),
      own(() => Buffer.from('{}')),
      documentDraft('d'),
    ];
    const plan = planBatch(tip, drafts, circumstance({ limits: { ...noLimits, single: '100' } }));
    expect(told(plan.outcomes)).toEqual(['A-00000001', 'limit-single', 'A-00000002', 'admin', 'A-00000003']);
    expect(plan.entries.map((entry) => entry.leaf.sequence)).toEqual([2, 3, 4, 5]);
    expect(plan.tip).toMatchObject({ nextBatch: 3, nextSequence: 6, documents: 3, pending: { count: 3, amount: '30' } });
  });

  test('stops at the limit to the cent inside one batch, and lets a smaller one fill what is left', () => {
    const drafts = ['40', '40', '20.01', '19.99', '0.01', '0.01'].map((total, at) => documentDraft(String(at), { total }));
    const plan = planBatch(tip, drafts, circumstance({ limits: { ...noLimits, amount: '100' } }));
    expect(told(plan.outcomes)).toEqual(['A-00000001', 'A-00000002', 'limit-amount', 'A-00000003', 'A-00000004', 'limit-amount']);
    expect(plan.tip.pending.amount).toBe('100');
  });

  test('of nothing but refusals leaves the tip as it was', () => {
    const plan = planBatch(tip, [documentDraft('a', { total: '2' })], circumstance({ limits: { ...noLimits, single: '1' } }));
    expect(plan.tip).toBe(tip);
    expect(plan.entries).toEqual([]);
  });

  test('never prints a time before the last', () => {
    const later = { ...tip, lastIssuedAtMs: wallMs + 5_000 };
    const [entry] = planBatch(later, [documentDraft('a')], circumstance()).entries;
    expect(entry?.leaf.issuedAtMs).toBe(wallMs + 5_000);
  });

  test('goes on in the second series of its kind when the first is used up', () => {
    const two = charter({
      series: [
        { kind: 'invoice', prefix: 'A-', digits: 8, first: 7, last: 8 },
        { kind: 'invoice', prefix: 'B-', digits: 8, first: 1, last: 99 },
      ],
    });
    const drafts = ['a', 'b', 'c'].map((key) => documentDraft(key));
    expect(told(planBatch(tip, drafts, circumstance({ charter: two })).outcomes)).toEqual(['A-00000007', 'A-00000008', 'B-00000001']);
  });

  test('ends with its range', () => {
    const short = charter({ series: [{ kind: 'invoice', prefix: 'A-', digits: 8, first: 7, last: 8 }] });
    const drafts = ['a', 'b', 'c'].map((key) => documentDraft(key));
    drafts.push(documentDraft('d', { corrects: { sequence: 1, number: 'A-00000007' } }));
    const plan = planBatch(tip, drafts, circumstance({ charter: short }));
    expect(told(plan.outcomes)).toEqual(['A-00000007', 'A-00000008', 'range-exhausted', 'range-exhausted']);
  });

  test('keeps two kinds apart that share a prefix and part its numbers', async () => {
    const shared = charter({
      series: [
        { kind: 'invoice', prefix: 'A-', digits: 8, first: 1, last: 100 },
        { kind: 'credit-note', prefix: 'A-', digits: 8, first: 101, last: 200 },
      ],
    });
    const credits = new CreditBook();
    await credits.hold(1, async () => ({ total: '100', credited: [] }));
    const note = documentDraft('n', { total: '1', corrects: { sequence: 1, number: 'A-00000001' } });
    const plan = planBatch(tip, [documentDraft('a'), note, documentDraft('b'), note], circumstance({ charter: shared, credits }));
    expect(told(plan.outcomes)).toEqual(['A-00000001', 'A-00000101', 'A-00000002', 'A-00000102']);
  });

  test('takes a document of the greatest size and no greater', () => {
    const [fits, over] = [0, 1].map((more) => {
      const empty = documentDraft('k').body({ sequence: 2, number: 'A-00000001', issuedAtMs: wallMs }).length;
      return documentDraft('k', { fillerBytes: bodyMaxBytes - empty + more });
    }) as [Draft, Draft];
    expect(told(planBatch(tip, [fits], circumstance()).outcomes)).toEqual(['A-00000001']);
    expect(told(planBatch(tip, [over], circumstance()).outcomes)).toEqual(['too-large']);
  });

  test('ends before the draft that would not fit, which takes no number', () => {
    const refuse = (): never => {
      throw new UkeyError('halted', 'no');
    };
    const [half, refused] = [documentDraft('h', { fillerBytes: 480_000 }), own(refuse)];
    const plan = planBatch(tip, [half, refused, half, half, documentDraft('small')], circumstance());
    expect(told(plan.outcomes)).toEqual(['A-00000001', 'halted', 'A-00000002']);
    expect(plan.entries.reduce((sum, { encoded }) => sum + encoded.length, 0)).toBeLessThanOrEqual(batchMaxBytes);
    expect(plan.tip.nextSequence).toBe(tip.nextSequence + 2);
    expect(told(planBatch(tip, [own(() => new Uint8Array(bodyMaxBytes)), half], circumstance()).outcomes)).toEqual(['admin']);
  });

  test('without a charter takes own entries and no document', () => {
    const plan = planBatch(emptyTip, [documentDraft('a'), own(() => Buffer.from('{}'))], circumstance({ charter: null }));
    expect(told(plan.outcomes)).toEqual(['halted', 'admin']);
  });

  test('is not harmed by a draft that throws', () => {
    const broken = own(() => {
      throw new RangeError('a fault');
    });
    const refused = own(() => {
      throw new UkeyError('busy', 'another came between');
    });
    const plan = planBatch(tip, [documentDraft('a'), broken, refused, documentDraft('b')], circumstance());
    expect(told(plan.outcomes)).toEqual(['A-00000001', 'internal', 'busy', 'A-00000002']);
  });
});

describe('credit notes in a plan', () => {
  const note = (key: string, total: string): Draft => documentDraft(key, { total, corrects: { sequence: 1, number: 'A-00000001' } });
  const opened = async (total: string, credited: string[] = []): Promise<CreditBook> => {
    const credits = new CreditBook();
    await credits.hold(1, async () => ({ total, credited }));
    return credits;
  };

  test('take back at most what remains', async () => {
    const credits = await opened('10.00', ['2.50', '0.50']);
    const plan = planBatch(tip, [note('a', '5'), note('b', '2.01'), note('c', '2.00'), note('d', '0.01')], circumstance({ credits }));
    expect(told(plan.outcomes)).toEqual(['C-00000001', 'credit-exceeds', 'C-00000002', 'credit-exceeds']);
    giveBackCredits(plan.entries, credits);
    expect(credits.remaining(1)).toBe('7');
  });

  test('that are refused for another reason reserve nothing', async () => {
    const credits = await opened('10.00');
    const limits = { ...noLimits, single: '1' };
    expect(told(planBatch(tip, [note('a', '5')], circumstance({ credits, limits })).outcomes)).toEqual(['limit-single']);
    expect(credits.remaining(1)).toBe('10');
  });
});

describe('a credit book', () => {
  test('is loaded once for all that hold it, and forgotten with the last', async () => {
    const credits = new CreditBook();
    let loads = 0;
    const gate = Promise.withResolvers<void>();
    const load = async (): Promise<{ total: string; credited: string[] }> => {
      loads += 1;
      await gate.promise;
      return { total: '10', credited: ['1'] };
    };
    const holds = Array.from({ length: 5 }, () => credits.hold(7, load));
    gate.resolve();
    await Promise.all(holds);
    expect(loads).toBe(1);
    expect(credits.reserve(7, '9')).toBe(true);
    expect(credits.reserve(7, '0.01')).toBe(false);
    for (let at = 0; at < 5; at += 1) credits.letGo(7);
    expect(credits.size).toBe(0);
  });

  test('that cannot be loaded is held by nobody, and the next asks again', async () => {
    const credits = new CreditBook();
    const fail = () => Promise.reject(new UkeyError('not-found', 'no'));
    const ends = await Promise.allSettled([credits.hold(7, fail), credits.hold(7, fail)]);
    expect(ends.map((end) => end.status)).toEqual(['rejected', 'rejected']);
    expect(credits.size).toBe(0);
    await credits.hold(7, async () => ({ total: '1', credited: [] }));
    expect(credits.remaining(7)).toBe('1');
  });
});
