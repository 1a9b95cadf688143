// Owns: the block store's front: formatting a device, reading what needs no key, and opening the log (StoreLog of store.ts).
// Invariants: opening never formats; a writable open raises the mount epoch in all four superblock copies before it returns,
// a read-only open writes nothing at all. The data key is copied here, and the copy is overwritten at close.
// After openLog has thrown the device is still the caller's to close. Layout: FORMAT.md. Must not: know what a payload means.
import { randomBytes as cryptoRandomBytes } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type {
  AppendOptions,
  CheckOptions,
  CheckReport,
  FormatOptions,
  Frame,
  Inspect,
  KnownEnd,
  MirrorMode,
  Mounted,
  PackedFrame,
  SliceReport,
  StoreHeader,
  StoreLog,
  StoreUsage,
} from '#store/store.ts';
import { checkSegments, checkSlice, healOne } from './check.ts';
import { openCheckpoint, sealIdentity } from './cipher.ts';
import { type Checkpoint, tailOf, type WriteCursor } from './cursor.ts';
import { blankHead, isAreaBlank } from './erase.ts';
import {
  dataKeyBytes,
  defaultSegmentBytesFor,
  idBytes,
  logStartBytes,
  reserveSegmentsFor,
  saltBytes,
  segmentCountFor,
  segmentPosition,
  tagBytes,
} from './format.ts';
import { giveUpPages } from './hidden-end.ts';
import { joinMirror } from './join.ts';
import { SuperblockKeeper, superblockWriteBytes, writeSuperblock } from './keeper.ts';
import { mendFrames } from './mend.ts';
import { MirroredDevice } from './mirror.ts';
import { chooseSuperblock, endOf, headerOf, identityOf, judgeCopies, type LogFound, readCopies, readLog, readSuperblock } from './mount.ts';
import { Reader, unpackedFrames } from './reader.ts';
import { withoutStrays } from './recover.ts';
import { identityMaxBytes, isGeometry, type Superblock } from './superblock.ts';
import { type RandomBytes, Writer } from './writer.ts';

/**
 * Makes an empty store. Throws `halted` when the first 4 MiB are not blank and `erase` is not set (nothing is written
 * then), or when the device is too small; `too-large` for identity or slots. `randomBytes` is a parameter for test vectors.
 */
export async function formatStore(device: Device, options: FormatOptions, randomBytes: RandomBytes = cryptoRandomBytes): Promise<void> {
  const { storeId, tokenKeyId, dataKey, identity } = options;
  if (storeId.length !== idBytes || tokenKeyId.length !== idBytes || dataKey.length !== dataKeyBytes) {
    throw new UkeyError('internal', 'ids of a store have 16 bytes, its data key 32');
  }
  if (identity.length > identityMaxBytes) throw new UkeyError('too-large', `the identity has ${identity.length} bytes`);
  const { sizeBytes, sectorBytes } = device;
  const segmentBytes = options.segmentBytes ?? defaultSegmentBytesFor(sizeBytes);
  const geometry = { sectorBytes, segmentBytes, segmentCount: segmentCountFor(sizeBytes, segmentBytes) };
  if (!isGeometry(geometry, sizeBytes))
    throw new UkeyError('halted', `${sizeBytes} bytes do not make a store with segments of ${segmentBytes}`);
  const blank = await isAreaBlank(device, 0, logStartBytes);
  if (!blank && !options.erase) throw new UkeyError('halted', `${device.path} is not blank: formatting would destroy what is on it`);
  const leftovers = !blank || !(await isAreaBlank(device, logStartBytes, logStartBytes + segmentBytes));
  if (!blank) await blankHead(device);
  const identitySalt = Uint8Array.from(randomBytes(saltBytes));
  const superblock: Superblock = {
    ...geometry,
    sizeBytes,
    storeId,
    tokenKeyId,
    sealedFor: tokenKeyId,
    leftovers,
    mirrorMayLag: false,
    updateCounter: 1,
    mountEpoch: 0,
    tail: { runIndex: 0, segment: 0, frameIndex: 0, frameTag: new Uint8Array(tagBytes) },
    oldestRun: 1,
    oldestIndex: 1,
    carryPosition: 0,
    lifeBytes: superblockWriteBytes,
    identitySalt,
    slots: options.slots,
    identitySealed: sealIdentity(dataKey, identitySalt, { storeId, sealedFor: tokenKeyId }, identity),
  };
  await writeSuperblock(device, superblock, dataKey);
}

/**
 * What needs no key; null when the device is blank. Where all copies of the FLASH rotted, those of the mirror tell. `tokenKeyId`: a stray copy of
 * another store does not hide the store of this token. Throws `halted`: foreign, newer format, damaged, other device.
 */
export async function readStoreHeader(
  device: Device,
  mirror: Device | null = null,
  tokenKeyId: Uint8Array | null = null,
): Promise<StoreHeader | null> {
  const copies = withoutStrays(await readCopies(device), tokenKeyId);
  const isRotten = judgeCopies(copies, null).kind === 'damage' && !copies.some((copy) => copy.kind === 'valid');
  const found =
    isRotten && mirror !== null
      ? chooseSuperblock(mirror, withoutStrays(await readCopies(mirror), tokenKeyId), null)
      : chooseSuperblock(device, copies, null);
  return found === null ? null : headerOf(found.superblock);
}

function cursorOf(superblock: Superblock, found: LogFound): WriteCursor {
  const { walk, carried } = found;
  const run = walk?.runs.at(-1);
  const rest = { carryPosition: carried.position, lifeBytes: superblock.lifeBytes };
  if (walk === null || run === undefined) {
    return {
      ...rest,
      segment: -1,
      offset: 0,
      nextIndex: 1,
      lastTag: new Uint8Array(tagBytes),
      runIndex: 0,
      runPosition: 0,
      endPosition: 0,
    };
  }
  const { segment, runIndex, position, previousEndPosition, lifeBytes } = run.header;
  const last = walk.frames.at(-1);
  const base = segmentPosition(superblock, segment);
  return {
    ...rest,
    segment,
    offset: walk.endOffset,
    nextIndex: walk.nextIndex,
    lastTag: Uint8Array.from(walk.lastTag ?? new Uint8Array(tagBytes)),
    runIndex,
    runPosition: position,
    endPosition: last === undefined ? previousEndPosition : base + last.offset + last.frameBytes,
    lifeBytes: Math.max(superblock.lifeBytes, lifeBytes + base + walk.endOffset - position),
  };
}

function checkpointOf(superblock: Superblock, found: LogFound, dataKey: Uint8Array): Checkpoint {
  const run = found.walk?.runs.at(-1);
  if (run === undefined) return { bytes: new Uint8Array(0), index: 0 };
  const bytes = openCheckpoint(dataKey, superblock, run.header, run.sealed);
  if (bytes === null) throw new UkeyError('halted', `the checkpoint before frame ${run.header.firstIndex} is damaged`);
  return { bytes, index: run.header.checkpointIndex };
}

interface LogParts {
  readonly device: Device;
  readonly keeper: SuperblockKeeper;
  readonly dataKey: Buffer;
  readonly mirrored: MirroredDevice | null;
  readonly mounted: Mounted;
  readonly reader: Reader;
  readonly writer: Writer;
  readonly note: NonNullable<OpenOptions['note']>;
}

class BlockLog implements StoreLog {
  readonly header: StoreHeader;
  readonly mounted: Mounted;
  readonly #parts: LogParts;
  #closing: Promise<void> | null = null;

  constructor(parts: LogParts) {
    this.#parts = parts;
    this.header = headerOf(parts.keeper.current);
    this.mounted = parts.mounted;
  }

  async append(payload: Uint8Array, checkpoint: Uint8Array, options: AppendOptions = {}): Promise<number> {
    this.#refuseToWrite();
    return await this.#parts.writer.append(payload, checkpoint, options.reserved ?? false);
  }

  async carry(bytes: Uint8Array): Promise<void> {
    this.#refuseToWrite();
    await this.#parts.writer.carry(bytes);
  }

  async release(upToIndex: number): Promise<number> {
    this.#refuseToWrite();
    return await this.#parts.writer.release(upToIndex);
  }

  async read(fromIndex: number, maxBytes: number): Promise<Frame[]> {
    return unpackedFrames(await this.readPacked(fromIndex, maxBytes));
  }

  async readPacked(fromIndex: number, maxBytes: number): Promise<PackedFrame[]> {
    this.#refuseIfClosed();
    if (this.#parts.writer.failed !== null) {
      throw new UkeyError('unknown-outcome', 'a write failed: the store must be opened again', { cause: this.#parts.writer.failed });
    }
    return await this.#parts.reader.readPacked(fromIndex, maxBytes);
  }

  async check(options: CheckOptions): Promise<CheckReport> {
    this.#refuseIfClosed();
    if (options.heal) this.#refuseToWrite();
    return await checkSegments(this.#parts, options);
  }

  async checkSlice(fromRun: number, heal: boolean): Promise<SliceReport> {
    this.#refuseIfClosed();
    if (heal) this.#refuseToWrite();
    return await checkSlice(this.#parts, fromRun, heal);
  }

  async mend(frames: readonly Frame[]): Promise<readonly number[]> {
    this.#refuseToWrite();
    return await mendFrames(this.#parts, frames);
  }

  hasRoomFor(payloadBytes: number, options: AppendOptions = {}): boolean {
    if (this.#closing !== null || this.#parts.device.readOnly) return false;
    return this.#parts.writer.hasRoomFor(payloadBytes, options.reserved ?? false);
  }

  usage(): StoreUsage {
    const { keeper, reader, writer, mirrored } = this.#parts;
    const { sizeBytes, segmentBytes, segmentCount } = keeper.current;
    const { segment, offset, lifeBytes } = writer.durable;
    const capacityBytes = (segmentCount - reserveSegmentsFor(segmentCount)) * segmentBytes;
    return {
      sizeBytes,
      usedBytes: logStartBytes + Math.max(0, reader.segments - 1) * segmentBytes + (segment < 0 ? 0 : offset),
      capacityBytes,
      freeBytes: writer.freeBytes,
      percentUsed: Math.ceil((100 * (capacityBytes - writer.freeBytes)) / capacityBytes),
      bytesWritten: lifeBytes,
      segments: segmentCount,
      freeSegments: writer.freeSegments,
      oldestIndex: reader.oldestIndex,
      mirror: mirrored === null ? null : { mode: mirrored.mode, behindBytes: mirrored.behindBytes, failed: mirrored.failure !== null },
    };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #refuseIfClosed(): void {
    if (this.#closing !== null) throw new UkeyError('halted', 'the store is closed');
  }

  #refuseToWrite(): void {
    this.#refuseIfClosed();
    if (this.#parts.device.readOnly) throw new UkeyError('halted', 'the store was opened for reading only');
  }

  async #close(): Promise<void> {
    const { device, keeper, dataKey, writer } = this.#parts;
    try {
      await writer.drain();
      // The superblock vouches for the last run and frame of a clean close: should they rot, they will not pass as a torn tail.
      const { tail } = keeper.current;
      const isNews = writer.durable.runIndex > tail.runIndex || writer.durable.nextIndex > tail.frameIndex + 1;
      if (!device.readOnly && writer.failed === null && isNews) await keeper.write(stateOf(writer.durable));
    } finally {
      writer.wipe();
      dataKey.fill(0);
      await device.close();
    }
  }
}

/** What the superblock says about the end of the log, with the bytes of its own writing. */
const stateOf = (cursor: WriteCursor): Pick<Superblock, 'tail' | 'carryPosition' | 'lifeBytes'> => ({
  tail: tailOf(cursor),
  carryPosition: cursor.carryPosition,
  lifeBytes: cursor.lifeBytes + superblockWriteBytes,
});

export interface OpenOptions {
  /**
   * The second copy and how closely it follows; it is healed at opening, or made. Whatever its mode was, it belongs to the log from here on, which
   * closes it. Not used when reading only.
   */
  readonly mirror?: {
    readonly device: Device;
    readonly mode: MirrorMode;
    /** Told while it is brought up: a mirror that is made anew takes as long as reading the FLASH. */
    readonly onProgress?: (done: number, segments: number) => void;
  };
  /** Not asked when reading only: nothing is written then. */
  readonly inspect?: Inspect;
  /** Told while it is open of what could not be put right, and goes on. */
  readonly note?: (what: string, error: unknown) => void;
  /** A parameter for test vectors. */
  readonly randomBytes?: RandomBytes;
  /** The mount epoch is at least this afterwards: for a store that was brought up to what another opening had written. */
  readonly epochMin?: number;
  /** Where the log is known to end: what hides behind is given up. */
  readonly end?: KnownEnd | null;
}

/**
 * Opens the log. Throws `halted`: blank, foreign, newer format, wrong data key, FLASH and mirror that have parted, or damage with the frames
 * named (damageOf); the devices stay open then. `dataKey` is copied; the caller wipes its own.
 */
export async function openLog(flash: Device, dataKey: Uint8Array, options: OpenOptions = {}): Promise<StoreLog> {
  const { randomBytes = cryptoRandomBytes, mirror, inspect, end: known = null, note = () => undefined } = options;
  const key = Buffer.from(dataKey);
  try {
    const joined =
      mirror === undefined || flash.readOnly
        ? null
        : await joinMirror(flash, mirror.device, key, { onProgress: mirror.onProgress, mode: mirror.mode, inspect, end: known });
    const superblock = joined?.superblock ?? (await readSuperblock(flash, key)).superblock;
    const end = joined?.isWitnessed === true ? { givenUpBehind: joined.lastIndex } : known;
    const found = await readLog(flash, superblock, key, { ...joined, end });
    const before = found.superblock;
    if (joined === null && !flash.readOnly) await inspect?.(endOf(before, found.lastIndex));
    const mirrored = mirror === undefined || flash.readOnly ? null : new MirroredDevice(flash, mirror.device, mirror.mode);
    const device = mirrored ?? flash;
    if (!device.readOnly) await giveUpPages(device, found.hidden);
    const keeper = new SuperblockKeeper(device, before, key);
    const cursor = cursorOf(before, found);
    const checkpoint = checkpointOf(before, found, key);
    // Durable afterwards, before any append: the new epoch and the tail that this mount starts from. Also repairs stale copies.
    const mountEpoch = Math.max(before.mountEpoch + 1, options.epochMin ?? 0);
    const mirrorMayLag = mirrored?.mode === 'async';
    if (!device.readOnly) await keeper.write({ ...stateOf(cursor), mountEpoch, mirrorMayLag });
    const mounted: Mounted = {
      identity: identityOf(before, key),
      checkpoint: checkpoint.index === 0 ? null : checkpoint.bytes,
      checkpointIndex: Math.max(1, checkpoint.index),
      oldestIndex: before.oldestIndex,
      nextIndex: found.lastIndex + 1,
      carried: found.carried.bytes,
      tornBytes: found.tornBytes,
      mountEpoch: keeper.current.mountEpoch,
      isEndHidden: found.hidden.length > 0,
      mirror: joined?.report ?? null,
    };
    const parts = { device, keeper, dataKey: key, mirrored, note };
    const reader = new Reader({
      device,
      superblock: before,
      dataKey: key,
      heads: found.heads,
      newestFrames: found.walk?.frames ?? [],
      nextIndex: mounted.nextIndex,
      oldestIndex: before.oldestIndex,
      heal: async (head) => {
        if (mirrored !== null) return await healOne({ ...parts, mirrored, reader, writer }, head);
        // Beside a writer: it may have released what was looked for.
        if (flash.readOnly) reader.forget((await readSuperblock(flash, key)).superblock.oldestIndex, []);
        return null;
      },
    });
    const writer: Writer = new Writer({
      ...parts,
      cursor: device.readOnly ? cursor : { ...cursor, lifeBytes: keeper.current.lifeBytes },
      segments: found.heads,
      checkpoint,
      carried: found.carried.bytes,
      randomBytes,
      onDurable: (run, frame) => reader.add(run, frame),
      onForget: (oldestIndex, segments) => reader.forget(oldestIndex, segments),
    });
    return new BlockLog({ ...parts, mounted, reader, writer });
  } catch (thrown) {
    key.fill(0);
    throw thrown;
  }
}
