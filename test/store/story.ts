// Owns: a store that is used at random by a caller who remembers what was answered: appends, carried bytes, releases, until
// something fails. Afterwards everything is compared with what that caller knows.
// Invariants: all draws come from the seed; payloads and sizes depend on the index alone, so a wrong frame is always seen.
import type { MirrorMode, StoreLog } from '#store/store.ts';
import type { Medium, MemoryDevice } from '#test/support/memory-device.ts';
import { checkpointBefore, deviceOn, failureOf, newStore, open, openBoth, payloadOf, readAll, seeded } from './rig.ts';

export const storySegments = 8;

/** What the caller was answered, and what it has asked for besides. */
interface Known {
  acked: number;
  released: number;
  carried: number;
  carriedTo: number;
}

const carriedBytes = (number: number): Buffer => payloadOf(number, 300 + ((number * 1777) % 9000), 'carried');
const sizeOf = (index: number): number => 100 + ((index * 7919) % 13_000);

export class Story {
  readonly random: () => number;
  readonly mode: MirrorMode | 'off';
  flash: Medium = new Map();
  mirror: Medium = new Map();
  known: Known = { acked: 0, released: 0, carried: 0, carriedTo: 0 };
  #mounts = 0;

  constructor(seed: number, mode: MirrorMode | 'off') {
    this.random = seeded(seed);
    this.mode = mode;
  }

  /** A fresh store, and its mirror if it has one. */
  async begin(): Promise<void> {
    this.flash = (await newStore(storySegments)).snapshot();
    await this.settle();
  }

  draw(below: number): number {
    return Math.floor(this.random() * below);
  }

  devices(flash: { lies?: boolean } = {}, mirror: { lies?: boolean } = {}): { flash: MemoryDevice; mirror: MemoryDevice } {
    return { flash: deviceOn(this.flash, storySegments, flash), mirror: deviceOn(this.mirror, storySegments, mirror) };
  }

  async open(devices: { flash: MemoryDevice; mirror: MemoryDevice }): Promise<StoreLog> {
    this.#mounts += 1;
    const seed = this.#mounts + this.draw(1 << 30);
    return this.mode === 'off' ? await open(devices.flash, seed) : await openBoth(devices.flash, devices.mirror, this.mode, seed);
  }

  /** Uses the store until something fails or `steps` are done. The error's code, or null. */
  async live(log: StoreLog, steps: number): Promise<string | null> {
    const { known } = this;
    for (let step = 0; step < steps; step += 1) {
      const index = known.acked + 1;
      const append = async (): Promise<string | null> =>
        (await failureOf(log.append(payloadOf(index, sizeOf(index)), checkpointBefore(index))))?.code ?? null;
      let failed = await append();
      if (failed === 'store-full') {
        known.released = known.acked;
        failed = (await failureOf(log.release(known.released)))?.code ?? (await append());
      }
      if (failed !== null) return failed;
      known.acked = index;
      const dice = this.draw(10);
      if (dice < 3) {
        known.released = Math.max(known.released, index - 6 - this.draw(8));
        const code = (await failureOf(log.release(known.released)))?.code ?? null;
        if (code !== null) return code;
      }
      if (dice === 5) {
        known.carriedTo += 1;
        const code = (await failureOf(log.carry(carriedBytes(known.carriedTo))))?.code ?? null;
        if (code !== null) return code;
        known.carried = known.carriedTo;
      }
    }
    return null;
  }

  /** Throws when the log lacks or changes anything that was answered; goes on from what is there. */
  async verify(log: StoreLog, label: string): Promise<void> {
    const { known } = this;
    const fail = (what: string): never => {
      throw new Error(`${label}: ${what} (${JSON.stringify(known)})`);
    };
    const { nextIndex, oldestIndex, carried } = log.mounted;
    if (nextIndex <= known.acked) fail(`frames from ${nextIndex} on are lost`);
    if (nextIndex > known.acked + 2) fail(`${nextIndex - 1} frames were found`);
    if (oldestIndex > known.released + 1) fail(`frames before ${oldestIndex} are gone`);
    const numbers = Array.from({ length: known.carriedTo - known.carried + 1 }, (_, at) => known.carried + at);
    const found = numbers.find((number) => (number === 0 ? carried === null : carried !== null && carriedBytes(number).equals(carried)));
    if (found === undefined) fail('other bytes are carried');
    const frames = await readAll(log, 1_000_000);
    if (frames.length !== nextIndex - oldestIndex) fail(`${frames.length} of ${nextIndex - oldestIndex} frames were read`);
    for (const { index, payload } of frames) if (!payloadOf(index, sizeOf(index)).equals(payload)) fail(`frame ${index} is wrong`);
    this.known = { ...known, acked: nextIndex - 1, carried: found ?? 0, carriedTo: found ?? 0 };
  }

  /** Opens what is left, compares, and takes over the healed state; with a mirror each side must then stand alone. */
  async settle(label = 'beginning'): Promise<void> {
    const devices = this.devices();
    const log = await this.open(devices).catch((cause: unknown) => {
      throw new Error(`${label} cannot be opened: ${String(cause)}`, { cause });
    });
    await this.verify(log, label);
    this.flash = devices.flash.snapshot();
    this.mirror = devices.mirror.snapshot();
    if (this.mode !== 'sync') return;
    for (const medium of [this.flash, this.mirror])
      await this.verify(await open(deviceOn(medium, storySegments, { readOnly: true })), `${label}, one side alone`);
  }
}
