// A device that says "durable" and only means to: when the power goes it loses any half of its sectors written since it was opened.
// One honest copy is enough, whichever it is. Controls: with both lying, or without a mirror, the same runs must lose data.
import { describe, expect, it } from 'vitest';
import { Story } from './story.ts';

const seed = Number(process.env['SEED'] ?? 20_240_901);

interface Liars {
  readonly flash: boolean;
  readonly mirror: boolean;
}

/** One session of a liar and a power cut. */
async function session(story: Story, liars: Liars): Promise<void> {
  const devices = story.devices({ lies: liars.flash }, { lies: liars.mirror });
  const log = await story.open(devices);
  expect(await story.live(log, 3 + story.draw(25))).toBeNull();
  if (story.draw(3) === 0) await log.close();
  const share = story.draw(3) / 2;
  const cut = (): ((write: number, sector: number) => boolean) => () => story.random() < share;
  story.flash = liars.flash ? devices.flash.powerCut(cut()) : devices.flash.snapshot();
  story.mirror = liars.mirror ? devices.mirror.powerCut(cut()) : devices.mirror.snapshot();
}

async function cuts(mode: 'sync' | 'off', liars: Liars, lives: number, sessions: number): Promise<{ cuts: number; lost: number }> {
  let done = 0;
  let lost = 0;
  for (let life = 0; life < lives; life += 1) {
    const story = new Story(seed + life, mode);
    await story.begin();
    for (let nth = 0; nth < sessions; nth += 1) {
      await session(story, liars);
      done += 1;
      const label = `seed ${seed} life ${life} session ${nth}`;
      try {
        await story.settle(label);
      } catch (thrown) {
        if (!liars.flash || (mode === 'sync' && !liars.mirror)) throw thrown;
        lost += 1;
        break;
      }
    }
  }
  return { cuts: done, lost };
}

describe('a device that lies about its sync', () => {
  it('the FLASH, beside an honest mirror, loses nothing and is healed', { timeout: 60_000 }, async () => {
    const tally = await cuts('sync', { flash: true, mirror: false }, 8, 8);
    console.log(`seed=${seed} liar=flash cuts=${tally.cuts} acked_lost=0 healed=all`);
    expect(tally.cuts).toBe(64);
  });

  it('the mirror, beside an honest FLASH, loses nothing and is healed', { timeout: 60_000 }, async () => {
    const tally = await cuts('sync', { flash: false, mirror: true }, 8, 8);
    console.log(`seed=${seed} liar=mirror cuts=${tally.cuts} acked_lost=0 healed=all`);
    expect(tally.cuts).toBe(64);
  });

  it('control: without a mirror, or when both lie, the same runs lose data', { timeout: 60_000 }, async () => {
    const alone = await cuts('off', { flash: true, mirror: false }, 10, 3);
    const both = await cuts('sync', { flash: true, mirror: true }, 10, 3);
    console.log(`seed=${seed} control_lost=${alone.lost} control_both_lost=${both.lost}`);
    expect(alone.lost).toBeGreaterThan(5);
    expect(both.lost).toBeGreaterThan(5);
  });
});
