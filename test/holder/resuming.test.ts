// Shows: an older FLASH takes only this ledger's own batches, in their place; cut short anywhere it stays refused until all of it is there.
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { AdoptedBatch, BatchMark, Mount, StoredBatch } from '#holder/holder.ts';
import { decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import { codeOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { MemoryDevice } from '#test/support/memory-device.ts';
import { imageBytes, MemoryRig } from './rigs.ts';

let rig: MemoryRig;
let mount: Mount;
let later: StoredBatch[];

beforeEach(async () => {
  rig = new MemoryRig();
  await rig.watch.until('blank');
  mount = await provisionHolder(rig.holder);
  const drafts = new DraftMaker(mount);
  await rig.holder.commit(drafts.next(['a'])).durable;
  const old = rig.device?.snapshot() ?? new Map();
  for (const body of ['b', 'c']) await rig.holder.commit(drafts.next([body])).durable;
  later = await rig.holder.read(2, 1_000_000);
  await rig.holder.close();
  rig.device = new MemoryDevice({ sizeBytes: imageBytes, medium: old });
  await rig.restart();
  await rig.watch.until('locked');
});
afterEach(() => rig.holder.close());

const checkpoint = Buffer.from('state');
const adopted = (batches: readonly StoredBatch[]): AdoptedBatch[] => batches.map((batch) => ({ ...batch, checkpoint }));
const target = (): BatchMark => {
  const last = later.at(-1) ?? { batchIndex: 0, bytes: new Uint8Array() };
  return { batchIndex: last.batchIndex, sealHash: sealHashOf(decodeBatch(last.bytes).sealBytes) };
};
const inspect = () => rig.holder.resume({ kind: 'inspect', pin: pinBytes(), useLastTry: false, acceptEnd: false });
const adopt = (batches: readonly StoredBatch[]) =>
  rig.holder.resume({ kind: 'adopt', batches: adopted(batches), target: target(), acceptEnd: null });

test('what is given in order makes it whole, and it opens', async () => {
  expect(await inspect()).toMatchObject({ kind: 'inspected', mount: { nextBatch: 2 }, anchor: { batchIndex: 3 } });
  expect(await adopt(later)).toEqual({ kind: 'adopted', nextBatch: 4 });
  expect(await adopt(later)).toEqual({ kind: 'adopted', nextBatch: 4 });
  expect(await rig.holder.resume({ kind: 'open' })).toMatchObject({ kind: 'opened', mount: { nextBatch: 4 } });
  expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b', 'c']);
});

test('cut short it is a rollback until the rest is there', async () => {
  await inspect();
  expect(await adopt(later.slice(0, 1))).toEqual({ kind: 'adopted', nextBatch: 3 });
  await rig.restart();
  expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('halted');
  await inspect();
  await adopt(later.slice(1));
  await rig.holder.resume({ kind: 'open' });
  expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b', 'c']);
});

test('a batch that is forged, or out of its place, is not taken', async () => {
  await inspect();
  const [second, third] = later;
  if (second === undefined || third === undefined) throw new Error('there are two');
  const bytes = Uint8Array.from(second.bytes);
  bytes[40] = (bytes[40] ?? 0) ^ 1;
  expect(await codeOf(adopt([{ ...second, bytes }]))).toBe('halted');
  expect(await codeOf(adopt([third]))).toBe('halted');
  expect(await adopt([])).toEqual({ kind: 'adopted', nextBatch: 2 });
  expect(await codeOf(rig.holder.resume({ kind: 'open' }))).toBe('halted');
});

test('nothing is done without the PIN, nor while the ledger is open', async () => {
  expect(await codeOf(adopt(later))).toBe('locked');
  await inspect();
  await adopt(later);
  await rig.holder.resume({ kind: 'open' });
  expect(await codeOf(inspect())).toBe('invalid-request');
});
