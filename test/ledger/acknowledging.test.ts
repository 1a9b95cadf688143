import { generateKeyPairSync } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import { asUkeyError, type ErrorCode } from '#ipc-schema/errors.ts';
import { money } from '#ipc-schema/money.ts';
import { otherSeal } from '#ipc-schema/spelling.ts';
import { type Acknowledgement, decodeAcknowledgementBody } from '#ipc-schema/upstream.ts';
import { acknowledge } from '#ledger/acknowledging.ts';
import { contradictionIn } from '#ledger/contradiction.ts';
import { Summaries, summariesMax } from '#ledger/summaries.ts';
import { documentDraft, LedgerRig, noLimits } from '#test/support/ledger-rig.ts';

let rig: LedgerRig;
afterEach(() => rig?.close());

const take = (signed: Uint8Array): Promise<Acknowledgement | null> => acknowledge(rig.ledger, rig.charter, signed);
const issue = (key: string, total = '10.00') => rig.ledger.add(documentDraft(key, { total }));

/** Charter in batch 1, then one document a batch, an hour apart. */
async function withDocuments(count: number): Promise<void> {
  rig = await LedgerRig.open();
  for (let at = 0; at < count; at += 1) {
    await issue(`k${at}`, `${at + 1}.01`);
    rig.clock.pass(3_600_000);
  }
}

/** The tip says what the log says. */
function expectExact(): void {
  const { pending, ackedBatch } = rig.ledger.tip;
  const byLog = rig.pendingByLog(ackedBatch);
  expect(pending.count).toBe(byLog.count);
  expect(money(pending.amount).equals(byLog.amount)).toBe(true);
  const oldest = rig
    .leaves()
    .filter((leaf) => leaf.number !== null)
    .at(-byLog.count);
  expect(pending.oldestMs).toBe(byLog.count === 0 ? null : oldest?.issuedAtMs);
}

async function expectRefused(signed: Uint8Array, code: ErrorCode): Promise<void> {
  const before = rig.ledger.tip;
  const stored = rig.holder.stored.length;
  await expect(take(signed)).rejects.toMatchObject({ code });
  expect(rig.ledger.tip).toBe(before);
  expect(rig.holder.stored.length).toBe(stored);
}

/** Hash of the seal of a stored batch, in the spelling that somebody else can write. */
function otherHash(batchIndex: number): Uint8Array {
  const { sealBytes } = decodeBatch(rig.holder.stored[batchIndex - 1]?.bytes ?? new Uint8Array());
  return sealHashOf(otherSeal(sealBytes) ?? sealBytes);
}

const judge = (kind: 'acknowledgement' | 'alarm', signed: Uint8Array) => contradictionIn(rig.ledger, rig.charter, { kind, signed });

describe.each(['low', 'high'] as const)('of a ledger whose seals are in the %s spelling', (spelling) => {
  beforeEach(async () => {
    rig = await LedgerRig.open();
    rig.token.spelling = spelling;
    for (const key of ['a', 'b', 'c']) await issue(key);
  });

  test('what names our newest batch in its other spelling proves nothing and acknowledges nothing; what names another one does', async () => {
    const strange = rig.ack(4, { headSealHash: otherHash(4) });
    expect(await judge('acknowledgement', strange)).toBeNull();
    expect(await take(strange)).toBeNull();
    expect(rig.ledger.tip.ackedBatch).toBe(0);
    expect(await judge('acknowledgement', rig.ack(4, { headSealHash: otherHash(3) }))).toMatchObject({ kind: 'clone' });
    await expectRefused(rig.ack(4, { headSealHash: otherHash(3) }), 'halted');
    expect(await take(rig.ack(4))).toMatchObject({ upToBatch: 4 });
  });

  test('an alarm is about our batch where it has our bytes, or the low spelling that the server tells; a high one that is not ours stops nobody', async () => {
    const { sealBytes } = decodeBatch(rig.holder.stored[2]?.bytes ?? new Uint8Array());
    const other = otherSeal(sealBytes) ?? sealBytes;
    expect(await judge('alarm', rig.alarm(sealBytes))).toMatchObject({ kind: 'clone' });
    const found = await judge('alarm', rig.alarm(other));
    if (spelling === 'high') expect(found).toMatchObject({ kind: 'clone' });
    else expect(found).toBeNull();
  });
});

describe('an acknowledgement', () => {
  test('of a part releases that part to the cent, and the rest ages on', async () => {
    await withDocuments(5);
    await take(rig.ack(3));
    expect(rig.ledger.tip).toMatchObject({ ackedBatch: 3, pending: { count: 3, amount: '12.03' } });
    expectExact();
    await take(rig.ack(6));
    expect(rig.ledger.tip.pending).toEqual({ count: 0, amount: '0', oldestMs: null });
    expectExact();
    expect(rig.custody.budget()).toMatchObject({ usedPercent: 0 });
  });

  test('survives a restart, and the fold without checkpoint says the same', async () => {
    await withDocuments(5);
    await take(rig.ack(4));
    const { tip } = rig.ledger;
    await rig.restart();
    expect(rig.ledger.tip).toEqual(tip);
    await issue('later');
    expectExact();
  });

  test('that is late or comes again changes nothing', async () => {
    await withDocuments(4);
    const [old, new_] = [rig.ack(2), rig.ack(5)];
    await take(new_);
    const { tip } = rig.ledger;
    expect([await take(old), await take(new_), await take(rig.ack(1))]).toEqual([null, null, null]);
    expect(rig.ledger.tip).toBe(tip);
  });

  test.each<[string, () => Uint8Array, ErrorCode]>([
    ['by another key', () => rig.ack(3, {}, generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey), 'invalid-request'],
    ['by the token itself', () => rig.token.sign(Buffer.from('x')), 'invalid-request'],
    ['of another token', () => rig.ack(3, { tokenId: new Uint8Array(16) }), 'invalid-request'],
    ['of no form', () => Buffer.from('<html>'), 'invalid-request'],
    ['empty', () => new Uint8Array(0), 'invalid-request'],
    ['of a head that is not ours: a clone', () => rig.ack(3, { headSealHash: new Uint8Array(32) }), 'halted'],
    ['of an older head that is not ours: a clone', () => rig.ack(1, { headSealHash: new Uint8Array(32) }), 'halted'],
    ['of batches that are not ours yet: a rollback', () => rig.ack(5), 'halted'],
  ])('%s is not taken', async (_what, signed, code) => {
    await withDocuments(3);
    await take(rig.ack(2));
    rig.holder.stored.pop(); // the acknowledgement's own batch: the token is as before it
    await rig.restart();
    await expectRefused(signed(), code);
  });

  test('with one byte changed anywhere is not taken', async () => {
    await withDocuments(2);
    const good = Buffer.from(rig.ack(3));
    for (let at = 0; at < good.length; at += 1) {
      const bad = Buffer.from(good);
      bad.writeUInt8(bad.readUInt8(at) ^ 0x01, at);
      await expect(take(bad)).rejects.toMatchObject({ code: 'invalid-request' });
    }
    expect(await take(good)).toMatchObject({ upToBatch: 3 });
  });

  test('in one batch with documents makes room for them', async () => {
    rig = await LedgerRig.open({ charter: { limits: { ...noLimits, count: 2 } } });
    await issue('a');
    await issue('b');
    await expect(issue('c')).rejects.toMatchObject({ code: 'limit-count' });
    rig.holder.automatic = false;
    const blocker = rig.ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: 2, body: () => Buffer.from('{}') });
    await rig.settle();
    const commits = rig.holder.commits.length;
    // Both wait in the pool, the document first.
    const document = issue('c');
    await rig.settle();
    const acked = take(rig.ack(3));
    await rig.settle();
    rig.holder.automatic = true;
    rig.holder.commits[commits - 1]?.seal();
    rig.holder.commits[commits - 1]?.write();
    await Promise.all([blocker, document, acked]);
    expect(rig.holder.commits.at(-1)?.draft.count).toBe(2);
    expect((await document).leaf.sequence).toBe(rig.ledger.tip.nextSequence - 1);
    expectExact();
  });

  test('finds the oldest behind it also among batches that are on their way', async () => {
    await withDocuments(2);
    rig.holder.automatic = false;
    const onItsWay = issue('flying');
    await rig.settle();
    const flight = rig.holder.newest;
    flight.seal();
    await rig.settle();
    const acked = take(rig.ack(3));
    await rig.settle();
    rig.holder.newest.seal();
    flight.write();
    rig.holder.newest.write();
    await Promise.all([onItsWay, acked]);
    expect(rig.ledger.tip.pending.count).toBe(1);
    expectExact();
  });

  test('that comes twice at once is taken once', async () => {
    await withDocuments(3);
    const ends = await Promise.allSettled([take(rig.ack(4)), take(rig.ack(4))]);
    const codes = ends.map((end) => (end.status === 'fulfilled' ? 'taken' : asUkeyError(end.reason).code));
    expect(codes.sort()).toEqual(['busy', 'taken']);
    expectExact();
  });

  test('that no batch needs is not uploaded for its own sake', async () => {
    await withDocuments(2);
    await take(rig.ack(3));
    const { tip } = rig.ledger;
    expect(tip.lastWeightyBatch).toBeLessThanOrEqual(tip.ackedBatch);
    const last = rig.holder.stored.at(-1);
    expect(last?.batchIndex).toBe(4);
  });

  test('carries what it released, so that a fold needs nothing else', async () => {
    await withDocuments(3);
    await take(rig.ack(3));
    const { body } = await rig.ledger.find({ sequence: rig.ledger.tip.nextSequence - 1 });
    expect(decodeAcknowledgementBody(body)).toMatchObject({ releasedCount: 2, releasedAmount: '3.02' });
  });
});

describe('the time in an acknowledgement', () => {
  const dayMs = 86_400_000;

  test('that is far ahead of what the server has proven is not taken; one that is right is, also where it is old', async () => {
    rig = await LedgerRig.open();
    await issue('a');
    const provenMs = rig.clock.wallMs();
    const ahead = rig.ack(2, { serverTimeMs: provenMs + 365 * dayMs });
    await expect(acknowledge(rig.ledger, rig.charter, ahead, provenMs)).rejects.toMatchObject({ code: 'clock-untrusted' });
    expect(rig.ledger.tip).toMatchObject({ ackedBatch: 0, serverTimeMs: 0 });
    const old = rig.ack(2, { serverTimeMs: provenMs - 365 * dayMs });
    await acknowledge(rig.ledger, rig.charter, old, provenMs);
    expect(rig.ledger.tip.ackedBatch).toBe(2);
  });

  test('counts for what it is where no time is proven', async () => {
    rig = await LedgerRig.open();
    const serverTimeMs = rig.clock.wallMs() + 365 * dayMs;
    await issue('a');
    await take(rig.ack(2, { serverTimeMs }));
    expect(rig.ledger.tip.serverTimeMs).toBe(serverTimeMs);
  });
});

describe('hours', () => {
  const hourMs = 3_600_000;

  test('go on while the machine sleeps', async () => {
    rig = await LedgerRig.open({ charter: { limits: { ...noLimits, hours: 10 } } });
    await issue('a');
    rig.clock.pass(2 * hourMs);
    rig.clock.sleep(7 * hourMs);
    expect(rig.custody.budget()).toMatchObject({ hoursLeft: 1 });
    await issue('b');
    rig.clock.sleep(hourMs);
    await expect(issue('c')).rejects.toMatchObject({ code: 'limit-hours' });
  });

  test('lock at the age of the oldest and are unlocked by its acknowledgement alone', async () => {
    rig = await LedgerRig.open({ charter: { limits: { ...noLimits, hours: 10 } } });
    await issue('a');
    rig.clock.pass(6 * hourMs);
    await issue('b');
    rig.clock.pass(4 * hourMs - 1);
    await issue('c');
    rig.clock.pass(1);
    await expect(issue('d')).rejects.toMatchObject({ code: 'limit-hours' });
    expect(rig.custody.standing().standing).toBe('limit-reached');
    await take(rig.ack(2));
    await issue('d');
    expect(rig.custody.budget()).toMatchObject({ hoursLeft: 6 });
    rig.clock.pass(6 * hourMs);
    await expect(issue('e')).rejects.toMatchObject({ code: 'limit-hours' });
  });

  test.each([20, -20])('are not moved by a clock that is set by %i hours while an acknowledgement comes', async (jumpHours) => {
    rig = await LedgerRig.open({ charter: { limits: { ...noLimits, hours: 10 } } });
    await issue('a');
    rig.clock.pass(hourMs);
    await issue('b');
    rig.clock.pass(3 * hourMs);
    rig.clock.jump(jumpHours * hourMs);
    await take(rig.ack(2));
    // `b` is now the oldest, and seen as such for the first time: three hours old, whatever the clock says.
    expect(rig.custody.budget()?.hoursLeft).toBeCloseTo(7, 1);
    rig.clock.pass(7 * hourMs);
    await expect(issue('c')).rejects.toMatchObject({ code: 'limit-hours' });
  });

  test('a clock behind what is proven by more than a day is not trusted', async () => {
    rig = await LedgerRig.open();
    await issue('a');
    rig.clock.jump(-25 * 3_600_000);
    const second = await issue('b');
    const first = await rig.ledger.find({ number: 'A-00000001' });
    expect(second.leaf.issuedAtMs).toBe(first.leaf.issuedAtMs);
    rig.clock.jump(-2 * 3_600_000);
    await expect(issue('c')).rejects.toMatchObject({ code: 'clock-untrusted' });
    expect(rig.custody.standing().standing).toBe('clock-untrusted');
  });
});

describe('what is remembered of batches', () => {
  test('is bounded, and what was forgotten is read again', async () => {
    const summaries = new Summaries();
    const summary = { count: 1, amount: '1', oldestMs: 1, sealHash: new Uint8Array(32) };
    for (let batch = 1; batch <= summariesMax + 10; batch += 1) summaries.note(batch, summary);
    expect(summaries.size).toBe(summariesMax);
    expect(summaries.get(10)).toBeNull();
    expect(summaries.get(11)).toBe(summary);
    summaries.note(11, summary);
    summaries.note(summariesMax + 11, summary);
    expect(summaries.get(11)).toBe(summary);
    summaries.forgetUpTo(summariesMax);
    expect(summaries.size).toBe(11);
  });

  test('goes with its acknowledgement', async () => {
    await withDocuments(20);
    expect(rig.ledger.sizes.summaries).toBe(21);
    await take(rig.ack(21));
    expect(rig.ledger.sizes.summaries).toBe(1);
  });
});
