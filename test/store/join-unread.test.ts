// Joining FLASH and mirror where the FLASH went on without its mirror, and does not give at once (or not at all) what it holds.
import { describe, expect, it } from 'vitest';
import { flipBit, type Medium, type MemoryDevice } from '#test/support/memory-device.ts';
import {
  checkpointBefore,
  deviceOn,
  failureOf,
  open,
  openBoth,
  pairOf,
  payloadOf,
  readAll,
  seeded,
  segmentBytes,
  stuttering,
} from './rig.ts';

const segments = 8;
const logStart = 4 * 1024 * 1024;
const on = (medium: Medium): MemoryDevice => deviceOn(medium, segments);

/** Its first readings of one page fail. */
const unsteady = (medium: Medium, page: number, failuresLeft: number): MemoryDevice & { readonly failuresLeft: number } =>
  stuttering(medium, segments, { failuresLeft, fromBytes: page, toBytes: page + 4096 });

/** Both begin alike; then the mirror alone has `never answered`, and the FLASH, opened without it and killed, what was answered. */
async function parted(): Promise<{ readonly flash: Medium; readonly mirror: Medium }> {
  const pair = await pairOf(segments, 0);
  const together = await openBoth(pair.flash, pair.mirror, 'sync', 3);
  const flash = on(pair.flash.snapshot());
  await together.append(payloadOf(1, 900, 'never answered'), checkpointBefore(1));
  const mirror = pair.mirror.snapshot();
  const log = await open(flash, 7);
  for (const index of [1, 2]) await log.append(payloadOf(index, 900, 'answered'), checkpointBefore(index));
  return { flash: flash.snapshot(), mirror };
}

describe('a FLASH that went on without its mirror', () => {
  it.each([1, 2, 3, 5])('keeps what it answered where its first page fails %d times', async (times) => {
    const { flash, mirror } = await parted();
    const shy = unsteady(flash, logStart, times);
    const log = await openBoth(shy, on(mirror));
    expect(shy.failuresLeft).toBe(0);
    expect((await readAll(log)).map(({ payload }) => Buffer.from(payload))).toEqual(
      [1, 2].map((index) => payloadOf(index, 900, 'answered')),
    );
    await log.close();
  });

  it.each(['cannot be read at all', 'has rotted'])('is not healed from what the mirror ends with where its first page %s', async (how) => {
    const { flash, mirror } = await parted();
    const before = how === 'has rotted' ? flipBit(flash, logStart + 40, 1) : flash;
    const [worn, second] = [on(before), on(mirror)];
    if (how !== 'has rotted') worn.failReads(logStart, 4096);
    const failure = await failureOf(openBoth(worn, second));
    expect(failure?.code).toBe('halted');
    expect(failure?.message).toMatch(/went on without its mirror/);
    expect([worn.snapshot(), second.snapshot()]).toEqual([before, mirror]);
    expect((await failureOf(open(worn)))?.message).toMatch(/frames 1-2 were durable/); // alone it says what it lacks
  });

  it('is healed where it shows what the mirror ends with', async () => {
    const pair = await pairOf(segments, 10);
    const behind = pair.mirror.snapshot();
    const flash = on(pair.flash.snapshot());
    const log = await open(flash, 7);
    await log.append(payloadOf(11, 900), checkpointBefore(11));
    await log.close();
    const worn = on(flash.snapshot());
    worn.failReads(logStart + (segments - 1) * segmentBytes, 4096);
    const both = await openBoth(worn, on(behind));
    expect((await readAll(both)).map(({ payload }) => Buffer.from(payload)).at(-1)).toEqual(payloadOf(11, 900));
  });

  it('brings a mirror that is behind up to date where its first page fails once', async () => {
    const pair = await pairOf(segments, 0);
    const flash = on(pair.flash.snapshot());
    const log = await open(flash, 7);
    for (const index of [1, 2, 3]) await log.append(payloadOf(index, 900), checkpointBefore(index));
    await log.close();
    const mirror = on(pair.mirror.snapshot());
    const both = await openBoth(unsteady(flash.snapshot(), logStart, 1), mirror);
    expect(both.mounted.mirror?.healedMirror).toBeGreaterThan(0);
    await both.close();
    expect(await readAll(await open(on(mirror.snapshot()), 9))).toHaveLength(3);
  });
});

/** Lives of a pair: with and without the mirror, each ended by a kill, in which a last write may have reached one side and nobody was told. */
async function lived(random: () => number): Promise<{ flash: Medium; mirror: Medium; answered: ReadonlyMap<number, string> }> {
  const below = (limit: number): number => Math.floor(random() * limit);
  const pair = await pairOf(segments, 0);
  let [flash, mirror] = [pair.flash.snapshot(), pair.mirror.snapshot()];
  const answered = new Map<number, string>();
  const lives = 1 + below(4);
  for (let life = 1; life <= lives; life += 1) {
    const [first, second] = [on(flash), on(mirror)];
    const isAlone = random() < 0.5;
    const log = await (isAlone ? open(first, 10 * life) : openBoth(first, second, 'sync', 10 * life));
    const append = (index: number, label: string): Promise<number> => log.append(payloadOf(index, 900, label), checkpointBefore(index));
    let { nextIndex } = log.mounted;
    for (let left = below(5); left > 0; left -= 1, nextIndex += 1) {
      await append(nextIndex, `life ${life}`);
      answered.set(nextIndex, `life ${life}`);
    }
    const before = { flash: first.snapshot(), mirror: second.snapshot() };
    await append(nextIndex, 'never answered');
    flash = random() < 0.5 ? first.snapshot() : before.flash;
    mirror = random() < 0.5 ? second.snapshot() : before.mirror;
  }
  return { flash, mirror, answered };
}

it.each([7, 11, 15, 24, 25, 27, 29, 37, 38, 43])(
  'a joining that cannot read for a while costs nothing that was answered (seed %d)',
  async (seed) => {
    const random = seeded(seed);
    const { flash, mirror, answered } = await lived(random);
    const shy = (medium: Medium): MemoryDevice => unsteady(medium, logStart + 4096 * Math.floor(random() * 3), Math.floor(random() * 24));
    const [first, second] = [shy(flash), random() < 0.5 ? shy(mirror) : on(mirror)];
    const found = async (...both: readonly [MemoryDevice, MemoryDevice]): Promise<Map<number, Buffer>> =>
      new Map((await readAll(await openBoth(...both), 1_000_000)).map(({ index, payload }) => [index, Buffer.from(payload)]));
    await found(first, second).catch(() => null); // it may have failed for longer than an opening waits
    const afterwards = await found(on(first.snapshot()), on(second.snapshot()));
    for (const [index, label] of answered) expect(afterwards.get(index)).toEqual(payloadOf(index, 900, label));
  },
);
