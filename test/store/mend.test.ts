// Shows: frames that nobody has whole come back from payloads kept elsewhere, to the byte; what would not be the very same bytes is never written.
import { describe, expect, it } from 'vitest';
import type { SliceReport, StoreLog } from '#store/store.ts';
import { type MemoryDevice, readMedium } from '#test/support/memory-device.ts';
import { appendAll, deviceOn, newStore, open, payloadOf, segmentBytes, sizeFor } from './rig.ts';

const segments = 4;
const logStart = 4 * 1024 * 1024;
const bodyBytes = 900;
/** Three openings: runs of 60, 30 and 5 frames of 1024 bytes, so that the second one goes on in the second segment. */
const runs = [60, 30, 5];
const total = 95;

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

/** Place of a frame, found by its header. */
function placeOf(device: MemoryDevice, index: number): number {
  const medium = device.snapshot();
  for (let at = logStart; at < sizeFor(segments); at += 512) {
    const bytes = Buffer.from(readMedium(medium, at, 32));
    if (bytes.toString('ascii', 0, 4) === 'UKFR' && bytes.readBigUInt64BE(24) === BigInt(index)) return at;
  }
  throw new Error(`there is no frame ${index}`);
}

const spoil = async (device: MemoryDevice, index: number, at = 0): Promise<void> =>
  await device.writeAndSync(placeOf(device, index) + at, new Uint8Array(512).fill(0xee));

const given = (...indexes: number[]) => indexes.map((index) => ({ index, payload: payloadOf(index, bodyBytes) }));
const areaOf = (device: MemoryDevice): Uint8Array => readMedium(device.snapshot(), logStart, segments * segmentBytes);

async function whole(log: StoreLog): Promise<void> {
  expect(await log.check({ heal: false })).toMatchObject({ frames: total, missing: [] });
  for (let next = 1; next <= total; )
    for (const { index, payload } of await log.read(next, 1_000_000)) {
      expect(Buffer.from(payload).equals(payloadOf(index, bodyBytes)), `frame ${index}`).toBe(true);
      next = index + 1;
    }
}

describe('frames that nobody has whole', () => {
  it.each([
    ['in the middle of a run', [20]],
    ['first of the log', [1]],
    ['several in a row', [30, 31, 32]],
    ['the last of a segment', [59, 60]],
    ['the first of a run', [61]],
    ['the last of all', [95]],
    ['on both sides of a restart', [90, 91]],
    ['in several places', [3, 40, 70, 93]],
  ])('come back: %s', async (_name, indexes) => {
    const device = deviceOn((await history()).snapshot(), segments);
    const log = await open(device, 20);
    const before = areaOf(device);
    for (const index of indexes) await spoil(device, index, index % 2 === 0 ? 512 : 0).catch(() => spoil(device, index));
    expect((await log.check({ heal: true })).missing.length).toBeGreaterThan(0);
    expect(await log.mend(given(...indexes))).toEqual(indexes);
    expect(Buffer.compare(areaOf(device), before)).toBe(0);
    await whole(log);
  });

  it('stay lost where the payload is another one, or not all that is missing is given; nothing is written', async () => {
    const device = deviceOn((await history()).snapshot(), segments);
    const log = await open(device, 20);
    for (const index of [10, 11]) await spoil(device, index);
    const before = areaOf(device);
    const wrong = payloadOf(10, bodyBytes, 'other');
    expect(await log.mend([{ index: 10, payload: wrong }, ...given(11)])).toEqual([]);
    expect(await log.mend([{ index: 10, payload: payloadOf(10, bodyBytes - 1) }, ...given(11)])).toEqual([]);
    expect(await log.mend([...given(10), { index: 11, payload: payloadOf(11, 3_000) }])).toEqual([]);
    expect(await log.mend(given(11))).toEqual([]);
    expect(await log.mend(given(12))).toEqual([]);
    expect(Buffer.compare(areaOf(device), before)).toBe(0);
    expect(await log.mend(given(10, 11))).toEqual([10, 11]);
  });

  it('stay lost with the header of their run: its key is gone', async () => {
    const device = deviceOn((await history()).snapshot(), segments);
    const log = await open(device, 20);
    const header = placeOf(device, 91) - 4096;
    await device.writeAndSync(header, new Uint8Array(4096).fill(0xee));
    await spoil(device, 91);
    const before = areaOf(device);
    expect(await log.mend(given(91, 92, 93, 94, 95))).toEqual([]);
    expect(Buffer.compare(areaOf(device), before)).toBe(0);
  });

  it('come back on both sides where there is a mirror', async () => {
    const flash = await history();
    const devices = [deviceOn(flash.snapshot(), segments), deviceOn(flash.snapshot(), segments)] as const;
    const { openLog } = await import('#store/log.ts');
    const { dataKey } = await import('./rig.ts');
    const log = await openLog(devices[0], dataKey, { mirror: { device: devices[1], mode: 'sync' } });
    for (const device of devices) await spoil(device, 33);
    expect(await log.mend(given(33))).toEqual([33]);
    expect(await log.check({ heal: false })).toMatchObject({ missing: [], flashDamaged: [], mirrorDamaged: [] });
  });
});

it('a check by slices finds what a check of all finds, while appends go on', async () => {
  const device = deviceOn((await history()).snapshot(), segments);
  const log = await open(device, 20);
  for (const index of [10, 80]) await spoil(device, index);
  const missing: unknown[] = [];
  let frames = 0;
  let slices = 0;
  for (let from: number | null = 1; from !== null; slices += 1) {
    const [slice]: [SliceReport, number] = await Promise.all([log.checkSlice(from, false), log.append(Buffer.from('x'), Buffer.from('c'))]);
    frames += slice.frames;
    missing.push(...slice.missing);
    from = slice.nextRun;
  }
  expect(slices).toBe(2);
  expect(missing).toEqual([
    { from: 10, to: 10 },
    { from: 80, to: 80 },
  ]);
  expect(frames).toBeGreaterThanOrEqual(total - 2);
});

it('a sealed segment is checked while the writer waits for the device: no append waits for the check', async () => {
  const device = deviceOn((await history()).snapshot(), segments);
  const log = await open(device, 20);
  const release = device.stall();
  const append = log.append(Buffer.from('x'), Buffer.from('c'));
  expect(await log.checkSlice(1, true)).toMatchObject({ done: 1, missing: [] });
  release();
  await append;
});
