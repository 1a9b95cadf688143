import { describe, expect, it } from 'vitest';
import { carryMaxBytesFor } from '#store/format.ts';
import { flipBit, type Medium } from '#test/support/memory-device.ts';
import { appendAll, checkpointBefore, deviceOn, failureOf, newStore, open, payloadOf, readAll, segmentBytes } from './rig.ts';

const segments = 8;
const frameBytes = 12_000;
/** Frames of this size in a segment. */
const perSegment = 5;

const sizesOf = (count: number): number[] => Array.from({ length: count }, () => frameBytes);

describe('releasing', () => {
  it('frees whole segments only, and the ring goes round many times', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    let index = 1;
    for (let lap = 0; lap < 40; lap += 1) {
      await appendAll(log, index, sizesOf(perSegment));
      index += perSegment;
      const freed = await log.release(index - 4);
      expect(freed).toBe(lap === 0 ? 0 : 1);
      expect(await log.release(index - 4)).toBe(0);
    }
    expect(log.usage()).toMatchObject({ freeSegments: segments - 1, oldestIndex: index - perSegment });
    for (const again of [log, await open(deviceOn(device.snapshot(), segments), 9)]) {
      const frames = await readAll(again);
      expect(frames.map((frame) => frame.index)).toEqual([196, 197, 198, 199, 200]);
      for (const frame of frames) expect(payloadOf(frame.index, frameBytes).equals(frame.payload)).toBe(true);
      expect((await failureOf(again.read(195, 1)))?.code).toBe('not-found');
      expect((await failureOf(again.read(1, 1)))?.code).toBe('not-found');
    }
  });

  it('reads a segment right in its second life, also when its first one was read', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    for (let index = 1; index <= segments * perSegment * 2 + 2; index += 1) {
      await appendAll(log, index, [frameBytes]);
      const back = Math.max(log.usage().oldestIndex, index - perSegment - 2);
      expect((await log.read(back, 1))[0]?.payload).toEqual(payloadOf(back, frameBytes));
      await log.release(index - perSegment * 2);
    }
    // What the lap before left behind the end is no torn tail.
    expect((await open(deviceOn(device.snapshot(), segments), 3)).mounted.tornBytes).toBe(0);
  });

  it('forgets nothing that nobody released, and is full instead', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    let index = 1;
    while (log.hasRoomFor(frameBytes)) {
      await appendAll(log, index, [frameBytes]);
      index += 1;
    }
    expect((await failureOf(log.append(payloadOf(index, frameBytes), checkpointBefore(index))))?.code).toBe('store-full');
    expect(await log.release(perSegment - 1)).toBe(0);
    expect(log.hasRoomFor(frameBytes)).toBe(false);
    expect(await log.release(perSegment)).toBe(1);
    expect(log.hasRoomFor(frameBytes)).toBe(true);
    await appendAll(log, index, [frameBytes]);
    expect(await readAll(log)).toHaveLength(index - perSegment);
    const after = await open(deviceOn(device.snapshot(), segments), 3);
    expect(after.mounted).toMatchObject({ oldestIndex: perSegment + 1, nextIndex: index + 1, tornBytes: 0 });
    expect(await readAll(after)).toHaveLength(index - perSegment);
  });

  it('never frees the newest segment nor what mounting reads', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await appendAll(log, 1, sizesOf(perSegment * 2));
    expect(await log.release(1_000_000)).toBe(1);
    const after = await open(deviceOn(device.snapshot(), segments), 3);
    expect(after.mounted).toMatchObject({ oldestIndex: perSegment + 1, checkpointIndex: perSegment + 1, nextIndex: perSegment * 2 + 1 });
    expect(after.mounted.checkpoint).toEqual(checkpointBefore(perSegment + 1));
  });

  it('tells a read that meets a release that the frame is gone, and never hands out what stands there now', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await appendAll(log, 1, sizesOf(perSegment * 3));
    const reading = Promise.all(Array.from({ length: perSegment }, (_, at) => failureOf(log.read(at + 1, 1))));
    const released = log.release(perSegment * 2);
    await Promise.all([released, appendAll(log, perSegment * 3 + 1, sizesOf(perSegment * 5))]);
    for (const failure of await reading) expect(['not-found', undefined]).toContain(failure?.code);
  });

  it('takes a lost head of a kept segment for damage and of a freed one for nothing', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await appendAll(log, 1, sizesOf(perSegment * 4));
    await log.release(perSegment * 2);
    await log.close();
    const headOf = (medium: Medium, segment: number): Medium => flipBit(medium, 4 * 1024 * 1024 + segment * segmentBytes + 30, 1);
    for (const segment of [0, 1]) {
      expect((await open(deviceOn(headOf(device.snapshot(), segment), segments))).mounted.oldestIndex).toBe(perSegment * 2 + 1);
    }
    const lost = await failureOf(open(deviceOn(headOf(device.snapshot(), 2), segments)));
    expect(lost?.code).toBe('halted');
    expect(lost?.message).toMatch(/frames 11-15 were/);
  });
});

describe('the reserve', () => {
  it('stays free for voids, acks and admin entries, and part of it for what is carried', async () => {
    const device = await newStore(12);
    const log = await open(device);
    let index = 1;
    const fill = async (reserved: boolean): Promise<number> => {
      const before = index;
      while (log.hasRoomFor(frameBytes, { reserved })) {
        await log.append(payloadOf(index, frameBytes), checkpointBefore(index), { reserved });
        index += 1;
      }
      expect((await failureOf(log.append(payloadOf(index, frameBytes), checkpointBefore(index), { reserved })))?.code).toBe('store-full');
      return index - before;
    };
    expect(await fill(false)).toBe(9 * perSegment);
    expect(log.usage().freeSegments).toBe(3);
    expect(log.usage().percentUsed).toBeGreaterThanOrEqual(90);
    expect(await fill(true)).toBe(2 * perSegment);
    expect(log.usage()).toMatchObject({ freeSegments: 1, freeBytes: 0, percentUsed: 100 });
    expect((await failureOf(log.append(payloadOf(index, 10), checkpointBefore(index))))?.code).toBe('store-full');
    expect((await failureOf(log.carry(payloadOf(0, 20_000))))?.code).toBe('store-full');
    // Issuing resumes by itself when acks release.
    await log.release(4 * perSegment);
    expect(log.hasRoomFor(frameBytes)).toBe(true);
  });

  it('counts bytes over the life of the store', async () => {
    let medium = (await newStore(segments)).snapshot();
    let written = 65_536;
    let index = 1;
    for (let mount = 1; mount <= 6; mount += 1) {
      const device = deviceOn(medium, segments);
      const log = await open(device, mount);
      await appendAll(log, index, [500, 9000, 40]);
      index += 3;
      if (mount % 3 === 0) await log.carry(payloadOf(0, 700));
      if (mount % 2 === 0) await log.close();
      written += device.writes.reduce((sum, write) => sum + write.bytes.length, 0);
      // What a killed process wrote is found again in the newest run.
      medium = device.snapshot();
      expect((await open(deviceOn(medium, segments, { readOnly: true }))).usage().bytesWritten).toBe(written);
    }
  });
});

describe('what is carried', () => {
  it('survives every release and every opening, and the newest one rules', async () => {
    let medium = (await newStore(segments)).snapshot();
    let index = 1;
    let carried: Buffer | null = null;
    for (let mount = 1; mount <= 30; mount += 1) {
      const device = deviceOn(medium, segments);
      const log = await open(device, mount);
      expect(log.mounted.carried === null ? null : Buffer.from(log.mounted.carried)).toEqual(carried);
      if (mount % 7 === 2) {
        carried = payloadOf(mount, mount * 700, 'carried');
        await log.carry(carried);
      }
      await appendAll(log, index, sizesOf(perSegment));
      index += perSegment;
      await log.release(index - 1);
      expect(log.usage().freeSegments).toBeGreaterThan(4);
      if (mount % 2 === 0) await log.close();
      medium = device.snapshot();
    }
  });

  it('may come before the first frame and between frames, and is no frame', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await log.carry(payloadOf(1, 10, 'carried'));
    await log.carry(payloadOf(2, 10, 'carried'));
    const early = await open(deviceOn(device.snapshot(), segments), 3);
    expect(early.mounted).toMatchObject({ nextIndex: 1, checkpoint: null, checkpointIndex: 1, tornBytes: 0 });
    expect(early.mounted.carried).toEqual(payloadOf(2, 10, 'carried'));
    await appendAll(log, 1, [300, 300]);
    await log.carry(payloadOf(3, 10, 'carried'));
    const late = await open(deviceOn(device.snapshot(), segments), 4);
    expect(late.mounted).toMatchObject({ nextIndex: 3, checkpoint: checkpointBefore(1), checkpointIndex: 1 });
    expect(late.mounted.carried).toEqual(payloadOf(3, 10, 'carried'));
    await appendAll(log, 3, [300]);
    expect((await readAll(log)).map((frame) => frame.index)).toEqual([1, 2, 3]);
  });

  it('takes the largest size, refuses a larger one, and is read in a bounded number of bytes', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    const largest = payloadOf(0, carryMaxBytesFor(segmentBytes), 'carried');
    expect((await failureOf(log.carry(Buffer.concat([largest, Buffer.alloc(1)]))))?.code).toBe('too-large');
    await log.carry(largest);
    const costs: number[] = [];
    for (const frames of [3, 15]) {
      await appendAll(log, log.usage().oldestIndex === 1 ? (frames === 3 ? 1 : 4) : 1, sizesOf(frames));
      const again = deviceOn(device.snapshot(), segments);
      expect((await open(again, 5)).mounted.carried).toEqual(largest);
      costs.push(again.reads.reduce((sum, read) => sum + read.lengthBytes, 0));
    }
    expect(costs[1]).toBe(costs[0]);
  });

  it('leaves what was carried before when its write is torn, also at the beginning of a segment', async () => {
    for (const before of [0, 700]) {
      // Four sectors of frames less than a segment, so that the next run begins another one.
      for (const frames of [[500], [58_000]]) {
        for (const keeps of [
          (sector: number) => sector < 8,
          (sector: number) => sector >= 8,
          (sector: number) => sector < 9,
          () => false,
        ]) {
          const device = await newStore(segments);
          const log = await open(device);
          if (before > 0) await log.carry(payloadOf(1, before, 'carried'));
          await appendAll(log, 1, frames);
          device.failWrite(1, { kind: 'torn', keeps });
          expect((await failureOf(log.carry(payloadOf(2, 6000, 'carried'))))?.code).toBe('unknown-outcome');
          const after = deviceOn(device.snapshot(), segments);
          const again = await open(after, 3);
          expect(again.mounted.nextIndex).toBe(2);
          expect(again.mounted.carried).toEqual(before > 0 ? payloadOf(1, before, 'carried') : null);
          await again.carry(payloadOf(3, 6000, 'carried'));
          await appendAll(again, 2, [500]);
          const last = await open(deviceOn(after.snapshot(), segments), 4);
          expect(last.mounted).toMatchObject({ nextIndex: 3, tornBytes: 0 });
          expect(last.mounted.carried).toEqual(payloadOf(3, 6000, 'carried'));
          expect(await readAll(last)).toHaveLength(2);
        }
      }
    }
  });

  it('stops the opening when it was durable and cannot be read', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await appendAll(log, 1, [500]);
    await log.carry(payloadOf(0, 900, 'carried'));
    const carriedAt = 4 * 1024 * 1024 + 2 * 4096;
    const rotten = (): Medium => flipBit(device.snapshot(), carriedAt + 4096 + 300, 2);
    // Nothing stands behind it yet: it may be a torn write.
    expect((await open(deviceOn(rotten(), segments), 3)).mounted.carried).toBeNull();
    await appendAll(log, 2, [500]);
    const lost = await failureOf(open(deviceOn(rotten(), segments), 3));
    expect(lost?.code).toBe('halted');
    expect(lost?.message).toMatch(/carried/);
    await log.close();
    for (const at of [carriedAt + 30, carriedAt + 4096 + 10]) {
      expect((await failureOf(open(deviceOn(flipBit(device.snapshot(), at, 2), segments), 3)))?.code).toBe('halted');
    }
  });
});
