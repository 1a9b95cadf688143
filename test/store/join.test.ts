// Joining FLASH and mirror: what an opening looks at, and when it looks again.
import { describe, expect, it } from 'vitest';
import { joinMirror } from '#store/join.ts';
import { openLog } from '#store/log.ts';
import type { StoreEnd } from '#store/store.ts';
import { flipBit, type Medium, MemoryDevice, patchMedium } from '#test/support/memory-device.ts';
import { dataKey, deviceOn, expectWhole, failureOf, openBoth, pairOf, segmentBytes, sizeFor, storeId } from './rig.ts';

const segments = 8;
const logStart = 4 * 1024 * 1024;
const on = (medium: Medium): MemoryDevice => deviceOn(medium, segments);
const frameAt = (index: number): number => logStart + 4096 + (index - 1) * 1024;

/** Counts how often each segment's first page was asked for alone. */
class HeadCounter extends MemoryDevice {
  readonly heads = new Map<number, number>();

  override async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    const segment = (positionBytes - logStart) / segmentBytes;
    if (segment >= 0 && Number.isInteger(segment) && lengthBytes === 4096) this.heads.set(segment, (this.heads.get(segment) ?? 0) + 1);
    return await super.read(positionBytes, lengthBytes);
  }
}

describe('an opening', () => {
  const counted = async (flash: Medium, mirror: Medium): Promise<number[][]> => {
    const sides = [flash, mirror].map((medium) => new HeadCounter({ sizeBytes: sizeFor(segments), medium }));
    const [flashSide, mirrorSide] = sides as [HeadCounter, HeadCounter];
    const log = await openBoth(flashSide, mirrorSide, 'sync');
    await expectWhole(log, () => 900);
    return sides.map(({ heads }) => Array.from({ length: segments }, (_, segment) => heads.get(segment) ?? 0));
  };
  const times = (count: number): number[] => Array.from({ length: segments }, () => count);

  it('looks at each segment of both sides once where they are the same', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    expect(await counted(flash.snapshot(), mirror.snapshot())).toEqual([times(1), times(1)]);
  });

  it('looks at the FLASH again where something of it was healed', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const [twice, once] = await counted(flipBit(flash.snapshot(), frameAt(4) + 300, 1), mirror.snapshot());
    expect([twice, once]).toEqual([times(2), times(1)]);
  });

  it('looks at it again where a page that holds nothing could not be read and was written anew', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const worn = on(flash.snapshot());
    worn.failReads(logStart + segmentBytes - 4096, 4096);
    const { headRuns, report } = await joinMirror(worn, on(mirror.snapshot()), dataKey, { mode: 'sync' });
    expect([headRuns, report.healedFlash]).toEqual([null, 0]);
  });

  it('looks at it again where one look failed', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const whole = await joinMirror(on(flash.snapshot()), on(mirror.snapshot()), dataKey, { mode: 'sync' });
    expect(whole.headRuns?.length).toBe(1);
    const worn = on(flash.snapshot());
    worn.failReads(logStart + (segments - 1) * segmentBytes, 4096);
    expect((await joinMirror(worn, on(mirror.snapshot()), dataKey, { mode: 'sync' })).headRuns).toBeNull();
  });

  it.each([
    ['without a mirror', null],
    ['beside its mirror', 'its own'],
    ['beside a blank mirror', 'blank'],
  ] as const)('asks before it writes anything, %s', async (_, kind) => {
    const pair = await pairOf(segments, 10);
    const flash = on(pair.flash.snapshot());
    const mirror = kind === null ? null : on(kind === 'blank' ? new Map() : pair.mirror.snapshot());
    const seen: (StoreEnd | null)[] = [];
    const openAsking = (answer: Error | null): Promise<unknown> =>
      openLog(flash, dataKey, {
        ...(mirror === null ? {} : { mirror: { device: mirror, mode: 'sync' } }),
        inspect: async (end) => {
          seen.push(end);
          if (answer !== null) throw answer;
        },
      });
    const before = [flash.snapshot(), mirror?.snapshot()];
    await expect(openAsking(new Error('too old'))).rejects.toThrow('too old');
    expect([flash.snapshot(), mirror?.snapshot()]).toEqual(before);
    await openAsking(null);
    const end = { storeId: Buffer.from(storeId), mountEpoch: 1, lastIndex: 10 };
    expect(seen.map((each) => each && { ...each, storeId: Buffer.from(each.storeId) })).toEqual([end, end]);
    expect(flash.snapshot()).not.toEqual(before[0]);
  });

  it('says so where the FLASH has no superblock that is whole', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const rotten = [0, 1, 2, 3].reduce((medium: Medium, copy) => flipBit(medium, copy * 1024 * 1024 + 100, 1), flash.snapshot());
    const seen: unknown[] = [];
    await joinMirror(on(rotten), on(mirror.snapshot()), dataKey, { mode: 'sync', inspect: async (end) => void seen.push(end) });
    expect(seen).toEqual([null]);
  });

  it('finds what only the mirror has behind frames that neither has, where the FLASH is blank', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const broken = (medium: Medium): Medium => flipBit(flipBit(medium, frameAt(3) + 300, 1), frameAt(4) + 300, 1);
    const behind = logStart + 8192; // the page behind that of the frames 1 to 4
    const blanked = patchMedium(broken(flash.snapshot()), behind, new Uint8Array(segmentBytes - 8192));
    const failure = await failureOf(openBoth(on(blanked), on(broken(mirror.snapshot()))));
    expect(failure).toMatchObject({ code: 'halted' });
    expect(failure?.message).toMatch(/frames 3-4 were/);
  });
});
