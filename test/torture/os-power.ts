// Owns: the parts `power-cut` and `lying-device`: a store on storage that loses power at a random write or sync, opened again and compared,
// over and over. `lying-device`: one of FLASH and mirror says "durable" and means nothing by it; the other is honest.
// Invariants: a cut takes FLASH and mirror at once, as one plug does; what is lost and kept of the unsynced sectors comes from the seed.
// Controls: a FLASH that lies without a mirror, and both lying, must lose data in the same runs.

import { sizeFor } from '#test/store/rig.ts';
import { seededRandom } from '#test/support/seed.ts';
import { missingForPower, openPowerDevice, type PowerDevice } from './os-power-device.ts';
import { type Outcome, StoreLife } from './os-store-life.ts';
import { scaled, type TorturePart, type TortureResult, Violations } from './part.ts';

const segments = 8;
/** A store is used for so many cuts, then formatted over. */
const cutsPerLife = 25;
/** More than any session reaches. */
const steps = 1_000;

export interface CutOrder {
  readonly seed: number;
  readonly cuts: number;
  readonly mirrored: boolean;
  readonly liars: readonly ('flash' | 'mirror')[];
  readonly onLife?: (cutsDone: number) => void;
  /** For a control: one loss is enough. */
  readonly stopAtLoss?: boolean;
}

export interface CutTally {
  readonly cuts: number;
  readonly acked: number;
  /** Cuts after which something that was answered was not there, or was wrong. */
  readonly lost: number;
  /** Cuts after which the store did not open. */
  readonly unreadable: number;
  /** Frames, headers and carried strings that one side gave the other. */
  readonly healed: number;
  readonly told: readonly string[];
}

class Cutter {
  readonly #order: CutOrder;
  readonly #device: PowerDevice;
  readonly #random: () => number;
  readonly #told = new Violations();
  #tally = { cuts: 0, acked: 0, lost: 0, unreadable: 0, healed: 0 };

  constructor(order: CutOrder, device: PowerDevice) {
    this.#order = order;
    this.#device = device;
    this.#random = seededRandom(order.seed);
  }

  get tally(): CutTally {
    return { ...this.#tally, told: this.#told.told };
  }

  async run(): Promise<void> {
    while (this.#tally.cuts < this.#order.cuts) {
      await this.#live(Math.min(cutsPerLife, this.#order.cuts - this.#tally.cuts));
      this.#order.onLife?.(this.#tally.cuts);
      if (this.#order.stopAtLoss === true && this.#tally.lost + this.#tally.unreadable > 0) return;
    }
  }

  async #live(cuts: number): Promise<void> {
    const device = this.#device;
    device.tell('clear');
    for (const image of ['flash', 'mirror']) device.tell(`mode ${image} honest`);
    const life = new StoreLife(device.pathOf('flash'), this.#order.mirrored ? device.pathOf('mirror') : null);
    await life.begin(this.#draw());
    // The mirror is made by an opening; lies begin with a whole pair.
    this.#judge(await life.run({ seed: this.#draw(), steps: 1 }), 'first opening');
    for (const liar of this.#order.liars) device.tell(`mode ${liar} lie`);
    for (let nth = 0; nth <= cuts; nth += 1) {
      const where = `seed ${this.#order.seed}, after cut ${this.#tally.cuts}`;
      const nthOp = this.#nthOp();
      // The last session only looks.
      const session = { seed: this.#draw(), steps: nth === cuts ? 0 : steps, checkSides: true };
      const chance = this.#draw();
      const arm = (pid: number): void => device.tell(`arm ${nthOp} ${chance} ${pid}`);
      const outcome = await life.run(session, nth === cuts ? {} : { onStart: arm });
      if (!this.#judge(outcome, where)) return this.#powerOn(nth < cuts);
      if (nth < cuts) this.#powerOn(true);
    }
  }

  #powerOn(counts: boolean): void {
    if (!this.#device.state().cut) this.#device.tell(`cut ${this.#draw()} 0`);
    this.#device.tell('on');
    if (counts) this.#tally.cuts += 1;
  }

  /** Mostly in the work, now and then in the opening itself. */
  #nthOp(): number {
    const longest = (this.#random() < 0.3 ? 12 : 90) * (this.#order.mirrored ? 2 : 1);
    return 1 + Math.floor(this.#random() * longest);
  }

  #draw(): number {
    return Math.floor(this.#random() * 2 ** 31);
  }

  /** Whether this life may go on. */
  #judge(outcome: Outcome, where: string): boolean {
    this.#tally.acked += outcome.acked;
    this.#tally.healed += outcome.healed;
    const unreadable = !outcome.opened && outcome.failure !== null && !this.#device.state().cut;
    const wrong = [...outcome.lost, ...outcome.bad];
    if (outcome.late > 0) wrong.push(`${outcome.late} answers after an error`);
    if (unreadable) this.#tally.unreadable += 1;
    if (wrong.length > 0) this.#tally.lost += 1;
    for (const what of wrong) this.#told.add(`${where}: ${what}`);
    if (unreadable) this.#told.add(`${where}: the store does not open: ${outcome.failure}`);
    return !unreadable && wrong.length === 0;
  }
}

export async function cutPower(order: CutOrder): Promise<CutTally> {
  const device = await openPowerDevice(sizeFor(segments), ['flash', 'mirror']);
  try {
    const cutter = new Cutter(order, device);
    await cutter.run();
    return cutter.tally;
  } finally {
    await device.close();
  }
}

const missing = (why: string): TortureResult => ({ line: '', violations: [], missing: why });

export const powerCut: TorturePart = {
  name: 'power-cut',
  run: async (options) => {
    const why = missingForPower();
    if (why !== null) return missing(why);
    const { seed, note } = options;
    const half = scaled(500, options, 8);
    const onLife = (done: number): void => note(`${done} of ${half} cuts`);
    const alone = await cutPower({ seed, cuts: half, mirrored: false, liars: [], onLife });
    const both = await cutPower({ seed: seed + 1, cuts: half, mirrored: true, liars: [], onLife });
    const control = await cutPower({ seed: seed + 2, cuts: scaled(50, options, 8), mirrored: false, liars: ['flash'] });
    const lost = alone.lost + both.lost;
    const unreadable = alone.unreadable + both.unreadable;
    const controlLost = control.lost + control.unreadable;
    const violations = [...alone.told, ...both.told, ...(controlLost > 0 ? [] : ['the control lost nothing: the test is void'])];
    const cuts = alone.cuts + both.cuts;
    const line = `cuts=${cuts} acked=${alone.acked + both.acked} acked_lost=${lost} unreadable=${unreadable} control_lost=${controlLost}`;
    return { line, violations };
  },
};

export const lyingDevice: TorturePart = {
  name: 'lying-device',
  run: async (options) => {
    const why = missingForPower();
    if (why !== null) return missing(why);
    const { seed } = options;
    const cuts = scaled(200, options, 8);
    const flash = await cutPower({ seed, cuts, mirrored: true, liars: ['flash'] });
    const mirror = await cutPower({ seed: seed + 1, cuts, mirrored: true, liars: ['mirror'] });
    const control = await cutPower({ seed: seed + 2, cuts: scaled(50, options, 8), mirrored: true, liars: ['flash', 'mirror'] });
    const lost = flash.lost + flash.unreadable + mirror.lost + mirror.unreadable;
    const controlLost = control.lost + control.unreadable;
    const violations = [...flash.told, ...mirror.told];
    if (controlLost === 0) violations.push('the control, with both lying, lost nothing: the test is void');
    if (flash.healed === 0 || mirror.healed === 0) violations.push('nothing had to be healed: the device did not lie');
    const places = flash.healed + mirror.healed;
    const line = `cuts=${flash.cuts + mirror.cuts} acked_lost=${lost} healed=${lost === 0 ? 'all' : 'not all'} places=${places} control_lost=${controlLost}`;
    return { line, violations };
  },
};
