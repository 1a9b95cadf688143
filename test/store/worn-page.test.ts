// Shows: a page of the FLASH, or of the mirror, that can be neither read nor written any more, while the log is open beside a whole second copy: what stood
// there is read from that, appends go on, and nothing is written there again before the next opening.
import { describe, expect, it } from 'vitest';
import { openLog } from '#store/log.ts';
import type { MirrorMode, StoreLog } from '#store/store.ts';
import type { MemoryDevice } from '#test/support/memory-device.ts';
import { appendAll, dataKey, deviceOn, expectWhole, failureOf, pairOf, payloadOf, readAll, segmentBytes } from './rig.ts';

const segments = 8;
const logStart = 4 * 1024 * 1024;
const frames = 200;

interface Opened {
  readonly flash: MemoryDevice;
  readonly mirror: MemoryDevice;
  readonly log: StoreLog;
  readonly notes: string[];
}

async function opened(mode: MirrorMode = 'sync'): Promise<Opened> {
  const pair = await pairOf(segments, frames, mode);
  const [flash, mirror] = [deviceOn(pair.flash.snapshot(), segments), deviceOn(pair.mirror.snapshot(), segments)];
  const notes: string[] = [];
  const log = await openLog(flash, dataKey, { mirror: { device: mirror, mode }, note: (what) => notes.push(what) });
  return { flash, mirror, log, notes };
}

const expectFrames = async (log: StoreLog, count: number): Promise<void> =>
  expect((await readAll(log)).map(({ payload }) => payload)).toEqual(Array.from({ length: count }, (_, at) => payloadOf(at + 1, 900)));

const writesTo = (device: MemoryDevice, page: number): number =>
  device.writes.filter(({ positionBytes, bytes }) => positionBytes < page + 4096 && positionBytes + bytes.length > page).length;

describe('a worn page', () => {
  for (const [name, at] of [
    ['of an old segment', logStart + 5 * 4096],
    ['that an old segment begins with', logStart + segmentBytes],
    ['of the newest segment', logStart + 3 * segmentBytes + 4096],
  ] as const)
    it.each(['sync', 'async'] as const)(`${name} of the FLASH is read from a mirror in mode %s, and appends go on`, async (mode) => {
      const { flash, log, notes } = await opened(mode);
      flash.wearOut(at, 4096);
      await appendAll(log, frames + 1, [900]);
      await expectFrames(log, frames + 1);
      await appendAll(log, frames + 2, [900, 900]);
      await expectFrames(log, frames + 3);
      expect(notes).toHaveLength(1);
      expect(writesTo(flash, at)).toBe(1);
      await log.close();
      expect(log.usage().mirror?.failed).toBe(false);
      await expectWhole(await openLog(deviceOn(flash.snapshot(), segments), dataKey), () => 900);
    });

  it('is told by a check, which does not count it as put right, and stops no append', async () => {
    const at = logStart + 5 * 4096;
    const { flash, log, notes } = await opened();
    flash.wearOut(at, 4096);
    const found = await log.check({ heal: true });
    expect(found.flashDamaged.length).toBeGreaterThan(0);
    expect(found).toMatchObject({ healed: false, missing: [] });
    await appendAll(log, frames + 1, [900]);
    expect((await log.check({ heal: true })).healed).toBe(false);
    expect(notes).toHaveLength(1);
    expect(writesTo(flash, at)).toBe(1);
    await expectFrames(log, frames + 1);
  });

  it('of the mirror stops no append either', async () => {
    const at = logStart + 5 * 4096;
    const { mirror, log, notes } = await opened();
    mirror.wearOut(at, 4096);
    const found = await log.check({ heal: true });
    expect(found.mirrorDamaged.length).toBeGreaterThan(0);
    expect(found).toMatchObject({ healed: false, flashDamaged: [], missing: [] });
    await appendAll(log, frames + 1, [900]);
    await expectFrames(log, frames + 1);
    expect(notes).toHaveLength(1);
  });

  it('of either side in one segment leaves each frame readable where it is whole', async () => {
    const { flash, mirror, log } = await opened();
    flash.wearOut(logStart + 5 * 4096, 4096);
    mirror.wearOut(logStart + 9 * 4096, 4096);
    await expectFrames(log, frames);
    await expectFrames(log, frames);
    await appendAll(log, frames + 1, [900]);
  });

  it('whose repair arrives by half leaves nothing that a reader takes for whole', async () => {
    const at = logStart + 5 * 4096;
    const { flash, mirror, log } = await opened();
    await flash.writeAndSync(at, new Uint8Array(4096).fill(0xa5));
    flash.failWrite(1, { kind: 'torn', keeps: (sector) => sector % 2 === 0 });
    await expectFrames(log, frames);
    await appendAll(log, frames + 1, [900]);
    await log.close();
    expect((await failureOf(openLog(deviceOn(flash.snapshot(), segments), dataKey).then(readAll)))?.code).toBe('halted');
    const again = [deviceOn(flash.snapshot(), segments), deviceOn(mirror.snapshot(), segments)] as const;
    await expectWhole(await openLog(again[0], dataKey, { mirror: { device: again[1], mode: 'sync' } }), () => 900);
  });

  it('that is released is forgotten', async () => {
    const { flash, log, notes } = await opened();
    flash.failReads(logStart + 5 * 4096, 4096);
    flash.failWrite(1, { kind: 'not-written' });
    await readAll(log);
    expect(notes).toHaveLength(1);
    await appendAll(log, frames + 1, [900]);
    expect(await log.release(frames)).toBeGreaterThan(0);
    for (let next = frames + 2; next < 700; next += 20) {
      await appendAll(
        log,
        next,
        Array.from({ length: 20 }, () => 900),
      );
      for (const { index, payload } of await readAll(log)) expect(payload).toEqual(payloadOf(index, 900));
      await log.release(next - 60);
    }
    expect(notes).toHaveLength(1);
  });
});
