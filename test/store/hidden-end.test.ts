// Shows: what cannot be read where a log ends stops it only while nobody knows that nothing stands there, and is written over then.
import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { logStartBytes, pageBytes } from '#store/format.ts';
import { openLog } from '#store/log.ts';
import type { KnownEnd, MirrorMode, StoreEnd, StoreLog } from '#store/store.ts';
import type { MemoryDevice } from '#test/support/memory-device.ts';
import { WornDevice } from '#test/support/worn-device.ts';
import { appendAll, dataKey, deviceOn, expectWhole, failureOf, newStore, open, pairOf, segmentBytes } from './rig.ts';

const segments = 8;
const payloadBytes = 900;
/** A run's header and eleven frames of a quarter page each: the fourth page is not full. */
const frames = 11;
const endPage = logStartBytes + 3 * pageBytes;
const whole = (log: StoreLog): Promise<void> => expectWhole(log, () => payloadBytes);
const payloads = (count: number): number[] => Array.from({ length: count }, () => payloadBytes);

async function written(count = frames): Promise<{ device: MemoryDevice; end: StoreEnd }> {
  const device = await newStore(segments);
  const log = await open(device);
  await appendAll(log, 1, payloads(count));
  return { device, end: { storeId: log.header.storeId, mountEpoch: log.mounted.mountEpoch, lastIndex: count } };
}

const worn = (device: MemoryDevice, ...pages: number[]): WornDevice =>
  new WornDevice(deviceOn(device.snapshot(), segments), new Set(pages));
const openKnowing = (device: WornDevice, end: KnownEnd | null): Promise<StoreLog> => openLog(device, dataKey, { end });

describe('a page behind the end that cannot be read', () => {
  const behind = endPage + pageBytes;

  it('is waited for where nobody knows the end', async () => {
    const device = worn((await written()).device, behind);
    await expect(openKnowing(device, null)).rejects.toMatchObject({ code: 'busy', action: expect.stringContaining('--accept-end') });
    expect(device.broken.size).toBe(1);
  });

  it.each([
    ['who had it open last', (end: StoreEnd) => end],
    ['a person', () => ({ givenUpBehind: frames })],
  ])('is written over where the end is known (%s), with those behind it, and the log goes on', async (_, knownBy) => {
    const { device, end } = await written();
    const flash = worn(device, behind, behind + pageBytes, behind + 3 * pageBytes);
    const log = await openKnowing(flash, knownBy(end));
    expect(log.mounted).toMatchObject({ nextIndex: frames + 1, isEndHidden: true });
    expect(flash.broken.size).toBe(0);
    await appendAll(log, frames + 1, payloads(20));
    const again = await openKnowing(flash, null);
    expect(again.mounted).toMatchObject({ nextIndex: frames + 21, isEndHidden: false });
    await whole(again);
  });

  it('is waited for where somebody else has opened the log since', async () => {
    const { device, end } = await written();
    await open(device, 9);
    expect((await failureOf(openKnowing(worn(device, behind), end)))?.code).toBe('busy');
  });

  it('is not written over by who only reads', async () => {
    const { device } = await written();
    const flash = worn(device, behind);
    const reader = new WornDevice(deviceOn(device.snapshot(), segments, { readOnly: true }), flash.broken);
    expect((await openLog(reader, dataKey, { end: { givenUpBehind: 0 } })).mounted).toMatchObject({
      nextIndex: frames + 1,
      isEndHidden: true,
    });
    expect(flash.broken.size).toBe(1);
  });
});

describe('the page where the log ends', () => {
  it('is waited for where it hides what somebody was told of', async () => {
    const { device, end } = await written();
    const flash = worn(device, endPage);
    expect((await failureOf(openKnowing(flash, end)))?.code).toBe('busy');
    expect(flash.broken.size).toBe(1);
    flash.broken.clear();
    await whole(await openKnowing(flash, end));
  });

  it('is given up, with what stands there, where a person says so', async () => {
    const flash = worn((await written()).device, endPage);
    const log = await openKnowing(flash, { givenUpBehind: 0 });
    expect(log.mounted.nextIndex).toBe(9); // the rest stood in that page
    await appendAll(log, 9, payloads(10));
    await whole(await openKnowing(flash, null));
  });
});

describe('a last frame that hides in part, or elsewhere', () => {
  it.each([
    ['behind a page that shows its header', [500, 18_000], logStartBytes + 4 * pageBytes],
    ['at the beginning of the next segment', [40_000, 40_000], logStartBytes + segmentBytes],
  ])('is waited for: %s', async (_, sizes, page) => {
    const device = await newStore(segments);
    const log = await open(device);
    for (const size of sizes) await log.append(randomBytes(size), Buffer.from('state'));
    const flash = worn(device, page);
    expect((await failureOf(openKnowing(flash, null)))?.code).toBe('busy');
    expect((await failureOf(openKnowing(flash, { givenUpBehind: 2 })))?.code).toBe('busy');
    flash.broken.clear();
    expect((await openKnowing(flash, null)).mounted.nextIndex).toBe(3);
  });

  it.each([[[3, 4, 5]], [[3, 4, 5, 6]]])(
    'is waited for behind a run that shows what it was to carry, and not the rest (%j)',
    async (pages) => {
      const device = await newStore(segments);
      const log = await open(device);
      await appendAll(log, 1, [900, 900, 900]);
      await log.carry(randomBytes(100)); // its header is page 2
      await log.append(randomBytes(900), Buffer.from('state'));
      await log.append(randomBytes(900), Buffer.from('state'));
      const flash = worn(device, ...pages.map((page) => logStartBytes + page * pageBytes));
      expect((await failureOf(openKnowing(flash, null)))?.code).toBe('busy');
      flash.broken.clear();
      expect((await openKnowing(flash, null)).mounted.nextIndex).toBe(6);
    },
  );

  it('is waited for behind such a run that begins the next segment', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await log.append(randomBytes(56_000), Buffer.from('state')); // nothing more than a page fits behind it
    await log.carry(randomBytes(9_000));
    await log.append(randomBytes(900), Buffer.from('state'));
    const behind = [1, 2, 3, 4, 5, 6].map((page) => logStartBytes + segmentBytes + page * pageBytes);
    const flash = worn(device, ...behind);
    expect((await failureOf(openKnowing(flash, null)))?.code).toBe('busy');
    flash.broken.clear();
    expect((await openKnowing(flash, null)).mounted.nextIndex).toBe(3);
  });

  it('stands at the beginning of the ring behind its last segment', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    for (let at = 1; at <= segments + 1; at += 1) {
      await log.append(randomBytes(40_000), Buffer.from('state')); // one fits a segment
      if (at > 3 && at <= segments) await log.release(at - 2); // the superblock vouches for all but the last
    }
    const flash = worn(device, logStartBytes);
    expect((await failureOf(openKnowing(flash, null)))?.code).toBe('busy');
    flash.broken.clear();
    expect((await openKnowing(flash, null)).mounted.nextIndex).toBe(segments + 2);
  });
});

describe('an empty log', () => {
  it('begins on a page that could not be read, once it is said to be empty', async () => {
    const { device } = await written(0);
    const flash = worn(device, logStartBytes);
    expect((await failureOf(openKnowing(flash, null)))?.code).toBe('busy');
    const log = await openKnowing(flash, { givenUpBehind: 0 });
    await appendAll(log, 1, payloads(3));
    await whole(await openKnowing(flash, null));
  });
});

describe('with a mirror', () => {
  const both = (flash: WornDevice, mirror: MemoryDevice, mode: MirrorMode = 'sync'): Promise<StoreLog> =>
    openLog(flash, dataKey, { mirror: { device: mirror, mode } });

  it.each([
    ['behind the end', endPage + pageBytes],
    ['at the beginning of the next segment', logStartBytes + segmentBytes],
  ])('a page %s is known to hold nothing', async (_, page) => {
    const { flash, mirror } = await pairOf(segments, frames);
    const broken = worn(flash, page);
    const log = await both(broken, deviceOn(mirror.snapshot(), segments));
    await appendAll(log, frames + 1, payloads(3));
    expect(log.mounted.nextIndex).toBe(frames + 1);
    expect(broken.broken.size).toBe(0);
    await whole(await openKnowing(broken, null));
  });

  it.each<[MirrorMode, MirrorMode]>([
    ['async', 'async'],
    ['async', 'sync'], // as it is configured since
  ])('that may be behind (%s), what hides on the FLASH is waited for (%s now)', async (before, now) => {
    const { flash, mirror } = await pairOf(segments, 8);
    const log = await openLog(flash, dataKey, { mirror: { device: mirror, mode: before } });
    const epoch = deviceOn(mirror.snapshot(), segments); // opened together, and then it fell behind
    await appendAll(log, 9, payloads(3));
    const broken = worn(flash, endPage + pageBytes); // behind the new run's header
    expect((await failureOf(both(broken, epoch, now)))?.code).toBe('busy');
    expect(broken.broken.size).toBe(1);
    broken.broken.clear();
    expect((await both(broken, epoch, now)).mounted.nextIndex).toBe(frames + 1);
  });
});
