// Shows: a holder remembers how far its ledger was durable, over an opening, a pulled token and the end of its process: a FLASH that lost what somebody was told of
// is refused, and one that only cannot be written at its end goes on.
import { copyFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Holder } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { codesOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { WornDevice } from '#test/support/worn-device.ts';
import { FileRig, joinedFileRig, startParent } from './rigs.ts';

const logStart = 4 * 1024 * 1024;
let rig: FileRig<Holder>;
afterEach(async () => {
  await rig.holder.close();
  await rig.remove();
});

const rollback = { code: 'halted', message: expect.stringContaining('rollback: the FLASH ends at batch 1') };

/** One batch is on the copy, and two were told. */
async function olderCopy(): Promise<string> {
  await rig.watch.until('blank');
  const drafts = new DraftMaker(await provisionHolder(rig.holder));
  await rig.holder.commit(drafts.next(['a'])).durable;
  const copy = join(rig.folder, 'older.img');
  copyFileSync(rig.flashPath, copy);
  await rig.holder.commit(drafts.next(['b'])).durable;
  return copy;
}

describe('a FLASH that lost what somebody was told of', () => {
  test('while it was pulled is refused', async () => {
    rig = joinedFileRig();
    const copy = await olderCopy();
    rig.pull();
    await rig.watch.until('absent');
    renameSync(copy, `${rig.flashPath}.pulled`); // the log that is being closed has the other one
    rig.plug();
    await rig.watch.until('locked');
    await expect(rig.holder.login(pinBytes(), false)).rejects.toMatchObject(rollback);
    const step = { kind: 'inspect', pin: pinBytes(), useLastTry: false, acceptEnd: false } as const;
    expect(await rig.holder.resume(step)).toMatchObject({ mount: { nextBatch: 2 }, anchor: { batchIndex: 2 } });
  });

  test('while its process was killed is refused', async () => {
    const parent = new FileRig(startParent());
    rig = parent;
    const copy = await olderCopy();
    process.kill(parent.holder.pid() ?? 0, 'SIGKILL');
    copyFileSync(copy, rig.flashPath);
    await rig.watch.until('locked');
    await expect(rig.holder.login(pinBytes(), false)).rejects.toMatchObject(rollback);
  });

  test('is none where it holds just that', async () => {
    const parent = new FileRig(startParent());
    rig = parent;
    await olderCopy();
    const copy = join(rig.folder, 'same.img');
    copyFileSync(rig.flashPath, copy);
    process.kill(parent.holder.pid() ?? 0, 'SIGKILL');
    copyFileSync(copy, rig.flashPath);
    await rig.watch.until('locked');
    expect((await rig.holder.login(pinBytes(), false)).nextBatch).toBe(3);
  });
});

describe('a page that cannot be written in part', () => {
  test('costs one answer, and tills go on', async () => {
    const broken = new Set<number>();
    rig = new FileRig((config, events, note) => {
      const parts = partsOf(config);
      const openDevice = async (readOnly: boolean): Promise<WornDevice> => new WornDevice(await parts.openDevice(readOnly), broken);
      return joinHolder({ ...parts, openDevice, events, note: (what, error) => note(`${what}: ${String(error)}`), pollMs: 20 });
    });
    await rig.watch.until('blank');
    const mount = await provisionHolder(rig.holder);
    let drafts = new DraftMaker(mount);
    const told: string[] = [];
    for (const page of [3, 4, 7]) broken.add(logStart + page * 4096);
    let refused = 0;
    for (let at = 0; at < 40; at += 1) {
      const commit = rig.holder.commit(drafts.next([`batch ${at}`]));
      const [sealed, durable] = await codesOf(commit);
      if (durable === 'not refused') {
        told.push(`batch ${at}`);
        continue;
      }
      expect([sealed, durable]).toEqual(['not refused', 'unknown-outcome']);
      refused += 1;
      const state = await rig.watch.until('open', rig.watch.seen.length - 1);
      if (state.kind === 'open') drafts = new DraftMaker(state.mount);
    }
    expect([refused, broken.size]).toEqual([1, 0]);
    expect(await readVerified(rig.holder, mount)).toEqual(told);
    await rig.restart();
    await rig.watch.until('locked');
    await rig.holder.login(pinBytes(), false);
    expect(await readVerified(rig.holder, mount)).toEqual(told);
  });
});
