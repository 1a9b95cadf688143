// What a device does not give for longer than anybody waits, and gives later: it is not written over, not taken for the end, and not copied as zeros.
import { describe, expect, it } from 'vitest';
import { readStoreHeader } from '#store/log.ts';
import { restoreFromMirror } from '#store/restore.ts';
import type { StoreLog } from '#store/store.ts';
import { flipBit, type Medium, MemoryDevice, patchMedium, readMedium } from '#test/support/memory-device.ts';
import {
  appendAll,
  dataKey,
  deviceOn,
  expectWhole,
  failureOf,
  newStore,
  open,
  openBoth,
  pairOf,
  type StutteringDevice,
  segmentBytes,
  sizeFor,
  slots,
  stuttering,
  tokenKeyId,
} from './rig.ts';

const segments = 8;
const mebibyte = 1024 * 1024;
const logStart = 4 * mebibyte;
const payloadBytes = 900;
const on = (medium: Medium): MemoryDevice => deviceOn(medium, segments);

/** Gives nothing of a stretch until it is cured. */
const deaf = (medium: Medium, from = logStart, lengthBytes = segments * segmentBytes): StutteringDevice =>
  stuttering(medium, segments, { failuresLeft: Number.POSITIVE_INFINITY, fromBytes: from, toBytes: from + lengthBytes });
const cure = (device: StutteringDevice): void => {
  device.failuresLeft = 0;
};
const whole = (log: StoreLog): Promise<void> => expectWhole(log, () => payloadBytes);

describe('a service that runs', () => {
  it.each(['check', 'read'])('writes nothing over what neither side gives for a moment (%s)', async (how) => {
    const { flash, mirror } = await pairOf(segments, 100); // over two segments
    const sides = [flash, mirror].map((one) => stuttering(one.snapshot(), segments, { failuresLeft: 0, fromBytes: logStart })) as [
      StutteringDevice,
      StutteringDevice,
    ];
    const log = await openBoth(...sides);
    const before = sides.map((side) => side.snapshot());
    for (const side of sides) side.failuresLeft = Number.POSITIVE_INFINITY;
    if (how === 'check') await log.checkSlice(1, true);
    else expect((await failureOf(log.read(1, 1)))?.code).toBe('halted');
    expect(sides.map((side) => side.snapshot())).toEqual(before);
    sides.forEach(cure);
    await whole(log);
  });
});

describe('an opening', () => {
  it.each([
    ['all of the log', 0, segments * segmentBytes],
    ['the page where it ends', 3 * 4096, 4096],
  ])('does not take the FLASH for one that ends earlier where %s hides', async (_, from, lengthBytes) => {
    const device = await newStore(segments);
    const log = await open(device);
    const frames = 3 * 4 - 1; // the fourth page holds the last ones
    await appendAll(
      log,
      1,
      Array.from({ length: frames }, () => payloadBytes),
    );
    const hiding = deaf(device.snapshot(), logStart + from, lengthBytes);
    expect((await failureOf(open(hiding)))?.code).toBe('busy');
    expect(hiding.snapshot()).toEqual(device.snapshot());
    cure(hiding);
    const again = await open(hiding);
    expect(again.mounted.nextIndex).toBe(frames + 1);
    await whole(again);
  });

  it('does not end before what FLASH and mirror held together, however badly the FLASH reads', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const worn = deaf(flash.snapshot(), logStart + 3 * 4096, 4096);
    const second = on(mirror.snapshot());
    expect((await failureOf(openBoth(worn, second)))?.message).toMatch(/frames 9-10 were durable/);
    cure(worn);
    await whole(await openBoth(worn, second));
  });

  it('does not let the mirror rule where copies of the superblock could not be read', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const alone = on(flash.snapshot());
    const log = await open(alone, 7);
    await appendAll(log, 11, [payloadBytes, payloadBytes]);
    const torn = deaf(flipBit(alone.snapshot(), 100, 1), mebibyte, logStart - mebibyte);
    const failure = await failureOf(openBoth(torn, on(mirror.snapshot())));
    expect(failure?.message).toMatch(/cannot be read/);
    cure(torn);
    expect((await openBoth(torn, on(mirror.snapshot()))).mounted.nextIndex).toBe(13);
  });

  it('takes from the mirror what a lying FLASH lost, where the FLASH vouches for it and was opened once more', async () => {
    const { flash, mirror } = await pairOf(segments, 10);
    const held = flash.snapshot();
    const together = await openBoth(flash, mirror, 'sync', 5);
    await appendAll(together, 11, [payloadBytes, payloadBytes]);
    await together.close();
    const before = mirror.snapshot();
    const once = on(flash.snapshot());
    await openBoth(once, on(before), 'sync', 6); // the new epoch reaches the FLASH alone, whose cache loses the last frames
    const lost = patchMedium(once.snapshot(), logStart, readMedium(held, logStart, segmentBytes));
    const again = await openBoth(on(lost), on(before), 'sync', 8);
    expect(again.mounted.nextIndex).toBe(13);
    await whole(again);
  });
});

describe('a FLASH that is made from a mirror', () => {
  it('is none where the end of the mirror cannot be read', async () => {
    const { mirror } = await pairOf(segments, 10);
    const source = deaf(mirror.snapshot(), logStart + 2 * 4096, 4096);
    const target = new MemoryDevice({ sizeBytes: sizeFor(segments) });
    const options = { tokenKeyId, slots, erase: false };
    expect((await failureOf(restoreFromMirror(source, target, dataKey, options)))?.code).toBe('halted');
    expect(await readStoreHeader(target)).toBeNull();
    cure(source);
    await restoreFromMirror(source, target, dataKey, options);
    await whole(await open(target));
  });
});

describe('a mirror that is made from a FLASH', () => {
  it('has all but an old page that cannot be read, and vouches for nothing there', async () => {
    const { flash } = await pairOf(segments, 100); // over two segments
    const worn = deaf(flash.snapshot(), logStart + 5 * 4096, 4096);
    const mirror = new MemoryDevice({ sizeBytes: sizeFor(segments) });
    const log = await openBoth(worn, mirror);
    expect(log.mounted).toMatchObject({ nextIndex: 101, mirror: { remade: true } });
    const before = worn.snapshot();
    expect((await log.checkSlice(1, true)).missing).toEqual([{ from: 17, to: 20 }]);
    expect(worn.snapshot()).toEqual(before);
    cure(worn);
    expect(await log.checkSlice(1, true)).toMatchObject({ missing: [], mirrorDamaged: [17, 18, 19, 20] });
    await log.close();
    await whole(await open(on(mirror.snapshot())));
  });
});
