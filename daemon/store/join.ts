// Owns: bringing FLASH and mirror to one state when a store is opened.
// Invariants: nothing that the FLASH holds whole is dropped; history that only the mirror holds is never given up unless the FLASH was
// opened without it and went as far, and shows what the mirror ends with or can be read whole. What cannot be read is read again first.
// A crash anywhere leaves a state that the next opening heals on.
// Must not: append, touch a mirror that is neither blank nor a store, or make a FLASH (restore.ts).
import { asUkeyError, UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { Inspect, KnownEnd, MirrorMode, MirrorReport } from '#store/store.ts';
import { copyCount, copyStrideBytes, type DecodedRun, logStartBytes, segmentOf, view } from './format.ts';
import { copySegment, healSegment } from './heal.ts';
import {
  checkDevice,
  chooseSuperblock,
  endOf,
  headOf,
  judgeCopies,
  judgingKey,
  readCopies,
  readHeadRuns,
  readLog,
  readOnce,
  readTail,
  verifiedWalk,
} from './mount.ts';
import { decideHistories, type Head, orderHeads } from './recover.ts';
import { lendSegment, PatientDevice, SilentDevice, UnfitMirror } from './salvage.ts';
import { type CopyState, type Superblock, superblockBytes, superblockMark } from './superblock.ts';
import { tagOf } from './walk.ts';

/** The end of the log that is compared byte by byte at each opening: more than a stick that ignores flushes holds back. */
export const compareBytes = 16 * 1024 * 1024;
const compareSegmentsMin = 3;

export interface JoinOptions {
  readonly onProgress?: ((done: number, segments: number) => void) | undefined;
  readonly inspect?: Inspect | undefined;
  /** Where the FLASH alone is known to end. */
  readonly end?: KnownEnd | null;
  /** Of an `async` mirror nobody knows whether it has all that was told. */
  readonly mode: MirrorMode;
}

const later = (a: Superblock, b: Superblock): Superblock => {
  if (a.mountEpoch !== b.mountEpoch) return a.mountEpoch > b.mountEpoch ? a : b;
  return a.updateCounter >= b.updateCounter ? a : b;
};

interface Superblocks {
  /** The one to go on with. */
  readonly best: Superblock;
  /** Null: all four copies of the FLASH rotted. */
  readonly flash: Superblock | null;
  /** Null: the mirror has none that this store can use. */
  readonly mirror: Superblock | null;
  readonly remake: boolean;
}

/** What the mirror path holds, as far as this store is concerned. Throws `halted` for what is no store at all, or a newer one. */
function judgeMirror(mirror: Device, copies: readonly CopyState[], macKey: Uint8Array): { superblock: Superblock | null; remake: boolean } {
  const choice = judgeCopies(copies, macKey);
  switch (choice.kind) {
    case 'chosen':
      return { superblock: choice.superblock, remake: false };
    case 'damage':
      // Valid copies that another key wrote: the mirror of another store. None that is whole: ours perhaps, its frames will tell.
      return { superblock: null, remake: copies.some((copy) => copy.kind === 'valid') };
    case 'empty':
      return { superblock: null, remake: true };
    case 'foreign':
      throw new UkeyError('halted', `${mirror.path} is to be the mirror, but holds something that is not a store`);
    case 'newer-format':
      throw new UkeyError('halted', `the mirror ${mirror.path} has the newer format ${choice.version}`);
    default:
      return unreachable(choice);
  }
}

/** One that was cut short, or lies on another kind of disk. Where it went further than the FLASH, that one may not go on alone either. Throws `halted`. */
function checkMirror(mirror: Device, superblock: Superblock, flashRules: boolean): void {
  try {
    checkDevice(mirror, superblock);
  } catch (thrown) {
    throw flashRules ? unusable(mirror, asUkeyError(thrown).message) : thrown;
  }
}

async function readSuperblocks(flash: PatientDevice, mirror: Device, dataKey: Uint8Array): Promise<Superblocks> {
  const onFlash = await readCopies(flash);
  // A copy that could not be read has not rotted: the mirror's rule only where all four of the FLASH were seen.
  if (flash.failures > 0 && !onFlash.some((copy) => copy.kind === 'valid'))
    throw new UkeyError('halted', `${flash.path} cannot be read`, { cause: new SilentDevice() });
  const onMirror = await readCopies(mirror);
  const macKey = judgingKey([...onFlash, ...onMirror], dataKey);
  try {
    const { superblock: theirs, remake } = judgeMirror(mirror, onMirror, macKey);
    const own = judgeCopies(onFlash, macKey);
    const isRotten = own.kind === 'damage' && theirs !== null && !onFlash.some((copy) => copy.kind === 'valid');
    // Without one of its own the FLASH is refused as without a mirror, unless it is ours and all four copies rotted.
    const ours = isRotten ? null : (chooseSuperblock(flash, onFlash, macKey)?.superblock ?? null);
    if (ours === null && !isRotten) throw new UkeyError('halted', `${flash.path} is blank: it was never formatted`);
    const best = ours === null || theirs === null ? (ours ?? theirs) : later(ours, theirs);
    if (best === null) throw new UkeyError('halted', 'no copy of the superblock is whole');
    // The mirror was restored for another token since: this FLASH was given up, and must not become a second copy of that one.
    if (ours !== null && best === theirs && !view(ours.tokenKeyId).equals(best.tokenKeyId)) {
      throw new UkeyError('halted', `the mirror ${mirror.path} belongs to another token since this FLASH was given up`);
    }
    checkDevice(flash, best);
    checkMirror(mirror, best, ours !== null && (theirs?.mountEpoch ?? 0) <= ours.mountEpoch);
    return { best, flash: ours, mirror: theirs, remake };
  } finally {
    macKey.fill(0);
  }
}

/**
 * Copies the kept segments; the opening writes the superblocks last. Before anything else each place of a superblock gets one sector with our
 * mark: it arrives whole or not at all, so that a crash anywhere leaves a mirror that is torn and healed, and never one that looks foreign.
 */
async function remakeMirror(
  flash: PatientDevice,
  mirror: Device,
  superblock: Superblock,
  dataKey: Uint8Array,
  { onProgress, inspect, end = null }: Omit<JoinOptions, 'mode'>,
): Promise<number> {
  const found = await readLog(flash, superblock, dataKey, { end });
  await inspect?.(endOf(superblock, found.lastIndex));
  const mark = Buffer.concat([superblockMark], superblock.sectorBytes);
  for (let copy = 0; copy < copyCount; copy += 1) {
    await mirror.writeAndSync(copy * copyStrideBytes, mark);
    await mirror.writeAndSync(copy * copyStrideBytes + mark.length, new Uint8Array(superblockBytes - mark.length));
  }
  for (const [done, { segment }] of found.heads.entries()) {
    await copySegment(flash, mirror, superblock, segment, done + 1 < found.heads.length).catch((cause: unknown) => {
      if (flash.unread.size === 0) throw cause;
      throw unfit(mirror, flash);
    });
    onProgress?.(done + 1, found.heads.length);
  }
  return found.heads.length;
}

interface Last {
  readonly index: number;
  readonly segment: number;
  /** Null when the segment holds no frame of that index itself. */
  readonly tag: Buffer | null;
}

export interface Joined {
  readonly superblock: Superblock;
  readonly report: MirrorReport;
  /** What the segments of the FLASH begin with, where it need not be read again: no reading failed, and nothing was written to the FLASH since. */
  readonly headRuns: readonly DecodedRun[] | null;
  /** The last frame that both together held: an end of the log before it is none. */
  readonly lastIndex: number;
  /** The mirror was written to by the same openings, and shows all that was told: nothing else hides on the FLASH. */
  readonly isWitnessed: boolean;
}

/** Where one side alone would end, null when it holds no run. */
async function lastOf(device: Device, superblock: Superblock, dataKey: Uint8Array, runs: readonly DecodedRun[]): Promise<Last | null> {
  const { heads } = orderHeads(runs.map(headOf), superblock.segmentCount, superblock.oldestRun);
  const { newest, walk } = await readTail(device, superblock, dataKey, heads);
  if (newest === undefined || walk === null) return null;
  const frame = walk.frames.at(-1);
  const tag = frame === undefined ? null : await lendSegment([device], superblock, newest.segment, ([{ bytes }]) => tagOf([bytes], frame));
  return { index: frame?.header.index ?? Math.max(0, walk.nextIndex - 1), segment: newest.segment, tag };
}

interface PatientPair {
  readonly flash: PatientDevice;
  readonly mirror: PatientDevice;
}

class Joining {
  readonly #pair: PatientPair;
  readonly #superblocks: Superblocks;
  readonly #dataKey: Uint8Array;
  readonly #isWitnessed: boolean;
  #healedFlash = 0;
  #healedMirror = 0;
  #flashTouched = false;
  #lastIndex = 0;
  /** The FLASH went on without the mirror, and does not show what that ends with. */
  #isHidden = false;

  constructor(pair: PatientPair, superblocks: Superblocks, dataKey: Uint8Array, mode: MirrorMode) {
    this.#pair = pair;
    const { flash, mirror } = superblocks;
    // Of the last opening: one from before `mirrorMayLag` was written says nothing of its mode, which is taken for today's.
    this.#isWitnessed = mode === 'sync' && flash !== null && !flash.mirrorMayLag && flash.mountEpoch === mirror?.mountEpoch;
    this.#superblocks = superblocks;
    this.#dataKey = dataKey;
  }

  /** The FLASH was opened without it since. */
  get #mirrorLags(): boolean {
    const { flash, mirror } = this.#superblocks;
    return (flash?.mountEpoch ?? 0) > (mirror?.mountEpoch ?? 0);
  }

  async join({ onProgress, inspect }: Omit<JoinOptions, 'mode'>): Promise<Omit<Joined, 'superblock'>> {
    const { best } = this.#superblocks;
    const { flash, mirror } = this.#pair;
    const [onFlash, onMirror] = await Promise.all([readHeadRuns(flash, best), readHeadRuns(mirror, best)]);
    const { heads } = orderHeads(mergeHeads(onFlash, onMirror), best.segmentCount, best.oldestRun);
    const discarded = await this.#compareEnds(heads, onFlash, onMirror, inspect);
    const same = sameHeads(onFlash, onMirror);
    const fromPlace = heads.length - Math.max(compareSegmentsMin, Math.ceil(compareBytes / best.segmentBytes));
    const ends = [onFlash, onMirror].map((runs) => newestOf(runs)?.header.runIndex ?? 0);
    let carryPosition = 0;
    const skipped: Head[] = [];
    for (const [place, head] of heads.entries()) {
      // Where a side ended, its last write may be torn although the head is the same.
      const isEnd = ends.some((runIndex) => runIndex === head.runIndex);
      if (place < fromPlace && !isEnd && same.has(head.segment)) skipped.push(head);
      else carryPosition = (await this.#heal(head)) ?? carryPosition;
      onProgress?.(place + 1, heads.length);
    }
    // Opening reads what is carried as well, wherever it stands.
    const carrying = skipped.find((head) => head.segment === segmentOf(best, carryPosition));
    if (carrying !== undefined) await this.#heal(carrying);
    const report = { remade: false, healedFlash: this.#healedFlash, healedMirror: this.#healedMirror, discarded };
    const { lastIndex, isWitnessed } = { lastIndex: this.#lastIndex, isWitnessed: this.#isWitnessed };
    return { report, lastIndex, isWitnessed, headRuns: flash.failures === 0 && !this.#flashTouched ? onFlash : null };
  }

  /** Where what is carried stands, as the segment's last run tells; null when it holds no run. */
  async #heal(head: Head): Promise<number | null> {
    const { best } = this.#superblocks;
    const healed = await healSegment(this.#pair, best, this.#dataKey, head.segment, head.runIndex - 1, true, {
      together: this.#isWitnessed,
      inspect: ({ unreadable }) => {
        if (this.#isHidden && unreadable.length > 0) throw this.#hidden();
      },
    });
    const { walk, flashDamaged, mirrorDamaged, flashTouched } = healed;
    this.#healedFlash += flashDamaged.length;
    this.#healedMirror += mirrorDamaged.length;
    this.#flashTouched ||= flashTouched;
    this.#lastIndex = Math.max(this.#lastIndex, walk.frames.at(-1)?.header.index ?? 0);
    return walk.runs.at(-1)?.header.carryPosition ?? null;
  }

  /** Whether the frames that each side ends with are kept. True when the mirror's end is to be discarded. */
  async #compareEnds(
    heads: readonly Head[],
    onFlash: readonly DecodedRun[],
    onMirror: readonly DecodedRun[],
    inspect: Inspect | undefined,
  ): Promise<boolean> {
    const { best, flash, mirror } = this.#superblocks;
    const flashLast = await lastOf(this.#pair.flash, best, this.#dataKey, onFlash);
    await inspect?.(flash === null ? null : endOf(flash, flashLast?.index ?? 0));
    const mirrorLast = await lastOf(this.#pair.mirror, best, this.#dataKey, onMirror);
    const flashLeads = this.#mirrorLags;
    if (flash !== null && mirror !== null && flashLeads) await this.#refuseHidden(flash, mirrorLast, onFlash);
    const both = [this.#pair.flash, this.#pair.mirror];
    const decision = decideHistories({
      flashKept: await this.#isKept(flashLast, heads, both),
      mirrorKept: await this.#isKept(mirrorLast, heads, both),
      flashLeads,
      mirrorLonger: (mirrorLast?.index ?? 0) > (flashLast?.index ?? 0),
    });
    if (decision !== 'halt') return decision === 'discard-mirror';
    throw new UkeyError('halted', 'FLASH and mirror hold different frames of one index: their histories have parted');
  }

  /**
   * The FLASH went on without its mirror, and is damaged or cannot be read where that one ends: unless it shows that end, or vouches for it, there may stand
   * another batch that was answered, and the mirror's would be put in its place. Throws `halted`.
   */
  async #refuseHidden(superblock: Superblock, mirrorLast: Last | null, onFlash: readonly DecodedRun[]): Promise<void> {
    const { flash } = this.#pair;
    if (mirrorLast === null || (await this.#isKept(mirrorLast, onFlash.map(headOf), [flash]))) return;
    const { frameIndex, frameTag } = superblock.tail;
    if (mirrorLast.index === frameIndex && mirrorLast.tag?.equals(frameTag) === true) return; // it has lost it since
    this.#isHidden = true;
    const alone = await readOnce(flash, superblock, this.#dataKey, onFlash);
    const isRead = await lendSegment([flash], superblock, mirrorLast.segment, ([{ unreadable }]) => unreadable.length === 0);
    if (alone.decision.kind === 'damage' || !isRead) throw this.#hidden();
  }

  #hidden(): UkeyError {
    const { flash, mirror } = this.#pair;
    return new UkeyError('halted', `${flash.path} went on without its mirror ${mirror.path}, and cannot be read where that one ends`, {
      action:
        'Plug the token in again. If it stays so keep both as they are: what was issued without the mirror stands on the FLASH alone.',
    });
  }

  async #isKept(last: Last | null, heads: readonly Head[], devices: readonly Device[]): Promise<boolean> {
    const tag = last?.tag ?? null;
    if (last === null || tag === null || last.index < this.#superblocks.best.oldestIndex) return true;
    const head = heads.find((one) => one.segment === last.segment);
    if (head === undefined) return false;
    const { best } = this.#superblocks;
    const holds = (sides: readonly Uint8Array[]): boolean =>
      verifiedWalk(best, this.#dataKey, head.segment, sides, head.runIndex - 1).frames.some(
        (frame) => frame.header.index === last.index && tagOf(sides, frame).equals(tag),
      );
    return await lendSegment(devices, best, head.segment, (sides) => holds(sides.map(({ bytes }) => bytes)));
  }
}

const newestOf = (runs: readonly DecodedRun[]): DecodedRun | undefined =>
  runs.reduce<DecodedRun | undefined>((newest, run) => (run.header.runIndex > (newest?.header.runIndex ?? 0) ? run : newest), undefined);

const isNewer = (a: DecodedRun, b: DecodedRun): boolean =>
  a.header.runIndex > b.header.runIndex || (a.header.runIndex === b.header.runIndex && a.header.mountEpoch > b.header.mountEpoch);

/** For each segment the head that rules. */
function mergeHeads(onFlash: readonly DecodedRun[], onMirror: readonly DecodedRun[]): Head[] {
  const bySegment = new Map<number, DecodedRun>();
  for (const run of [...onFlash, ...onMirror]) {
    const before = bySegment.get(run.header.segment);
    if (before === undefined || isNewer(run, before)) bySegment.set(run.header.segment, run);
  }
  return [...bySegment.values()].map(headOf);
}

/** Segments that begin with the same run on both sides. */
function sameHeads(onFlash: readonly DecodedRun[], onMirror: readonly DecodedRun[]): Set<number> {
  const nameOf = ({ header }: DecodedRun): string => `${header.segment}/${header.runIndex}/${Buffer.from(header.salt).toString('hex')}`;
  const names = new Set(onMirror.map(nameOf));
  return new Set(onFlash.filter((run) => names.has(nameOf(run))).map((run) => run.header.segment));
}

/**
 * Brings FLASH and mirror to one state; the caller then opens the FLASH with the superblock that is answered here, and writes it to both.
 * Throws `halted` as opening does, and when the two have parted (each holds frames that the other contradicts).
 */
export async function joinMirror(flash: Device, mirror: Device, dataKey: Uint8Array, options: JoinOptions): Promise<Joined> {
  if (mirror.sizeBytes < logStartBytes) throw unusable(mirror, `it has ${mirror.sizeBytes} bytes`);
  const pair = { flash: new PatientDevice(flash), mirror: new PatientDevice(mirror) };
  const superblocks = await readSuperblocks(pair.flash, pair.mirror, dataKey);
  const superblock = superblocks.best;
  if (superblocks.remake) {
    const segments = await remakeMirror(pair.flash, pair.mirror, superblock, dataKey, options);
    const report = { remade: true, healedFlash: 0, healedMirror: segments, discarded: false };
    return { superblock, report, headRuns: null, lastIndex: 0, isWitnessed: false };
  }
  const joined = await new Joining(pair, superblocks, dataKey, options.mode).join(options);
  // What hides there may be what the FLASH has lost: nobody can say that it holds the same, and its superblocks stay behind.
  if (pair.mirror.unread.size > 0) throw unfit(mirror, pair.mirror);
  return { superblock, ...joined };
}

/** `unread`: of which of the two something could not be read. */
function unfit(mirror: Device, { path, unread }: PatientDevice): UkeyError {
  return unusable(mirror, `${path} cannot be read at ${[...unread.keys()].join(', ')}`);
}

const unusable = (mirror: Device, why: string): UkeyError =>
  new UkeyError('halted', `the mirror ${mirror.path} cannot be used: ${why}`, { cause: new UnfitMirror() });
