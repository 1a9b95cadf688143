// Owns: the block store's front: formatting a device, reading what needs no key, and opening the log (StoreLog of store.ts).
// Invariants: opening never formats; a writable open raises the mount epoch in all four superblock copies before it returns,
// a read-only open writes nothing at all. The data key is copied here, and the copy is overwritten at close.
// After openLog has thrown the device is still the caller's to close. Layout: FORMAT.md. Must not: know what a payload means.
import { randomBytes as cryptoRandomBytes } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { FormatOptions, Frame, Mounted, StoreHeader, StoreLog, StoreUsage } from '#store/store.ts';
import { openCheckpoint, sealIdentity } from './cipher.ts';
import {
  copyCount,
  copyStrideBytes,
  dataKeyBytes,
  defaultSegmentBytesFor,
  idBytes,
  isBlank,
  logStartBytes,
  saltBytes,
  segmentCountFor,
  segmentPosition,
  tagBytes,
} from './format.ts';
import { chooseSuperblock, headerOf, identityOf, type LogFound, readCopies, readLog, readSuperblock, superblockKey } from './mount.ts';
import { Reader } from './reader.ts';
import { encodeSuperblock, identityMaxBytes, isGeometry, type Superblock } from './superblock.ts';
import { type RandomBytes, type WriteCursor, Writer } from './writer.ts';

/** Copies 0 and 1 are durable before 2 and 3 are touched: at any instant two equal whole copies exist. */
async function writeSuperblock(device: Device, superblock: Superblock, dataKey: Uint8Array): Promise<number> {
  const macKey = superblockKey(dataKey, superblock.storeId);
  const bytes = encodeSuperblock(superblock, macKey);
  macKey.fill(0);
  if (bytes === null) throw new UkeyError('too-large', 'the key slots do not fit the superblock');
  for (let copy = 0; copy < copyCount; copy += 1) await device.writeAndSync(copy * copyStrideBytes, bytes);
  return bytes.length * copyCount;
}

async function isAreaBlank(device: Device, fromBytes: number, toBytes: number): Promise<boolean> {
  for (let at = fromBytes; at < toBytes; at += copyStrideBytes) {
    if (!isBlank(await device.read(at, Math.min(copyStrideBytes, toBytes - at)))) return false;
  }
  return true;
}

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
  if (!blank) {
    // A crash in here leaves no store or the old one: copies of two stores never stand side by side.
    for (let at = 0; at < logStartBytes; at += copyStrideBytes) await device.writeAndSync(at, Buffer.alloc(copyStrideBytes));
  }
  const identitySalt = Uint8Array.from(randomBytes(saltBytes));
  const superblock: Superblock = {
    ...geometry,
    sizeBytes,
    storeId,
    tokenKeyId,
    leftovers,
    updateCounter: 1,
    mountEpoch: 0,
    tail: { runIndex: 0, segment: 0, frameIndex: 0, frameTag: new Uint8Array(tagBytes) },
    identitySalt,
    slots: options.slots,
    identitySealed: sealIdentity(dataKey, identitySalt, options, identity),
  };
  await writeSuperblock(device, superblock, dataKey);
}

/** What needs no key; null when the device is blank. Throws `halted`: foreign, newer format, damaged, other device. */
export async function readStoreHeader(device: Device): Promise<StoreHeader | null> {
  const found = chooseSuperblock(device, await readCopies(device), null);
  return found === null ? null : headerOf(found.superblock);
}

function cursorOf(superblock: Superblock, found: LogFound): WriteCursor {
  const { walk } = found;
  const run = walk?.runs.at(-1);
  if (walk === null || run === undefined) {
    return { segment: -1, offset: 0, nextIndex: 1, lastTag: new Uint8Array(tagBytes), runIndex: 0, runPosition: 0, endPosition: 0 };
  }
  const { segment, runIndex, position, previousEndPosition } = run.header;
  const last = walk.frames.at(-1);
  const base = segmentPosition(superblock, segment);
  return {
    segment,
    offset: walk.endOffset,
    nextIndex: walk.nextIndex,
    lastTag: Uint8Array.from(walk.lastTag ?? new Uint8Array(tagBytes)),
    runIndex,
    runPosition: position,
    endPosition: last === undefined ? previousEndPosition : base + last.offset + last.frameBytes,
  };
}

function mountedOf(superblock: Superblock, found: LogFound, dataKey: Uint8Array): Mounted {
  const run = found.walk?.runs.at(-1);
  const checkpoint = run === undefined ? null : openCheckpoint(dataKey, superblock, run.header, run.sealed);
  if (run !== undefined && checkpoint === null)
    throw new UkeyError('halted', `the checkpoint before frame ${run.header.firstIndex} is damaged`);
  return {
    identity: identityOf(superblock, dataKey),
    checkpoint,
    checkpointIndex: run?.header.firstIndex ?? 1,
    nextIndex: found.lastIndex + 1,
    tornBytes: found.tornBytes,
    mountEpoch: superblock.mountEpoch,
  };
}

interface LogParts {
  readonly device: Device;
  readonly superblock: Superblock;
  readonly dataKey: Buffer;
  readonly mounted: Mounted;
  readonly reader: Reader;
  readonly writer: Writer;
  readonly bytesWritten: number;
}

class BlockLog implements StoreLog {
  readonly header: StoreHeader;
  readonly mounted: Mounted;
  readonly #parts: LogParts;
  #closing: Promise<void> | null = null;

  constructor(parts: LogParts) {
    this.#parts = parts;
    this.header = headerOf(parts.superblock);
    this.mounted = parts.mounted;
  }

  async append(payload: Uint8Array, checkpoint: Uint8Array): Promise<number> {
    this.#refuseIfClosed();
    if (this.#parts.device.readOnly) throw new UkeyError('halted', 'the store was opened for reading only');
    return await this.#parts.writer.append(payload, checkpoint);
  }

  async read(fromIndex: number, maxBytes: number): Promise<Frame[]> {
    this.#refuseIfClosed();
    if (this.#parts.writer.failed !== null) {
      throw new UkeyError('unknown-outcome', 'a write failed: the store must be opened again', { cause: this.#parts.writer.failed });
    }
    return await this.#parts.reader.read(fromIndex, maxBytes);
  }

  hasRoomFor(payloadBytes: number): boolean {
    return this.#closing === null && !this.#parts.device.readOnly && this.#parts.writer.hasRoomFor(payloadBytes);
  }

  usage(): StoreUsage {
    const { superblock, reader, writer, bytesWritten } = this.#parts;
    const { segment, offset } = writer.durable;
    return {
      sizeBytes: superblock.sizeBytes,
      usedBytes: logStartBytes + Math.max(0, reader.segments - 1) * superblock.segmentBytes + (segment < 0 ? 0 : offset),
      bytesWritten: bytesWritten + writer.bytesWritten,
      segments: superblock.segmentCount,
      freeSegments: superblock.segmentCount - reader.segments,
    };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #refuseIfClosed(): void {
    if (this.#closing !== null) throw new UkeyError('halted', 'the store is closed');
  }

  async #close(): Promise<void> {
    const { device, superblock, dataKey, writer } = this.#parts;
    try {
      await writer.drain();
      // The superblock vouches for the last frame of a clean close: should it rot, it will not pass as a torn tail.
      if (writer.failed === null && writer.durable.nextIndex > this.mounted.nextIndex) {
        await writeSuperblock(
          device,
          { ...superblock, updateCounter: superblock.updateCounter + 1, tail: tailOf(writer.durable) },
          dataKey,
        );
      }
    } finally {
      writer.wipe();
      dataKey.fill(0);
      await device.close();
    }
  }
}

const tailOf = (cursor: WriteCursor): Superblock['tail'] => ({
  runIndex: cursor.runIndex,
  segment: Math.max(0, cursor.segment),
  frameIndex: cursor.nextIndex - 1,
  frameTag: cursor.lastTag,
});

/**
 * Opens the log. Throws `halted`: blank, foreign, newer format, wrong data key, or damage with the frames named; the device
 * stays open then. `dataKey` is copied; the caller wipes its own. `randomBytes` is a parameter for test vectors.
 */
export async function openLog(device: Device, dataKey: Uint8Array, randomBytes: RandomBytes = cryptoRandomBytes): Promise<StoreLog> {
  const key = Buffer.from(dataKey);
  try {
    const before = (await readSuperblock(device, key)).superblock;
    const found = await readLog(device, before, key);
    const cursor = cursorOf(before, found);
    const superblock: Superblock = device.readOnly
      ? before
      : { ...before, updateCounter: before.updateCounter + 1, mountEpoch: before.mountEpoch + 1, tail: tailOf(cursor) };
    const mounted = mountedOf(superblock, found, key);
    // Durable afterwards, before any append: the new epoch and the tail that this mount starts from. Also repairs stale copies.
    const bytesWritten = device.readOnly ? 0 : await writeSuperblock(device, superblock, key);
    const parts = { device, superblock, dataKey: key };
    const reader = new Reader({ ...parts, heads: found.heads, newestFrames: found.walk?.frames ?? [], nextIndex: mounted.nextIndex });
    const writer = new Writer(
      { ...parts, cursor, randomBytes, onDurable: (frame) => reader.add(frame) },
      found.walk?.runs.at(-1)?.header.oldestIndex ?? 1,
    );
    return new BlockLog({ ...parts, mounted, reader, writer, bytesWritten });
  } catch (thrown) {
    key.fill(0);
    throw thrown;
  }
}
