// Shows: an older FLASH that is put back (alone, or with its mirror) is known by the KEY: nothing is issued, nothing is written; what is honest
// (a crash, a mirror that knows better, another FLASH that is formatted) is never taken for it.
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  anchorEveryBatches,
  anchorEveryMs,
  anchorPauseMs,
  bindAnchor,
  isAnchorDue,
  isSameOpening,
  judgeAge,
  judgeSeal,
  newestAnchor,
  readAnchor,
  type Seen,
} from '#holder/anchor.ts';
import type { Mount } from '#holder/holder.ts';
import { refuseRollback } from '#holder/inspection.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { openEnrolment } from '#ipc-schema/upstream.ts';
import { FakeToken } from '#test/support/fake-token.ts';
import { certify, codeOf, DraftMaker, enrol, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { type Medium, MemoryDevice } from '#test/support/memory-device.ts';
import { dataKey as dataKeyOfRig, newStore, pairOf, sizeFor, storeId as storeIdOfRig } from '../store/rig.ts';
import { imageBytes, MemoryMirror, MemoryRig } from './rigs.ts';

const fresh = (medium: Medium): MemoryDevice => new MemoryDevice({ sizeBytes: imageBytes, medium });

interface Images {
  readonly flash: Medium;
  readonly mirror: Medium;
}

describe.each([
  ['without a mirror', false],
  ['with a mirror', true],
])('a FLASH %s', (_, mirrored) => {
  let rig: MemoryRig;
  let mirror: MemoryMirror;
  let mount: Mount;
  let drafts: DraftMaker;

  beforeEach(async () => {
    mirror = new MemoryMirror();
    rig = new MemoryRig(mirrored ? { mirror } : {});
    await rig.watch.until('blank');
    mount = await provisionHolder(rig.holder);
    drafts = new DraftMaker(mount);
  });
  afterEach(() => rig.holder.close());

  const issue = async (body: string): Promise<void> => await rig.holder.commit(drafts.next([body])).durable;
  const images = (): Images => ({ flash: rig.device?.snapshot() ?? new Map(), mirror: mirror.device?.snapshot() ?? new Map() });
  const reopen = async (): Promise<Mount> => {
    await rig.restart();
    return await rig.holder.login(pinBytes(), false);
  };

  async function putBack({ flash, mirror: second }: Partial<Images>): Promise<void> {
    await rig.holder.close();
    if (flash !== undefined) rig.device = fresh(flash);
    if (second !== undefined) mirror.device = fresh(second);
  }

  async function expectRollback(): Promise<void> {
    const { signatures } = rig.token;
    const before = images();
    expect(await codeOf(reopen())).toBe('halted');
    const state = rig.holder.state();
    expect(state.kind === 'halted' && state.reason.startsWith('rollback')).toBe(true);
    expect(await codeOf(rig.holder.commit(drafts.peek(['x'])).durable)).toBe('halted');
    expect(rig.token.signatures).toBe(signatures);
    expect(images()).toEqual(before);
  }

  test('of an earlier opening that is put back is a rollback', async () => {
    await issue('a');
    await rig.holder.close();
    const old = images();
    drafts = new DraftMaker(await reopen());
    await issue('b');
    await putBack(mirrored ? old : { flash: old.flash });
    await expectRollback();
  });

  test('of the same opening that is put back is a rollback', async () => {
    await issue('a');
    const old = images();
    await issue('b');
    await putBack(mirrored ? old : { flash: old.flash });
    await expectRollback();
  });

  test('that is put back goes again when the right one returns', async () => {
    await issue('a');
    const old = images();
    await issue('b');
    await rig.holder.close();
    const right = images();
    await putBack(mirrored ? old : { flash: old.flash });
    await expectRollback();
    await putBack(mirrored ? right : { flash: right.flash });
    await reopen();
    expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b']);
  });

  test('of a service that was killed at any moment is none', async () => {
    for (const body of ['a', 'b', 'c']) {
      await issue(body);
      // Killed: no clean close, and the anchor stands where it stood.
      rig.device = fresh(images().flash);
      drafts = new DraftMaker(await reopen());
    }
    expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b', 'c']);
  });

  test('that is lost may be made anew for the same KEY', async () => {
    await issue('a');
    await rig.holder.close();
    rig.device = fresh(new Map());
    await rig.restart();
    const { spki } = openEnrolment(await enrol(rig.holder));
    const anew = await rig.holder.format({ ...(await certify(spki)), recoveryKey: null, erase: true });
    expect(anew.nextBatch).toBe(1);
    expect((await reopen()).nextBatch).toBe(1);
  });

  test('of a ledger before this one is a rollback, and costs this one nothing', async () => {
    await issue('a');
    await rig.holder.close();
    const old = images();
    rig.device = fresh(new Map());
    await rig.restart();
    const { spki } = openEnrolment(await enrol(rig.holder));
    drafts = new DraftMaker(await rig.holder.format({ ...(await certify(spki)), recoveryKey: null, erase: true }));
    for (const body of ['b', 'c']) await issue(body);
    await putBack({ flash: old.flash });
    await expectRollback();
  });

  test('that is put back is a rollback before a mirror is made anew', async () => {
    await issue('a');
    const old = images();
    await issue('b');
    await putBack({ flash: old.flash, mirror: new Map() });
    await expectRollback();
  });

  test.runIf(mirrored)('alone put back is healed by its mirror, and the mirror by the FLASH', async () => {
    await issue('a');
    const old = images();
    await issue('b');
    await putBack({ flash: old.flash });
    await reopen();
    expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b']);
    await putBack({ mirror: old.mirror });
    await reopen();
    expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b']);
  });
});

test('a KEY without data objects is asked for nothing, and the ledger opens', async () => {
  class PlainToken extends FakeToken {
    override readObject(): null {
      return null;
    }
    override writeObject(): boolean {
      return false;
    }
  }
  const rig = new MemoryRig({}, new PlainToken());
  await rig.watch.until('blank');
  await provisionHolder(rig.holder);
  await rig.restart();
  expect((await rig.holder.login(pinBytes(), false)).nextBatch).toBe(1);
  await rig.holder.close();
});

test('an anchor that the KEY does not take stops nothing', async () => {
  class FullToken extends FakeToken {
    isFull = false;
    override writeObject(name: string, value: Uint8Array): boolean {
      if (this.isFull) throw new UkeyError('token-failed', 'no room');
      return super.writeObject(name, value);
    }
  }
  const token = new FullToken();
  const rig = new MemoryRig({}, token);
  await rig.watch.until('blank');
  const mount = await provisionHolder(rig.holder);
  token.isFull = true;
  await rig.restart();
  await rig.holder.login(pinBytes(), false);
  await rig.holder.commit(new DraftMaker(mount).next(['a'])).durable;
  expect(rig.notes.length).toBeGreaterThan(0);
  token.isFull = false;
  await rig.restart();
  await rig.holder.login(pinBytes(), false);
  expect(await readVerified(rig.holder, mount)).toEqual(['a']);
  await rig.holder.close();
});

describe('the anchor', () => {
  const storeId = Buffer.alloc(16, 1);
  const anchor = { storeId, mountEpoch: 3, batchIndex: 7, sealHash: Buffer.alloc(32, 2) };
  const code = (judge: () => void): string => {
    try {
      judge();
      return 'good';
    } catch (thrown) {
      return thrown instanceof UkeyError ? thrown.code : 'other';
    }
  };

  test.each([
    [{ storeId, mountEpoch: 3, lastBatch: 7 }, 'good'],
    [{ storeId, mountEpoch: 4, lastBatch: 8 }, 'good'],
    [{ storeId, mountEpoch: 2, lastBatch: 7 }, 'halted'],
    [{ storeId, mountEpoch: 3, lastBatch: 6 }, 'halted'],
    [{ storeId, mountEpoch: 9, lastBatch: 6 }, 'halted'],
    [{ storeId: Buffer.alloc(16, 9), mountEpoch: 9, lastBatch: 9 }, 'halted'],
  ])('judges %j: %s', (found, verdict) => {
    expect(code(() => judgeAge(anchor, found))).toBe(verdict);
  });

  test('needs no second look at a FLASH that is new enough at a glance, and one at any other', async () => {
    const device = fresh(new Map());
    let looks = 0;
    device.read = () => {
      looks += 1;
      return Promise.reject(new Error('not to be read'));
    };
    const glance = { storeId, mountEpoch: 3, lastIndex: 7 };
    await refuseRollback(anchor, glance, device, null, Buffer.alloc(32));
    expect(looks).toBe(0);
    for (const older of [{ ...glance, lastIndex: 6 }, { ...glance, mountEpoch: 2 }, { ...glance, storeId: Buffer.alloc(16, 9) }, null]) {
      looks = 0;
      await refuseRollback(anchor, older, device, null, Buffer.alloc(32)).catch(() => undefined);
      expect(looks > 0).toBe(older === null || older.storeId === storeId);
    }
  });

  test('is no rollback where the FLASH says one thing and then another: it is looked at anew', async () => {
    const device = (await newStore(8)).snapshot();
    const open = new MemoryDevice({ sizeBytes: sizeFor(8), medium: device });
    const known = { ...anchor, storeId: Buffer.from(storeIdOfRig), mountEpoch: 0, batchIndex: 0 };
    for (const glance of [null, { storeId: known.storeId, mountEpoch: -1, lastIndex: 0 }])
      expect(await codeOf(refuseRollback(known, glance, open, null, dataKeyOfRig))).toBe('busy');
  });

  test('is no rollback where the FLASH hides its end and the mirror shows it', async () => {
    const pair = await pairOf(8, 10);
    const [flash, second] = [pair.flash, pair.mirror].map((one) => new MemoryDevice({ sizeBytes: sizeFor(8), medium: one.snapshot() }));
    if (flash === undefined || second === undefined) throw new Error('a pair has two sides');
    flash.failReads(4 * 1024 * 1024 + 3 * 4096, 4096); // of the frames 9 and 10
    const known = { ...anchor, storeId: Buffer.from(storeIdOfRig), mountEpoch: 1, batchIndex: 10 };
    const glance = { storeId: known.storeId, mountEpoch: 1, lastIndex: 8 };
    expect(await codeOf(refuseRollback(known, glance, flash, second, dataKeyOfRig))).toBe('not refused');
  });

  test('knows another batch in its place', () => {
    expect(code(() => judgeSeal(anchor, Buffer.alloc(32, 2)))).toBe('good');
    expect(code(() => judgeSeal(anchor, Buffer.alloc(32, 3)))).toBe('halted');
  });

  test('is the newer of what the KEY and what this service has seen of the store that is there', () => {
    const [ours, other] = [new Uint8Array(16), new Uint8Array(16).fill(1)];
    const keyId = new Uint8Array(16);
    const at = (mountEpoch: number, batchIndex: number, storeId = ours, byKey = keyId): Seen => ({
      ...{ storeId, keyId: byKey, mountEpoch, batchIndex },
      sealHash: new Uint8Array(32),
    });
    expect(newestAnchor(at(3, 5), at(3, 9), ours, keyId)).toEqual(at(3, 9));
    expect(newestAnchor(at(4, 5), at(3, 9), ours, keyId)).toEqual(at(4, 5)); // resuming has given up what was seen
    expect(newestAnchor(null, at(3, 9), ours, keyId)).toEqual(at(3, 9));
    expect(newestAnchor(at(3, 5), at(9, 9, other), ours, keyId)).toEqual(at(3, 5)); // of another token
    expect(newestAnchor(at(0, 0), at(3, 9, ours, other), ours, keyId)).toEqual(at(0, 0)); // of the KEY before this one
    expect(newestAnchor(at(3, 5, other), at(9, 9), ours, keyId)).toEqual(at(3, 5, other)); // the KEY's is not hidden
    const others = [at(3, 9), at(4, 5), at(3, 5, other)];
    expect(others.map((opening) => isSameOpening(at(3, 5), opening))).toEqual([true, false, false]);
  });

  test('is due by time or number, never too often, and never for nothing', () => {
    expect(isAnchorDue({ batches: 0, sinceMs: 10 * anchorEveryMs })).toBe(false);
    expect(isAnchorDue({ batches: 1, sinceMs: anchorEveryMs - 1 })).toBe(false);
    expect(isAnchorDue({ batches: 1, sinceMs: anchorEveryMs })).toBe(true);
    expect(isAnchorDue({ batches: anchorEveryBatches, sinceMs: anchorPauseMs })).toBe(true);
    expect(isAnchorDue({ batches: 10 * anchorEveryBatches, sinceMs: anchorPauseMs - 1 })).toBe(false);
  });

  test('is bound to a store, whatever the KEY remembered of another', () => {
    const token = new FakeToken();
    bindAnchor(token, storeId);
    expect(readAnchor(token)).toMatchObject({ storeId: new Uint8Array(storeId), mountEpoch: 0, batchIndex: 0 });
  });
});
