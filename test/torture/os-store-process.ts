// Owns: a store in a process of its own, to be killed: opens it, compares it with what its caller remembers, then appends, carries and
// releases at random, and tells each step on standard output the moment it is answered.
// Invariants: all draws come from the seed; payloads depend on the index alone, so a wrong frame is always seen; a line is written
// with one synchronous call, so that what was told was told before the kill.
// `eager` is the negative control: it tells an append as answered before it is.
import { writeSync } from 'node:fs';
import type { Device } from '#store/device.ts';
import { openFileDevice } from '#store/device-file.ts';
import { openLog } from '#store/log.ts';
import type { StoreLog } from '#store/store.ts';
import { checkpointBefore, dataKey, failureOf, payloadOf, randomSource, readAll, seeded } from '#test/store/rig.ts';
import type { Known, Session } from './os-store-life.ts';

const burstMax = 4;
/** Room that makes a burst safe from `store-full`: its indexes are named before they are answered. */
const burstRoomBytes = 256 * 1024;
/** Tries after the first failure: none may be answered. */
const triesAfterFailure = 5;

/** A reader who is slow makes this process wait: the pipe is not always a blocking one. */
const tell = (line: string): void => {
  for (let rest = Buffer.from(`${line}\n`); rest.length > 0; ) {
    try {
      rest = rest.subarray(writeSync(1, rest));
    } catch (thrown) {
      if ((thrown as { code?: string }).code !== 'EAGAIN') throw thrown;
    }
  }
};
const sizeOf = (index: number): number => 100 + ((index * 7919) % 13_000);
const carriedBytes = (number: number): Buffer => payloadOf(number, 300 + ((number * 1777) % 9000), 'carried');

class Player {
  readonly #log: StoreLog;
  readonly #session: Session;
  readonly #random: () => number;
  #next: number;
  #carriedTo: number;

  constructor(log: StoreLog, session: Session, carried: number) {
    this.#log = log;
    this.#session = session;
    this.#random = seeded(session.seed);
    this.#next = log.mounted.nextIndex;
    this.#carriedTo = carried;
  }

  /** The code of the first failure, null when all steps were done. */
  async play(): Promise<string | null> {
    for (let step = 0; step < this.#session.steps; step += 1) {
      const failed = (await this.#burst()) ?? (await this.#besides());
      if (failed !== null) return failed;
    }
    return null;
  }

  async tryOn(): Promise<void> {
    for (let nth = 0; nth < triesAfterFailure; nth += 1) {
      const index = this.#next + nth;
      if ((await failureOf(this.#log.append(payloadOf(index, sizeOf(index)), checkpointBefore(index)))) === null) tell(`late ${index}`);
    }
  }

  #draw(below: number): number {
    return Math.floor(this.#random() * below);
  }

  async #burst(): Promise<string | null> {
    const count = this.#log.usage().freeBytes > burstRoomBytes ? 1 + this.#draw(burstMax) : 1;
    const first = this.#next;
    let code: string | null = null;
    await Promise.all(
      Array.from({ length: count }, async (_, place) => {
        code = (await this.#append(first + place)) ?? code;
      }),
    );
    if (code === 'store-full' && count === 1) {
      code = (await this.#release(first - 1)) ?? (await this.#append(first));
    }
    if (code === null) this.#next = first + count;
    return code;
  }

  async #append(index: number): Promise<string | null> {
    tell(`try ${index}`);
    if (this.#session.eager) tell(`ack ${index}`);
    const failed = await failureOf(
      this.#log.append(payloadOf(index, sizeOf(index)), checkpointBefore(index)).then((given) => {
        if (given !== index) tell(`bad append ${index} got the index ${given}`);
        if (!this.#session.eager) tell(`ack ${index}`);
      }),
    );
    return failed?.code ?? null;
  }

  async #release(upTo: number): Promise<string | null> {
    if (upTo < 1) return null;
    tell(`release ${upTo}`);
    return (await failureOf(this.#log.release(upTo)))?.code ?? null;
  }

  async #besides(): Promise<string | null> {
    const dice = this.#draw(10);
    if (dice < 3) return await this.#release(this.#next - 7 - this.#draw(8));
    if (dice !== 5) return null;
    this.#carriedTo += 1;
    tell(`carry ${this.#carriedTo}`);
    const failed = (await failureOf(this.#log.carry(carriedBytes(this.#carriedTo))))?.code ?? null;
    if (failed === null) tell(`carried ${this.#carriedTo}`);
    return failed;
  }
}

/** Tells what is lost or wrong; the number of what is carried. */
async function compare(log: StoreLog, known: Known, side: string): Promise<number> {
  const { nextIndex, oldestIndex, carried } = log.mounted;
  if (nextIndex <= known.acked) tell(`lost ${side}: frames from ${nextIndex} to ${known.acked}`);
  if (nextIndex > known.tried + 1) tell(`bad ${side}: frame ${nextIndex - 1}, and ${known.tried} was the last one asked for`);
  if (oldestIndex > known.released + 1) tell(`lost ${side}: frames before ${oldestIndex}, released are those to ${known.released}`);
  const numbers = Array.from({ length: known.carriedTo - known.carried + 1 }, (_, at) => known.carried + at);
  const found = numbers.find((number) => (number === 0 ? carried === null : carried !== null && carriedBytes(number).equals(carried)));
  if (found === undefined) tell(`lost ${side}: what is carried is none of ${known.carried} to ${known.carriedTo}`);
  const frames = await readAll(log, 1_000_000);
  if (frames.length !== nextIndex - oldestIndex) tell(`lost ${side}: ${frames.length} of ${nextIndex - oldestIndex} frames can be read`);
  for (const { index, payload } of frames)
    if (!payloadOf(index, sizeOf(index)).equals(payload)) tell(`bad ${side}: frame ${index} is wrong`);
  return found ?? known.carriedTo;
}

/** Each side must have everything by itself: after an opening that heals, and after a clean end. */
async function compareAlone(side: string, file: string, known: Known): Promise<void> {
  const device = await openFileDevice(file, { readOnly: true });
  try {
    const log = await openLog(device, dataKey);
    await compare(log, known, `${side} alone`);
  } finally {
    await device.close();
  }
}

async function run(session: Session): Promise<void> {
  const { flash, mirror, seed, known } = session;
  const device = await openFileDevice(flash);
  const second: Device | null = mirror === null ? null : await openFileDevice(mirror);
  const options = { randomBytes: randomSource(seed), ...(second === null ? {} : { mirror: { device: second, mode: 'sync' as const } }) };
  const checkSides = async (): Promise<void> => {
    await compareAlone('flash', flash, known);
    if (mirror !== null) await compareAlone('mirror', mirror, known);
  };
  if (session.sidesFirst) await checkSides();
  const log = await openLog(device, dataKey, options);
  const carried = await compare(log, known, 'store');
  if (session.checkSides) await checkSides();
  const healed = log.mounted.mirror;
  tell(`open ${log.mounted.nextIndex} ${carried} ${(healed?.healedFlash ?? 0) + (healed?.healedMirror ?? 0)}`);
  const player = new Player(log, session, carried);
  const failed = await player.play();
  if (failed !== null) {
    tell(`failed ${failed}`);
    await player.tryOn();
  }
  await log.close().catch((thrown: unknown) => tell(`close ${String(thrown)}`));
  tell('end');
}

try {
  await run(JSON.parse(process.argv[2] ?? 'null') as Session);
} catch (thrown) {
  const { code, message } = thrown as { code?: string; message: string };
  tell(`closed ${code ?? 'no-code'} ${message}`);
}
