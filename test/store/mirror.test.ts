import { describe, expect, it } from 'vitest';
import { formatStore, openLog, readStoreHeader } from '#store/log.ts';
import { lagMaxBytes, MirroredDevice } from '#store/mirror.ts';
import { restoreFromMirror } from '#store/restore.ts';
import { deviceSuite } from '#test/suites/device-suite.ts';
import { flipBit, type Medium, MemoryDevice, patchMedium, readMedium, tornWrite } from '#test/support/memory-device.ts';
import {
  appendAll,
  checkpointBefore,
  dataKey,
  deviceOn,
  expectWhole,
  failureOf,
  formatOptions,
  newStore,
  open,
  openBoth,
  pairOf,
  payloadOf,
  readAll,
  segmentBytes,
  sizeFor,
  slots,
  storeId,
} from './rig.ts';

const segments = 8;
const mebibyte = 1024 * 1024;
const logStart = 4 * mebibyte;
const blank = (): MemoryDevice => new MemoryDevice({ sizeBytes: sizeFor(segments) });
const on = (medium: Medium): MemoryDevice => deviceOn(medium, segments);
const logOf = (device: MemoryDevice): Buffer => Buffer.from(readMedium(device.snapshot(), logStart, segments * segmentBytes));

const pair = (frames: number, mode: 'sync' | 'async' = 'sync'): ReturnType<typeof pairOf> => pairOf(segments, frames, mode);
const frameAt = (index: number): number => logStart + 4096 + (index - 1) * 1024;

for (const mode of ['sync', 'async'] as const) {
  deviceSuite(`FLASH and ${mode} mirror`, async () => {
    const flash = new MemoryDevice({ sizeBytes: mebibyte });
    const mirror = new MemoryDevice({ sizeBytes: mebibyte });
    const again = (one: MemoryDevice, readOnly: boolean): MemoryDevice =>
      new MemoryDevice({ sizeBytes: mebibyte, medium: one.snapshot(), readOnly });
    return {
      device: new MirroredDevice(flash, mirror, mode),
      reopen: async (readOnly) => new MirroredDevice(again(flash, readOnly), again(mirror, readOnly), mode),
      clean: async () => expect(mirror.snapshot()).toEqual(flash.snapshot()),
    };
  });
}

describe('a sync mirror', () => {
  it('is the same bytes at the same places, the superblocks too', async () => {
    const flash = await newStore(segments);
    const mirror = blank();
    const log = await openBoth(flash, mirror);
    await appendAll(log, 1, [900, 5000, 40_000, 40_000, 10]);
    await log.carry(payloadOf(0, 3000));
    await log.release(3);
    await log.close();
    expect(Buffer.compare(logOf(flash), logOf(mirror))).toBe(0);
    for (let copy = 0; copy < 4; copy += 1) {
      expect(readMedium(mirror.snapshot(), copy * mebibyte, 16_384)).toEqual(readMedium(flash.snapshot(), copy * mebibyte, 16_384));
    }
    expect(mirror.isClosed).toBe(true);
    // It is a store of its own, too.
    await expectWhole(await open(on(mirror.snapshot()), 9), (index) => [900, 5000, 40_000, 40_000, 10][index - 1] ?? 0);
  });

  it('answers an append only when both are durable, and writes them at the same time', async () => {
    const { flash, mirror } = await pair(1);
    const again = [on(flash.snapshot()), on(mirror.snapshot())] as const;
    const log = await openBoth(again[0], again[1]);
    for (const device of again) {
      const before = again.map((one) => one.writes.length);
      const release = device.stall();
      let answered = false;
      const appending = log.append(payloadOf(log.usage().oldestIndex, 700), Buffer.alloc(1)).then(() => {
        answered = true;
      });
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(answered).toBe(false);
      expect(again.map((one) => one.writes.length)).toEqual(before.map((count) => count + 1));
      release();
      await appending;
    }
  });

  it('makes the outcome unknown when either of them fails, and the next opening finds what was written', async () => {
    for (const failing of ['flash', 'mirror'] as const) {
      for (const kind of ['not-written', 'written'] as const) {
        const both = await pair(2);
        const again = { flash: on(both.flash.snapshot()), mirror: on(both.mirror.snapshot()) };
        const log = await openBoth(again.flash, again.mirror);
        again[failing].failWrite(2, { kind });
        await appendAll(log, 3, [900]);
        expect((await failureOf(log.append(payloadOf(4, 900), checkpointBefore(4))))?.code).toBe('unknown-outcome');
        expect((await failureOf(log.append(payloadOf(5, 900), checkpointBefore(5))))?.code).toBe('unknown-outcome');
        // The other one has it: it is taken from there.
        const after = await openBoth(on(again.flash.snapshot()), on(again.mirror.snapshot()), 'sync', 7);
        expect(after.mounted.nextIndex).toBe(5);
        await expectWhole(after, () => 900);
      }
    }
  });
});

describe('opening with a mirror', () => {
  it('takes a frame that is torn on one side from the other, for every cut of either', async () => {
    const { flash, mirror } = await pair(3);
    const write = flash.writes.at(-1);
    expect(write).toBeDefined();
    if (write === undefined) return;
    const zeros = { positionBytes: write.positionBytes, bytes: new Uint8Array(write.bytes.length) };
    const without = (medium: Medium): Medium => tornWrite(medium, zeros, 512, () => true);
    for (let subset = 0; subset < 3; subset += 1) {
      const torn = (medium: Medium): Medium => tornWrite(without(medium), write, 512, (sector) => ((subset >> sector) & 1) === 1);
      for (const healing of ['flash', 'mirror'] as const) {
        const media = { flash: flash.snapshot(), mirror: mirror.snapshot() };
        media[healing] = torn(media[healing]);
        const devices = { flash: on(media.flash), mirror: on(media.mirror) };
        const log = await openBoth(devices.flash, devices.mirror);
        expect(log.mounted).toMatchObject({ nextIndex: 4, tornBytes: 0 });
        expect(log.mounted.mirror).toMatchObject({ healedFlash: healing === 'flash' ? 1 : 0, healedMirror: healing === 'mirror' ? 1 : 0 });
        expect(Buffer.compare(logOf(devices.flash), logOf(devices.mirror))).toBe(0);
      }
      // Torn on both: cut, as without a mirror.
      const log = await openBoth(on(torn(flash.snapshot())), on(torn(mirror.snapshot())));
      expect(log.mounted.nextIndex).toBe(3);
      // One half here and the other there is no frame.
      const halves = await openBoth(
        on(tornWrite(without(flash.snapshot()), write, 512, (sector) => sector === 0)),
        on(tornWrite(without(mirror.snapshot()), write, 512, (sector) => sector === 1)),
      );
      expect(halves.mounted.nextIndex).toBe(3);
    }
  });

  it('heals damage in the middle on either side, and stops only where both have it', async () => {
    const { flash, mirror } = await pair(6);
    for (const at of [logStart + 100, frameAt(3) + 5, frameAt(3) + 300, frameAt(6) + 300]) {
      const damagedFlash = on(flipBit(flash.snapshot(), at, 3));
      const healed = await openBoth(damagedFlash, on(mirror.snapshot()));
      expect(healed.mounted.mirror).toMatchObject({ healedFlash: 1, healedMirror: 0 });
      expect(Buffer.compare(logOf(damagedFlash), logOf(mirror))).toBe(0);
      const damagedMirror = on(flipBit(mirror.snapshot(), at, 3));
      await openBoth(on(flash.snapshot()), damagedMirror);
      expect(Buffer.compare(logOf(damagedMirror), logOf(flash))).toBe(0);
      await expectWhole(healed, () => 900);
    }
    const other = await openBoth(on(flipBit(flash.snapshot(), frameAt(2) + 200, 1)), on(flipBit(mirror.snapshot(), frameAt(3) + 200, 1)));
    await expectWhole(other, () => 900);
    const both = await failureOf(
      openBoth(on(flipBit(flash.snapshot(), frameAt(3) + 200, 1)), on(flipBit(mirror.snapshot(), frameAt(3) + 201, 1))),
    );
    expect(both?.code).toBe('halted');
    expect(both?.message).toMatch(/frames 3 were/);
  });

  it('heals superblocks, also when one side lost all four', async () => {
    const { flash, mirror } = await pair(2);
    const rotten = (medium: Medium): Medium => [0, 1, 2, 3].reduce((all, copy) => flipBit(all, copy * mebibyte + 300, 1), medium);
    const device = on(rotten(flash.snapshot()));
    expect((await failureOf(readStoreHeader(device)))?.code).toBe('halted');
    expect((await readStoreHeader(device, on(mirror.snapshot())))?.storeId).toEqual(storeId);
    expect((await openBoth(device, on(mirror.snapshot()))).mounted.nextIndex).toBe(3);
    expect((await open(on(device.snapshot()), 5)).mounted.nextIndex).toBe(3);
    const other = on(rotten(mirror.snapshot()));
    expect((await openBoth(on(flash.snapshot()), other)).mounted).toMatchObject({ nextIndex: 3, mirror: { remade: false } });
    expect((await open(on(other.snapshot()), 5)).mounted.nextIndex).toBe(3);
    expect((await failureOf(openBoth(on(rotten(flash.snapshot())), on(rotten(mirror.snapshot())))))?.code).toBe('halted');
  });

  it('makes a missing mirror, and one of another store, anew, and refuses what is no store', async () => {
    const { flash } = await pair(5);
    const foreign = new MemoryDevice({ sizeBytes: sizeFor(segments) });
    await formatStore(foreign, { ...formatOptions, storeId: new Uint8Array(16).fill(9), dataKey: new Uint8Array(32).fill(9) });
    for (const mirror of [blank(), foreign]) {
      const log = await openBoth(on(flash.snapshot()), mirror);
      expect(log.mounted.mirror).toMatchObject({ remade: true, healedMirror: 1 });
      await expectWhole(await open(on(mirror.snapshot()), 6), () => 900);
    }
    const file = on(patchMedium(new Map(), 0, Buffer.from('somebody else')));
    expect((await failureOf(openBoth(on(flash.snapshot()), file)))?.code).toBe('halted');
    expect(file.writes).toHaveLength(0);
    expect((await failureOf(openBoth(on(flash.snapshot()), deviceOn(new Map(), segments - 1))))?.code).toBe('halted');
    // A blank FLASH is not made from the mirror by opening.
    const { mirror } = await pair(1);
    expect((await failureOf(openBoth(blank(), mirror)))?.code).toBe('halted');
  });

  it('may be cut at any sector while the mirror is made, and is never taken for something strange afterwards', async () => {
    const made = await pair(6);
    const other = await newStore(segments);
    await formatStore(other, { ...formatOptions, storeId: storeId.map((byte) => byte ^ 1), erase: true });
    let cuts = 0;
    for (const before of [new Map() as Medium, other.snapshot()]) {
      for (let nth = 1; ; nth += 1) {
        for (const keeps of [(sector: number) => sector > 0, (sector: number) => sector === 1, (sector: number) => sector === 0]) {
          const mirror = on(before);
          mirror.failWrite(nth, { kind: 'torn', keeps });
          const flash = on(made.flash.snapshot());
          await openBoth(flash, mirror).catch(() => null);
          if (mirror.writes.length < nth) continue;
          cuts += 1;
          const log = await openBoth(on(flash.snapshot()), on(mirror.snapshot()));
          await expectWhole(log, () => 900);
        }
        const whole = on(before);
        await openBoth(on(made.flash.snapshot()), whole);
        if (whole.writes.length <= nth) break;
      }
    }
    expect(cuts).toBeGreaterThan(40);
  });

  it('brings an old mirror up over many segments and laps', async () => {
    const { flash, mirror } = await pair(3);
    let medium = flash.snapshot();
    let next = 4;
    for (let life = 0; life < 6; life += 1) {
      const device = on(medium);
      const log = await open(device, 20 + life);
      await appendAll(
        log,
        next,
        Array.from({ length: 90 }, () => 900),
      );
      next += 90;
      await log.release(next - 50);
      medium = device.snapshot();
      const old = on(mirror.snapshot());
      const both = await openBoth(on(medium), old, 'sync', 40 + life);
      expect(both.mounted.mirror).toMatchObject({ remade: false, discarded: false, healedFlash: 0 });
      const alone = await open(on(old.snapshot()), 60 + life);
      expect(alone.mounted).toMatchObject({ nextIndex: next, oldestIndex: both.mounted.oldestIndex });
      await expectWhole(alone, () => 900);
    }
  });

  it('may be cut at any write while it brings one side up, and goes on the next time', async () => {
    const { flash, mirror } = await pair(3);
    const device = on(flash.snapshot());
    const partner = on(mirror.snapshot());
    const log = await openBoth(device, partner);
    await appendAll(
      log,
      4,
      Array.from({ length: 170 }, () => 900),
    );
    for (const [name, stale] of [
      ['mirror', mirror.snapshot()],
      ['flash', flash.snapshot()],
    ] as const) {
      for (let nth = 1; nth <= 8; nth += 1) {
        for (const keeps of [() => false, (sector: number) => sector % 2 === 1, (sector: number) => sector < 5]) {
          const cut = {
            flash: on(name === 'flash' ? stale : device.snapshot()),
            mirror: on(name === 'mirror' ? stale : partner.snapshot()),
          };
          cut[name].failWrite(nth, { kind: 'torn', keeps });
          const failed = await failureOf(openBoth(cut.flash, cut.mirror, 'sync', nth));
          const again = { flash: on(cut.flash.snapshot()), mirror: on(cut.mirror.snapshot()) };
          const whole = await openBoth(again.flash, again.mirror, 'sync', 50 + nth);
          expect(whole.mounted, `${name} ${nth} ${failed?.code}`).toMatchObject({ nextIndex: 174, mirror: { discarded: false } });
          for (const one of [again.flash, again.mirror]) await expectWhole(await open(on(one.snapshot()), 99), () => 900);
        }
      }
    }
  });

  it('brings a FLASH up that is behind the mirror', async () => {
    const { flash, mirror } = await pair(3);
    const later = on(mirror.snapshot());
    const log = await openBoth(on(flash.snapshot()), later);
    await appendAll(
      log,
      4,
      Array.from({ length: 200 }, () => 900),
    );
    await log.carry(payloadOf(0, 2000));
    const old = on(flash.snapshot());
    const both = await openBoth(old, on(later.snapshot()), 'sync', 8);
    expect(both.mounted).toMatchObject({ nextIndex: 204, mirror: { healedMirror: 0 } });
    expect(both.mounted.carried).toEqual(payloadOf(0, 2000));
    await expectWhole(await open(on(old.snapshot()), 9), () => 900);
  });

  it('stops when the two have parted, and gives up only what the FLASH went past without it', async () => {
    const { flash, mirror } = await pair(3);
    const grown = async (medium: Medium, label: string, count: number, seed: number): Promise<Medium> => {
      const device = on(medium);
      const log = await open(device, seed);
      await appendAll(
        log,
        4,
        Array.from({ length: count }, () => 900),
        label,
      );
      return device.snapshot();
    };
    // Both went on alone, from the same mount.
    expect(
      (await failureOf(openBoth(on(await grown(flash.snapshot(), 'a', 2, 3)), on(await grown(mirror.snapshot(), 'b', 2, 4)))))?.code,
    ).toBe('halted');
    // The mirror got one frame more in the mount that both shared; then the FLASH went on without it.
    const log = await openBoth(on(flash.snapshot()), on(mirror.snapshot()), 'sync', 5);
    await log.close();
    const ahead = on(mirror.snapshot());
    const alone = await openLog(ahead, dataKey);
    await appendAll(alone, 4, [900], 'unanswered');
    const flashLater = await grown(await grown(flash.snapshot(), 'x', 0, 6), 'real', 2, 7);
    const healed = on(ahead.snapshot());
    const both = await openBoth(on(flashLater), healed, 'sync', 8);
    expect(both.mounted).toMatchObject({ nextIndex: 6, mirror: { discarded: true } });
    expect((await readAll(await open(on(healed.snapshot()), 9))).map((frame) => frame.payload).slice(3)).toEqual([
      payloadOf(4, 900, 'real'),
      payloadOf(5, 900, 'real'),
    ]);
  });

  it('heals pages that the device refuses to read', async () => {
    const { flash, mirror } = await pair(6);
    for (const at of [0, logStart, frameAt(4), frameAt(6)]) {
      const device = on(flash.snapshot());
      device.failReads(at, 512);
      const log = await openBoth(device, on(mirror.snapshot()));
      expect(log.mounted.nextIndex).toBe(7);
      expect(await readAll(log)).toHaveLength(6);
    }
  });
});

describe('a long log', () => {
  const many = 280;
  const frameBytes = 60_000;
  const at = (segment: number): number => logStart + segment * segmentBytes + 4096 + 700;

  it('is compared at its end only; what rots before is healed when it is opened for, read or checked', async () => {
    const wide = (medium: Medium): MemoryDevice => deviceOn(medium, many);
    const flash = await newStore(many);
    const mirror = wide(new Map());
    const log = await openBoth(flash, mirror);
    await log.carry(payloadOf(0, 3000));
    for (let index = 1; index < 275; index += 1) await log.append(payloadOf(index, frameBytes), checkpointBefore(index));
    const rotten = [0, 3, 5, 270].reduce((medium, segment) => flipBit(medium, at(segment), 1), flash.snapshot());
    const device = wide(rotten);
    const again = await openBoth(device, wide(mirror.snapshot()), 'sync', 4);
    // What is carried stands in the first segment, the end in the last ones.
    expect(again.mounted.mirror).toMatchObject({ healedFlash: 2, healedMirror: 0 });
    expect(again.mounted.carried).toEqual(payloadOf(0, 3000));
    expect(device.reads.reduce((sum, read) => sum + read.lengthBytes, 0)).toBeLessThan(270 * segmentBytes * 1.2);
    expect((await again.read(3, 1))[0]?.payload).toEqual(payloadOf(3, frameBytes));
    expect(await again.check({ heal: false })).toMatchObject({ frames: 274, missing: [], flashDamaged: [5] });
    expect(await again.check({ heal: true })).toMatchObject({ flashDamaged: [5], healed: true });
    const whole = Buffer.from(readMedium(device.snapshot(), logStart, many * segmentBytes));
    expect(Buffer.compare(whole, Buffer.from(readMedium(mirror.snapshot(), logStart, many * segmentBytes)))).toBe(0);
  });
});

describe('an async mirror', () => {
  it('follows, is waited for at close, and holds appends back only when it is too far behind', async () => {
    const { flash, mirror } = await pair(1, 'async');
    const slow = on(mirror.snapshot());
    const fast = on(flash.snapshot());
    const log = await openBoth(fast, slow, 'async', 4);
    const release = slow.stall();
    let next = 2;
    while (next < 6) next += await log.append(payloadOf(next, 900), checkpointBefore(next)).then(() => 1);
    expect(log.usage().mirror).toMatchObject({ mode: 'async', failed: false });
    expect(log.usage().mirror?.behindBytes).toBeGreaterThan(3000);
    expect(log.usage().mirror?.behindBytes).toBeLessThan(lagMaxBytes);
    release();
    await log.close();
    expect(Buffer.compare(logOf(fast), logOf(slow))).toBe(0);
  });

  it('fails without harm and is healed by the next opening', async () => {
    const { flash, mirror } = await pair(1, 'async');
    const failing = on(mirror.snapshot());
    const good = on(flash.snapshot());
    const log = await openBoth(good, failing, 'async', 4);
    failing.failWrite(2, { kind: 'torn', keeps: (sector) => sector === 1 });
    await appendAll(log, 2, [900, 900, 900]);
    await log.close();
    expect(log.usage().mirror?.failed).toBe(true);
    const healed = on(failing.snapshot());
    const again = await openBoth(on(good.snapshot()), healed, 'sync', 5);
    expect(again.mounted).toMatchObject({ nextIndex: 5, tornBytes: 0 });
    expect(again.mounted.mirror?.healedMirror).toBeGreaterThan(0);
    await expectWhole(await open(on(healed.snapshot()), 6), () => 900);
  });
});

describe('reading and checking with a mirror', () => {
  it('heals a damaged frame when it is read, and serves it', async () => {
    const { flash, mirror } = await pair(200);
    for (const at of [frameAt(5) + 200, frameAt(5) + 10, logStart + segmentBytes + 4096 + 300]) {
      const device = on(flash.snapshot());
      const log = await openBoth(device, on(mirror.snapshot()));
      const rotten = flipBit(device.snapshot(), at, 2);
      await device.writeAndSync(at - (at % 512), readMedium(rotten, at - (at % 512), 512));
      await expectWhole(log, () => 900);
      expect(Buffer.compare(logOf(device), logOf(mirror))).toBe(0);
    }
  });

  it('names damage by frame, heals it when told to, and leaves what nobody has', async () => {
    const { flash, mirror } = await pair(200);
    const devices = { flash: on(flash.snapshot()), mirror: on(mirror.snapshot()) };
    const log = await openBoth(devices.flash, devices.mirror);
    expect(await log.check({ heal: false })).toEqual({ frames: 200, missing: [], flashDamaged: [], mirrorDamaged: [], healed: false });
    const rot = async (device: MemoryDevice, index: number): Promise<void> => {
      await device.writeAndSync(frameAt(index), new Uint8Array(512).fill(index));
    };
    await rot(devices.flash, 3);
    await rot(devices.flash, 4);
    await rot(devices.mirror, 10);
    for (const device of [devices.flash, devices.mirror]) await rot(device, 20);
    const steps: number[] = [];
    const found = await log.check({ heal: false, onProgress: (done) => steps.push(done) });
    expect(found).toEqual({ frames: 199, missing: [{ from: 20, to: 20 }], flashDamaged: [3, 4], mirrorDamaged: [10], healed: false });
    expect(steps).toEqual([1, 2, 3, 4]);
    expect(await log.check({ heal: true })).toMatchObject({ frames: 199, healed: true });
    expect(await log.check({ heal: true })).toMatchObject({ missing: [{ from: 20, to: 20 }], flashDamaged: [], mirrorDamaged: [] });
    expect((await failureOf(log.read(20, 1)))?.code).toBe('halted');
    expect(await log.read(21, 1)).toHaveLength(1);
  });

  it('names damage without a mirror, too, also when reading only', async () => {
    const { flash } = await pair(200);
    const rotten = flipBit(flash.snapshot(), frameAt(7) + 300, 1);
    for (const readOnly of [true, false]) {
      const log = await open(deviceOn(rotten, segments, { readOnly }), 8);
      const expected = { frames: 199, missing: [{ from: 7, to: 7 }], flashDamaged: [], mirrorDamaged: [], healed: false };
      expect(await log.check({ heal: false })).toEqual(expected);
    }
  });
});

describe('restoring', () => {
  const options = { tokenKeyId: new Uint8Array(16).fill(7), slots: [{ method: 'hpke', blob: new Uint8Array(100).fill(1) }], erase: false };

  it('makes a FLASH for a new token that goes on where the mirror was', async () => {
    const { flash, mirror } = await pair(100);
    const last = on(mirror.snapshot());
    const log = await openBoth(on(flash.snapshot()), last, 'sync', 3);
    await log.carry(payloadOf(0, 5000));
    await log.close();
    const target = blank();
    const source = deviceOn(last.snapshot(), segments, { readOnly: true });
    const header = await restoreFromMirror(source, target, dataKey, { ...options, identity: Buffer.from('of the new token') });
    expect(header).toMatchObject({ tokenKeyId: options.tokenKeyId, slots: options.slots, storeId });
    const again = await openBoth(on(target.snapshot()), on(last.snapshot()), 'sync', 4);
    expect(again.mounted).toMatchObject({ nextIndex: 101, mirror: { remade: false, discarded: false } });
    expect(Buffer.from(again.mounted.identity).toString()).toBe('of the new token');
    expect(again.mounted.carried).toEqual(payloadOf(0, 5000));
    expect(again.header.slots).toEqual(options.slots);
    await appendAll(again, 101, [900]);
    expect((await readAll(again)).map((frame) => frame.payload)).toEqual(Array.from({ length: 101 }, (_, at) => payloadOf(at + 1, 900)));
  });

  it('ends the life of the FLASH that was lost: beside the mirror of its successor it is refused', async () => {
    const { flash, mirror } = await pair(3);
    const target = blank();
    await restoreFromMirror(deviceOn(mirror.snapshot(), segments, { readOnly: true }), target, dataKey, options);
    const moved = on(mirror.snapshot());
    const log = await openBoth(target, moved, 'sync', 4);
    await log.close();
    const found = on(flash.snapshot());
    expect((await failureOf(openBoth(found, on(moved.snapshot()), 'sync', 5)))?.code).toBe('halted');
    expect(found.writes).toHaveLength(0);
  });

  it('keeps the identity when no new one is given, and refuses what it must not overwrite', async () => {
    const { mirror } = await pair(2);
    const source = deviceOn(mirror.snapshot(), segments, { readOnly: true });
    const target = await newStore(segments);
    const before = target.writes.length;
    expect((await failureOf(restoreFromMirror(source, target, dataKey, options)))?.code).toBe('halted');
    expect((await failureOf(restoreFromMirror(source, deviceOn(new Map(), 2), dataKey, options)))?.code).toBe('halted');
    expect((await failureOf(restoreFromMirror(source, blank(), new Uint8Array(32), options)))?.code).toBe('halted');
    expect((await failureOf(restoreFromMirror(blank(), target, dataKey, options)))?.code).toBe('halted');
    expect(target.writes).toHaveLength(before);
    await restoreFromMirror(source, target, dataKey, { ...options, erase: true });
    const log = await open(on(target.snapshot()), 5);
    expect(log.mounted.identity).toEqual(formatOptions.identity);
    expect(log.header.slots).not.toEqual(slots);
    await expectWhole(log, () => 900);
  });

  it('leaves no store when it is cut anywhere before its end, and can be repeated', async () => {
    const { mirror } = await pair(100);
    const source = deviceOn(mirror.snapshot(), segments, { readOnly: true });
    for (let nth = 1; nth <= 6; nth += 1) {
      const target = blank();
      target.failWrite(nth, { kind: 'torn', keeps: (sector) => sector % 3 === 0 });
      expect((await failureOf(restoreFromMirror(source, target, dataKey, options)))?.code).toBe('unknown-outcome');
      const again = on(target.snapshot());
      await restoreFromMirror(source, again, dataKey, { ...options, erase: true });
      await expectWhole(await open(on(again.snapshot()), 6), () => 900);
    }
  });
});
