// Shows: a mirror that takes long to make is made beside the tills: the token opens at once, says how far the mirror is, and takes it when it is whole.
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { Holder, HolderState } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { mirrorAt } from '#holder/mirroring.ts';
import { partsOf } from '#holder/parts.ts';
import { DraftMaker, provisionHolder } from '#test/support/holder-rig.ts';

let directory = '';
let holder: Holder | null = null;
afterEach(async () => {
  await holder?.close();
  rmSync(directory, { recursive: true, force: true });
});

const softParts = (imageMib: number) =>
  partsOf({
    module: null,
    softTokenPath: path.join(directory, 'key.json'),
    flashPath: path.join(directory, 'flash.img'),
    imageBytes: imageMib * 1024 * 1024,
    presencePaths: [],
  });

test('a large mirror is made beside the tills, with its progress, and taken between two batches once it is whole', async () => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-making-'));
  const states: HolderState['kind'][] = [];
  const parts = softParts(64);
  const mirror = mirrorAt('sync', { kind: 'folder', folder: path.join(directory, 'state') }, 0);
  const events = { onState: (state: HolderState) => void states.push(state.kind) };
  holder = joinHolder({ ...parts, mirror, events, note: () => undefined, pollMs: 50 });
  const mount = await provisionHolder(holder);
  expect(mount.mirror).toBeNull();
  const first = (await holder.status()).mirror;
  if (first?.failure !== null) expect(first?.failure).toMatch(/being made: \d+ %/);
  const drafts = new DraftMaker(mount);
  await holder.commit(drafts.next(['sold while it is made'])).durable;
  await expect.poll(() => holder?.state(), { timeout: 20_000 }).toMatchObject({ kind: 'open', mirrorWaits: true });
  const last = holder.commit(drafts.next(['on its way when it is taken']));
  const again = await holder.openAgain();
  await last.durable;
  expect(again).toMatchObject({ mirror: { remade: true }, nextBatch: 3 });
  expect((await holder.status()).mirror?.failure).toBeNull();
  const state = holder.state();
  expect(state).toMatchObject({ kind: 'open' });
  expect(state.kind === 'open' ? state.mirrorWaits : null).toBeUndefined();
  expect(existsSync(path.join(directory, 'state', `mirror-${Buffer.from(mount.tokenId).toString('hex')}.img`))).toBe(true);
  // Where it was whole before the ledger was open, one `open` tells both.
  expect([
    ['open', 'open', 'starting', 'open'],
    ['open', 'starting', 'open'],
  ]).toContainEqual(states.slice(states.indexOf('open')));
});

test('one that was made and cannot be opened, or is gone again, is not on its way for ever', async () => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-making-'));
  const tokenId = new Uint8Array(16);
  const file = path.join(directory, `mirror-${'00'.repeat(16)}.img`);
  const mirror = mirrorAt('sync', { kind: 'folder', folder: directory }, 0);
  const open = () => mirror.open(tokenId, { readOnly: false, sizeBytes: 1 });
  await expect(open()).rejects.toMatchObject({ code: 'busy' });
  await mirror.making?.()?.made;
  rmSync(file);
  mkdirSync(file);
  await expect(open()).rejects.toMatchObject({ code: 'halted' });
  expect(mirror.making?.()).toBeNull();
  rmSync(file, { recursive: true });
  await expect(open()).rejects.toMatchObject({ code: 'busy' });
  const first = mirror.making?.();
  await first?.made;
  rmSync(file);
  await expect(open()).rejects.toMatchObject({ code: 'busy' });
  expect(mirror.making?.()).not.toBe(first);
  await mirror.making?.()?.made;
  await (await open()).close();
  expect(mirror.making?.()).toBeNull();
});

test('one that becomes whole while the log is being opened is not forgotten', async () => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-making-'));
  const parts = softParts(32);
  const made = mirrorAt('sync', { kind: 'folder', folder: path.join(directory, 'state') }, 0);
  const mirror: typeof made = {
    ...made,
    open: async (tokenId, options) => {
      try {
        return await made.open(tokenId, options);
      } catch (thrown) {
        await made.making?.()?.made; // the log is read so slowly
        throw thrown;
      }
    },
  };
  holder = joinHolder({ ...parts, mirror, events: { onState: () => undefined }, note: () => undefined, pollMs: 50 });
  await provisionHolder(holder);
  await expect.poll(() => holder?.state()).toMatchObject({ kind: 'open', mirrorWaits: true });
  expect(await holder.openAgain()).toMatchObject({ mirror: { remade: true } });
});
