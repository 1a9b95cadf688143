// Shows: the forecast comes from the log itself, so that it is the same after a restart, for a handful of reads.
import { afterEach, expect, test } from 'vitest';
import { silentLog } from '#ground/log.ts';
import { acknowledge } from '#ledger/acknowledging.ts';
import { Filling } from '#ledger/filling.ts';
import type { Forecast } from '#ledger/forecast.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';

let rig: LedgerRig;
afterEach(() => rig.close());

const hourMs = 3_600_000;
const batchBytes = 1_000;

/** One document every three hours, for so many days; the FLASH holds 1,000 of them. */
async function sell(days: number): Promise<void> {
  for (let at = 0; at < days * 8; at += 1) {
    rig.clock.pass(3 * hourMs);
    await rig.ledger.add(documentDraft(`k${rig.ledger.tip.nextBatch}`));
  }
  const capacityBytes = 1_000 * batchBytes;
  rig.holder.room = { capacityBytes, freeBytes: capacityBytes - rig.holder.stored.length * batchBytes, bytesWritten: 0 };
}

async function forecast(): Promise<Forecast> {
  const filling = new Filling({ holder: rig.holder, clock: rig.clock, log: silentLog });
  expect(filling.forecast(rig.ledger)).toEqual({ kind: 'unknown' });
  await filling.look(rig.ledger, await rig.holder.status());
  return filling.forecast(rig.ledger);
}

test('what nobody acknowledges fills the FLASH, at the rate of the last week', async () => {
  rig = await LedgerRig.open({ charter: { mode: 'offline' } });
  await sell(2);
  const told = await forecast();
  if (told.kind !== 'fills') throw new Error(`told ${told.kind}`);
  expect(told.daysLeft).toBeGreaterThan(((1_000 - 17) / 8) * 0.9);
  expect(told.daysLeft).toBeLessThan(((1_000 - 17) / 8) * 1.1);
  await rig.restart();
  expect(await forecast()).toEqual(told);
});

test('what is acknowledged and not kept long never fills it, and kept too long it does', async () => {
  rig = await LedgerRig.open({ charter: { keepDays: 100 } });
  await sell(2);
  await acknowledge(rig.ledger, rig.charter, rig.ack(rig.ledger.tip.nextBatch - 1));
  expect(await forecast()).toEqual({ kind: 'steady' });
  await rig.close();
  rig = await LedgerRig.open({ charter: { keepDays: 200 } });
  await sell(2);
  await acknowledge(rig.ledger, rig.charter, rig.ack(rig.ledger.tip.nextBatch - 1));
  expect(await forecast()).toMatchObject({ kind: 'fills' });
});

test('a new ledger has none yet; a look reads a few batches, and the next one hardly any', async () => {
  rig = await LedgerRig.open();
  expect(await forecast()).toEqual({ kind: 'unknown' });
  await sell(20);
  const filling = new Filling({ holder: rig.holder, clock: rig.clock, log: silentLog });
  const before = rig.holder.reads;
  await filling.look(rig.ledger, await rig.holder.status());
  expect(rig.holder.reads - before).toBeLessThanOrEqual(2 + Math.ceil(Math.log2(rig.holder.stored.length)) + 1);
  rig.clock.pass(hourMs);
  const again = rig.holder.reads;
  await filling.look(rig.ledger, await rig.holder.status());
  expect(rig.holder.reads - again).toBeLessThanOrEqual(1);
});
