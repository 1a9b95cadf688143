// Owns: all states in which a power cut can leave the store of a story: at each moment the sectors of the writes that were under way, in
// any subset; each is opened for real, compared with what was answered, and taken back.
// Invariants: a state is counted once for each story (by the names of its sectors), and stories never share states, their salts differ.
// Writes that ended are durable; the controls break just that (syncs dropped, or everything a lie) and must find losses.
import { openLog } from '#store/log.ts';
import type { StoreLog } from '#store/store.ts';
import { checkpointBefore, dataKey, failureOf } from '#test/store/rig.ts';
import { type ImageWrite, type OpenSector, openSectors, Scratch, sectorBytes } from './image.ts';
import type { Violations } from './part.ts';
import type { Known, Life, PowerStory } from './power-story.ts';

export interface PowerTally {
  states: number;
  /** Of them: after one more life, or cut again in their own opening. */
  goneOn: number;
  cutAgain: number;
  moments: number;
  controlStates: number;
  controlLost: number;
}

export const emptyTally = (): PowerTally => ({ states: 0, goneOn: 0, cutAgain: 0, moments: 0, controlStates: 0, controlLost: 0 });

/** Subsets that are all tried; of more sectors a part is. */
const subsetsMax = { off: 200, sync: 60, async: 60 } as const;
const wholeEvery = 4;
const goOnEvery = 32;
const cutAgainEvery = 32;
const sideAloneEvery = 8;
const controlEvery = 4;
const controlsEach = 8;

type Mask = (place: number) => boolean;

/** Every subset but the whole one, which is the next moment's empty one; of many sectors all prefixes, suffixes, lonely and missing ones, and drawn ones. */
function* masks(sectors: number, max: number, draw: (below: number) => number): Generator<Mask> {
  if (sectors === 0 || 2 ** sectors <= max) {
    const subsets = sectors === 0 ? 1 : 2 ** sectors - 1;
    for (let subset = 0; subset < subsets; subset += 1) yield (place) => ((subset >> place) & 1) === 1;
    return;
  }
  let left = max;
  for (let cut = 0; cut < sectors && left > 0; cut += 1, left -= 4) {
    yield (place) => place < cut;
    yield (place) => place > cut;
    yield (place) => place === cut;
    yield (place) => place !== cut;
  }
  for (; left > 0; left -= 1) {
    const share = [0.1, 0.5, 0.9][draw(3)] ?? 0.5;
    const salt = draw(2 ** 30) | 1;
    yield (place) => (Math.imul(place + 1, salt) >>> 8) / 2 ** 24 < share;
  }
}

export class PowerStates {
  readonly #story: PowerStory;
  readonly #violations: Violations;
  readonly tally: PowerTally;
  readonly #seen = new Set<string>();
  /** The name of the image as it stands durable. */
  #name: readonly [number, number] = [0, 0];

  constructor(story: PowerStory, violations: Violations, tally: PowerTally) {
    this.#story = story;
    this.#violations = violations;
    this.tally = tally;
  }

  /** Tries all states of one life. */
  async of(life: Life): Promise<void> {
    const images = life.before.map((image) => Buffer.from(image));
    const underWay: ImageWrite[] = [];
    const { events } = life.recording;
    for (const [nth, event] of events.entries()) {
      if (event.kind === 'begin') {
        underWay.push(event.write);
        // The sides of one write begin together: their states are those of the moment in which both are under way.
        if (events[nth + 1]?.kind === 'begin') continue;
        await this.#moment(images, underWay, event.known, life, `life ${life.number} event ${nth}`);
      } else {
        underWay.splice(underWay.indexOf(event.write), 1);
        this.#arrive(images, event.write);
      }
    }
    if (underWay.length === 0) await this.#moment(images, [], life.known, life, `life ${life.number} end`);
    if (this.#story.draw(controlEvery) === 0) await this.#control(life);
  }

  #arrive(images: readonly Buffer[], write: ImageWrite): void {
    for (const { deltas } of openSectors(images, [write])) this.#name = [this.#name[0] ^ deltas[0], this.#name[1] ^ deltas[1]];
    images[write.side]?.set(write.bytes, write.positionBytes);
  }

  async #moment(images: readonly Buffer[], underWay: readonly ImageWrite[], known: Known, life: Life, label: string): Promise<void> {
    this.tally.moments += 1;
    const open = openSectors(images, underWay);
    const devices = images.map((image) => new Scratch(image));
    for (const keeps of masks(open.length, subsetsMax[this.#story.mode], (below) => this.#story.draw(below))) {
      const arrived = open.filter((_, place) => keeps(place));
      const name = arrived.reduce(([a, b], { deltas }) => [a ^ deltas[0], b ^ deltas[1]] as const, this.#name).join();
      if (this.#seen.has(name)) continue;
      this.#seen.add(name);
      for (const { side, positionBytes, bytes } of arrived) devices[side]?.put(positionBytes, bytes);
      this.tally.states += 1;
      await this.#try(devices, known, life).catch((thrown: unknown) => {
        this.#violations.add(
          `story ${this.#story.seed} (${this.#story.mode}) ${label}, ${describe(arrived)} of ${open.length} sectors: ${String(thrown)}`,
        );
      });
      for (const device of devices) device.undo();
    }
  }

  /** Opens what is left and compares; now and then uses it on, cuts its own opening, or opens each side alone. */
  async #try(devices: readonly Scratch[], known: Known, life: Life): Promise<void> {
    const story = this.#story;
    const marks = devices.map((device) => device.written.length);
    const log = await story.open(devices, 7);
    const { states } = this.tally;
    await story.verify(log, known, life, states % wholeEvery === 0);
    if (story.mode === 'sync' && states % sideAloneEvery === 1) {
      for (const device of devices) await story.verify(await openAlone(device), known, life);
    }
    if (states % goOnEvery === 3) await this.#goOn(log, devices, known, life);
    if (states % cutAgainEvery === 9) await this.#cutAgain(devices, marks, known, life);
  }

  /** One more frame and a release on what was found, then another opening: a torn tail was perhaps written over. */
  async #goOn(log: StoreLog, devices: readonly Scratch[], known: Known, life: Life): Promise<void> {
    const { nextIndex, oldestIndex, carried } = log.mounted;
    const story = this.#story;
    const number = life.number + 1000;
    const failed = await failureOf(log.append(story.payload(number, nextIndex), checkpointBefore(nextIndex), { reserved: true }));
    if (failed !== null && failed.code !== 'store-full') throw new Error(`it does not go on: ${failed.message}`);
    await log.release(known.released);
    const again = await story.open(devices, 8);
    const { mounted } = again;
    const expected = failed === null ? nextIndex + 1 : nextIndex;
    if (mounted.nextIndex !== expected || mounted.oldestIndex < oldestIndex) throw new Error(`gone on to ${mounted.nextIndex}`);
    if (carried === null ? mounted.carried !== null : mounted.carried === null || !Buffer.from(carried).equals(mounted.carried))
      throw new Error('what was carried changed');
    for (let next = mounted.oldestIndex; next < mounted.nextIndex; ) {
      const frames = await again.read(next, 1_000_000);
      const last = frames.at(-1);
      if (last === undefined) throw new Error(`frame ${next} is missing after going on`);
      if (last.index === nextIndex && !story.payload(number, nextIndex).equals(last.payload)) throw new Error('the new frame is wrong');
      next = last.index + 1;
    }
    this.tally.goneOn += 1;
  }

  /** The power goes again while the store is opened (and healed). */
  async #cutAgain(devices: readonly Scratch[], marks: readonly number[], known: Known, life: Life): Promise<void> {
    const story = this.#story;
    const side = story.draw(devices.length);
    const device = devices[side];
    const mark = marks[side] ?? 0;
    if (device === undefined || device.written.length === mark) return;
    const nth = mark + story.draw(device.written.length - mark);
    const torn = device.written[nth];
    device.undo(nth);
    // The other side is left as it was before this opening: whatever it got is not known to be durable.
    for (const [at, other] of devices.entries()) if (other !== device) other.undo(marks[at] ?? 0);
    if (torn === undefined) return;
    for (let at = 0; at < torn.bytes.length; at += sectorBytes)
      if (story.draw(2) === 0) device.put(torn.positionBytes + at, torn.bytes.subarray(at, at + sectorBytes));
    this.tally.cutAgain += 1;
    await story.verify(await story.open(devices, 9), known, life);
  }

  /** In turn: nothing of this life was synced, so that any of it may be missing; and one sync alone was left out. Both sides lie. */
  async #control(life: Life): Promise<void> {
    const story = this.#story;
    const writes = life.recording.events.filter((event) => event.kind === 'end').map((event) => event.write);
    for (let attempt = 0; attempt < controlsEach; attempt += 1) {
      const devices = life.before.map((image) => new Scratch(Buffer.from(image)));
      const dropped = writes[story.draw(writes.length)]?.positionBytes ?? -1;
      const isKept = ({ positionBytes }: ImageWrite): boolean => (attempt % 2 === 0 ? story.draw(4) > 0 : positionBytes !== dropped);
      for (const write of writes) if (isKept(write)) devices[write.side]?.put(write.positionBytes, write.bytes);
      this.tally.controlStates += 1;
      try {
        await story.verify(await story.open(devices, 7), life.known, life);
      } catch {
        this.tally.controlLost += 1; // that is what a control is for
      }
    }
  }
}

async function openAlone(device: Scratch): Promise<StoreLog> {
  return await openLog(device, dataKey);
}

const describe = (arrived: readonly OpenSector[]): string =>
  `${arrived.length} (${arrived
    .slice(0, 12)
    .map(({ side, positionBytes }) => `${side}:${positionBytes}`)
    .join(' ')})`;
