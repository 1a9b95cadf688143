// Owns: `rot`: what was durable changes afterwards, on FLASH or mirror: lost, zeroed, erased and old erase blocks, flipped bits, frames at the wrong
// place, swapped pages, frames of another store. With the other side honest everything must be found and healed; without a mirror it
// must be found, or have been a place that means nothing.
// Invariants: after healing every sector that means anything is compared with the reference, on both sides; nothing wrong is ever handed out.

import {
  copyCount,
  copyStrideBytes,
  decodeFrameHeader,
  frameHeaderBytes,
  logStartBytes,
  pageBytes,
  runHeaderBytes,
  segmentPosition,
  tagBytes,
} from '#store/format.ts';
import { formatStore, openLog } from '#store/log.ts';
import { headOf, readHeadRuns, readSuperblock, verifiedWalk } from '#store/mount.ts';
import { orderHeads } from '#store/recover.ts';
import type { StoreLog } from '#store/store.ts';
import { superblockBytes } from '#store/superblock.ts';
import {
  checkpointBefore,
  dataKey,
  failureOf,
  formatOptions,
  newStore,
  payloadOf,
  randomSource,
  segmentBytes,
  sizeFor,
} from '#test/store/rig.ts';
import { readMedium } from '#test/support/memory-device.ts';
import { seededRandom } from '#test/support/seed.ts';
import { Scratch } from './image.ts';
import { scaled, type TortureOptions, type TorturePart, type TortureResult, Violations } from './part.ts';

const segments = 24;
const lives = 5;
const framesEach = 22;
const flips = 100_000;
const flipsPerImage = 100;
const aloneFlips = 3000;
const misplacements = 600;
const blockSizes = [16 * 1024, 64 * 1024, 128 * 1024, 512 * 1024];

interface Patch {
  readonly positionBytes: number;
  readonly bytes: Uint8Array;
}

interface Unit {
  readonly positionBytes: number;
  readonly lengthBytes: number;
  readonly liveBytes: number;
}

const sealedEnd = (sealedBytes: number): number => frameHeaderBytes + sealedBytes + tagBytes;

const openPair = (flash: Scratch, mirror: Scratch | null): Promise<StoreLog> =>
  openLog(flash, dataKey, {
    ...(mirror === null ? {} : { mirror: { device: mirror, mode: 'sync' as const } }),
    randomBytes: randomSource(3),
  });

const sizeOf = (index: number): number => 200 + ((index * 7919) % 14_000);

/** A ring that has gone round, closed cleanly; `old`: the same store three lives before. */
interface World {
  readonly image: Buffer;
  readonly old: Buffer;
  /** Another store, with another data key, of the same shape. */
  readonly foreign: Buffer;
  readonly units: readonly Unit[];
  /** By byte: whether it means anything. The padding behind a frame's tag means nothing. */
  readonly live: Uint8Array;
  readonly oldest: number;
  readonly next: number;
}

async function fill(image: Buffer, key: Uint8Array, onLife: (life: number) => void): Promise<void> {
  for (let life = 0; life < lives; life += 1) {
    const log = await openLog(new Scratch(image), key, { randomBytes: randomSource(40 + life) });
    for (let frame = 0; frame < framesEach; frame += 1) {
      const index = log.mounted.nextIndex + frame;
      await log.append(payloadOf(index, sizeOf(index)), checkpointBefore(index), { reserved: true });
      if (frame === 9) await log.carry(payloadOf(life, 5000, 'carried'));
      if (index > 40) await log.release(index - 40);
    }
    await log.close();
    onLife(life);
  }
}

async function build(): Promise<World> {
  const image = Buffer.from(readMedium((await newStore(segments)).snapshot(), 0, sizeFor(segments)));
  let old = image;
  await fill(image, dataKey, (life) => {
    if (life === 1) old = Buffer.from(image);
  });
  const foreign = Buffer.alloc(sizeFor(segments));
  const otherKey = dataKey.map((byte) => byte ^ 0xff);
  await formatStore(
    new Scratch(foreign),
    { ...formatOptions, dataKey: otherKey, storeId: formatOptions.storeId.map((byte) => byte ^ 0x55) },
    randomSource(9),
  );
  await fill(foreign, otherKey, () => undefined);
  const device = new Scratch(image);
  const { superblock } = await readSuperblock(device, dataKey);
  const { heads } = orderHeads((await readHeadRuns(device, superblock)).map(headOf), superblock.segmentCount, superblock.oldestRun);
  const units: Unit[] = [];
  for (const { segment, runIndex } of heads) {
    const base = segmentPosition(superblock, segment);
    const walk = verifiedWalk(superblock, dataKey, segment, [image.subarray(base, base + segmentBytes)], runIndex - 1);
    for (const { offset, header } of walk.runs) {
      const carriedAt = base + offset + runHeaderBytes;
      units.push({ positionBytes: base + offset, lengthBytes: runHeaderBytes, liveBytes: runHeaderBytes });
      const carried = decodeFrameHeader(image.subarray(carriedAt, carriedAt + frameHeaderBytes), superblock.storeId, carriedAt);
      if (header.carryFrameBytes > 0 && carried !== null)
        units.push({ positionBytes: carriedAt, lengthBytes: header.carryFrameBytes, liveBytes: sealedEnd(carried.sealedBytes) });
    }
    for (const { offset, frameBytes, header } of walk.frames)
      units.push({ positionBytes: base + offset, lengthBytes: frameBytes, liveBytes: sealedEnd(header.sealedBytes) });
  }
  const live = new Uint8Array(image.length);
  for (let copy = 0; copy < copyCount; copy += 1) live.fill(1, copy * copyStrideBytes, copy * copyStrideBytes + superblockBytes);
  for (const { positionBytes, liveBytes } of units) live.fill(1, positionBytes, positionBytes + liveBytes);
  const { oldestIndex, nextIndex } = (await openPair(new Scratch(Buffer.from(image)), null)).mounted;
  return { image, old, foreign, units, live, oldest: oldestIndex, next: nextIndex };
}

class Rot {
  readonly #world: World;
  readonly #violations: Violations;
  readonly #draw: (below: number) => number;
  /** Both sides after an opening and a check of the undamaged pair. */
  readonly #reference: Buffer;
  readonly #sides: readonly [Scratch, Scratch];
  readonly #alone: Scratch;
  servedWrong = 0;
  undetected = 0;
  unhealed = 0;
  detected = 0;
  healed = 0;
  harmless = 0;
  aloneFound = 0;
  aloneHarmless = 0;

  constructor(world: World, reference: Buffer, violations: Violations, random: () => number) {
    this.#world = world;
    this.#violations = violations;
    this.#reference = reference;
    this.#draw = (below) => Math.floor(random() * below);
    this.#sides = [new Scratch(Buffer.from(world.image)), new Scratch(Buffer.from(world.image))];
    this.#alone = new Scratch(Buffer.from(world.image));
  }

  draw(below: number): number {
    return this.#draw(below);
  }

  #isLive({ positionBytes, bytes }: Patch): boolean {
    const { live, image } = this.#world;
    return bytes.some((byte, at) => live[positionBytes + at] === 1 && image[positionBytes + at] !== byte);
  }

  /** Every frame as it was written; throws what reading throws. */
  async #readAll(log: StoreLog): Promise<boolean> {
    const { oldest, next } = this.#world;
    if (log.mounted.oldestIndex !== oldest || log.mounted.nextIndex !== next) return false;
    for (let index = oldest; index < next; ) {
      const frames = await log.read(index, 1_000_000);
      for (const frame of frames) {
        if (frame.index !== index || !payloadOf(index, sizeOf(index)).equals(frame.payload)) {
          this.servedWrong += 1;
          this.#violations.add(`frame ${frame.index} was handed out wrong`);
        }
        index += 1;
      }
      if (frames.length === 0) return false;
    }
    return log.mounted.carried !== null && payloadOf(lives - 1, 5000, 'carried').equals(log.mounted.carried);
  }

  /** The side that rots beside an honest one: after an opening and a check nothing of it is left. */
  async pair(side: 0 | 1, patches: readonly Patch[], label: string): Promise<void> {
    const [flash, mirror] = this.#sides;
    const rotten = this.#sides[side];
    const isLive = patches.map((patch) => this.#isLive(patch));
    for (const { positionBytes, bytes } of patches) rotten.put(positionBytes, bytes);
    try {
      const log = await openPair(flash, mirror);
      const isWhole = await this.#readAll(log);
      const report = await log.check({ heal: true });
      const wrong = this.#differing(patches);
      if (!isWhole || report.missing.length > 0 || wrong !== null) {
        this.unhealed += 1;
        this.#violations.add(`${label} on side ${side}: not healed at ${wrong}, missing ${JSON.stringify(report.missing)}`);
      }
    } catch (thrown) {
      this.unhealed += 1;
      this.#violations.add(`${label} on side ${side}: ${String(thrown)}`);
    }
    for (const live of isLive) {
      if (live) this.detected += 1;
      else this.harmless += 1;
    }
    flash.undo();
    mirror.undo();
  }

  /** First live byte of the patches that is not as in the reference, on either side. */
  #differing(patches: readonly Patch[]): number | null {
    const { live } = this.#world;
    for (const { positionBytes, bytes } of patches) {
      for (let at = positionBytes; at < positionBytes + bytes.length; at += 1) {
        if (live[at] === 1 && this.#sides.some(({ image }) => image[at] !== this.#reference[at])) return at;
      }
    }
    return null;
  }

  /** Without a mirror: the opening or the reading stops at it, or it was nothing that counts. */
  async alone(patch: Patch, label: string): Promise<void> {
    this.#alone.put(patch.positionBytes, patch.bytes);
    try {
      if (await this.#readAll(await openPair(this.#alone, null))) this.aloneHarmless += 1;
      else {
        this.undetected += 1;
        this.#violations.add(`${label}, without a mirror: frames are missing and nobody said so`);
      }
    } catch (thrown) {
      if ((thrown as { code?: string }).code === 'halted') this.aloneFound += 1;
      else this.#violations.add(`${label}, without a mirror: ${String(thrown)}`);
    }
    this.#alone.undo();
  }
}

function flipOf(world: World, position: number, bit: number): Patch {
  return { positionBytes: position, bytes: Uint8Array.of((world.image[position] ?? 0) ^ (1 << bit)) };
}

async function blocks(rot: Rot, world: World): Promise<number> {
  let count = 0;
  for (const blockBytes of blockSizes) {
    const starts = Array.from({ length: Math.ceil(world.image.length / blockBytes) }, (_, nth) => nth * blockBytes);
    for (const at of starts) {
      const end = Math.min(world.image.length, at + blockBytes);
      // Between the copies of the superblock there is nothing.
      if (end <= logStartBytes && at % copyStrideBytes !== 0) continue;
      const kinds: readonly [string, Uint8Array][] = [
        ['zeroed', new Uint8Array(end - at)],
        ['erased', new Uint8Array(end - at).fill(0xff)],
        ['old', world.old.subarray(at, end)],
        ['foreign', world.foreign.subarray(at, end)],
      ];
      for (const [kind, bytes] of kinds) {
        const label = `${kind} block of ${blockBytes} at ${at}`;
        for (const side of [0, 1] as const) await rot.pair(side, [{ positionBytes: at, bytes }], label);
        // Old blocks of one device alone may be a whole older state: only the KEY or the server tells.
        if (kind !== 'old') await rot.alone({ positionBytes: at, bytes }, label);
        count += 2;
      }
    }
  }
  return count;
}

async function bits(rot: Rot, world: World, options: TortureOptions): Promise<number> {
  const place = (): number => {
    const { positionBytes, liveBytes } = world.units[rot.draw(world.units.length)] ?? { positionBytes: 0, liveBytes: superblockBytes };
    const copy = rot.draw(copyCount) * copyStrideBytes + rot.draw(superblockBytes);
    return rot.draw(50) === 0 ? copy : positionBytes + rot.draw(liveBytes);
  };
  const images = scaled(flips / flipsPerImage, options, 4);
  for (let nth = 0; nth < images; nth += 1) {
    const places = new Set(Array.from({ length: flipsPerImage }, place));
    await rot.pair(
      nth % 2 === 0 ? 0 : 1,
      [...places].map((position) => flipOf(world, position, rot.draw(8))),
      `image ${nth} of ${places.size} flips`,
    );
  }
  for (let nth = scaled(aloneFlips, options, 50); nth > 0; nth -= 1) {
    const position = place();
    await rot.alone(flipOf(world, position, rot.draw(8)), `flip at ${position}`);
  }
  return images * flipsPerImage;
}

async function misplaced(rot: Rot, world: World, options: TortureOptions): Promise<number> {
  const count = scaled(misplacements, options, 20);
  const unit = (): Unit => world.units[rot.draw(world.units.length)] ?? { positionBytes: 0, lengthBytes: 0, liveBytes: 0 };
  const page = (): number => logStartBytes + rot.draw((segments * segmentBytes) / pageBytes) * pageBytes;
  const from = (image: Buffer, at: number, lengthBytes: number): Uint8Array => image.subarray(at, at + lengthBytes);
  for (let nth = 0; nth < count; nth += 1) {
    const [a, b] = [unit(), unit()];
    const lengthBytes = Math.min(a.lengthBytes, world.image.length - b.positionBytes);
    const cases: readonly (readonly [string, readonly Patch[]])[] = [
      ['misdirected', [{ positionBytes: b.positionBytes, bytes: from(world.image, a.positionBytes, lengthBytes) }]],
      ['foreign frame', [{ positionBytes: a.positionBytes, bytes: from(world.foreign, a.positionBytes, a.lengthBytes) }]],
      ['old frame', [{ positionBytes: a.positionBytes, bytes: from(world.old, a.positionBytes, a.lengthBytes) }]],
    ];
    const [p, q] = [page(), page()];
    const swapped: readonly Patch[] = [
      { positionBytes: p, bytes: from(world.image, q, pageBytes) },
      { positionBytes: q, bytes: from(world.image, p, pageBytes) },
    ];
    const side = nth % 2 === 0 ? 0 : 1;
    for (const [kind, patches] of [...cases, ['swapped pages', swapped] as const]) await rot.pair(side, patches, `${kind} ${nth}`);
    const [misdirected, foreign] = cases;
    for (const one of [misdirected, foreign]) {
      const [patch] = one?.[1] ?? [];
      if (patch !== undefined) await rot.alone(patch, `${one?.[0]} ${nth}`);
    }
  }
  return count * 4;
}

async function run(options: TortureOptions): Promise<TortureResult> {
  const violations = new Violations();
  const world = await build();
  const [flash, mirror] = [new Scratch(Buffer.from(world.image)), new Scratch(Buffer.from(world.image))];
  await (await openPair(flash, mirror)).check({ heal: true });
  const rot = new Rot(world, flash.image, violations, seededRandom(options.seed));
  const flipCount = await bits(rot, world, options);
  options.note(`${flipCount} flips`);
  const misplacedCount = await misplaced(rot, world, options);
  options.note(`${misplacedCount} misplaced`);
  const blockCount = options.scale < 0.1 ? 0 : await blocks(rot, world);
  // Control: the same place rotten on both sides is damage, and must be told.
  const both = world.units[0]?.positionBytes ?? 0;
  const torn = [new Scratch(Buffer.from(world.image)), new Scratch(Buffer.from(world.image))] as const;
  for (const side of torn) side.put(both, flipOf(world, both + 100, 1).bytes);
  const told = await failureOf(openPair(...torn));
  if (told?.code !== 'halted') violations.add('void: the control (rotten on both sides) was not found');
  const all = (bad: number): string => (bad === 0 ? 'all' : `all-${bad}`);
  return {
    line:
      `blocks=${blockCount} flips=${flipCount} misplaced=${misplacedCount} live=${rot.detected} detected=${all(rot.undetected)} healed=${all(rot.unhealed)} ` +
      `served_wrong=${rot.servedWrong} undetected=${rot.undetected} alone_found=${rot.aloneFound} alone_harmless=${rot.aloneHarmless}`,
    violations: violations.told,
  };
}

export const rot: TorturePart = { name: 'rot', run };
