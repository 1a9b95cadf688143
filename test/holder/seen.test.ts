// Shows: a holder remembers how far its ledger was durable, over an opening, a pulled token and the end of its process: a FLASH that lost what somebody was told of
// is refused, and one that only cannot be written at its end goes on.
import { copyFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Holder } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import { isBlank, pageBytes } from '#store/format.ts';
import { codesOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { type Medium, MemoryDevice } from '#test/support/memory-device.ts';
import { WornDevice } from '#test/support/worn-device.ts';
import { FileRig, imageBytes, joinedFileRig, MemoryRig, startParent } from './rigs.ts';

const logStart = 4 * 1024 * 1024;
let rig: FileRig<Holder>;
const used: Pick<MemoryRig, 'holder' | 'remove'>[] = [];
const use = <R extends Pick<MemoryRig, 'remove'> & { holder: Holder }>(one: R): R => {
  used.push(one);
  return one;
};
afterEach(async () => {
  for (const one of used.splice(0)) {
    await one.holder.close();
    await one.remove();
  }
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

/** In memory; `before`: what the FLASH holds then. */
async function oneBatch(): Promise<{ memory: MemoryRig; drafts: DraftMaker; before: Medium }> {
  const memory = use(new MemoryRig());
  await memory.watch.until('blank');
  const drafts = new DraftMaker(await provisionHolder(memory.holder));
  await memory.holder.commit(drafts.next(['a'])).durable;
  return { memory, drafts, before: memory.device?.snapshot() ?? new Map() };
}

describe('a FLASH that lost what somebody was told of', () => {
  test('while it was pulled is refused', async () => {
    rig = use(joinedFileRig());
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
    const parent = use(new FileRig(startParent()));
    rig = parent;
    const copy = await olderCopy();
    process.kill(parent.holder.pid() ?? 0, 'SIGKILL');
    copyFileSync(copy, rig.flashPath);
    await rig.watch.until('locked');
    await expect(rig.holder.login(pinBytes(), false)).rejects.toMatchObject(rollback);
  });

  test('is none where it holds just that', async () => {
    const parent = use(new FileRig(startParent()));
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

describe('what was told while the log was being closed', () => {
  /** The KEY goes while the second batch is on its way, and that is told. What the FLASH held before it. */
  async function toldInClosing(): Promise<{ rig: MemoryRig; before: Medium }> {
    const { memory, drafts, before } = await oneBatch();
    memory.writeMs = 150;
    const told = memory.holder.commit(drafts.next(['b'])).durable;
    memory.token.isLoggedIn = false; // it was signed
    await told;
    memory.writeMs = 0;
    await memory.watch.until('locked');
    return { rig: memory, before };
  }

  test('is remembered, too', async () => {
    const { rig: memory, before } = await toldInClosing();
    memory.device = new MemoryDevice({ sizeBytes: imageBytes, medium: before });
    await expect(memory.holder.login(pinBytes(), false)).rejects.toMatchObject(rollback);
  });
});

describe('what was seen', () => {
  test('of one token is nothing that another was told', async () => {
    const other = new FileRig(startParent());
    await other.watch.until('blank');
    await provisionHolder(other.holder);
    await other.holder.close();
    const parent = use(new FileRig(startParent()));
    rig = parent;
    await rig.watch.until('blank');
    await rig.holder.commit(new DraftMaker(await provisionHolder(rig.holder)).next(['a'])).durable;
    const away = join(rig.folder, 'away');
    rig.pull();
    await rig.watch.until('absent');
    await rig.holder.status();
    renameSync(`${rig.softTokenPath}.pulled`, `${away}.json`);
    renameSync(`${rig.flashPath}.pulled`, `${away}.img`);
    copyFileSync(other.flashPath, rig.flashPath);
    copyFileSync(other.softTokenPath, rig.softTokenPath); // last: before that no token is there
    await other.remove();
    await rig.watch.until('locked');
    await rig.holder.login(pinBytes(), false);
    await rig.holder.logout();
    await rig.watch.until('locked');
    const drafts = new DraftMaker(await rig.holder.login(pinBytes(), false)); // each was opened as often as the other
    for (const body of ['1', '2', '3']) await rig.holder.commit(drafts.next([body])).durable;
    process.kill(parent.holder.pid() ?? 0, 'SIGKILL');
    renameSync(`${away}.img`, rig.flashPath);
    renameSync(`${away}.json`, rig.softTokenPath);
    await rig.watch.until('locked');
    expect((await rig.holder.login(pinBytes(), false)).nextBatch).toBe(2);
  });

  test('does not stop the right FLASH behind a resumption that was cut short', async () => {
    const { memory, drafts, before: old } = await oneBatch();
    for (const body of ['b', 'c']) await memory.holder.commit(drafts.next([body])).durable;
    const later = await memory.holder.read(2, 1_000_000);
    await memory.holder.close();
    const right = memory.device?.snapshot() ?? new Map();
    memory.device = new MemoryDevice({ sizeBytes: imageBytes, medium: old });
    await memory.restart();
    await memory.watch.until('locked');
    const last = later.at(-1);
    if (last === undefined) throw new Error('nothing is behind');
    const target = { batchIndex: last.batchIndex, sealHash: sealHashOf(decodeBatch(last.bytes).sealBytes) };
    await memory.holder.resume({ kind: 'inspect', pin: pinBytes(), useLastTry: false, acceptEnd: false });
    for (const batches of [[], later.slice(0, 1).map((batch) => ({ ...batch, checkpoint: Buffer.from('state') }))])
      await memory.holder.resume({ kind: 'adopt', batches, target, acceptEnd: null });
    memory.device = new MemoryDevice({ sizeBytes: imageBytes, medium: right });
    expect((await memory.holder.login(pinBytes(), false)).nextBatch).toBe(4);
  });

  test('is asked before a copy that lacks some of it is put in the place of a lost FLASH', async () => {
    const { memory, drafts, before } = await oneBatch();
    memory.sources.set('copy', before);
    await memory.holder.commit(drafts.next(['b'])).durable;
    memory.pull();
    await memory.watch.until('absent');
    const blank = new MemoryDevice({ sizeBytes: imageBytes });
    memory.device = blank;
    memory.plug();
    await memory.watch.until('blank');
    await memory.holder.beginRestore({ from: 'copy', label: null, ticket: null, erase: false, pin: pinBytes(), soPin: null });
    await expect(memory.holder.finishRestore(null)).rejects.toMatchObject({
      code: 'halted',
      message: expect.stringContaining('batch 2 has been seen'),
    });
    expect(memory.device.snapshot().size).toBe(0);
  });
});

describe('an end that is given up', () => {
  /** Twenty batches; a power cut, behind which the page that follows them is broken. */
  async function cut(): Promise<{
    memory: MemoryRig;
    broken: Set<number>;
    lastPage: number;
    now: () => Medium;
    put: (medium: Medium) => void;
  }> {
    const broken = new Set<number>();
    let device: MemoryDevice | null = null;
    const memory = use(
      new MemoryRig({
        openDevice: async (readOnly) => {
          const opened = new MemoryDevice({ sizeBytes: imageBytes, medium: device?.snapshot() ?? new Map(), readOnly });
          if (!readOnly) device = opened;
          return new WornDevice(opened, broken);
        },
      }),
    );
    await memory.watch.until('blank');
    const drafts = new DraftMaker(await provisionHolder(memory.holder));
    for (let at = 0; at < 20; at += 1) await memory.holder.commit(drafts.next([`batch ${at}`])).durable;
    const medium = (device as MemoryDevice | null)?.snapshot() ?? new Map();
    await memory.holder.close();
    device = new MemoryDevice({ sizeBytes: imageBytes, medium });
    const used = [...medium].filter(([, bytes]) => !isBlank(bytes)).map(([page]) => page);
    const lastPage = Math.max(...used) * pageBytes;
    broken.add(lastPage + pageBytes);
    await memory.restart();
    await memory.watch.until('locked');
    const put = (other: Medium): void => {
      device = new MemoryDevice({ sizeBytes: imageBytes, medium: other });
    };
    return { memory, broken, lastPage, now: () => device?.snapshot() ?? new Map(), put };
  }

  test('is no more than was found when it was asked for', async () => {
    const { memory, broken, lastPage } = await cut();
    const inspected = await memory.holder.resume({ kind: 'inspect', pin: pinBytes(), useLastTry: false, acceptEnd: true });
    if (inspected.kind !== 'inspected') throw new Error('not inspected');
    expect(inspected).toMatchObject({ hiddenBehind: 20, mount: { nextBatch: 21 } });
    broken.add(lastPage); // the device hiccups there, too
    const target = { batchIndex: 20, sealHash: inspected.mount.headSealHash };
    const step = { kind: 'adopt', batches: [], target, acceptEnd: inspected.hiddenBehind } as const;
    await expect(memory.holder.resume(step)).rejects.toMatchObject({ code: 'busy' });
    expect(broken.size).toBe(2);
    broken.delete(lastPage);
    await memory.holder.resume({ kind: 'inspect', pin: pinBytes(), useLastTry: false, acceptEnd: true });
    expect(await memory.holder.resume(step)).toEqual({ kind: 'adopted', nextBatch: 21 });
    expect(broken.size).toBe(0);
    expect(await memory.holder.resume({ kind: 'open' })).toMatchObject({ mount: { nextBatch: 21 } });
  });

  test('is not written over on a FLASH that is older than the KEY has seen', async () => {
    const { memory, broken, lastPage, now, put } = await cut();
    broken.delete(lastPage + pageBytes);
    const old = now();
    const mount = await memory.holder.login(pinBytes(), false);
    const state = memory.holder.state();
    if (state.kind !== 'open') throw new Error('not open');
    await memory.holder.commit(new DraftMaker(mount).next(['news'])).durable;
    await memory.holder.close();
    // As a service has it that had the older one open when it was pulled.
    Object.assign(memory.change, { seen: { ...state.end, mountEpoch: state.end.mountEpoch - 1 } });
    put(old);
    broken.add(lastPage + pageBytes);
    await memory.restart();
    await memory.watch.until('locked');
    await expect(memory.holder.login(pinBytes(), false)).rejects.toMatchObject({
      code: 'halted',
      message: expect.stringContaining('rollback'),
    });
    expect([now(), broken.size]).toEqual([old, 1]);
  });
});

describe('a page that cannot be written in part', () => {
  test('costs one answer, and tills go on', async () => {
    const broken = new Set<number>();
    rig = use(
      new FileRig((config, events, note) => {
        const parts = partsOf(config);
        const openDevice = async (readOnly: boolean): Promise<WornDevice> => new WornDevice(await parts.openDevice(readOnly), broken);
        return joinHolder({ ...parts, openDevice, events, note: (what, error) => note(`${what}: ${String(error)}`), pollMs: 20 });
      }),
    );
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
