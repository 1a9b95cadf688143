// Owns: `lies`: a device that says "durable" and only means to loses any of its sectors when the power goes; the other side is honest.
// Invariants: with one honest side in `sync` nothing that was answered is lost, whichever lies. Without one (mirror off, or an `async` mirror that
// is behind) loss is possible: it is counted, and whether the store itself says so; nothing wrong is ever handed out. Both lying must lose.
import { Story } from '#test/store/story.ts';
import { scaled, type TortureOptions, type TorturePart, type TortureResult, Violations } from './part.ts';

const livesOf = { honest: 40, doubtful: 40, control: 12 } as const;
const sessionsEach = 8;

interface Case {
  readonly mode: 'sync' | 'async' | 'off';
  readonly flash: boolean;
  readonly mirror: boolean;
}

interface Tally {
  cuts: number;
  lost: number;
  /** Of them: the opening itself names damage. */
  told: number;
  wrong: number;
  /** What was lost, or the first of it. */
  first: string | null;
}

async function session(story: Story, { flash, mirror, mode }: Case): Promise<void> {
  const devices = story.devices({ lies: flash }, { lies: mirror });
  const log = await story.open(devices);
  const failed = await story.live(log, 3 + story.draw(20));
  if (failed !== null) throw new Error(`a device that fails nothing failed: ${failed}`);
  if (story.draw(3) === 0) await log.close();
  const share = story.draw(3) / 2;
  const keeps = (): boolean => story.random() < share;
  story.flash = flash ? devices.flash.powerCut(keeps) : devices.flash.snapshot();
  if (mode !== 'off') story.mirror = mirror ? devices.mirror.powerCut(keeps) : devices.mirror.snapshot();
}

async function cuts(seed: number, lives: number, which: Case): Promise<Tally> {
  const tally: Tally = { cuts: 0, lost: 0, told: 0, wrong: 0, first: null };
  for (let life = 0; life < lives; life += 1) {
    const story = new Story(seed + life, which.mode);
    await story.begin();
    for (let nth = 0; nth < sessionsEach; nth += 1) {
      await session(story, which);
      tally.cuts += 1;
      try {
        await story.settle(`seed ${seed + life} session ${nth}`);
      } catch (thrown) {
        const text = String(thrown);
        tally.lost += 1;
        tally.first ??= text;
        if (text.includes('cannot be opened')) tally.told += 1;
        if (text.includes('is wrong')) tally.wrong += 1;
        break;
      }
    }
  }
  return tally;
}

async function run(options: TortureOptions): Promise<TortureResult> {
  const { seed } = options;
  const violations = new Violations();
  const honest = scaled(livesOf.honest, options, 2);
  const flash = await cuts(seed, honest, { mode: 'sync', flash: true, mirror: false });
  const mirror = await cuts(seed + 1000, honest, { mode: 'sync', flash: false, mirror: true });
  for (const tally of [flash, mirror]) if (tally.lost > 0) violations.add(`one honest side was not enough: ${tally.first}`);
  options.note('one honest side: done');
  const doubtful = scaled(livesOf.doubtful, options, 2);
  const behind = await cuts(seed + 2000, doubtful, { mode: 'async', flash: true, mirror: false });
  const honestFlash = await cuts(seed + 3000, doubtful, { mode: 'async', flash: false, mirror: true });
  const off = await cuts(seed + 4000, doubtful, { mode: 'off', flash: true, mirror: false });
  const control = await cuts(seed + 5000, scaled(livesOf.control, options, 3), { mode: 'sync', flash: true, mirror: true });
  if (honestFlash.lost > 0) violations.add(`an async mirror that lies harmed an honest FLASH: ${honestFlash.first}`);
  for (const tally of [behind, off, control]) if (tally.wrong > 0) violations.add(`handed out wrong: ${tally.first}`);
  if (control.lost === 0) violations.add('void: the control (both sides lie) lost nothing');
  if (off.lost === 0) violations.add('void: the control (a lying FLASH without a mirror) lost nothing');
  const cutsAll = flash.cuts + mirror.cuts + honestFlash.cuts;
  const lost = flash.lost + mirror.lost + honestFlash.lost;
  return {
    line:
      `cuts=${cutsAll} acked_lost=${lost} healed=${lost === 0 ? 'all' : `all-${lost}`} async_lost=${behind.lost}/${behind.cuts} async_told=${behind.told} ` +
      `off_lost=${off.lost}/${off.cuts} off_told=${off.told} served_wrong=${behind.wrong + off.wrong + control.wrong} control_lost=${control.lost}`,
    violations: violations.told,
  };
}

export const lies: TorturePart = { name: 'lies', run };
