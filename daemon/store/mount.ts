// Owns: reading a store from a device up to the point where its state is known: superblocks, segment heads, the newest segment.
// Invariants: mounting reads four superblocks, one page per segment and two segments, however many frames there are; it writes
// nothing (log.ts does, afterwards). Damage is believed only when it is read again and again: another process may be appending meanwhile.
// Errors are UkeyError `halted`, with the frames named. Must not: append, repair, or keep the data key.
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { StoreHeader } from '#store/store.ts';
import { deriveKey, isFrameWhole, openCheckpoint, openIdentity } from './cipher.ts';
import {
  copyCount,
  copyStrideBytes,
  decodeRunHeader,
  formatVersion,
  idBytes,
  pageBytes,
  type RunHeader,
  roundUp,
  runHeaderBytes,
  segmentPosition,
} from './format.ts';
import { chooseCopy, decideTail, type Head, nameFrames, orderHeads, type TailDecision } from './recover.ts';
import { type CopyState, decodeSuperblock, isAuthentic, type Superblock, superblockBytes } from './superblock.ts';
import { type Gap, type Walk, walkSegment } from './walk.ts';

/** Readings of the tail before damage is believed. A reader beside a busy writer needs a second one now and then. */
const tailReadings = 6;

export interface SuperblockFound {
  readonly superblock: Superblock;
  readonly stale: readonly number[];
}

export interface LogFound {
  /** Oldest first. */
  readonly heads: readonly Head[];
  /** The newest segment's content; null while the log is empty. */
  readonly walk: Walk | null;
  readonly lastIndex: number;
  readonly tornBytes: number;
}

export async function readCopies(device: Device): Promise<CopyState[]> {
  const copies: CopyState[] = [];
  for (let copy = 0; copy < copyCount; copy += 1) copies.push(decodeSuperblock(await device.read(copy * copyStrideBytes, superblockBytes)));
  return copies;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Chooses among the copies; with a key, copies that it did not write count as damaged. Null when the device is blank. */
export function chooseSuperblock(device: Device, copies: readonly CopyState[], macKey: Uint8Array | null): SuperblockFound | null {
  const trusted = copies.map((copy): CopyState => {
    return copy.kind !== 'valid' || macKey === null || isAuthentic(copy.bytes, macKey) ? copy : { kind: 'damaged' };
  });
  const choice = chooseCopy(trusted);
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

function checkDevice(device: Device, superblock: Superblock): void {
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

/** As chooseSuperblock, with the data key; never null. */
export async function readSuperblock(device: Device, dataKey: Uint8Array): Promise<SuperblockFound> {
  const copies = await readCopies(device);
  const anyValid = copies.find((copy) => copy.kind === 'valid');
  const macKey = superblockKey(dataKey, anyValid?.superblock.storeId ?? new Uint8Array(idBytes));
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

export function identityOf(superblock: Superblock, dataKey: Uint8Array): Uint8Array {
  const identity = openIdentity(dataKey, superblock.identitySalt, superblock, superblock.identitySealed);
  if (identity === null) throw new UkeyError('halted', 'the identity beside the superblock is damaged');
  return identity;
}

async function readHeads(device: Device, superblock: Superblock): Promise<Head[]> {
  const heads: Head[] = [];
  for (let segment = 0; segment < superblock.segmentCount; segment += 1) {
    const position = segmentPosition(superblock, segment);
    const run = decodeRunHeader(await device.read(position, runHeaderBytes), superblock.storeId, segment, position);
    if (run === null) continue;
    const { runIndex, firstIndex, oldestIndex } = run.header;
    heads.push({ segment, runIndex, firstIndex, oldestIndex });
  }
  return heads;
}

async function readVerified(
  device: Device,
  superblock: Superblock,
  dataKey: Uint8Array,
  segment: number,
  aboveRunIndex: number,
): Promise<Walk> {
  const keys = new Map<number, Buffer>();
  const keyOf = (run: RunHeader): Buffer => {
    const key = keys.get(run.runIndex) ?? deriveKey(dataKey, run.salt, 'frame');
    keys.set(run.runIndex, key);
    return key;
  };
  const walk = walkSegment({
    bytes: await device.read(segmentPosition(superblock, segment), superblock.segmentBytes),
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

/** Frames that stood in segments whose heads are gone: between the end of the segment before and the head behind. */
async function missingInHoles(
  device: Device,
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
    const from = walk === null ? head.oldestIndex : walk.nextIndex;
    if (from < head.firstIndex) gaps.push({ from, to: head.firstIndex - 1 });
  }
  return gaps;
}

interface Reading extends LogFound {
  readonly decision: TailDecision;
}

async function readOnce(device: Device, superblock: Superblock, dataKey: Uint8Array): Promise<Reading> {
  const { heads, holesBefore } = orderHeads(await readHeads(device, superblock), superblock.segmentCount);
  const newest = heads.at(-1);
  const walk = newest === undefined ? null : await readVerified(device, superblock, dataKey, newest.segment, newest.runIndex - 1);
  const lastRunIndex = walk?.runs.at(-1)?.header.runIndex ?? newest?.runIndex ?? 0;
  // The next segment may hold a run whose header was lost: then its frames must not be forgotten.
  const nextSegment = newest === undefined ? 0 : (newest.segment + 1) % superblock.segmentCount;
  const behind = nextSegment === newest?.segment ? null : await readVerified(device, superblock, dataKey, nextSegment, lastRunIndex);
  const stray = (one: Walk | null): number => (superblock.leftovers ? one?.markedBytes : one?.strayBytes) ?? 0;
  const tornBytes = stray(walk) + stray(behind);
  const lastIndex = Math.max(0, (walk?.nextIndex ?? 0) - 1);
  const decision = decideTail({
    gaps: [
      ...(await missingInHoles(device, superblock, dataKey, heads, holesBefore)),
      ...(walk?.gaps ?? []),
      ...lostHeads(newest, walk, behind, lastIndex),
    ],
    lastIndex,
    started: newest !== undefined,
    lostRun: walk?.lostRun ?? behind?.lostRun ?? null,
    promisedIndex: superblock.tail.frameIndex,
    tornBytes,
  });
  return { heads, walk, lastIndex, tornBytes, decision };
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

/** Reads where the log ends. Throws `halted` naming the frames when something that was durable is not there any more. */
export async function readLog(device: Device, superblock: Superblock, dataKey: Uint8Array): Promise<LogFound> {
  let missing: readonly Gap[] = [];
  for (let reading = 0; reading < tailReadings; reading += 1) {
    const found = await readOnce(device, superblock, dataKey);
    switch (found.decision.kind) {
      case 'empty':
      case 'tail':
        return found;
      case 'damage':
        missing = found.decision.missing;
        break;
      default:
        return unreachable(found.decision);
    }
  }
  throw new UkeyError('halted', `the store is damaged: frames ${nameFrames(missing)} were durable and cannot be read`);
}

/** Where the next run may start in a segment: a fresh page behind everything durable. */
export const nextRunOffset = (endOffset: number): number => roundUp(endOffset, pageBytes);
