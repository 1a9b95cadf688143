// Shows: a store that damage keeps from opening says exactly what is missing, comes back to the byte from payloads kept elsewhere, and opens; what is
// not proven to be the same bytes is never written, and nothing is cut.
import { describe, expect, it } from 'vitest';
import { openDamaged } from '#store/damaged-log.ts';
import { damageOf } from '#store/recover.ts';
import { type MemoryDevice, readMedium } from '#test/support/memory-device.ts';
import { appendAll, checkpointBefore, dataKey, deviceOn, expectWhole, newStore, open, payloadOf, sizeFor } from './rig.ts';

const segments = 4;
const logStart = 4 * 1024 * 1024;
const bodyBytes = 900;
/** Three openings: the second one's run goes on in the second segment, where the third begins behind it. */
const runs = [60, 30, 5];
const total = 95;
/** First frame of the newest segment: from here on damage stops an opening. */
const firstNeeded = 61;

async function history(): Promise<MemoryDevice> {
  let device = await newStore(segments);
  let next = 1;
  for (const [at, count] of runs.entries()) {
    device = deviceOn(device.snapshot(), segments);
    const log = await open(device, 10 + at);
    await appendAll(log, next, Array<number>(count).fill(bodyBytes));
    next += count;
    await log.close();
  }
  return device;
}
const pristine = (await history()).snapshot();

/** Where each frame stands, found by its header. */
const places = new Map<number, number>();
for (let at = logStart; at < sizeFor(segments); at += 512) {
  const bytes = Buffer.from(readMedium(pristine, at, 32));
  if (bytes.toString('ascii', 0, 4) === 'UKFR') places.set(Number(bytes.readBigUInt64BE(24)), at);
}
const placeOf = (index: number): number => places.get(index) ?? Number.NaN;

async function spoilt(...indexes: number[]): Promise<MemoryDevice> {
  const device = deviceOn(pristine, segments);
  // Every second one by its header, the others by their content.
  for (const index of indexes) await device.writeAndSync(placeOf(index) + (index % 2) * 512, new Uint8Array(512).fill(0xee));
  return device;
}

const given = (...indexes: number[]) => indexes.map((index) => ({ index, payload: payloadOf(index, bodyBytes) }));
const areaOf = (device: MemoryDevice): Uint8Array => readMedium(device.snapshot(), 0, sizeFor(segments));
const isSame = (device: MemoryDevice, before: Uint8Array): boolean => Buffer.compare(areaOf(device), before) === 0;
const right = readMedium(pristine, 0, sizeFor(segments));

/** What the failed opening names, and what looking closer does. */
async function expectMissing(device: MemoryDevice, missing: readonly { from: number; to: number }[]): Promise<void> {
  const thrown: unknown = await open(deviceOn(device.snapshot(), segments), 20).catch((error: unknown) => error);
  expect(damageOf(thrown)?.missing).toEqual(missing);
  const log = await openDamaged(device, dataKey);
  expect(log.missing).toEqual(missing);
  log.close();
}

async function expectOpens(device: MemoryDevice): Promise<void> {
  expect(isSame(device, right)).toBe(true);
  const log = await open(device, 30);
  await expectWhole(log, () => bodyBytes);
  expect(await log.append(Buffer.from('on'), checkpointBefore(total + 1))).toBe(total + 1);
  await log.close();
}

describe('a store that damage keeps from opening', () => {
  it('comes back from any one frame of the newest segment', async () => {
    for (let index = firstNeeded; index <= total; index += 1) {
      const device = await spoilt(index);
      await expectMissing(device, [{ from: index, to: index }]);
      const log = await openDamaged(device, dataKey);
      expect(log.carryLost).toBe(false);
      expect(await log.mend(given(index)), `frame ${index}`).toEqual([index]);
      log.close();
      await expectOpens(device);
    }
  });

  it.each([
    ['two side by side', [70, 71], [{ from: 70, to: 71 }]],
    [
      'the first of the segment and the last of all',
      [61, 95],
      [
        { from: 61, to: 61 },
        { from: 95, to: 95 },
      ],
    ],
    ['on both sides of a restart', [90, 91], [{ from: 90, to: 91 }]],
    ['all of the newest run', [91, 92, 93, 94, 95], [{ from: 91, to: 95 }]],
    [
      'a whole one in between',
      [80, 82],
      [
        { from: 80, to: 80 },
        { from: 82, to: 82 },
      ],
    ],
  ])('comes back: %s', async (_name, indexes, missing) => {
    const device = await spoilt(...indexes);
    await expectMissing(device, missing);
    const log = await openDamaged(device, dataKey);
    expect(await log.mend(given(...indexes))).toEqual(indexes);
    log.close();
    await expectOpens(device);
  });

  it('comes back where the only frame of a store is damaged', async () => {
    const device = await newStore(segments);
    const log = await open(device, 10);
    await appendAll(log, 1, [bodyBytes]);
    await log.close();
    const only = deviceOn(device.snapshot(), segments);
    const before = areaOf(only);
    await only.writeAndSync(logStart + 4096, new Uint8Array(512).fill(0xee));
    const wreck = await openDamaged(only, dataKey);
    expect(wreck).toMatchObject({ missing: [{ from: 1, to: 1 }], nextIndex: 2, checkpointIndex: 1 });
    expect(await wreck.mend(given(1))).toEqual([1]);
    wreck.close();
    expect(isSame(only, before)).toBe(true);
    await (await open(only, 30)).close();
  });

  it('gives what is whole, its checkpoint and its identity meanwhile', async () => {
    const log = await openDamaged(await spoilt(80, 93), dataKey);
    expect(Buffer.from(log.checkpoint ?? []).equals(checkpointBefore(91))).toBe(true);
    expect(log).toMatchObject({ checkpointIndex: 91, oldestIndex: 1, nextIndex: 96, carried: null });
    for (const index of [1, 60, 79, 81, 92, 94, 95]) expect((await log.read(index, 1))[0]?.index).toBe(index);
    for (const index of [80, 93]) await expect(log.read(index, 1)).rejects.toMatchObject({ code: 'halted' });
    log.close();
  });

  it('names older damage as well where it is asked to look there', async () => {
    const log = await openDamaged(await spoilt(20, 93), dataKey, 15);
    expect(log.missing).toEqual([
      { from: 20, to: 20 },
      { from: 93, to: 93 },
    ]);
    expect(await log.mend(given(20, 93))).toEqual([20, 93]);
    log.close();
  });
});

describe('nothing is written', () => {
  it.each([
    ['where a payload is another one', 70],
    ['where the last one is another one', 95],
    ['where the first of a run is another one', 91],
  ])('%s', async (_name, index) => {
    const device = await spoilt(index);
    const before = areaOf(device);
    const log = await openDamaged(device, dataKey);
    expect(await log.mend([{ index, payload: payloadOf(index, bodyBytes, 'a lie') }])).toEqual([]);
    expect(await log.mend([{ index, payload: payloadOf(index, bodyBytes - 1) }])).toEqual([]);
    expect(await log.mend([{ index, payload: payloadOf(index, 3_000) }])).toEqual([]);
    expect(await log.mend([])).toEqual([]);
    expect(isSame(device, before)).toBe(true);
    expect(await log.mend(given(index))).toEqual([index]);
    log.close();
  });

  it('where one of two neighbours is another one, or is not given', async () => {
    const device = await spoilt(70, 71);
    const before = areaOf(device);
    const log = await openDamaged(device, dataKey);
    expect(await log.mend([{ index: 70, payload: payloadOf(70, bodyBytes, 'a lie') }, ...given(71)])).toEqual([]);
    expect(await log.mend(given(71))).toEqual([]);
    expect(await log.mend(given(70))).toEqual([]);
    expect(isSame(device, before)).toBe(true);
    log.close();
  });

  it.each([
    ['inside the segment', 91, { from: 91, to: 95 }],
    ['at the start of the newest segment', 61, { from: 61, to: 90 }],
  ])('for frames whose run has lost its header, %s: with it their key is gone', async (_name, first, gap) => {
    const device = deviceOn(pristine, segments);
    await device.writeAndSync(placeOf(first) - 4096, new Uint8Array(512).fill(0xee));
    const before = areaOf(device);
    expect(damageOf(await open(deviceOn(pristine, segments), 20).catch((error: unknown) => error))).toBeNull();
    const failure: unknown = await open(deviceOn(device.snapshot(), segments), 20).catch((error: unknown) => error);
    expect(damageOf(failure)).not.toBeNull();
    const log = await openDamaged(device, dataKey);
    expect(log.missing.at(0)?.from).toBe(gap.from);
    expect(log.missing.at(-1)?.to).toBeGreaterThanOrEqual(gap.to);
    const all = Array.from({ length: total - gap.from + 1 }, (_, at) => gap.from + at);
    expect(await log.mend(given(...all))).toEqual([]);
    expect(isSame(device, before)).toBe(true);
    log.close();
  });

  it('on a device for reading', async () => {
    const device = await spoilt(70);
    const log = await openDamaged(deviceOn(device.snapshot(), segments, { readOnly: true }), dataKey);
    await expect(log.mend(given(70))).rejects.toMatchObject({ code: 'halted' });
    log.close();
  });
});

it('what only the first of the two writes of a mending reached is mended again', async () => {
  const device = await spoilt(70, 80);
  const first = await openDamaged(device, dataKey);
  expect(await first.mend(given(70))).toEqual([70]);
  first.close();
  const again = await openDamaged(device, dataKey);
  expect(again.missing).toEqual([{ from: 80, to: 80 }]);
  expect(await again.mend(given(70, 80))).toEqual([80]);
  again.close();
  await expectOpens(device);
});
