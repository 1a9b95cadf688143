// Shows: a holder with a mirror: it is made, kept equal, healed and heals; losing either side, or its disk, loses nothing and stops nothing.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { Mount } from '#holder/holder.ts';
import { mirrorAt } from '#holder/mirroring.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { openEnrolment } from '#ipc-schema/upstream.ts';
import { readStoreHeader } from '#store/log.ts';
import { certify, codeOf, codesOf, DraftMaker, enrol, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { MemoryDevice } from '#test/support/memory-device.ts';
import { imageBytes, MemoryMirror, MemoryRig } from './rigs.ts';

/** Pages that are not zeros. */
function contentOf(device: MemoryDevice | null): [number, string][] {
  const pages = [...(device?.snapshot() ?? [])].map(([page, bytes]): [number, string] => [page, Buffer.from(bytes).toString('hex')]);
  return pages.filter(([, hex]) => /[^0]/.test(hex)).sort(([a], [b]) => a - b);
}

/** The FLASH is exchanged: only to be called while the holder is closed. */
class MirrorRig extends MemoryRig {
  readonly mirror: MemoryMirror;

  constructor(mirror = new MemoryMirror()) {
    super({ mirror });
    this.mirror = mirror;
  }

  async reopen(before: () => void = () => undefined): Promise<Mount> {
    await this.holder.close();
    before();
    await this.restart();
    return await this.holder.login(pinBytes(), false);
  }
}

describe('a holder with a mirror', () => {
  let rig: MirrorRig;
  let mount: Mount;
  let drafts: DraftMaker;
  afterEach(() => rig.holder.close());

  async function open(): Promise<void> {
    rig = new MirrorRig();
    await rig.watch.until('blank');
    mount = await provisionHolder(rig.holder);
    drafts = new DraftMaker(mount);
    await rig.holder.commit(drafts.next(['a'])).durable;
  }

  test('makes it with the FLASH and keeps both the same', async () => {
    await open();
    expect(mount.mirror).toMatchObject({ remade: true });
    expect((await rig.holder.status()).mirror).toEqual({ mode: 'sync', behindBytes: 0, failure: null });
    await rig.holder.close();
    expect(contentOf(rig.mirror.device)).toEqual(contentOf(rig.device));
  });

  test('goes on without one that cannot be read where the FLASH cannot, tells it, and takes it when it can', async () => {
    await open();
    const blank = 4 * 1024 * 1024 + 16 * 4096; // of the segment that is written
    const read = MemoryDevice.prototype.read;
    const spoilt = vi.spyOn(MemoryDevice.prototype, 'read').mockImplementation(function (this: MemoryDevice, at, lengthBytes) {
      if (at > blank || at + lengthBytes <= blank) return read.call(this, at, lengthBytes);
      return Promise.reject(new UkeyError('halted', 'it cannot be read', { cause: new Error('EIO') }));
    });
    drafts = new DraftMaker(await rig.reopen());
    expect((await rig.holder.status()).mirror?.failure).toMatch(`cannot be read at ${blank}`);
    await rig.holder.commit(drafts.next(['b'])).durable;
    spoilt.mockRestore();
    const again = await rig.reopen();
    expect(again.mirror?.healedMirror).toBeGreaterThan(0);
    expect(await readVerified(rig.holder, again)).toEqual(['a', 'b']);
  });

  test('reads from it what the FLASH can neither read nor take again, tells it once, and sells on', async () => {
    await open();
    rig.device?.wearOut(4 * 1024 * 1024 + 4096, 512); // where the first batch begins
    const states = rig.watch.seen.length;
    for (const body of ['b', 'c', 'd']) {
      expect(await readVerified(rig.holder, mount)).toContain('a');
      await rig.holder.commit(drafts.next([body])).durable;
    }
    expect(await rig.holder.check(1, true)).toMatchObject({ healed: false, missing: [] });
    await rig.holder.commit(drafts.next(['e'])).durable;
    expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b', 'c', 'd', 'e']);
    expect(rig.notes.filter((note) => note.includes('cannot be put right'))).toHaveLength(1);
    expect(rig.watch.seen).toHaveLength(states);
  });

  test('makes it anew when it is gone', async () => {
    await open();
    expect((await rig.reopen(() => rig.mirror.lose())).mirror).toMatchObject({ remade: true });
    await rig.holder.close();
    expect(contentOf(rig.mirror.device)).toEqual(contentOf(rig.device));
  });

  test('gets back from it what the FLASH lost', async () => {
    await open();
    const before = rig.device?.snapshot() ?? new Map();
    await rig.holder.commit(drafts.next(['b'])).durable;
    const again = await rig.reopen(() => {
      rig.device = new MemoryDevice({ sizeBytes: imageBytes, medium: before });
    });
    expect(again.mirror?.healedFlash).toBeGreaterThan(0);
    expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b']);
  });

  test('logs in although all superblocks of the FLASH rotted', async () => {
    await open();
    await rig.reopen(() => {
      const rotten = new Map(rig.device?.snapshot());
      for (let copy = 0; copy < 4; copy += 1) rotten.set((copy * 1024 * 1024) / 4096, Buffer.alloc(4096, `ukeyd superblock rot`));
      rig.device = new MemoryDevice({ sizeBytes: imageBytes, medium: rotten });
    });
    expect(await readVerified(rig.holder, mount)).toEqual(['a']);
  });

  test('goes on without it while it cannot be opened, says so, and brings it up later', async () => {
    await open();
    const without = await rig.reopen(() => {
      rig.mirror.fault = new UkeyError('halted', 'the disk is full');
    });
    expect(without.mirror).toBeNull();
    await rig.holder.commit(drafts.next(['b'])).durable;
    expect((await rig.holder.status()).mirror).toMatchObject({ mode: 'sync', failure: 'the disk is full' });
    const healed = await rig.reopen(() => {
      rig.mirror.fault = null;
    });
    expect(healed.mirror?.healedMirror).toBeGreaterThan(0);
    expect((await rig.holder.status()).mirror?.failure).toBeNull();
    await rig.holder.close();
    expect(contentOf(rig.mirror.device)).toEqual(contentOf(rig.device));
  });

  test('whose writes fail: the outcome is unknown, the log opens again by itself, and what was answered is there', async () => {
    await open();
    rig.mirror.device?.failWrite(1, { kind: 'not-written' });
    const from = rig.watch.seen.length;
    expect((await codesOf(rig.holder.commit(drafts.next(['b']))))[1]).toBe('unknown-outcome');
    await rig.watch.until('open', from);
    const again = new DraftMaker(await rig.holder.login(pinBytes(), false));
    await rig.holder.commit(again.next(['c'])).durable;
    const bodies = await readVerified(rig.holder, mount);
    expect(bodies.filter((body) => body !== 'b')).toEqual(['a', 'c']);
  });

  test('that holds a ledger of this token is not written over by formatting, unless it is asked to erase', async () => {
    await open();
    await rig.holder.close();
    rig.device = new MemoryDevice({ sizeBytes: imageBytes });
    await rig.restart();
    const { spki } = openEnrolment(await enrol(rig.holder));
    const request = { ...(await certify(spki)), recoveryKey: null };
    expect(await codeOf(rig.holder.format({ ...request, erase: false }))).toBe('halted');
    expect(await readStoreHeader(rig.mirror.device as MemoryDevice).catch(() => null)).toBeNull(); // closed, and not written
    const erased = await rig.holder.format({ ...request, erase: true });
    expect(erased.nextBatch).toBe(1);
    expect(erased.mirror?.remade).toBe(true);
  });

  test('of another token in the one place that is configured is made anew', async () => {
    await open();
    await rig.holder.close();
    const other = new MirrorRig(rig.mirror);
    try {
      await other.watch.until('blank');
      expect((await provisionHolder(other.holder)).mirror?.remade).toBe(true);
    } finally {
      await other.holder.close();
    }
  });
});

describe('the file of a mirror', () => {
  test('that was cut short stops no shop: the FLASH goes on alone, and the status names it', { timeout: 30_000 }, async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-cut-'));
    const rig = new MemoryRig({ mirror: mirrorAt('sync', { kind: 'folder', folder }) });
    try {
      await rig.watch.until('blank');
      let drafts = new DraftMaker(await provisionHolder(rig.holder));
      const sold = ['a'];
      await rig.holder.commit(drafts.next(['a'])).durable;
      await rig.holder.logout();
      const file = path.join(folder, readdirSync(folder)[0] ?? '');
      const whole = readFileSync(file);
      for (const bytes of [0, 1_000, 4_096, 3 * 1024 * 1024, 6 * 1024 * 1024, whole.length - 4_096, whole.length - 100]) {
        writeFileSync(file, whole.subarray(0, bytes));
        drafts = new DraftMaker(await rig.holder.login(pinBytes(), false));
        expect((await rig.holder.status()).mirror?.failure).toContain(file);
        await rig.holder.commit(drafts.next([`${bytes}`])).durable;
        sold.push(`${bytes}`);
        await rig.holder.logout();
      }
      writeFileSync(file, whole);
      const mount = await rig.holder.login(pinBytes(), false);
      expect((await rig.holder.status()).mirror?.failure).toBeNull();
      expect(await readVerified(rig.holder, mount)).toEqual(sold);
    } finally {
      await rig.holder.close();
      rmSync(folder, { recursive: true });
    }
  });

  const folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-mirror-'));
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  const tokenId = Buffer.alloc(16, 7);

  test('is made beside its name, one for each token, and only where a size is given', async () => {
    const { open } = mirrorAt('sync', { kind: 'folder', folder });
    expect(await codeOf(open(tokenId, { readOnly: true, sizeBytes: null }))).toBe('no-token');
    expect(await codeOf(open(tokenId, { readOnly: false, sizeBytes: null }))).toBe('no-token');
    const device = await open(tokenId, { readOnly: false, sizeBytes: 3 * 1024 * 1024 - 512 });
    expect(device.sizeBytes).toBe(3 * 1024 * 1024);
    await device.close();
    expect(existsSync(path.join(folder, `mirror-${tokenId.toString('hex')}.img`))).toBe(true);
    expect(existsSync(path.join(folder, `mirror-${tokenId.toString('hex')}.img.new`))).toBe(false);
  });
});
