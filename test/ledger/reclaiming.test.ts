// Shows: a ledger whose beginning is released: it mounts, goes on, and never issues a released document again.
import { afterEach, describe, expect, test, vi } from 'vitest';
import { decodeCarried, encodeCarried } from '#holder/carried.ts';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { encodeCbor } from '#ipc-schema/cbor.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { acknowledge } from '#ledger/acknowledging.ts';
import { LedgerIndex } from '#ledger/ledger-index.ts';
import { Lookup } from '#ledger/lookup.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';

const dayMs = 86_400_000;
let rig: LedgerRig;
afterEach(() => rig?.close());

const codeOf = async (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'answered',
    (error: unknown) => asUkeyError(error).code,
  );

/** Two documents, acknowledged `days` later, and one that is not. */
async function openAfter(days: number, keepDays = 30): Promise<void> {
  rig = await LedgerRig.open({ charter: { keepDays } });
  await rig.ledger.add(documentDraft('1'));
  await rig.ledger.add(documentDraft('2'));
  const upTo = rig.ledger.tip.nextBatch - 1;
  rig.clock.pass(days * dayMs);
  await acknowledge(rig.ledger, rig.charter, rig.ack(upTo));
  await rig.ledger.add(documentDraft('3'));
}

const noneCarried = { charter: null, templates: [], certificate: null };

async function addRenewal(certificate: Uint8Array): Promise<void> {
  const body = encodeAdminEvent({ event: 'certificate-renewed', certificate: Buffer.from(certificate).toString('base64') });
  await rig.ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: body.length, body: () => body });
}

test('what is carried without a renewed certificate has the form that services before this one read', () => {
  expect(decodeCarried(encodeCbor([1, null, []]))).toEqual(noneCarried);
  expect(Buffer.from(encodeCarried(noneCarried))).toEqual(Buffer.from(encodeCbor([1, null, []])));
});

describe('a ledger', () => {
  test('keeps everything until the server says that the keep-time is over', async () => {
    await openAfter(29);
    await rig.custody.reclaim();
    expect(rig.holder.oldestBatch).toBe(1);
    expect(rig.holder.carried).toBeNull();
  });

  test('whose local clock jumps ahead forgets nothing', async () => {
    await openAfter(0);
    rig.clock.jump(400 * dayMs);
    await rig.custody.reclaim();
    expect(rig.holder.oldestBatch).toBe(1);
  });

  test('releases what is acknowledged and old, carries the charter, and mounts without the batch that brought it', async () => {
    await openAfter(31);
    await rig.custody.reclaim();
    expect(rig.holder.oldestBatch).toBe(4); // charter, 1, 2; the third document is not acknowledged
    expect(rig.holder.carried?.charter?.batch).toBe(1);
    rig.holder.keepCheckpoint(rig.ledger.mountNow().checkpoint as Uint8Array, rig.ledger.tip.nextBatch);
    const again = await rig.restart();
    expect(again.charter?.serial).toBe(1);
    expect((await again.add(documentDraft('4'))).leaf.number).toBe('A-00000004');
  });

  test('carries the certificate that renewed the first one, and mounts without the batch that brought it', async () => {
    rig = await LedgerRig.open({ charter: { keepDays: 30 } });
    const before = rig.ledger.certificateTerm;
    const certificate = await rig.renewedCertificate();
    await addRenewal(certificate);
    const opened = await rig.restart(); // a crash before anything was told: the log alone knows
    expect(Buffer.from(opened.certificate)).toEqual(Buffer.from(certificate));
    await opened.add(documentDraft('1'));
    rig.clock.pass(31 * dayMs);
    await acknowledge(rig.ledger, rig.charter, rig.ack(rig.ledger.tip.nextBatch - 1));
    await rig.custody.reclaim();
    expect(rig.holder.oldestBatch).toBeGreaterThan(2);
    expect(rig.holder.carried?.certificate).toMatchObject({ batch: 2 });
    expect(decodeCarried(encodeCarried(rig.holder.carried ?? noneCarried))).toEqual(rig.holder.carried);
    rig.holder.keepCheckpoint(rig.ledger.mountNow().checkpoint as Uint8Array, rig.ledger.tip.nextBatch);
    const again = await rig.restart();
    expect(Buffer.from(again.certificate)).toEqual(Buffer.from(certificate));
    expect(again.certificateTerm).toEqual({ fromMs: before.fromMs, untilMs: Date.parse('2050-01-01T00:00:00Z') });
  });

  test('with a certificate in it that is of no use goes on with the one before', async () => {
    rig = await LedgerRig.open();
    const { certificate } = rig.ledger;
    await addRenewal(rig.holder.authorityCertificate);
    const again = await rig.restart();
    expect(Buffer.from(again.certificate)).toEqual(Buffer.from(certificate));
    expect((await again.add(documentDraft('1'))).leaf.number).toBe('A-00000001');
  });

  test('releases what a clock two years ahead has sealed by the time of its acknowledgement, and nothing of it sooner', async () => {
    let isProven = false;
    const provenNowMs = () => (isProven ? rig.clock.wallMs() : null);
    rig = await LedgerRig.open({ charter: { keepDays: 30 }, parts: { provenNowMs } });
    await rig.ledger.add(documentDraft('1'));
    rig.clock.jump(730 * dayMs);
    await rig.ledger.add(documentDraft('2'));
    rig.clock.jump(-730 * dayMs);
    isProven = true;
    const oldest: number[] = [];
    for (let day = 1; day <= 60; day += 1) {
      rig.clock.pass(dayMs);
      await rig.ledger.add(documentDraft(`day-${day}`)); // batch 2 * day + 2
      await acknowledge(rig.ledger, rig.charter, rig.ack(rig.ledger.tip.nextBatch - 1));
      await rig.custody.reclaim();
      oldest.push(rig.holder.oldestBatch);
    }
    // 30 days behind their seals: the charter and the first document; behind their acknowledgements: all that came after them.
    expect(oldest).toEqual(oldest.map((_, at) => (at + 1 < 30 ? 1 : Math.max(3, 2 * (at + 1 - 30) + 3))));
  });

  test('looks again only after a pause', async () => {
    await openAfter(0, 0);
    rig.holder.oldestBatch = 1;
    await rig.custody.reclaim();
    const { oldestBatch } = rig.holder;
    await acknowledge(rig.ledger, rig.charter, rig.ack(rig.ledger.tip.nextBatch - 1));
    await rig.custody.reclaim();
    expect(rig.holder.oldestBatch).toBe(oldestBatch);
  });
});

describe('a released document', () => {
  test('is not found, its key stays known, and no second invoice comes of it', async () => {
    await openAfter(31);
    await rig.custody.reclaim();
    const { documents } = rig.ledger.tip;
    expect(await codeOf(rig.ledger.find({ number: 'A-00000001' }))).toBe('not-found');
    expect(await codeOf(rig.ledger.add(documentDraft('1')))).toBe('not-found');
    expect(await codeOf(rig.ledger.add(documentDraft('1', { digest: 'other' })))).toBe('key-reused');
    const corrects = { sequence: 2, number: 'A-00000001' };
    expect(await codeOf(rig.ledger.add(documentDraft('c', { corrects })))).toBe('not-found');
    expect(rig.ledger.tip.documents).toBe(documents);
    expect((await rig.ledger.find({ number: 'A-00000003' })).leaf.number).toBe('A-00000003');
  });

  test('stays known to an index that lags behind the oldest batch', async () => {
    await openAfter(31);
    await rig.custody.reclaim();
    const checkpoint = rig.ledger.mountNow().checkpoint as Uint8Array;
    const { nextBatch } = rig.ledger.tip;
    await rig.custody.close();
    const lookup = await Lookup.open(rig.indexFile);
    const head = await lookup.head();
    if (head === null) throw new Error('the index is empty');
    await lookup.write([], { ...head, batch: 2 });
    await lookup.close();
    rig.holder.keepCheckpoint(checkpoint, nextBatch);
    await rig.restart();
    expect(await codeOf(rig.ledger.add(documentDraft('1')))).toBe('not-found');
  });

  test('stays in the log until its key stands in the file of the index', async () => {
    rig = await LedgerRig.open({ charter: { keepDays: 30 } });
    const write = vi.spyOn(Lookup.prototype, 'write').mockRejectedValue(new Error('the disk is full'));
    await rig.ledger.add(documentDraft('1'));
    rig.clock.pass(31 * dayMs);
    await acknowledge(rig.ledger, rig.charter, rig.ack(rig.ledger.tip.nextBatch - 1));
    await rig.ledger.add(documentDraft('2'));
    await rig.custody.reclaim();
    expect(rig.ledger.kept.oldestBatch).toBe(1);
    write.mockRestore(); // there is room again
    rig.clock.pass(dayMs);
    await rig.custody.reclaim();
    expect(rig.ledger.kept.oldestBatch).toBeGreaterThan(1);
    expect(await codeOf(rig.ledger.add(documentDraft('1')))).toBe('not-found');
  });

  test('keeps an index that takes nothing more from being made anew: its key would be new to it', { timeout: 20_000 }, async () => {
    await openAfter(31);
    await rig.custody.reclaim();
    expect(rig.ledger.kept.oldestBatch).toBeGreaterThan(1);
    const add = vi.spyOn(LedgerIndex.prototype, 'add');
    const write = vi.spyOn(Lookup.prototype, 'write').mockRejectedValue(new Error('the disk is full'));
    await rig.ledger.add(documentDraft('4'));
    const row = { batch: 9, place: 0, kind: 1, number: null, terminal: null, keyHash: null, digest: null, corrects: null };
    const [index] = add.mock.contexts as LedgerIndex[];
    const head = { tokenId: '', batch: 9, sealHash: '' };
    index?.add(
      Array.from({ length: 50_000 }, (_, at) => ({ ...row, sequence: at + 100 })),
      head,
    );
    await expect.poll(() => write.mock.calls.length, { timeout: 5_000 }).toBeGreaterThan(1);
    expect(await codeOf(rig.ledger.add(documentDraft('5')))).toBe('busy');
    expect(await codeOf(rig.ledger.add(documentDraft('1')))).toBe('not-found');
    vi.restoreAllMocks();
  });

  test('stays known where the disk takes no index any more when the ledger is opened', async () => {
    await openAfter(31);
    await rig.custody.reclaim();
    const checkpoint = rig.ledger.mountNow().checkpoint as Uint8Array;
    const { nextBatch } = rig.ledger.tip;
    await rig.custody.close();
    rig.holder.keepCheckpoint(checkpoint, nextBatch);
    const open = Lookup.open.bind(Lookup);
    const full = Object.assign(new Error('the disk is full'), { code: 'SQLITE_FULL' });
    vi.spyOn(Lookup, 'open').mockImplementation((file) => (file === ':memory:' ? open(file) : Promise.reject(full)));
    try {
      await rig.restart();
    } finally {
      vi.restoreAllMocks();
    }
    expect(await codeOf(rig.ledger.add(documentDraft('1')))).toBe('not-found');
    expect(await codeOf(rig.ledger.add(documentDraft('3')))).toBe('answered');
    await rig.custody.reclaim(); // nothing is released while the index would not outlive the process
    expect((await rig.ledger.add(documentDraft('3'))).repeated).toBe(true);
  });
});
