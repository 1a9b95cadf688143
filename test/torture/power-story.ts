// Owns: short lives of a store on which power cuts are tried: what was asked and answered, what was written when, and the comparison of
// what is left with what was answered. Small and random: appends alone and several at once, releases round the ring, carried bytes,
// clean closes, kills, and cuts from which the next life goes on.
// Invariants: all chance comes from the seed; a frame's bytes depend on story, life and index, so that what an earlier life lost and a later
// one wrote anew are told apart. Must not: decide which states are tried (power-states.ts).

import type { Device } from '#store/device.ts';
import { openLog } from '#store/log.ts';
import type { Frame, MirrorMode, StoreLog } from '#store/store.ts';
import { checkpointBefore, dataKey, failureOf, newStore, payloadOf, randomSource, segmentBytes, sizeFor } from '#test/store/rig.ts';
import { readMedium } from '#test/support/memory-device.ts';
import { seededRandom } from '#test/support/seed.ts';
import { Recording } from './image.ts';

export type Mode = MirrorMode | 'off';

/** What the caller was answered, and what it has asked for besides. Never changed in place. */
export interface Known {
  readonly acked: number;
  readonly asked: number;
  readonly released: number;
  readonly carried: number;
  readonly carriedTo: number;
}

/** One life between two openings. */
export interface Life {
  readonly number: number;
  readonly before: readonly Buffer[];
  readonly recording: Recording<Known>;
  /** Frames from here on are this life's. */
  readonly firstIndex: number;
  readonly known: Known;
}

const stepsMin = 3;
const stepsMore = 5;
/** Around two frames, run headers included. */
const headersBytes = 16 * 1024;

export class PowerStory {
  readonly seed: number;
  readonly mode: Mode;
  readonly segments: number;
  readonly #random: () => number;
  /** FLASH, and the mirror behind it. */
  images: Buffer[] = [];
  known: Known = { acked: 0, asked: 0, released: 0, carried: 0, carriedTo: 0 };
  /** Which life wrote a frame that stands. */
  readonly #writtenIn = new Map<number, number>();
  readonly #frames = new Map<string, Buffer>();
  #lives = 0;

  constructor(seed: number, mode: Mode) {
    this.seed = seed;
    this.mode = mode;
    this.#random = seededRandom(seed);
    this.segments = 3 + this.draw(4);
  }

  draw(below: number): number {
    return Math.floor(this.#random() * below);
  }

  async begin(): Promise<void> {
    const sizeBytes = sizeFor(this.segments);
    const blank = (await newStore(this.segments)).snapshot();
    const flash = Buffer.from(readMedium(blank, 0, sizeBytes));
    this.images = this.mode === 'off' ? [flash] : [flash, Buffer.alloc(sizeBytes)];
  }

  async open(devices: readonly Device[], seed: number): Promise<StoreLog> {
    const [flash, mirror] = devices;
    if (flash === undefined) throw new Error('a store has a FLASH');
    const second = mirror === undefined || this.mode === 'off' ? {} : { mirror: { device: mirror, mode: this.mode } };
    return await openLog(flash, dataKey, { ...second, randomBytes: randomSource(seed) });
  }

  payload(life: number, index: number): Buffer {
    const name = `${life}/${index}`;
    const made = this.#frames.get(name);
    if (made !== undefined) return made;
    const dice = (Math.imul(index * 31 + life * 17 + this.seed, 0x9e3779b1) >>> 0) / 2 ** 32;
    // Mostly a few sectors; now and then what moves the log on to the next segment.
    const bytes = dice < 0.12 ? 18_000 + Math.floor(dice * 300_000) : Math.floor(dice * 5200);
    const payload = payloadOf(index, bytes, `${this.seed}/${life}`);
    this.#frames.set(name, payload);
    return payload;
  }

  carriedBytes(number: number): Buffer {
    const name = `carried/${number}`;
    const made = this.#frames.get(name) ?? payloadOf(number, 200 + ((number * 1777 + this.seed) % 3000), 'carried');
    this.#frames.set(name, made);
    return made;
  }

  /** Opens, uses the store, and ends in one of three ways; the images are then what is left. */
  async live(): Promise<Life> {
    this.#lives += 1;
    const number = this.#lives;
    const before = this.images.map((image) => Buffer.from(image));
    const recording = new Recording<Known>(() => this.known);
    if (this.draw(3) === 0) {
      const salt = this.draw(2 ** 30);
      recording.cut = { afterWrites: 4 + this.draw(10), keeps: (sector) => ((Math.imul(sector + 1, salt) >>> 13) & 1) === 1 };
    }
    const devices = this.images.map((image, side) => recording.device(image, side));
    const firstIndex = this.known.acked + 1;
    const log = await this.open(devices, this.seed * 31 + number).catch((thrown: unknown) => {
      if (recording.isDead) return null;
      throw thrown;
    });
    if (log !== null) {
      for (let step = stepsMin + this.draw(stepsMore); step > 0; step -= 1) if (!(await this.#step(log, number))) break;
      if (this.draw(2) === 0) await failureOf(log.close());
    }
    // What an `async` mirror has not got yet is under way when the life ends.
    for (let turn = 0; turn < 64; turn += 1) await Promise.resolve();
    return { number, before, recording, firstIndex, known: this.known };
  }

  /** Takes over what stands, after it was compared. */
  adopt(log: StoreLog, life: Life): void {
    const { nextIndex, carried } = log.mounted;
    for (let index = life.firstIndex; index < nextIndex; index += 1) this.#writtenIn.set(index, life.number);
    const found = this.#carriedIn(carried, this.known) ?? 0;
    this.known = { ...this.known, acked: nextIndex - 1, asked: nextIndex - 1, carried: found, carriedTo: found };
  }

  /** False: the store takes nothing any more. */
  async #step(log: StoreLog, life: number): Promise<boolean> {
    const dice = this.draw(10);
    if (dice < 2) {
      this.known = { ...this.known, released: Math.max(this.known.released, this.known.acked - this.draw(4)) };
      return (await failureOf(log.release(this.known.released))) === null;
    }
    if (dice === 2) {
      this.known = { ...this.known, carriedTo: this.known.carriedTo + 1 };
      const code = (await failureOf(log.carry(this.carriedBytes(this.known.carriedTo))))?.code ?? null;
      if (code === 'store-full') this.known = { ...this.known, carriedTo: this.known.carried };
      else if (code === null) this.known = { ...this.known, carried: this.known.carriedTo };
      return code === null || code === 'store-full';
    }
    const first = this.known.acked + 1;
    const bothBytes = this.payload(life, first).length + this.payload(life, first + 1).length + headersBytes;
    // Two at once only where both are sure to fit: behind a first that is refused the second would get its index.
    const count = dice < 5 && log.hasRoomFor(bothBytes) ? 2 : 1;
    const adding = Array.from({ length: count }, async (_, place) => {
      const index = first + place;
      const added = log.append(this.payload(life, index), checkpointBefore(index));
      this.known = { ...this.known, asked: Math.max(this.known.asked, index) };
      const code = (await failureOf(added))?.code ?? null;
      if (code === null) this.known = { ...this.known, acked: index };
      return code;
    });
    const codes = await Promise.all(adding);
    if (codes.includes('unknown-outcome')) return false;
    if (!codes.includes('store-full')) return true;
    this.known = { ...this.known, asked: this.known.acked, released: this.known.acked };
    return (await failureOf(log.release(this.known.released))) === null;
  }

  #carriedIn(carried: Uint8Array | null, known: Known): number | undefined {
    for (let number = known.carried; number <= known.carriedTo; number += 1)
      if (number === 0 ? carried === null : carried !== null && this.carriedBytes(number).equals(carried)) return number;
    return undefined;
  }

  /** Throws when the log lacks, changes or invents anything. `life`: whose states these are; `whole`: also what no write of it touched is read. */
  async verify(log: StoreLog, known: Known, life: Pick<Life, 'number' | 'firstIndex'>, whole = true): Promise<void> {
    const { nextIndex, oldestIndex, carried, checkpoint, checkpointIndex } = log.mounted;
    const fail = (what: string): never => {
      throw new Error(`${what} (${JSON.stringify(known)})`);
    };
    if (nextIndex <= known.acked) fail(`frames from ${nextIndex} on are lost`);
    if (nextIndex > known.asked + 1) fail(`${nextIndex - 1} frames were found`);
    if (oldestIndex > known.released + 1) fail(`frames before ${oldestIndex} are gone`);
    if (this.#carriedIn(carried, known) === undefined) fail('other bytes are carried');
    if (checkpoint !== null && !checkpointBefore(checkpointIndex).equals(checkpoint)) fail('another checkpoint was found');
    let next = whole ? oldestIndex : Math.max(oldestIndex, Math.min(life.firstIndex, known.acked) - 1);
    while (next < nextIndex) {
      const frames: readonly Frame[] = await log.read(next, segmentBytes * this.segments);
      if (frames.length === 0) fail(`frame ${next} is missing`);
      for (const { index, payload } of frames) {
        const writtenIn = index >= life.firstIndex ? life.number : (this.#writtenIn.get(index) ?? 0);
        if (index !== next || !this.payload(writtenIn, index).equals(payload)) fail(`frame ${index} is wrong`);
        next += 1;
      }
    }
  }
}
