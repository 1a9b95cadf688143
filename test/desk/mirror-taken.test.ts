// Shows: tills sell on while a large mirror is made beside them and when it is taken into use: nobody is refused, nobody hears `unknown-outcome`.
import { afterEach, expect, test } from 'vitest';
import { openRig, type Rig, sale } from '#test/support/rig.ts';

let rig: Rig | null = null;
afterEach(async () => await rig?.close());

/** Larger than a mirror that is made at once. */
const flashMib = 288;
const tills = 16;
/** Charter and template. */
const ofProvisioning = 2;

test.each(['joined', 'child'] as const)('a mirror is taken into use between two batches (%s holder)', async (holder) => {
  rig = await openRig({ holder, mirror: true, flashMib });
  const { admin, till } = rig;
  let isTaken = false;
  const wrong: unknown[] = [];
  const sell = async (name: number): Promise<number> => {
    let sold = 0;
    for (; !isTaken; sold += 1) await till.call('invoice.issue', sale(`m${name}-${sold}`)).catch((error: unknown) => wrong.push(error));
    return sold;
  };
  const selling = Array.from({ length: tills }, (_, name) => sell(name));
  const failure = async (): Promise<string | null | undefined> => (await admin.call('service.status', {})).store?.mirrorState?.failure;
  const seen = await failure();
  await expect.poll(failure, { timeout: 30_000 }).toBeNull();
  isTaken = true;
  const sold = (await Promise.all(selling)).reduce((sum, each) => sum + each, 0);
  expect(wrong).toEqual([]);
  expect(seen).toMatch(/being made/);
  const { store } = await admin.call('service.status', {});
  expect(store?.mirrorState).toMatchObject({ remade: true });
  expect(store?.entries).toBeGreaterThanOrEqual(sold + ofProvisioning);
  expect(sold).toBeGreaterThan(tills);
});
