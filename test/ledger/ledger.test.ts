import { rmSync } from 'node:fs';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { batchMaxBytes, batchMaxEntries, decodeBatch } from '#ipc-schema/batch.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { chainStart, verifyBatch, verifyEvidence } from '#ipc-schema/verify.ts';
import type { Issued } from '#ledger/ledger.ts';
import { gatherMaxMs } from '#ledger/rhythm.ts';
import { inFlightMaxBatches, poolMaxDrafts } from '#ledger/sequencer.ts';
import { defaultSegmentBytesFor, maxPayloadBytes } from '#store/format.ts';
import { documentDraft, LedgerRig, type LedgerRigOptions, noLimits } from '#test/support/ledger-rig.ts';

let rig: LedgerRig;
afterEach(async () => {
  vi.useRealTimers();
  await rig?.close();
});

async function open(options: LedgerRigOptions = {}): Promise<void> {
  rig = await LedgerRig.open(options);
}

/** From here on the test seals and writes. */
async function openByHand(): Promise<void> {
  await open();
  rig.holder.automatic = false;
  rig.holder.commits.length = 0;
}

const add = (key: string, options = {}): Promise<Issued> => rig.ledger.add(documentDraft(key, options));

/** How a promise stands, without waiting for it. */
function watch<T>(promise: Promise<T>): { outcome: string } {
  const state = { outcome: 'open' };
  promise.then(
    () => (state.outcome = 'answered'),
    (error: unknown) => (state.outcome = asUkeyError(error).code),
  );
  return state;
}

const codes = async (promises: readonly Promise<unknown>[]): Promise<string[]> =>
  (await Promise.allSettled(promises)).map((end) => (end.status === 'fulfilled' ? 'answered' : asUkeyError(end.reason).code));

/** The whole log: chain, seals, sequences without a hole, numbers without a hole. */
function expectSoundLog(): void {
  let head = chainStart(rig.holder.certificate);
  const next = new Map([
    ['A-', 1],
    ['C-', 1],
  ]);
  for (const { bytes } of rig.holder.stored) {
    const verified = verifyBatch(bytes, rig.token.publicKey, head);
    head = verified.head;
    for (const { parsed } of verified.entries) {
      if (parsed.number === null) continue;
      const prefix = parsed.number.slice(0, 2);
      expect(Number(parsed.number.slice(2))).toBe(next.get(prefix));
      next.set(prefix, (next.get(prefix) ?? 0) + 1);
    }
  }
}

describe('one batch at a time', () => {
  test('is unsealed, and requests that come meanwhile share the next', async () => {
    await openByHand();
    const first = watch(add('1'));
    await rig.settle();
    const others = ['2', '3', '4'].map((key) => watch(add(key)));
    await rig.settle();
    expect(rig.holder.commits.length).toBe(1);
    rig.holder.newest.seal();
    await rig.settle();
    // The first syncs while the second is sealed: the overlap.
    expect(rig.holder.commits.map((commit) => commit.draft.count)).toEqual([1, 3]);
    expect([first, ...others].map((each) => each.outcome)).toEqual(['open', 'open', 'open', 'open']);
    rig.holder.commits[0]?.write();
    await rig.settle();
    expect([first, ...others].map((each) => each.outcome)).toEqual(['answered', 'open', 'open', 'open']);
    rig.holder.commits[1]?.seal();
    await rig.settle();
    expect(others.map((each) => each.outcome)).toEqual(['open', 'open', 'open']);
    rig.holder.commits[1]?.write();
    await rig.settle();
    expect(others.map((each) => each.outcome)).toEqual(['answered', 'answered', 'answered']);
    expectSoundLog();
  });

  test('of a slow token waits a moment for the callers of the batch before, so that all share it', async () => {
    await openByHand();
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const first = watch(add('1'));
    await rig.settle();
    rig.clock.pass(250);
    rig.holder.newest.seal();
    await rig.settle();
    rig.holder.newest.write();
    await rig.settle();
    expect(first.outcome).toBe('answered');
    void watch(add('2'));
    await rig.settle();
    void watch(add('3'));
    await rig.settle();
    expect(rig.holder.commits.length).toBe(1);
    vi.advanceTimersByTime(gatherMaxMs);
    await rig.settle();
    expect(rig.holder.commits.map((commit) => commit.draft.count)).toEqual([1, 2]);
    rig.holder.newest.seal();
    await rig.settle();
    rig.holder.newest.write();
    await rig.settle();
  });

  test('that is full waits for nobody, however slow the token', async () => {
    await openByHand();
    void watch(add('0'));
    await rig.settle();
    rig.clock.pass(10_000);
    rig.holder.newest.seal();
    rig.holder.commits[0]?.write();
    for (let at = 1; at <= batchMaxEntries; at += 1) void watch(add(`k${at}`));
    await rig.settle();
    expect(rig.holder.commits.length).toBe(2);
  });

  test('and at most four are not yet durable', async () => {
    await openByHand();
    for (let at = 0; at < 8; at += 1) {
      watch(add(`k${at}`));
      await rig.settle();
      if (rig.holder.commits.length <= at) break;
      rig.holder.newest.seal();
      await rig.settle();
    }
    expect(rig.holder.commits.length).toBe(inFlightMaxBatches);
    rig.holder.commits[0]?.write();
    await rig.settle();
    expect(rig.holder.commits.length).toBe(inFlightMaxBatches + 1);
  });

  test('answers come in order, even from a holder that tells them out of order', async () => {
    await openByHand();
    const order: number[] = [];
    for (let at = 0; at < 3; at += 1) {
      void add(`k${at}`).then(() => order.push(at));
      await rig.settle();
      rig.holder.newest.seal();
      await rig.settle();
    }
    const [a, b, c] = rig.holder.commits;
    for (const commit of [a, b, c]) commit?.store();
    c?.tellDurable();
    await rig.settle();
    b?.tellDurable();
    await rig.settle();
    expect(order).toEqual([]);
    expect(rig.ledger.tip.documents).toBe(0);
    a?.tellDurable();
    await rig.settle();
    expect(order).toEqual([0, 1, 2]);
    expect(rig.ledger.tip.documents).toBe(3);
  });

  test('its answers are made ready while the devices sync; one that cannot be made harms nobody', async () => {
    await openByHand();
    const told: string[] = [];
    const issue = (key: string, onSealed: () => void): { outcome: string } => watch(rig.ledger.add({ ...documentDraft(key), onSealed }));
    const refused = issue('refused', () => told.push('refused'));
    await rig.settle();
    rig.holder.newest.refuse('token-failed');
    await rig.settle();
    const both = [
      issue('bad', () => {
        told.push('bad');
        throw new Error('an answer that cannot be made');
      }),
      issue('good', () => told.push('good')),
    ];
    await rig.settle();
    expect(told).toEqual([]);
    rig.holder.newest.seal();
    await rig.settle();
    expect(told).toEqual(['bad', 'good']);
    expect(both.map(({ outcome }) => outcome)).toEqual(['open', 'open']);
    rig.holder.newest.write();
    await rig.settle();
    expect([refused, ...both].map(({ outcome }) => outcome)).toEqual(['token-failed', 'answered', 'answered']);
    expect(told).toEqual(['bad', 'good']);
  });

  test('an answer proves itself', async () => {
    await open();
    const answers = await Promise.all(['1', '2', '3'].map((key) => add(key)));
    for (const { evidence, body, leaf } of answers) {
      const { number, sequence, total } = leaf;
      expect(verifyEvidence(evidence, rig.token.publicKey, body).leaf).toMatchObject({ number, sequence, total });
    }
  });
});

describe('a refused seal', () => {
  test('is a definite error; number and sequence go to the next', async () => {
    await openByHand();
    const refused = [add('1'), add('2')];
    await rig.settle();
    rig.holder.automatic = true;
    rig.holder.newest.refuse('token-failed');
    expect(await codes(refused)).toEqual(['token-failed', 'answered']);
    expect((await add('2')).leaf).toMatchObject({ number: 'A-00000001', sequence: 2 });
    expect(await add('1')).toMatchObject({ repeated: false, leaf: { number: 'A-00000002', sequence: 3 } });
    expectSoundLog();
  });

  test('harms nobody before it', async () => {
    await openByHand();
    const first = watch(add('1'));
    await rig.settle();
    rig.holder.newest.seal();
    await rig.settle();
    const second = watch(add('2'));
    await rig.settle();
    rig.holder.newest.refuse('locked');
    await rig.settle();
    expect([first.outcome, second.outcome]).toEqual(['open', 'locked']);
    rig.holder.commits[0]?.write();
    await rig.settle();
    expect(first.outcome).toBe('answered');
    rig.holder.automatic = true;
    expect((await add('3')).leaf.number).toBe('A-00000002');
    expectSoundLog();
  });

  test('gives back what a credit note had reserved', async () => {
    await open();
    const { leaf } = await add('original', { total: '10.00' });
    const corrects = { sequence: leaf.sequence, number: leaf.number ?? '' };
    rig.holder.automatic = false;
    // Two at once keep the book open while the first is refused.
    const refused = watch(add('c1', { total: '8.00', corrects }));
    await rig.settle();
    const waiting = watch(add('c2', { total: '9.00', corrects }));
    await rig.settle();
    rig.holder.newest.refuse('token-failed');
    rig.holder.automatic = true;
    await rig.settle(20);
    expect([refused.outcome, waiting.outcome]).toEqual(['token-failed', 'answered']);
    expect(await codes([add('c3', { total: '1.01', corrects })])).toEqual(['credit-exceeds']);
    expect((await add('c3', { total: '1.00', corrects })).leaf.number).toBe('C-00000002');
  });

  test('for want of room shows in the standing until something is durable again', async () => {
    await openByHand();
    const refused = watch(add('1'));
    await rig.settle();
    rig.holder.newest.refuse('store-full');
    await rig.settle();
    expect(refused.outcome).toBe('store-full');
    expect(rig.custody.standing().standing).toBe('store-full');
    rig.holder.automatic = true;
    await add('1');
    expect(rig.custody.standing().standing).toBe('issuing-offline');
  });

  test("leaves the service's own entries: they are sent again alone, into the reserve, and no number is lost", async () => {
    await openByHand();
    const body = Buffer.from('note');
    const first = watch(add('0'));
    await rig.settle();
    const document = watch(add('1'));
    const own = watch(rig.ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: 4, body: () => body }));
    await rig.settle();
    rig.holder.newest.seal();
    rig.holder.newest.write();
    await rig.settle();
    expect(first.outcome).toBe('answered');
    expect(rig.holder.newest.draft).toMatchObject({ count: 2, reserved: false });
    rig.holder.newest.refuse('store-full');
    await rig.settle();
    expect([document.outcome, own.outcome]).toEqual(['store-full', 'open']);
    expect(rig.holder.newest.draft).toMatchObject({ count: 1, reserved: true });
    // While it is full, a document does not keep the next own entry out of the reserve.
    const later = [watch(add('2')), watch(rig.ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: 4, body: () => body }))];
    await rig.settle();
    rig.holder.newest.seal();
    rig.holder.newest.write();
    await rig.settle();
    expect(own.outcome).toBe('answered');
    expect(rig.custody.standing().standing).toBe('store-full');
    expect(rig.holder.newest.draft).toMatchObject({ count: 1, reserved: true });
    rig.holder.newest.seal();
    rig.holder.newest.write();
    await rig.settle();
    rig.holder.newest.seal();
    rig.holder.newest.write();
    await rig.settle();
    expect(later.map((each) => each.outcome)).toEqual(['answered', 'answered']);
    expect(rig.custody.standing().standing).toBe('issuing-offline');
    expectSoundLog();
  });
});

describe('a failed write', () => {
  /** Three batches on their way (the last unsealed) and a pool; the first write fails. */
  async function failing(stored: boolean): Promise<string[]> {
    await openByHand();
    const ends: { outcome: string }[] = [];
    for (let at = 0; at < 3; at += 1) {
      ends.push(watch(add(`k${at}`)));
      await rig.settle();
      if (at < 2) rig.holder.newest.seal();
      await rig.settle();
    }
    ends.push(watch(add('pooled')));
    await rig.settle();
    rig.holder.commits[0]?.fail(stored);
    await rig.settle();
    return ends.map((end) => end.outcome);
  }

  test.each([false, true])('is unknown to all on the way and busy for the pool; the key finds the truth (written: %s)', async (stored) => {
    expect(await failing(stored)).toEqual(['unknown-outcome', 'unknown-outcome', 'unknown-outcome', 'busy']);
    expect(rig.custody.ledger).toBeNull();
    expect(rig.custody.standing().standing).toBe('locked');
    // The holder opens the log again; callers have waited meanwhile.
    const waiting = ['k0', 'k1', 'k2', 'pooled'].map(async (key) => (await rig.custody.use()).add(documentDraft(key)));
    rig.holder.automatic = true;
    await rig.holder.logout();
    rig.holder.reopen();
    const late = await Promise.allSettled(waiting);
    expect(late.map((end) => end.status)).toEqual(['rejected', 'rejected', 'rejected', 'rejected']); // `locked`: a person had to log in
    const answers = await Promise.all(['k0', 'k1', 'k2', 'pooled'].map(async (key) => (await rig.custody.use()).add(documentDraft(key))));
    expect(answers.map((answer) => answer.repeated)).toEqual([stored, false, false, false]);
    expect(new Set(answers.map((answer) => answer.leaf.number)).size).toBe(4);
    expect(rig.leaves().filter((leaf) => leaf.number !== null).length).toBe(4);
    expectSoundLog();
  });

  test('of a batch whose seal is not told yet is unknown too', async () => {
    await openByHand();
    const end = watch(add('1'));
    await rig.settle();
    rig.holder.newest.fail(false);
    await rig.settle();
    expect(end.outcome).toBe('unknown-outcome');
    expect(rig.custody.ledger).toBeNull();
  });
});

describe('one key', () => {
  test('1,000 times at once is one invoice and one answer', async () => {
    await open();
    const answers = await Promise.all(Array.from({ length: 1_000 }, () => add('same')));
    expect(new Set(answers.map((answer) => Buffer.from(answer.body).toString('hex'))).size).toBe(1);
    expect(new Set(answers.map((answer) => JSON.stringify(answer.evidence))).size).toBe(1);
    expect(answers.filter((answer) => !answer.repeated).length).toBe(1);
    expect(rig.leaves().filter((leaf) => leaf.number !== null).length).toBe(1);
    expect(rig.ledger.sizes.keys).toBe(0);
  });

  test('is found at every stage: on its way, unwritten, in the index, after a restart, without its index', async () => {
    await openByHand();
    const first = add('same');
    await rig.settle();
    const onItsWay = add('same');
    rig.holder.newest.seal();
    rig.holder.newest.write();
    const answers = [await first, await onItsWay, await add('same')];
    await new Promise((resolve) => setTimeout(resolve, 60));
    answers.push(await add('same'));
    await rig.restart();
    answers.push(await add('same'));
    await rig.custody.close();
    for (const file of rig.indexFiles()) rmSync(file);
    await rig.restart();
    answers.push(await add('same'));
    expect(answers.map((answer) => answer.repeated)).toEqual([false, true, true, true, true, true]);
    expect(new Set(answers.map((answer) => Buffer.from(answer.body).toString())).size).toBe(1);
  });

  test('with another content is refused at every stage', async () => {
    await openByHand();
    const first = add('same');
    await rig.settle();
    expect(await codes([add('same', { digest: 'other' })])).toEqual(['key-reused']);
    rig.holder.newest.seal();
    rig.holder.newest.write();
    await first;
    expect(await codes([add('same', { digest: 'other' })])).toEqual(['key-reused']);
    await rig.restart();
    expect(await codes([add('same', { digest: 'other' }), rig.ledger.repeat(documentDraft('same').keyHash, 'other')])).toEqual([
      'key-reused',
      'key-reused',
    ]);
  });

  test('belongs to its terminal', async () => {
    await open();
    const [a, b] = await Promise.all([add('same', { terminal: 'till-1' }), add('same', { terminal: 'till-2' })]);
    expect(a.leaf.number).not.toBe(b.leaf.number);
  });

  test('whose request was refused may be used again', async () => {
    await open({ charter: { limits: { ...noLimits, single: '20' } } });
    expect(await codes([add('k', { total: '21' })])).toEqual(['limit-single']);
    expect((await add('k', { total: '20' })).repeated).toBe(false);
  });
});

describe('bounds', () => {
  test('a full pool is busy, and the rest is served', async () => {
    await openByHand();
    const all = Array.from({ length: poolMaxDrafts + 50 }, (_, at) => add(`k${at}`));
    const ends = all.map((each) => watch(each));
    await rig.settle();
    rig.holder.automatic = true;
    rig.holder.newest.seal();
    rig.holder.newest.write();
    await rig.ledger.drained();
    await rig.settle();
    const busy = ends.filter((end) => end.outcome === 'busy').length;
    expect(busy).toBeGreaterThan(0);
    expect(ends.filter((end) => end.outcome === 'answered').length).toBe(all.length - busy);
    expectSoundLog();
    const greatest = Math.max(...rig.holder.stored.map(({ bytes }) => decodeBatch(bytes).entries.length));
    expect(greatest).toBeGreaterThan(500);
    expect(greatest).toBeLessThanOrEqual(batchMaxEntries);
  });

  test('the longest batch fits a segment of every FLASH', () => {
    expect(batchMaxBytes + 4_096).toBeLessThanOrEqual(maxPayloadBytes(defaultSegmentBytesFor(0)));
  });

  test('a batch holds at most batchMaxBytes; a document of 500 kB goes alone or with small ones', async () => {
    await open();
    const big = { fillerBytes: 500_000 };
    await Promise.all([add('b1', big), add('s1'), add('b2', big), add('b3', big), add('s2')]);
    expect(rig.leaves().filter((leaf) => leaf.number !== null).length).toBe(5);
    for (const { bytes } of rig.holder.stored) expect(bytes.length).toBeLessThanOrEqual(batchMaxBytes + 4_096);
    expect(rig.holder.stored.length).toBeGreaterThanOrEqual(4);
    expectSoundLog();
  });

  test('what turns out longer than its draft said goes into the next batch, before what came later', async () => {
    await open();
    const own = (bytes: number) =>
      rig.ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: 4, body: () => new Uint8Array(bytes) });
    const all = await Promise.all([own(500_000), own(500_001), own(500_002), own(4)]);
    expect(all.map(({ batchIndex }) => batchIndex - all[0].batchIndex)).toEqual([0, 1, 2, 2]);
    for (const { bytes } of rig.holder.stored) expect(bytes.length).toBeLessThanOrEqual(batchMaxBytes + 4_096);
    expectSoundLog();
  });

  test('what is in memory goes when it is not needed', async () => {
    await open();
    const original = (await add('o', { total: '50.00' })).leaf;
    const corrects = { sequence: original.sequence, number: original.number ?? '' };
    for (let round = 0; round < 30; round += 1)
      await Promise.all([add(`a${round}`), add(`c${round}`, { total: '0.10', corrects }), add(`c${round}`, { total: '0.10', corrects })]);
    expect(rig.ledger.sizes).toMatchObject({ keys: 0, credits: 0 });
  });
});

describe('draining', () => {
  test('ends also where everything that was taken is refused', async () => {
    await open({ charter: { limits: { ...noLimits, single: '1' } } });
    const refused = codes([add('a', { total: '2' }), add('b', { total: '2' })]);
    await rig.settle(1);
    await rig.ledger.drained();
    expect(await refused).toEqual(['limit-single', 'limit-single']);
    expect(await codes([add('c', { total: '2' })])).toEqual(['limit-single']);
    await rig.ledger.drained();
  });

  test('ends under load once nothing new is taken, and everything taken is answered', async () => {
    await open();
    let isOver = false;
    const ends: string[] = [];
    const tills = Array.from({ length: 4 }, async (_, till) => {
      for (let at = 0; !isOver; at += 1) {
        ends.push(...(await codes([add(`t${till}-${at}`)])));
        // A till's next request comes over a socket. A refusal asks no database: without a turn between, nothing else would ever run.
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
    await rig.settle(20);
    await rig.custody.apart(async () => {
      isOver = true;
      await rig.holder.logout();
    });
    await Promise.all(tills);
    expect(ends.filter((end) => end !== 'answered' && end !== 'locked')).toEqual([]);
    expect(rig.leaves().filter((leaf) => leaf.number !== null).length).toBe(ends.filter((end) => end === 'answered').length);
  });

  test('goes on where the logout fails', async () => {
    await open();
    const failed = codes([rig.custody.apart(() => Promise.reject(new Error('no')))]);
    expect(await failed).toEqual(['internal']);
    expect((await add('k')).repeated).toBe(false);
  });
});
