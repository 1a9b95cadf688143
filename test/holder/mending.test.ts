// Shows: damage that keeps a store from opening is told in batches and sequences; only this ledger's own bytes mend it, and the mirror before anything else;
// a superblock of another store beside ours does not halt a holder.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { DamagedLedger, Mount, ResumeAnswer, StoredBatch } from '#holder/holder.ts';
import { formatStore } from '#store/log.ts';
import { codeOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { type Medium, MemoryDevice, patchMedium, readMedium } from '#test/support/memory-device.ts';
import { imageBytes, MemoryMirror, MemoryRig } from './rigs.ts';

const mebibyte = 1024 * 1024;
const logStart = 4 * mebibyte;
const bodies = ['a', 'b', 'c', 'd', 'e'];
let rig: MemoryRig;
let mirror: MemoryMirror | null;
let mount: Mount;
let batches: readonly StoredBatch[];
let right: Medium;

/** Where a batch's frame stands, found by its header. */
function placeOf(medium: Medium, batch: number): number {
  for (let at = logStart; at < logStart + 256 * 1024; at += 512) {
    const bytes = Buffer.from(readMedium(medium, at, 32));
    if (bytes.toString('ascii', 0, 4) === 'UKFR' && bytes.readBigUInt64BE(24) === BigInt(batch)) return at;
  }
  throw new Error(`there is no batch ${batch}`);
}

const logOf = (medium: Medium): Buffer => Buffer.from(readMedium(medium, logStart, 256 * 1024));
const mediumNow = (): Medium => rig.device?.snapshot() ?? new Map();
const isAsBefore = (): boolean => logOf(mediumNow()).equals(logOf(right));

async function begin(withMirror = false): Promise<void> {
  mirror = withMirror ? new MemoryMirror() : null;
  rig = new MemoryRig(mirror === null ? {} : { mirror });
  await rig.watch.until('blank');
  mount = await provisionHolder(rig.holder);
  const drafts = new DraftMaker(mount);
  for (const body of bodies) await rig.holder.commit(drafts.next([body, body])).durable;
  batches = await rig.holder.read(1, 1_000_000);
  await rig.holder.close();
  right = mediumNow();
}

async function startOn(medium: Medium): Promise<void> {
  rig.device = new MemoryDevice({ sizeBytes: imageBytes, medium });
  const from = rig.watch.seen.length;
  await rig.restart();
  await rig.watch.until('locked', from);
}

const spoil = (medium: Medium, ...indexes: number[]): Medium =>
  indexes.reduce((all, batch) => patchMedium(all, placeOf(right, batch) + 100, new Uint8Array(32).fill(0xee)), medium);
const given = (...indexes: number[]): StoredBatch[] => batches.filter(({ batchIndex }) => indexes.includes(batchIndex));
const survey = (): Promise<ResumeAnswer> => rig.holder.resume({ kind: 'survey', pin: pinBytes(), useLastTry: false, fromBatch: null });
const mend = (some: readonly StoredBatch[]): Promise<ResumeAnswer> => rig.holder.resume({ kind: 'mend', batches: some, fromBatch: null });
const missingOf = (answer: ResumeAnswer): DamagedLedger['missing'] => ('damage' in answer ? answer.damage.missing : []);

afterEach(() => rig.holder.close());

describe('a store that damage keeps from opening', () => {
  beforeEach(() => begin());

  test('is told in batches and sequences, and opens when all of it is back', async () => {
    await startOn(spoil(right, 2, 3, 5));
    expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('halted');
    const state = rig.holder.state();
    expect(state).toMatchObject({
      kind: 'halted',
      damage: {
        missing: [
          { from: 2, to: 3, firstSequence: 3, lastSequence: 6 },
          { from: 5, to: 5, firstSequence: 9, lastSequence: null },
        ],
      },
    });
    expect(state).toHaveProperty('action');
    const surveyed = await survey();
    expect(surveyed).toMatchObject({ kind: 'surveyed', damage: { tokenId: mount.tokenId, nextBatch: 6, carryLost: false } });
    expect(await codeOf(rig.holder.resume({ kind: 'open' }))).toBe('halted');
    await survey();
    expect(missingOf(await mend(given(2, 3)))).toMatchObject([{ from: 5, to: 5 }]);
    expect(await mend(given(5))).toMatchObject({ kind: 'mended', batches: [5], damage: { missing: [] } });
    expect(isAsBefore()).toBe(true);
    await rig.holder.resume({ kind: 'open' });
    const answers = await readVerified(rig.holder, mount);
    expect(new Set(answers)).toEqual(new Set(bodies));
    expect(rig.holder.state().kind).toBe('open');
  });

  test('takes no other bytes than those that stood there: nothing is written', async () => {
    await startOn(spoil(right, 2, 3));
    await codeOf(rig.holder.login(pinBytes(), false));
    await survey();
    const spoilt = logOf(mediumNow());
    const [second, third] = given(2, 3);
    if (second === undefined || third === undefined) throw new Error('there are two');
    const forged = Uint8Array.from(third.bytes);
    forged[forged.length - 1] = (forged.at(-1) ?? 0) ^ 1;
    for (const lie of [
      [second, { ...third, bytes: forged }],
      [second, { ...third, bytes: second.bytes }],
      [second],
      given(1, 4),
      [
        { ...second, batchIndex: 3 },
        { ...third, batchIndex: 2 },
      ],
    ])
      expect(await mend(lie)).toMatchObject({ kind: 'mended', batches: [], damage: { missing: [{ from: 2, to: 3 }] } });
    expect(logOf(mediumNow()).equals(spoilt)).toBe(true);
    expect(await mend([second, third])).toMatchObject({ batches: [2, 3] });
  });

  test('is left with words of its own, logged out, and may be begun anew', async () => {
    await startOn(spoil(right, 3));
    await codeOf(rig.holder.login(pinBytes(), false));
    const answer = await survey();
    if (answer.kind !== 'surveyed') throw new Error(answer.kind);
    expect(await rig.holder.resume({ kind: 'readDamaged', fromBatch: 4, maxBytes: 1 })).toMatchObject({ batches: [{ batchIndex: 4 }] });
    expect(await codeOf(rig.holder.resume({ kind: 'readDamaged', fromBatch: 3, maxBytes: 1 }))).toBe('halted');
    const { kind, isNamed, missing, carryLost } = answer.damage;
    const damage = { kind, isNamed, missing, carryLost };
    await rig.holder.resume({ kind: 'leave', reason: 'nobody has it', action: 'look for the mirror', damage });
    expect(rig.holder.state()).toEqual({ kind: 'halted', reason: 'nobody has it', action: 'look for the mirror', damage });
    expect(await codeOf(mend(given(3)))).toBe('locked');
    await survey();
    await mend(given(3));
    expect(await rig.holder.resume({ kind: 'open' })).toMatchObject({ kind: 'opened' });
  });

  test('a survey of a store that is whole opens it', async () => {
    await startOn(right);
    expect(await survey()).toMatchObject({ kind: 'opened', mount: { nextBatch: 6 } });
    expect(await codeOf(survey())).toBe('invalid-request');
  });

  test('the header of its run cannot be brought back: nothing is written and nothing is cut', async () => {
    const header = placeOf(right, 1) - 4096;
    await startOn(patchMedium(right, header, new Uint8Array(4096).fill(0xee)));
    expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('halted');
    const spoilt = logOf(mediumNow());
    await survey();
    expect(await mend(batches)).toMatchObject({ batches: [] });
    expect(logOf(mediumNow()).equals(spoilt)).toBe(true);
    expect(await codeOf(rig.holder.resume({ kind: 'open' }))).toBe('halted');
  });
});

describe('with a mirror', () => {
  beforeEach(() => begin(true));

  test('what that has is taken from there, and what neither has comes back on both', async () => {
    const onMirror = mirror?.device?.snapshot() ?? new Map();
    if (mirror !== null) {
      mirror.device = null;
      mirror.medium = spoil(onMirror, 3, 4);
    }
    await startOn(spoil(right, 2, 3));
    expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('halted');
    expect(missingOf(await survey())).toMatchObject([{ from: 3, to: 3 }]);
    expect(await mend(given(3))).toMatchObject({ batches: [3] });
    await rig.holder.resume({ kind: 'open' });
    expect(isAsBefore()).toBe(true);
    expect(logOf(mirror?.device?.snapshot() ?? new Map()).equals(logOf(right))).toBe(true);
  });
});

test('a superblock of another store in any place does not halt a holder', async () => {
  await begin();
  const other = new MemoryDevice({ sizeBytes: imageBytes });
  const ids = { storeId: new Uint8Array(16).fill(0x11), tokenKeyId: new Uint8Array(16).fill(0x22), dataKey: new Uint8Array(32) };
  await formatStore(other, {
    ...ids,
    slots: [{ method: 'soft-scrypt', blob: Uint8Array.of(1) }],
    identity: Uint8Array.of(1),
    erase: false,
  });
  for (const copy of [0, 3]) {
    const stray = readMedium(other.snapshot(), copy * mebibyte, 16_384);
    await startOn(patchMedium(right, copy * mebibyte, stray));
    expect(await rig.holder.login(pinBytes(), false)).toMatchObject({ nextBatch: 6 });
    await rig.holder.close();
    right = mediumNow();
  }
  // All four of another token's: that FLASH is not ours.
  rig.device = new MemoryDevice({ sizeBytes: imageBytes, medium: other.snapshot() });
  const from = rig.watch.seen.length;
  await rig.restart();
  await rig.watch.until('halted', from);
});
