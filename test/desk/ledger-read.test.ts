// Shows: the ledger is read page by page by those who may, within what an answer can hold, and beside the tills.
import { afterEach, describe, expect, test } from 'vitest';
import { LedgerCheck } from '#ctl/ledger-check.ts';
import { LedgerReading } from '#desk/ledger-read.ts';
import { during } from '#ground/asking.ts';
import { collectAll } from '#ground/rest.ts';
import { defaultLimits } from '#ipc/limits.ts';
import { batchMaxBytes } from '#ipc-schema/batch.ts';
import type { Client } from '#ipc-schema/client.ts';
import { encodeAnswer } from '#ipc-schema/envelope.ts';
import { asUkeyError, errorTable, type UkeyError } from '#ipc-schema/errors.ts';
import { type Method, methods, type Result } from '#ipc-schema/methods.ts';
import { check } from '#ipc-schema/schema.ts';
import { acknowledge } from '#ledger/acknowledging.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';
import { openRig, type Rig, sale } from '#test/support/rig.ts';

type Page = Result<'ledger.read'>;

let rig: Rig | null = null;
let ledgerRig: LedgerRig | null = null;
afterEach(async () => {
  await rig?.close();
  await ledgerRig?.close();
  rig = null;
  ledgerRig = null;
});

async function readAll(client: Client, maxBytes?: number): Promise<Page['batches']> {
  const batches: Page['batches'] = [];
  for (let next: number | null = 1; next !== null; ) {
    const page: Page = await client.call('ledger.read', { fromBatch: next, ...(maxBytes === undefined ? {} : { maxBytes }) });
    expect(page.batches.length).toBeGreaterThan(0);
    batches.push(...page.batches);
    next = page.nextBatch;
  }
  return batches;
}

describe('the ledger', () => {
  test('is read whole, in pages of any size, by an ERP program, an auditor and an operator, and not by a till', async () => {
    rig = await openRig();
    for (let at = 0; at < 5; at += 1) await Promise.all([rig.till.issue(sale(`a${at}`)), rig.till.issue(sale(`b${at}`))]);
    const { certificate, authorityCertificate } = await rig.admin.call('service.identity', {});
    const whole = await readAll(rig.admin);
    const ledger = new LedgerCheck({
      certificate: Buffer.from(certificate, 'base64'),
      authorityCertificate: Buffer.from(authorityCertificate, 'base64'),
    });
    for (const { bytes } of whole) ledger.add(Buffer.from(bytes, 'base64'));
    expect(ledger.result()).toMatchObject({ holds: true, byKind: { invoice: 10 } });
    // Meanwhile the service may add an entry of its own.
    for (const role of ['erp', 'auditor'] as const)
      expect((await readAll(await rig.connectAs(`${role}-1`, role), 1)).slice(0, whole.length)).toEqual(whole);
    await expect(rig.till.call('ledger.read', {})).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('is read from a sequence, and ends where it ends', async () => {
    rig = await openRig();
    const { sequence } = await rig.till.issue(sale('a'));
    await rig.till.issue(sale('b'));
    const before = await rig.admin.call('ledger.read', {});
    const page = await rig.admin.call('ledger.read', { fromSequence: sequence, maxBytes: 1 });
    const oldest = await rig.admin.call('ledger.read', {});
    expect(page.batches).toEqual(oldest.batches.slice((page.batches[0]?.batchIndex ?? 0) - 1).slice(0, 1));
    expect(page).toMatchObject({ oldestBatch: 1, nextBatch: (page.batches[0]?.batchIndex ?? 0) + 1 });
    // The service's own entries may come between two of the three.
    expect(oldest.newestBatch).toBe(oldest.batches.length);
    expect(page.newestBatch).toBeGreaterThanOrEqual(before.batches.length);
    expect(page.newestBatch).toBeLessThanOrEqual(oldest.batches.length);
    const behind = { batches: [], nextBatch: null, oldestBatch: 1 };
    expect(await rig.admin.call('ledger.read', { fromSequence: 1_000 })).toMatchObject(behind);
    expect(await rig.admin.call('ledger.read', { fromBatch: 1_000 })).toMatchObject(behind);
    await expect(rig.admin.call('ledger.read', { fromBatch: 1, fromSequence: 1 })).rejects.toMatchObject({ code: 'invalid-request' });
    await rig.admin.call('session.logout', {});
    await expect(rig.admin.call('ledger.read', {})).rejects.toMatchObject({ code: 'locked' });
  });

  test('is told to begin later where the beginning was released', async () => {
    ledgerRig = await LedgerRig.open({ charter: { keepDays: 30 } });
    for (const key of ['1', '2']) await ledgerRig.ledger.add(documentDraft(key));
    const upTo = ledgerRig.ledger.tip.nextBatch - 1;
    ledgerRig.clock.pass(31 * 86_400_000);
    await acknowledge(ledgerRig.ledger, ledgerRig.charter, ledgerRig.ack(upTo));
    await ledgerRig.ledger.add(documentDraft('3'));
    await ledgerRig.custody.reclaim();
    const reading = new LedgerReading(ledgerRig.custody, ledgerRig.holder);
    const { oldestBatch } = await reading.read({});
    expect(oldestBatch).toBe(upTo + 1);
    await expect(reading.read({ fromBatch: upTo })).rejects.toMatchObject({ code: 'not-found' });
    await expect(reading.read({ fromSequence: 1 })).rejects.toMatchObject({ code: 'not-found' });
    expect((await reading.read({ fromBatch: oldestBatch })).batches[0]?.batchIndex).toBe(oldestBatch);
  });

  test('says so too where the beginning is released while it is read, and a document is looked up', async () => {
    ledgerRig = await LedgerRig.open();
    for (const key of ['1', '2']) await ledgerRig.ledger.add(documentDraft(key));
    const { ledger, custody, holder } = ledgerRig;
    // The store has let it go, and the ledger does not know yet.
    await holder.release(ledger.tip.nextBatch - 1);
    const plain = errorTable['not-found'].action;
    const told = async (refused: Promise<unknown>): Promise<UkeyError> => asUkeyError(await refused.catch((error: unknown) => error));
    for (const error of [await told(new LedgerReading(custody, holder).read({})), await told(ledger.find({ number: 'A-00000001' }))]) {
      expect(error.code).toBe('not-found');
      expect(error.action).not.toBe(plain); // where it is now
    }
  });

  test('has no batch that an answer cannot hold', async () => {
    ledgerRig = await LedgerRig.open();
    const bytes = new Uint8Array(batchMaxBytes + 4_096);
    const largest = { batchIndex: 1, packed: { isZstd: false, bytes, plainBytes: bytes.length } };
    const page = await new LedgerReading(ledgerRig.custody, { readPacked: async () => [largest] }).read({});
    expect(Buffer.byteLength(encodeAnswer('x'.repeat(64), page))).toBeLessThan(defaultLimits.answerBytes);
    // Nor a page of many small ones.
    const small = Array.from({ length: Math.floor(batchMaxBytes / 400) }, (_, at) => ({ batchIndex: at + 1, bytes: new Uint8Array(400) }));
    const many = { batches: small.map(({ batchIndex, bytes }) => ({ batchIndex, bytes: Buffer.from(bytes).toString('base64') })) };
    expect(Buffer.byteLength(encodeAnswer(1, { ...page, ...many }))).toBeLessThan(defaultLimits.answerBytes);
    const method: Method = methods['ledger.read'];
    check(method.result, page, 'internal');
  });

  test('is read by a bounded number at once, and by one who asks again and again not by all of them', async () => {
    ledgerRig = await LedgerRig.open();
    const reading = new LedgerReading(ledgerRig.custody, ledgerRig.holder);
    const by = (group: string): Promise<unknown>[] =>
      Array.from({ length: 12 }, (_, place) => during({ connection: 1, id: place, place, group }, () => reading.read({})));
    const reads = await Promise.allSettled([...by('till auditor'), ...by('admin'), ...by('till other')]);
    const refused = reads.filter((one) => one.status === 'rejected');
    // One is under way, eight of each wait, and sixteen in all.
    expect(refused).toHaveLength(36 - 1 - 16);
    expect(reads.slice(0, 12).filter((one) => one.status === 'rejected')).toHaveLength(12 - 1 - 8);
    for (const { reason } of refused) expect(reason).toMatchObject({ code: 'busy' });
    expect((await reading.read({})).batches.length).toBeGreaterThan(0);
  });
});

/** What is alive, whatever V8 has not collected yet. */
function keptBytes(): number {
  collectAll();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

describe('beside the tills', () => {
  const mib = 1024 * 1024;
  const lines = Array.from({ length: 200 }, (_, at) => ({
    description: `LINE ${at} ${'x'.repeat(100)}`,
    quantity: '1',
    unitPrice: '0.01',
  }));

  async function issueTimes(till: Client, key: string, count: number): Promise<number[]> {
    const times: number[] = [];
    for (let at = 0; at < count; at += 1) {
      const fromMs = performance.now();
      await till.issue(sale(`${key}-${at}`));
      times.push(performance.now() - fromMs);
    }
    return times.sort((a, b) => a - b);
  }

  test('who reads without a pause neither starves them nor fills the memory of the service', { timeout: 60_000 }, async () => {
    rig = await openRig({ holder: 'child', grant: { limits: { hours: null, count: null, amount: null, single: null } } });
    for (let at = 0; at < 20; at += 1)
      await Promise.all(Array.from({ length: 10 }, (_, one) => rig?.till.issue(sale(`fill-${at}-${one}`, { lines, brief: true }))));
    await issueTimes(rig.till, 'warm', 20);
    const alone = await issueTimes(rig.till, 'alone', 60);
    const reader = await rig.connectAs('erp-1', 'erp');
    let [isDone, bytes] = [false, 0];
    let [keptBefore, mostBefore, most] = [0, 0, 0];
    // On its own, so that what it has read is not alive when its caller looks at what is.
    const readRound = async (): Promise<void> => {
      for (const batch of await readAll(reader)) bytes += batch.bytes.length;
    };
    const reading = (async () => {
      for (let round = 0; !isDone || round < 6; round += 1) {
        await readRound();
        most = Math.max(most, process.memoryUsage().rss);
        if (round !== 1) continue;
        mostBefore = most;
        keptBefore = keptBytes();
      }
    })();
    const beside = await issueTimes(rig.till, 'beside', 60);
    isDone = true;
    await reading;
    const [medianAlone = 0, medianBeside = 0, worst = 0] = [alone[30], beside[30], beside.at(-1)];
    console.info(
      `a sale takes ${medianAlone.toFixed(1)} ms alone, ${medianBeside.toFixed(1)} beside a reader, ${worst.toFixed(1)} at most`,
    );
    expect(bytes).toBeGreaterThan(20 * mib);
    expect(medianBeside).toBeLessThan(medianAlone * 10 + 50);
    expect(worst).toBeLessThan(2_000);
    const [kept, more] = [keptBytes() - keptBefore, most - mostBefore];
    console.info(
      `of ${Math.floor(bytes / mib)} MiB ${Math.floor(kept / mib)} are kept, ${Math.floor(more / mib)} more were taken meanwhile`,
    );
    expect(kept).toBeLessThan(16 * mib);
    expect(more).toBeLessThan(64 * mib);
  });
});
