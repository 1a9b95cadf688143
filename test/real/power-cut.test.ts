// Power cuts on a FUSE device that keeps unsynced sectors apart from durable ones: nothing that was answered is lost, and every store opens.
// The whole run is `npm run torture -- --only power-cut --only lying-device`; this is a look at each of its cases.
import { expect, test } from 'vitest';
import { seedOf } from '#test/support/seed.ts';
import { type CutOrder, type CutTally, cutPower } from '#test/torture/os-power.ts';
import { missingForPower } from '#test/torture/os-power-device.ts';

const why = missingForPower();
if (why !== null && process.env['CI']) throw new Error(`power cuts: ${why}, and CI is set`);
if (why !== null) console.warn(`SKIPPED: power cuts: ${why}`);

const seed = seedOf();

async function cut(name: string, order: Omit<CutOrder, 'seed'>): Promise<CutTally> {
  const tally = await cutPower({ seed, ...order });
  const { cuts, acked, lost, unreadable, healed } = tally;
  console.log(`${name} seed=${seed} cuts=${cuts} acked=${acked} acked_lost=${lost} unreadable=${unreadable} healed=${healed}`);
  return tally;
}

test.skipIf(why !== null)('an honest device alone loses nothing that was answered', { timeout: 60_000 }, async () => {
  const { cuts, told } = await cut('alone', { cuts: 16, mirrored: false, liars: [] });
  expect(told).toEqual([]);
  expect(cuts).toBe(16);
});

test.skipIf(why !== null)('FLASH and mirror on one plug lose nothing', { timeout: 60_000 }, async () => {
  expect((await cut('mirrored', { cuts: 10, mirrored: true, liars: [] })).told).toEqual([]);
});

test.skipIf(why !== null)('a FLASH that lies about its sync is healed from an honest mirror', { timeout: 60_000 }, async () => {
  expect((await cut('lying-flash', { cuts: 6, mirrored: true, liars: ['flash'] })).told).toEqual([]);
});

test.skipIf(why !== null)('control: a FLASH that lies and has no mirror loses data', { timeout: 60_000 }, async () => {
  const { lost, unreadable } = await cut('control', { cuts: 50, mirrored: false, liars: ['flash'], stopAtLoss: true });
  expect(lost + unreadable).toBeGreaterThan(0);
});
