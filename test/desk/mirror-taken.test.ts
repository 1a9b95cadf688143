// Shows: tills sell on while a large mirror is made beside them and when it is taken into use: nobody is refused, nobody hears `unknown-outcome`.
import { afterEach, expect, test } from 'vitest';
import { openRig, type Rig, sale } from '#test/support/rig.ts';

let rig: Rig | null = null;
afterEach(async () => await rig?.close());

/** Larger than a mirror that is made at once; a fast disk makes the smaller ones before anybody can ask. */
const sizesMib = [288, 576, 1_152, 2_304];
const tills = 16;
/** Charter and template. */
const ofProvisioning = 2;

const failureOf = async ({ admin }: Rig): Promise<string | null | undefined> =>
  (await admin.call('service.status', {})).store?.mirrorState?.failure;

/** A service whose mirror is on its way. */
async function openWhileMade(holder: 'joined' | 'child'): Promise<Rig> {
  for (const flashMib of sizesMib) {
    const opened = await openRig({ holder, mirror: true, flashMib });
    rig = opened;
    if (/being made/.test((await failureOf(opened)) ?? '')) return opened;
    await opened.close();
    rig = null;
  }
  throw new Error('every mirror was made before anybody could ask');
}

test.each(['joined', 'child'] as const)(
  'a mirror is taken into use between two batches (%s holder)',
  { timeout: 90_000 },
  async (holder) => {
    const opened = await openWhileMade(holder);
    const { admin, till } = opened;
    let isTaken = false;
    const wrong: unknown[] = [];
    const sell = async (name: number): Promise<number> => {
      let sold = 0;
      for (; !isTaken; sold += 1) await till.call('invoice.issue', sale(`m${name}-${sold}`)).catch((error: unknown) => wrong.push(error));
      return sold;
    };
    const selling = Array.from({ length: tills }, (_, name) => sell(name));
    await expect.poll(() => failureOf(opened), { timeout: 30_000 }).toBeNull();
    isTaken = true;
    const sold = (await Promise.all(selling)).reduce((sum, each) => sum + each, 0);
    expect(wrong).toEqual([]);
    const { store } = await admin.call('service.status', {});
    expect(store?.mirrorState).toMatchObject({ remade: true });
    expect(store?.entries).toBeGreaterThanOrEqual(sold + ofProvisioning);
    expect(sold).toBeGreaterThan(tills);
  },
);
