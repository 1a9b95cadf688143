// Rot beside an honest copy: erase blocks lost, zeroed or old, flipped bits, swapped and foreign sectors, on either side. All of it is healed,
// nothing wrong is served; without the mirror the same damage is found. SEED=... repeats a run.
import { describe, expect, it } from 'vitest';
import { formatStore } from '#store/log.ts';
import { flipBit, type Medium, MemoryDevice, patchMedium, readMedium } from '#test/support/memory-device.ts';
import { appendAll, deviceOn, formatOptions, open, seeded, segmentBytes, sizeFor } from './rig.ts';
import { Story, storySegments } from './story.ts';

const seed = Number(process.env['SEED'] ?? 20_241_001);
const logStart = 4 * 1024 * 1024;
const logEnd = logStart + storySegments * segmentBytes;

/** A store with its mirror after some laps, closed cleanly, and an older state of it. */
async function grown(): Promise<{ story: Story; older: Medium }> {
  const story = new Story(seed, 'sync');
  await story.begin();
  let older = story.flash;
  for (let life = 0; life < 8; life += 1) {
    const devices = story.devices();
    const log = await story.open(devices);
    await story.live(log, 10);
    await log.close();
    if (life === 5) older = story.flash;
    story.flash = devices.flash.snapshot();
    story.mirror = devices.mirror.snapshot();
  }
  return { story, older };
}

const sides = ['flash', 'mirror'] as const;

/** Damages one side, opens both, compares; each side must be whole alone afterwards. */
async function heals(story: Story, damage: (medium: Medium) => Medium, label: string): Promise<void> {
  const whole = { flash: story.flash, mirror: story.mirror };
  for (const side of sides) {
    story[side] = damage(whole[side]);
    await story.settle(`${label} on the ${side}`);
    story.flash = whole.flash;
    story.mirror = whole.mirror;
  }
}

describe('rot beside an honest copy', () => {
  it('lost, zeroed and old erase blocks are healed wherever they lie', { timeout: 60_000 }, async () => {
    const { story, older } = await grown();
    let states = 0;
    for (const blockBytes of [16_384, 65_536]) {
      for (const [kind, blockOf] of [
        ['zeroed', () => new Uint8Array(blockBytes)],
        ['lost', () => new Uint8Array(blockBytes).fill(0xff)],
        ['old', (at: number) => readMedium(older, at, blockBytes)],
      ] as const) {
        for (let at = logStart; at < logEnd; at += blockBytes * (blockBytes === 16_384 ? 5 : 1)) {
          await heals(story, (medium) => patchMedium(medium, at, blockOf(at)), `${kind} block of ${blockBytes} at ${at}`);
          states += 2;
        }
      }
    }
    console.log(`seed=${seed} blocks=${states} detected=all healed=all served_wrong=0`);
    expect(states).toBeGreaterThan(80);
  });

  it('flipped bits, swapped sectors and foreign frames are healed', { timeout: 60_000 }, async () => {
    const { story } = await grown();
    const random = seeded(seed + 1);
    const draw = (below: number): number => Math.floor(random() * below);
    const foreign = new MemoryDevice({ sizeBytes: sizeFor(storySegments) });
    await formatStore(foreign, { ...formatOptions, storeId: new Uint8Array(16).fill(3) });
    await appendAll(
      await open(foreign, 4),
      1,
      Array.from({ length: 90 }, () => 4000),
    );
    const sectorAt = (): number => logStart + draw((logEnd - logStart) / 512) * 512;
    let states = 0;
    for (let nth = 0; nth < 16; nth += 1) {
      const position = draw(4) === 0 ? draw(4) * 1024 * 1024 + draw(16_384) : logStart + draw(logEnd - logStart);
      const bit = draw(8);
      await heals(story, (medium) => flipBit(medium, position, bit), `bit ${bit} at ${position}`);
      const [one, two] = [sectorAt(), sectorAt()];
      const swap = (medium: Medium): Medium =>
        patchMedium(patchMedium(medium, one, readMedium(medium, two, 512)), two, readMedium(medium, one, 512));
      await heals(story, swap, `sectors ${one} and ${two} swapped`);
      const at = sectorAt();
      await heals(story, (medium) => patchMedium(medium, at, readMedium(foreign.snapshot(), at, 512)), `foreign sector at ${at}`);
      states += 6;
    }
    console.log(`seed=${seed + 1} states=${states} detected=all healed=all served_wrong=0 undetected=0`);
  });

  it('both sides rotten at many places are healed as long as no frame is lost on both', { timeout: 60_000 }, async () => {
    const { story } = await grown();
    const random = seeded(seed + 2);
    for (let nth = 0; nth < 25; nth += 1) {
      const whole = { flash: story.flash, mirror: story.mirror };
      // Even segments rot here, odd ones there; a frame never reaches into the next segment.
      for (let hole = 0; hole < 12; hole += 1) {
        const segment = Math.floor(random() * storySegments);
        const side = segment % 2 === 0 ? 'flash' : 'mirror';
        const at = logStart + segment * segmentBytes + Math.floor(random() * (segmentBytes / 512)) * 512;
        story[side] = patchMedium(story[side], at, new Uint8Array(512).fill(nth));
      }
      await story.settle(`seed ${seed} nth ${nth}`);
      story.flash = whole.flash;
      story.mirror = whole.mirror;
    }
    console.log(`seed=${seed + 2} states=25 holes=300 healed=all served_wrong=0`);
  });

  it('control: without the mirror the same blocks stop the store, so they were needed', async () => {
    const { story } = await grown();
    let halted = 0;
    for (let at = logStart; at < logEnd; at += segmentBytes) {
      const alone = new Story(seed, 'off');
      alone.flash = patchMedium(story.flash, at, new Uint8Array(segmentBytes));
      alone.known = { ...story.known };
      halted += await alone.settle().then(
        () => 0,
        () => 1,
      );
    }
    const kept = (await open(deviceOn(story.flash, storySegments, { readOnly: true }))).usage();
    console.log(`control_halted=${halted} kept_segments=${kept.segments - kept.freeSegments}`);
    expect(halted).toBe(kept.segments - kept.freeSegments);
  });
});
