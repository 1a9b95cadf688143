import fc from 'fast-check';
import { beforeAll, describe, expect, test } from 'vitest';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { decodeCbor } from '#ipc-schema/cbor.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { bodyHashOf, type Leaf } from '#ipc-schema/entry.ts';
import { money } from '#ipc-schema/money.ts';
import { encodeAcknowledgementBody } from '#ipc-schema/upstream.ts';
import { decodeTip, emptyTip, encodeTip, nextCounter, type Tip, withBatchEnd, withEntry } from '#ledger/tip.ts';
import { LedgerRig } from '#test/support/ledger-rig.ts';
import { refusal } from '#test/support/refusal.ts';

let rig: LedgerRig;
beforeAll(async () => {
  rig = await LedgerRig.open();
  return () => rig.close();
});

interface Step {
  readonly leaf: Leaf;
  readonly body: Uint8Array;
}

const leafOf = (tip: Tip, kind: Leaf['kind'], body: Uint8Array, more: Partial<Leaf> = {}): Leaf => ({
  kind,
  sequence: tip.nextSequence,
  number: null,
  issuedAtMs: 1_900_000_000_000 + tip.nextSequence,
  issuerTaxId: 'T',
  currency: null,
  total: null,
  taxTotal: null,
  bodyHash: bodyHashOf(body),
  ...more,
});

function document(tip: Tip, counter: number, total: string, kind: 'invoice' | 'credit-note' = 'invoice'): Step {
  const body = Buffer.from('{}');
  const number = `${kind === 'invoice' ? 'A-' : 'C-'}${String(counter).padStart(8, '0')}`;
  return { leaf: leafOf(tip, kind, body, { number, currency: 'GBP', total, taxTotal: '0' }), body };
}

function acknowledgement(tip: Tip, upToBatch: number, released: { count: number; amount: string; nextOldestMs: number | null }): Step {
  const signed = rig.ack(0, { upToBatch, serverTimeMs: 1_900_000_500_000 + upToBatch });
  const { count: releasedCount, amount: releasedAmount, nextOldestMs } = released;
  const body = encodeAcknowledgementBody({ signed, releasedCount, releasedAmount, nextOldestMs });
  return { leaf: leafOf(tip, 'acknowledgement', body), body };
}

function charterStep(tip: Tip, change: Partial<Charter> = {}): Step {
  const body = rig.signDocument({ ...rig.charter, ...change });
  return { leaf: leafOf(tip, 'charter', body), body };
}

const take = (tip: Tip, step: Step): Tip => withEntry(tip, step.leaf, { body: step.body });

/** A tip with charter in batch 1. */
function chartered(): Tip {
  return withBatchEnd(take(emptyTip, charterStep(emptyTip)));
}

describe('one entry', () => {
  test('a document adds to the backlog and moves its series', () => {
    let tip = chartered();
    tip = take(tip, document(tip, 1, '10.50'));
    tip = take(tip, document(tip, 2, '0.25'));
    tip = take(tip, document(tip, 1, '3', 'credit-note'));
    expect(tip.pending).toMatchObject({ count: 3, amount: '13.75', oldestMs: 1_900_000_000_002 });
    expect([...tip.counters]).toEqual([
      ['invoice A-', 2],
      ['credit-note C-', 1],
    ]);
    expect(tip).toMatchObject({ documents: 3, nextSequence: 5, nextBatch: 2, lastWeightyBatch: 2 });
  });

  test('an acknowledgement releases, and only it', () => {
    let tip = chartered();
    tip = withBatchEnd(take(tip, document(tip, 1, '10.50')));
    tip = withBatchEnd(take(tip, document(tip, 2, '1')));
    tip = withBatchEnd(take(tip, acknowledgement(tip, 2, { count: 1, amount: '10.50', nextOldestMs: 1_900_000_000_003 })));
    expect(tip.pending).toEqual({ count: 1, amount: '1', oldestMs: 1_900_000_000_003 });
    expect(tip).toMatchObject({ ackedBatch: 2, lastWeightyBatch: 3, serverTimeMs: 1_900_000_500_002 });
    tip = take(tip, acknowledgement(tip, 4, { count: 1, amount: '1', nextOldestMs: null }));
    expect(tip.pending).toEqual({ count: 0, amount: '0', oldestMs: null });
  });

  test('a batch of acknowledgements alone need not be uploaded', () => {
    let tip = chartered();
    expect(tip.lastWeightyBatch).toBe(1);
    tip = withBatchEnd(take(tip, acknowledgement(tip, 1, { count: 0, amount: '0', nextOldestMs: null })));
    expect(tip).toMatchObject({ nextBatch: 3, lastWeightyBatch: 1, ackedBatch: 1 });
  });

  test.each<[string, (tip: Tip) => Step]>([
    ['a sequence twice', (tip) => ({ ...document(tip, 1, '1'), leaf: { ...document(tip, 1, '1').leaf, sequence: tip.nextSequence - 1 } })],
    ['a hole', (tip) => ({ ...document(tip, 1, '1'), leaf: { ...document(tip, 1, '1').leaf, sequence: tip.nextSequence + 1 } })],
    ['a number twice', (tip) => document(tip, 5, '1')],
    ['a number of before', (tip) => document(tip, 4, '1')],
    ['a number that is none', (tip) => ({ ...document(tip, 6, '1'), leaf: { ...document(tip, 6, '1').leaf, number: 'A-0000000x' } })],
    ['more released than waits', (tip) => acknowledgement(tip, 2, { count: 2, amount: '1', nextOldestMs: null })],
    ['a greater amount released than waits', (tip) => acknowledgement(tip, 2, { count: 1, amount: '1.01', nextOldestMs: null })],
    ['an older acknowledgement', (tip) => acknowledgement({ ...tip }, 0, { count: 0, amount: '0', nextOldestMs: null })],
  ])('%s is refused', (_what, step) => {
    let tip = chartered();
    tip = withBatchEnd(take(tip, acknowledgement(tip, 1, { count: 0, amount: '0', nextOldestMs: null })));
    tip = withBatchEnd(take(tip, document(tip, 5, '1')));
    refusal(() => take(tip, step(tip)), 'halted');
  });

  test('a body that is not what its kind says is refused', () => {
    const tip = chartered();
    const body = Buffer.from('nonsense');
    for (const kind of ['charter', 'template', 'acknowledgement'] as const)
      refusal(() => withEntry(tip, leafOf(tip, kind, body), { body }), 'invalid-request');
  });
});

describe('counters', () => {
  const series = { kind: 'invoice', prefix: 'A-', digits: 8, first: 10, last: 12 } as const;
  const at = (counter: number | null): Tip => ({ ...emptyTip, counters: new Map(counter === null ? [] : [['invoice A-', counter]]) });

  test.each([
    [null, 10],
    [3, 10],
    [9, 10],
    [10, 11],
    [11, 12],
    [12, null],
    [500, null],
  ])('after %s comes %s', (last, next) => {
    expect(nextCounter(at(last), series)).toBe(next);
  });
});

type Act = 'invoice' | 'credit-note' | 'admin' | 'template' | 'acknowledgement' | 'batch-end';

/** A random history that follows the rules, with the truth kept beside it in the plainest way. */
function history(acts: readonly (readonly [Act, number])[]): { readonly steps: (Step | 'batch-end')[]; readonly pending: string[] } {
  const steps: (Step | 'batch-end')[] = [charterStep(emptyTip), 'batch-end'];
  let tip = chartered();
  const waiting: { readonly batch: number; readonly total: string; readonly atMs: number }[] = [];
  let batchIsEmpty = true;
  for (const [act, value] of acts) {
    if (act === 'batch-end') {
      if (batchIsEmpty) continue;
      steps.push('batch-end');
      tip = withBatchEnd(tip);
      batchIsEmpty = true;
      continue;
    }
    const step = stepOf(act, value, tip, waiting);
    if (step === null) continue;
    steps.push(step);
    tip = take(tip, step);
    if (step.leaf.total !== null) waiting.push({ batch: tip.nextBatch, total: step.leaf.total, atMs: step.leaf.issuedAtMs });
    batchIsEmpty = false;
  }
  return { steps, pending: waiting.map((each) => each.total) };
}

function stepOf(
  act: Exclude<Act, 'batch-end'>,
  value: number,
  tip: Tip,
  waiting: { batch: number; total: string; atMs: number }[],
): Step | null {
  const counter = (kind: string): number => (tip.counters.get(kind) ?? 0) + 1;
  const total = (value / 100).toFixed(2);
  switch (act) {
    case 'invoice':
      return document(tip, counter('invoice A-'), total);
    case 'credit-note':
      return document(tip, counter('credit-note C-'), total, 'credit-note');
    case 'admin':
      return adminStep(tip, adminBodies[value % adminBodies.length] ?? Buffer.from('{}'));
    case 'template': {
      const body = rig.signDocument(templateContent(value % 3, 1 + (value % 2)));
      return { leaf: leafOf(tip, 'template', body), body };
    }
    case 'acknowledgement': {
      const upTo = Math.max(tip.ackedBatch, value % tip.nextBatch);
      const gone = waiting.filter((each) => each.batch <= upTo);
      waiting.splice(0, gone.length);
      const amount = gone.reduce((sum, each) => sum.plus(money(each.total)), money('0')).toFixed();
      return acknowledgement(tip, upTo, { count: gone.length, amount, nextOldestMs: waiting[0]?.atMs ?? null });
    }
  }
}

const renewed = Buffer.from(encodeAdminEvent({ event: 'certificate-renewed', certificate: 'AAAA' }));
const succession = Buffer.from(encodeAdminEvent({ event: 'succession', succession: 'AAAA' }));
const adminBodies = [Buffer.from('{}'), renewed, succession];

function adminStep(tip: Tip, body: Buffer): Step {
  return { leaf: leafOf(tip, 'admin', body), body };
}

function templateContent(id: number, version: number): unknown {
  return {
    ...{ format: 'ukey-template/1', id: `t${id}`, version, title: { invoice: 'I', creditNote: 'C' }, currency: 'GBP', decimals: 2 },
    ...{ unitPriceDecimals: 2, quantityDecimals: 0, pricesIncludeTax: true, taxes: [{ code: 's', rate: '20', label: 'VAT' }] },
    ...{ defaultTax: 's', rounding: 'half-up', allowZeroPrice: true, allowExternalCorrection: true, buyer: 'none' },
    ...{ layout: { widthChars: 42, header: [], footer: [] }, validFrom: '2000-01-01T00:00:00Z', validUntil: null },
  };
}

const acts = fc.array(
  fc.tuple(
    fc.constantFrom<Act>('invoice', 'invoice', 'credit-note', 'admin', 'template', 'acknowledgement', 'batch-end', 'batch-end'),
    fc.nat(5_000),
  ),
  { minLength: 1, maxLength: 40 },
);

const fold = (from: Tip, steps: readonly (Step | 'batch-end')[]): Tip =>
  steps.reduce<Tip>((tip, step) => (step === 'batch-end' ? withBatchEnd(tip) : take(tip, step)), from);

test('the newest renewal of the key in force is known by its batch, until another key brings its own certificate', () => {
  const one = withBatchEnd(take(chartered(), adminStep(chartered(), renewed)));
  expect(one.certificateBatch).toBe(2);
  const two = withBatchEnd(take(one, adminStep(one, renewed)));
  expect(two.certificateBatch).toBe(3);
  expect(take(two, adminStep(two, Buffer.from('{}'))).certificateBatch).toBe(3);
  expect(take(two, adminStep(two, succession)).certificateBatch).toBeNull();
  // A ledger without one has the checkpoint that services before this one read.
  expect([chartered(), two].map((tip) => (decodeCbor(encodeTip(tip), 'checkpoint') as number[])[0])).toEqual([1, 2]);
});

describe('random histories', () => {
  test('the fold of all is the fold from any checkpoint, and a checkpoint comes back as it was', () => {
    const property = fc.property(acts, (given) => {
      const { steps } = history(given);
      const whole = fold(emptyTip, steps);
      for (const [at, step] of steps.entries()) {
        if (step !== 'batch-end') continue;
        const before = fold(emptyTip, steps.slice(0, at + 1));
        const bytes = encodeTip(before);
        const checkpoint = decodeTip(bytes);
        expect(checkpoint).toEqual(before);
        expect(Buffer.from(encodeTip(checkpoint))).toEqual(Buffer.from(bytes));
        expect(fold(checkpoint, steps.slice(at + 1))).toEqual(whole);
      }
    });
    fc.assert(property, { seed: 31_337, numRuns: 60 });
  });

  test('what waits is what was issued and not released, to the cent', () => {
    const property = fc.property(acts, (given) => {
      const { steps, pending } = history(given);
      const tip = fold(emptyTip, steps);
      expect(tip.pending.count).toBe(pending.length);
      expect(money(tip.pending.amount).equals(pending.reduce((sum, total) => sum.plus(money(total)), money('0')))).toBe(true);
      expect(tip.pending.oldestMs === null).toBe(pending.length === 0);
    });
    fc.assert(property, { seed: 5, numRuns: 150 });
  });

  test('a checkpoint with anything changed in its form is refused', () => {
    const bytes = Buffer.from(encodeTip(chartered()));
    for (const spoilt of [
      bytes.subarray(0, -1),
      Buffer.concat([bytes, Buffer.of(0)]),
      Buffer.concat([Buffer.of(bytes[0] ?? 0, 2), bytes.subarray(2)]),
    ])
      refusal(() => decodeTip(spoilt));
    refusal(() => decodeTip(encodeTip({ ...chartered(), pending: { count: 1, amount: '1e5', oldestMs: 1 } })));
  });
});
