// Owns: reading a store from a device up to the point where its state is known: superblocks, segment heads, the newest segment.
// Invariants: mounting reads four superblocks, one page per segment and two segments, however many frames there are; it writes
// nothing (log.ts does, afterwards). Damage is believed only when it is read again and again: another process may be appending meanwhile.
// Errors are UkeyError `halted`, with the frames named, or because of a SilentDevice; `busy` where the end hides. Must not: append, repair, or keep the data key.
import { setTimeout as pause } from 'node:timers/promises';
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { Device, ReadableDevice } from '#store/device.ts';
import type { KnownEnd, StoreEnd, StoreHeader } from '#store/store.ts';
import { deriveKey, isFrameWhole, openCheckpoint, openFrame, openIdentity } from './cipher.ts';
import {
  copyCount,
  copyStrideBytes,
  type DecodedRun,
  decodeFrameHeader,
  decodeRunHeader,
  formatVersion,
  idBytes,
  type RunHeader,
  runHeaderBytes,
  segmentOf,
  segmentPosition,
} from './format.ts';
import { hiddenBehind } from './hidden-end.ts';
import {
  type CopyChoice,
  chooseCopy,
  type Damage,
  decideTail,
  type Head,
  joinGaps,
  nameFrames,
  orderHeads,
  type TailDecision,
} from './recover.ts';
import { CountedReads, lendSegment, readOrNull, SilentDevice, unsurePauseMs } from './salvage.ts';
import { type CopyState, decodeSuperblock, isAuthentic, type Superblock, superblockBytes } from './superblock.ts';
import { type Gap, type Walk, walkSegment } from './walk.ts';

/** Readings of the tail before damage is believed. A reader beside a busy writer needs a second one now and then. */
const tailReadings = 6;
/** Segments whose first pages are asked for at once: the device gives some together, and nobody waits for the way there and back of each. */
const headsAhead = 64;

export interface SuperblockFound {
  readonly superblock: Superblock;
  readonly stale: readonly number[];
}

/** What is carried forward, and where its run starts: 0 and null when nothing is. */
export interface Carried {
  readonly position: number;
  readonly bytes: Uint8Array | null;
}

export interface LogFound {
  /** As it was read last: a reader beside a writer reads it again. */
  readonly superblock: Superblock;
  /** Kept segments, oldest first. */
  readonly heads: readonly Head[];
  /** The newest segment's content; null while the log is empty. */
  readonly walk: Walk | null;
  readonly carried: Carried;
  readonly lastIndex: number;
  readonly tornBytes: number;
  /** Of them: how far in the next segment of the ring what was begun there would reach. */
  readonly behindBytes: number;
  /** Positions of pages behind the end that cannot be read, and where nothing stands that counts. */
  readonly hidden: readonly number[];
}

export async function readCopies(device: Device): Promise<CopyState[]> {
  const copies: CopyState[] = [];
  let unreadable = 0;
  for (let copy = 0; copy < copyCount; copy += 1) {
    const bytes = await readOrNull(device, copy * copyStrideBytes, superblockBytes);
    unreadable += bytes === null ? 1 : 0;
    copies.push(bytes === null ? { kind: 'damaged' } : decodeSuperblock(bytes));
  }
  // That is no rot, but a device that went away.
  if (unreadable === copyCount) throw new UkeyError('halted', `${device.path} cannot be read`, { cause: new SilentDevice() });
  return copies;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** With a key, copies that it did not write count as damaged. */
export function judgeCopies(copies: readonly CopyState[], macKey: Uint8Array | null): CopyChoice {
  return chooseCopy(
    copies.map((copy): CopyState => {
      return copy.kind !== 'valid' || macKey === null || isAuthentic(copy.bytes, macKey) ? copy : { kind: 'damaged' };
    }),
  );
}

/** Chooses among the copies. Null when the device is blank. */
export function chooseSuperblock(device: Device, copies: readonly CopyState[], macKey: Uint8Array | null): SuperblockFound | null {
  const choice = judgeCopies(copies, macKey);
  switch (choice.kind) {
    case 'empty':
      return null;
    case 'foreign':
      throw new UkeyError('halted', `${device.path} holds something that is not a store`);
    case 'newer-format':
      throw new UkeyError('halted', `the store has format ${choice.version}, this program knows up to ${formatVersion}`);
    case 'damage':
      if (copies.some((copy) => copy.kind === 'valid')) throw new UkeyError('halted', 'the data key does not open this store');
      throw new UkeyError('halted', 'no copy of the superblock is whole');
    case 'chosen':
      checkDevice(device, choice.superblock);
      return choice;
    default:
      return unreachable(choice);
  }
}

/** Throws `halted` when the device cannot hold the store. */
export function checkDevice(device: Device, superblock: Superblock): void {
  if (device.sizeBytes < superblock.sizeBytes) {
    throw new UkeyError(
      'halted',
      `the store ${hex(superblock.storeId)} was made for ${superblock.sizeBytes} bytes, the device has ${device.sizeBytes}`,
    );
  }
  // A write that is smaller than the device's sector would tear older frames.
  if (superblock.sectorBytes % device.sectorBytes !== 0) {
    throw new UkeyError('halted', `the store has sectors of ${superblock.sectorBytes} bytes, the device of ${device.sectorBytes}`);
  }
}

/** Key of the HMAC over superblocks; the salt is the store id, as each store has its own data key. */
export const superblockKey = (dataKey: Uint8Array, storeId: Uint8Array): Buffer => deriveKey(dataKey, storeId, 'superblock');

/** The key by which copies are judged: of the first store they name that the data key opens, so that a stray copy of another store hides none. */
export function judgingKey(copies: readonly CopyState[], dataKey: Uint8Array): Buffer {
  for (const copy of copies) {
    if (copy.kind !== 'valid') continue;
    const key = superblockKey(dataKey, copy.superblock.storeId);
    if (isAuthentic(copy.bytes, key)) return key;
    key.fill(0);
  }
  return superblockKey(dataKey, new Uint8Array(idBytes));
}

/** As chooseSuperblock, with the data key; never null. */
export async function readSuperblock(device: Device, dataKey: Uint8Array): Promise<SuperblockFound> {
  const copies = await readCopies(device);
  const macKey = judgingKey(copies, dataKey);
  const found = chooseSuperblock(device, copies, macKey);
  macKey.fill(0);
  if (found === null) throw new UkeyError('halted', `${device.path} is blank: it was never formatted`);
  return found;
}

export function headerOf(superblock: Superblock): StoreHeader {
  return {
    storeId: superblock.storeId,
    tokenKeyId: superblock.tokenKeyId,
    formatVersion,
    mountEpoch: superblock.mountEpoch,
    sizeBytes: superblock.sizeBytes,
    segmentBytes: superblock.segmentBytes,
    slots: superblock.slots,
  };
}

export const endOf = ({ storeId, mountEpoch }: Superblock, lastIndex: number): StoreEnd => ({ storeId, mountEpoch, lastIndex });

export function identityOf(superblock: Superblock, dataKey: Uint8Array): Uint8Array {
  const identity = openIdentity(dataKey, superblock.identitySalt, superblock, superblock.identitySealed);
  if (identity === null) throw new UkeyError('halted', 'the identity beside the superblock is damaged');
  return identity;
}

export function headOf({ header }: DecodedRun): Head {
  const { segment, runIndex, firstIndex, oldestRun, carryFrameBytes } = header;
  return { segment, runIndex, firstIndex, oldestRun, carryFrameBytes };
}

/** The run header that each segment begins with, where there is one. */
export async function readHeadRuns(device: ReadableDevice, superblock: Superblock): Promise<DecodedRun[]> {
  const runs: DecodedRun[] = [];
  for (let from = 0; from < superblock.segmentCount; from += headsAhead) {
    const segments = Array.from({ length: Math.min(headsAhead, superblock.segmentCount - from) }, (_, at) => from + at);
    runs.push(...(await Promise.all(segments.map((each) => readHeadRun(device, superblock, each)))).filter((run) => run !== null));
  }
  return runs;
}

async function readHeadRun(device: ReadableDevice, superblock: Superblock, segment: number): Promise<DecodedRun | null> {
  const page = await readOrNull(device, segmentPosition(superblock, segment), runHeaderBytes);
  return page === null ? null : decodeRunHeader(page, superblock.storeId, segment, segmentPosition(superblock, segment));
}

/** Walks a segment, on one side or two, and takes only what carries a valid tag. */
export function verifiedWalk(
  superblock: Superblock,
  dataKey: Uint8Array,
  segment: number,
  sides: readonly Uint8Array[],
  aboveRunIndex: number,
): Walk {
  const keys = new Map<string, Buffer>();
  const keyOf = (run: RunHeader): Buffer => {
    const name = hex(run.salt);
    const key = keys.get(name) ?? deriveKey(dataKey, run.salt, 'frame');
    keys.set(name, key);
    return key;
  };
  const walk = walkSegment({
    sides,
    segment,
    geometry: superblock,
    storeId: superblock.storeId,
    aboveRunIndex,
    isRunWhole: (run) => openCheckpoint(dataKey, superblock, run.header, run.sealed) !== null,
    isFrameWhole: (run, frame, bytes) => isFrameWhole(keyOf(run.header), superblock, segment, frame, bytes),
  });
  for (const key of keys.values()) key.fill(0);
  return walk;
}

async function readVerified(
  device: ReadableDevice,
  superblock: Superblock,
  dataKey: Uint8Array,
  segment: number,
  aboveRunIndex: number,
): Promise<Walk> {
  return await lendSegment([device], superblock, segment, ([{ bytes }]) =>
    verifiedWalk(superblock, dataKey, segment, [bytes], aboveRunIndex),
  );
}

/** Frames that stood in segments whose heads are gone: between the end of the segment before and the head behind. */
async function missingInHoles(
  device: ReadableDevice,
  superblock: Superblock,
  dataKey: Uint8Array,
  heads: readonly Head[],
  holes: readonly number[],
): Promise<Gap[]> {
  const gaps: Gap[] = [];
  for (const place of holes) {
    const head = heads[place];
    if (head === undefined) continue;
    const before = heads[place - 1];
    const walk = before === undefined ? null : await readVerified(device, superblock, dataKey, before.segment, before.runIndex - 1);
    const from = Math.max(walk === null ? 1 : walk.nextIndex, superblock.oldestIndex);
    if (from < head.firstIndex) gaps.push({ from, to: head.firstIndex - 1 });
  }
  return gaps;
}

/** One reading, with what it says about the end of the log. */
export interface Reading extends Omit<LogFound, 'hidden'> {
  readonly decision: TailDecision;
}

export interface Tail {
  readonly heads: readonly Head[];
  readonly newest: Head | undefined;
  readonly walk: Walk | null;
}

/** The newest segment. A head that carries and is torn does not count, unless the superblock knows its run. */
export async function readTail(device: ReadableDevice, superblock: Superblock, dataKey: Uint8Array, heads: readonly Head[]): Promise<Tail> {
  const newest = heads.at(-1);
  if (newest === undefined) return { heads, newest, walk: null };
  const walk = await readVerified(device, superblock, dataKey, newest.segment, newest.runIndex - 1);
  const torn = walk.runs.length === 0 && newest.carryFrameBytes > 0 && superblock.tail.runIndex < newest.runIndex;
  return torn ? await readTail(device, superblock, dataKey, heads.slice(0, -1)) : { heads, newest, walk };
}

/** Never throws for damage. `known`: the run headers that the segments begin with, where they have just been read. */
export async function readOnce(
  device: ReadableDevice,
  superblock: Superblock,
  dataKey: Uint8Array,
  known: readonly DecodedRun[] | null = null,
): Promise<Reading> {
  const seen = (known ?? (await readHeadRuns(device, superblock))).map(headOf);
  const order = orderHeads(seen, superblock.segmentCount, superblock.oldestRun);
  const { heads, newest, walk } = await readTail(device, superblock, dataKey, order.heads);
  const lastRunIndex = walk?.runs.at(-1)?.header.runIndex ?? newest?.runIndex ?? 0;
  // The next segment may hold a run whose header was lost: then its frames must not be forgotten.
  const nextSegment = newest === undefined ? 0 : (newest.segment + 1) % superblock.segmentCount;
  const behind = nextSegment === newest?.segment ? null : await readVerified(device, superblock, dataKey, nextSegment, lastRunIndex);
  // Where the ring has been before, old bytes behind the end mean nothing.
  const usedBefore = superblock.leftovers || superblock.oldestRun > 1;
  const tornBytes =
    ((usedBefore ? walk?.markedBytes : walk?.strayBytes) ?? 0) +
    ((usedBefore || seen.some((head) => head.segment === nextSegment) ? behind?.markedBytes : behind?.strayBytes) ?? 0);
  const lastIndex = Math.max(0, (walk?.nextIndex ?? 0) - 1);
  const carried = await readCarried(device, superblock, dataKey, walk);
  const decision = decideTail({
    gaps: [
      ...(await missingInHoles(device, superblock, dataKey, heads, order.holesBefore)),
      ...(walk?.gaps ?? []),
      ...lostHeads(newest, walk, behind, lastIndex),
    ],
    lastIndex,
    started: newest !== undefined,
    lostRun: walk?.lostRun ?? behind?.lostRun ?? null,
    promisedIndex: superblock.tail.frameIndex,
    carryLost: carried === null || superblock.tail.runIndex > lastRunIndex,
    tornBytes,
  });
  const behindBytes = behind?.markedBytes ?? 0;
  return { superblock, heads, walk, carried: carried ?? { position: 0, bytes: null }, lastIndex, tornBytes, behindBytes, decision };
}

/** What the newest run carries or points to; null when it was durable and cannot be read. */
async function readCarried(
  device: ReadableDevice,
  superblock: Superblock,
  dataKey: Uint8Array,
  walk: Walk | null,
): Promise<Carried | null> {
  const newest = walk?.runs.at(-1)?.header;
  const position = newest === undefined ? superblock.carryPosition : newest.carryFrameBytes > 0 ? newest.position : newest.carryPosition;
  if (position === 0) return { position, bytes: null };
  const segment = segmentOf(superblock, position);
  if (segment < 0 || segment >= superblock.segmentCount) return null;
  const page = await readOrNull(device, position, runHeaderBytes);
  const run = page === null ? null : decodeRunHeader(page, superblock.storeId, segment, position);
  if (run === null || run.header.carryFrameBytes === 0 || openCheckpoint(dataKey, superblock, run.header, run.sealed) === null) return null;
  const frameAt = position + runHeaderBytes;
  if (frameAt + run.header.carryFrameBytes > segmentPosition(superblock, segment + 1)) return null;
  const bytes = await readOrNull(device, frameAt, run.header.carryFrameBytes);
  const header = bytes === null ? null : decodeFrameHeader(bytes, superblock.storeId, frameAt);
  if (bytes === null || header === null || header.runIndex !== run.header.runIndex) return null;
  const key = deriveKey(dataKey, run.header.salt, 'frame');
  const carried = openFrame(key, superblock, segment, header, bytes);
  key.fill(0);
  return carried === null ? null : { position, bytes: carried };
}

function lostHeads(newest: Head | undefined, walk: Walk | null, behind: Walk | null, lastIndex: number): Gap[] {
  const gaps: Gap[] = [];
  // The head has a right checksum but was not sealed with our key: its first frame at least is lost.
  if (newest !== undefined && walk?.runs.length === 0) gaps.push({ from: newest.firstIndex, to: newest.firstIndex });
  // A later run of the next segment is there, so that segment's head was durable once.
  const later = behind?.runs[0];
  if (later !== undefined) gaps.push({ from: lastIndex + 1, to: Math.max(lastIndex + 1, later.header.firstIndex - 1) });
  return gaps;
}

export function damaged(found: Damage): UkeyError {
  const damage = { ...found, missing: joinGaps(found.missing) };
  const frames = damage.missing.length > 0 ? `frames ${nameFrames(damage.missing)}` : '';
  const what = [frames, damage.carryLost ? 'carried bytes' : ''].filter((part) => part !== '').join(' and ');
  return new UkeyError('halted', `the store is damaged: ${what} were durable and cannot be read`, { cause: damage });
}

/** What is known of a log before it is read: what its segments begin with (not there: nothing sure), a frame that it holds, where it ends. */
export interface Known {
  readonly headRuns?: readonly DecodedRun[] | null;
  readonly lastIndex?: number;
  readonly end?: KnownEnd | null;
}

/**
 * Reads where the log ends. Throws `busy` where something that cannot be read may stand behind it, `halted` naming the frames (damageOf) when something that was
 * durable is not there any more.
 */
export async function readLog(
  device: Device,
  superblock: Superblock,
  dataKey: Uint8Array,
  { headRuns = null, lastIndex: lastIndexMin = 0, end = null }: Known = {},
): Promise<LogFound> {
  let damage: Damage = { kind: 'damage', missing: [], carryLost: false };
  let current = superblock;
  for (let reading = 0; reading < tailReadings; reading += 1) {
    // The writer beside this reader may have freed segments meanwhile.
    if (reading > 0 && device.readOnly) current = (await readSuperblock(device, dataKey)).superblock;
    const counted = new CountedReads(device);
    const found = await readOnce(counted, current, dataKey, reading === 0 ? headRuns : null);
    // What cannot be read passes for blank: an end of the log is believed when it was read whole, or could not be again and again.
    const isSure = counted.failures === 0 || reading === tailReadings - 1;
    if (!isSure) await pause(unsurePauseMs);
    switch (found.decision.kind) {
      case 'empty':
      case 'tail':
        if (found.lastIndex < lastIndexMin)
          damage = { kind: 'damage', missing: [{ from: found.lastIndex + 1, to: lastIndexMin }], carryLost: false };
        else if (isSure) return { ...found, hidden: hiddenBehind(found, counted, end) };
        break;
      case 'damage':
        damage = found.decision;
        break;
      default:
        return unreachable(found.decision);
    }
  }
  throw damaged(damage);
}
