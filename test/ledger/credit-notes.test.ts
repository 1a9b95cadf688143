import { afterEach, describe, expect, test } from 'vitest';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { money, zero } from '#ipc-schema/money.ts';
import type { Committed } from '#ledger/stored.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';

let rig: LedgerRig;
afterEach(() => rig?.close());

const original = async (total: string): Promise<{ sequence: number; number: string }> => {
  const { leaf } = await rig.ledger.add(documentDraft('original', { total }));
  return { sequence: leaf.sequence, number: leaf.number ?? '' };
};

const codes = async (promises: readonly Promise<unknown>[]): Promise<string[]> =>
  (await Promise.allSettled(promises)).map((end) => (end.status === 'fulfilled' ? 'answered' : asUkeyError(end.reason).code));

const credited = (): string =>
  rig
    .leaves()
    .filter((leaf) => leaf.kind === 'credit-note')
    .reduce((sum, leaf) => sum.plus(money(leaf.total ?? '0')), zero)
    .toFixed();

describe('credit notes', () => {
  test('50 at once take back exactly the original, and no cent more', async () => {
    rig = await LedgerRig.open();
    const corrects = await original('10.00');
    const ends = await codes(Array.from({ length: 50 }, (_, at) => rig.ledger.add(documentDraft(`c${at}`, { total: '0.30', corrects }))));
    expect(ends.filter((end) => end === 'answered').length).toBe(33);
    expect(new Set(ends)).toEqual(new Set(['answered', 'credit-exceeds']));
    expect(await codes([rig.ledger.add(documentDraft('last', { total: '0.10', corrects }))])).toEqual(['answered']);
    expect(credited()).toBe('10');
    expect(rig.ledger.sizes.credits).toBe(0);
  });

  test('remember across restarts, with and without the index', async () => {
    rig = await LedgerRig.open();
    const corrects = await original('10.00');
    await rig.ledger.add(documentDraft('c1', { total: '6.00', corrects }));
    await rig.restart();
    expect(await codes([rig.ledger.add(documentDraft('c2', { total: '4.01', corrects }))])).toEqual(['credit-exceeds']);
    await rig.ledger.add(documentDraft('c3', { total: '3.00', corrects }));
    await rig.custody.close();
    const { Lookup } = await import('#ledger/lookup.ts');
    Lookup.remove(rig.indexFile);
    await rig.restart();
    expect(await codes([rig.ledger.add(documentDraft('c4', { total: '1.01', corrects }))])).toEqual(['credit-exceeds']);
    expect(await codes([rig.ledger.add(documentDraft('c5', { total: '1.00', corrects }))])).toEqual(['answered']);
  });

  test('that were read before another was committed do not forget it', async () => {
    rig = await LedgerRig.open();
    const corrects = await original('10.00');
    await rig.ledger.add(documentDraft('c0', { total: '1.00', corrects }));
    // A slow reader: while it still reads the history, others begin, are answered and let go.
    rig.holder.readMs = 30;
    const slow = rig.ledger.add(documentDraft('slow', { total: '9.00', corrects }));
    await new Promise((resolve) => setTimeout(resolve, 10));
    rig.holder.readMs = 0;
    const quick = rig.ledger.add(documentDraft('quick', { total: '9.00', corrects }));
    expect((await codes([slow, quick])).sort()).toEqual(['answered', 'credit-exceeds']);
    expect(credited()).toBe('10');
  });

  test('refused by the token may be repeated in full', async () => {
    rig = await LedgerRig.open();
    const corrects = await original('10.00');
    rig.holder.automatic = false;
    const refused = codes([rig.ledger.add(documentDraft('c', { total: '10.00', corrects }))]);
    await rig.settle();
    rig.holder.newest.refuse('token-failed');
    expect(await refused).toEqual(['token-failed']);
    rig.holder.automatic = true;
    expect(await codes([rig.ledger.add(documentDraft('c', { total: '10.00', corrects }))])).toEqual(['answered']);
  });

  test('for what is no invoice of this token are refused, and leave nothing behind', async () => {
    rig = await LedgerRig.open();
    const corrects = await original('10.00');
    const note: Committed = await rig.ledger.add(documentDraft('c', { total: '1.00', corrects }));
    const targets = [999_999, 1, note.leaf.sequence];
    const ends = targets.map((sequence) =>
      rig.ledger.add(documentDraft(`t${sequence}`, { total: '1.00', corrects: { sequence, number: 'A-1' } })),
    );
    expect(await codes(ends)).toEqual(['not-found', 'not-found', 'not-found']);
    expect(rig.ledger.sizes).toMatchObject({ credits: 0, keys: 0 });
  });

  test('previewed reserve nothing and say what issuing would', async () => {
    rig = await LedgerRig.open();
    const corrects = await original('10.00');
    const draft = documentDraft('c', { total: '10.00', corrects });
    for (let at = 0; at < 3; at += 1) await rig.ledger.check(draft);
    expect(await codes([rig.ledger.check(documentDraft('c', { total: '10.01', corrects }))])).toEqual(['credit-exceeds']);
    expect(rig.holder.stored.length).toBe(2);
    expect((await rig.ledger.add(draft)).leaf.number).toBe('C-00000001');
  });
});
