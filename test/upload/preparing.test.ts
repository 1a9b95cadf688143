// Uploads made ready ahead: only behind a full one, and used only where they fit.
import { generateKeyPairSync } from 'node:crypto';
import { afterEach, describe, expect, test } from 'vitest';
import { silentLog } from '#ground/log.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';
import { Preparing, type Wish } from '#upload/preparing.ts';

let rig: LedgerRig;
afterEach(() => rig.close());

const batches = 6;

interface Reading {
  readonly preparing: Preparing;
  readonly reads: number[];
  fail: boolean;
}

/** Six batches of one document behind those that every ledger begins with, and a reader that tells from where it is read. */
async function filled(): Promise<Reading & { readonly wish: Wish }> {
  rig = await LedgerRig.open();
  for (let at = 0; at < batches; at += 1) await rig.ledger.add(documentDraft(`k-${at}`));
  const reading: { preparing: Preparing; reads: number[]; fail: boolean } = {
    preparing: new Preparing(rig.holder, silentLog),
    reads: [],
    fail: false,
  };
  const read = rig.holder.read.bind(rig.holder);
  rig.holder.read = async (fromBatch, maxBytes) => {
    reading.reads.push(fromBatch);
    if (reading.fail) throw new UkeyError('token-failed', 'the reader is gone');
    return await read(fromBatch, maxBytes);
  };
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const sealKey = publicKey.export({ type: 'spki', format: 'der' }).subarray(-65).toString('base64');
  const charter = { ...rig.charter, server: { ...rig.charter.server, sealKey } };
  return Object.assign(reading, { wish: { ledger: rig.ledger, charter, fromBatch: 1, batchesMax: 2 } });
}

/** As if each batch were that large. */
function inflate(plainBytes: number): void {
  const readPacked = rig.holder.readPacked.bind(rig.holder);
  rig.holder.readPacked = async (fromBatch, maxBytes) =>
    (await readPacked(fromBatch, maxBytes)).map(({ batchIndex, packed }) => ({ batchIndex, packed: { ...packed, plainBytes } }));
}

const settled = async (): Promise<void> => await new Promise((resolve) => setTimeout(resolve, 50));

describe('the next upload', () => {
  test('is read while the one before is on its way, and not again', async () => {
    const { preparing, reads, wish } = await filled();
    const sent = await preparing.take(wish);
    expect(sent).toMatchObject({ batchCount: 2, lastBatch: 2, isFull: true });
    preparing.goOn(sent, wish);
    await settled();
    const before = reads.length;
    expect(await preparing.take({ ...wish, fromBatch: 3 })).toMatchObject({ batchCount: 2, lastBatch: 4 });
    expect(reads.length).toBe(before);
    expect(Math.max(...reads)).toBe(3);
  });

  test('is made anew where it begins elsewhere, is for another charter, or would be too large by now', async () => {
    const { preparing, reads, wish } = await filled();
    for (const other of [{ fromBatch: 2 }, { fromBatch: 3, charter: { ...wish.charter } }, { fromBatch: 3, batchesMax: 1 }]) {
      const sent = await preparing.take(wish);
      preparing.goOn(sent, wish);
      await settled();
      const before = reads.length;
      const taken = await preparing.take({ ...wish, ...other });
      expect([taken.lastBatch, reads.length > before]).toEqual([other.fromBatch + (other.batchesMax ?? 2) - 1, true]);
    }
  });

  test('is not made behind an upload that held everything', async () => {
    const { preparing, reads, wish } = await filled();
    const sent = await preparing.take({ ...wish, batchesMax: 256 });
    expect(sent.isFull).toBe(false);
    const before = reads.length;
    preparing.goOn(sent, wish);
    await settled();
    expect(reads.length).toBe(before);
  });

  test('that could not be read says why when its turn comes', async () => {
    const reading = await filled();
    const { preparing, wish } = reading;
    const sent = await preparing.take(wish);
    reading.fail = true;
    preparing.goOn(sent, wish);
    await settled();
    await expect(preparing.take({ ...wish, fromBatch: 3 })).rejects.toMatchObject({ code: 'token-failed' });
    preparing.goOn(sent, wish);
    await settled();
    reading.fail = false;
    expect(await preparing.take({ ...wish, fromBatch: 3 })).toMatchObject({ lastBatch: 4 });
  });
});

describe('the first upload of a process', () => {
  test('is no larger than what is packed without a thread; those behind it take what there is', async () => {
    const { preparing, wish } = await filled();
    inflate(100 * 1024);
    const whole = { ...wish, batchesMax: 256 };
    const first = await preparing.take(whole);
    expect(first).toMatchObject({ batchCount: 2, isFull: true });
    const rest = await preparing.take({ ...whole, fromBatch: first.lastBatch + 1 });
    expect(rest).toMatchObject({ lastBatch: rig.ledger.tip.nextBatch - 1, isFull: false });
    expect(rest.batchCount).toBeGreaterThan(2);
    await preparing.close();
  });

  test('has one batch, however large that is', async () => {
    const { preparing, wish } = await filled();
    inflate(900 * 1024);
    expect(await preparing.take(wish)).toMatchObject({ batchCount: 1, isFull: true });
    await preparing.close();
  });
});
