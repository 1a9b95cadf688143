// Devices that fail: every write cut, lost, reordered, written but reported failed; and faults that nobody is told of: dropped,
// flipped, misdirected. With and without a mirror, fault upon fault. SEED=... repeats a run.
import { describe, expect, it } from 'vitest';
import type { WriteFault } from '#test/support/memory-device.ts';
import { deviceOn, failureOf, open } from './rig.ts';
import { Story, storySegments } from './story.ts';

const seed = Number(process.env['SEED'] ?? 20_240_801);
const logStart = 4 * 1024 * 1024;

type Draw = (story: Story) => WriteFault;

/** Faults that end in an error. `torn` covers cut at any sector, lost, and reordered: any subset of sectors arrives. */
const loud: Readonly<Record<string, Draw>> = {
  'cut-at-sector': (story) => {
    const cut = story.draw(40);
    return { kind: 'torn', keeps: (sector) => sector < cut };
  },
  'reordered-before-sync': (story) => {
    const subset = story.draw(1 << 30);
    return { kind: 'torn', keeps: (sector) => ((subset >> (sector % 30)) & 1) === 1 };
  },
  lost: () => ({ kind: 'not-written' }),
  'reported-failed': () => ({ kind: 'written' }),
};

const silent: Readonly<Record<string, Draw>> = {
  dropped: () => ({ kind: 'dropped' }),
  'bit-flipped': (story) => ({ kind: 'flipped', bit: story.draw(1 << 20) }),
  misdirected: (story) => ({ kind: 'misdirected', positionBytes: logStart + story.draw(storySegments * 64) * 1024 }),
};

describe('a device that fails and says so', () => {
  for (const mode of ['off', 'sync', 'async'] as const) {
    for (const [name, draw] of Object.entries(loud)) {
      it(`(${name}, mirror ${mode}) loses nothing that was answered`, { timeout: 60_000 }, async () => {
        let faults = 0;
        let frames = 0;
        for (let life = 0; life < 3; life += 1) {
          const story = new Story(seed + life, mode);
          await story.begin();
          for (let round = 0; round < 7; round += 1) {
            const devices = story.devices();
            const failing = mode === 'off' || story.draw(2) === 0 ? devices.flash : devices.mirror;
            const nth = 1 + story.draw(20);
            failing.failWrite(nth, draw(story));
            // A power cut meets both.
            if (story.draw(3) === 0) (failing === devices.flash ? devices.mirror : devices.flash).failWrite(nth, draw(story));
            const log = await story.open(devices).catch(() => null);
            if (log !== null) await story.live(log, 4 + story.draw(12));
            // The power goes: the other side was perhaps just about to write the same.
            story.flash = devices.flash.snapshot();
            story.mirror = devices.mirror.snapshot();
            await story.settle(`seed ${seed} life ${life} round ${round}`);
            faults += 1;
          }
          frames += story.known.acked;
        }
        console.log(`seed=${seed} fault=${name} mirror=${mode} faults=${faults} frames=${frames} acked_lost=0 unreadable=0 served_wrong=0`);
        expect(frames).toBeGreaterThan(2 * faults);
      });
    }
  }
});

describe('a device that fails and says nothing', () => {
  for (const [name, draw] of Object.entries(silent)) {
    for (const side of ['flash', 'mirror'] as const) {
      it(`(${name} on the ${side}) is healed from the other side`, { timeout: 60_000 }, async () => {
        let faults = 0;
        for (let life = 0; life < 3; life += 1) {
          const story = new Story(seed + 50 + life, 'sync');
          await story.begin();
          for (let round = 0; round < 6; round += 1) {
            const devices = story.devices();
            const log = await story.open(devices);
            for (let fault = 0; fault < 3; fault += 1) devices[side].failWrite(1 + story.draw(24), draw(story));
            expect(await story.live(log, 4 + story.draw(16))).toBeNull();
            if (round % 2 === 0) await log.close();
            story.flash = devices.flash.snapshot();
            story.mirror = devices.mirror.snapshot();
            await story.settle(`seed ${seed} life ${life} round ${round}`);
            faults += 3;
          }
        }
        console.log(`seed=${seed} fault=${name} side=${side} faults=${faults} acked_lost=0 healed=all served_wrong=0`);
      });
    }

    it(`(${name}, no mirror) is found, or was the very last write`, { timeout: 60_000 }, async () => {
      const tally = { found: 0, last: 0, harmless: 0 };
      for (let life = 0; life < 40; life += 1) {
        const story = new Story(seed + 100 + life, 'off');
        await story.begin();
        const devices = story.devices();
        const log = await story.open(devices);
        const writes = devices.flash.writes.length;
        const nth = 1 + story.draw(10);
        devices.flash.failWrite(nth, draw(story));
        expect(await story.live(log, 4 + story.draw(10))).toBeNull();
        story.flash = devices.flash.snapshot();
        const wasLast = devices.flash.writes.length <= writes + nth;
        const after = await open(deviceOn(story.flash, storySegments)).catch((thrown: unknown) => thrown);
        const isOpen = after !== null && typeof after === 'object' && 'mounted' in after;
        const verdict = isOpen ? await failureOf(story.verify(after as Awaited<ReturnType<typeof open>>, `life ${life}`)) : after;
        if (verdict === null) tally.harmless += 1;
        else if ((verdict as { code?: string }).code === 'halted') tally.found += 1;
        else {
          // Not named: only the last write may pass as torn.
          expect(wasLast, `seed ${seed} life ${life}: ${String((verdict as Error).message)}`).toBe(true);
          tally.last += 1;
        }
      }
      console.log(
        `seed=${seed} fault=${name} mirror=off lives=40 detected=${tally.found} last_write=${tally.last} harmless=${tally.harmless} served_wrong=0`,
      );
      expect(tally.found).toBeGreaterThan(10);
    });
  }
});
