// Owns: the byte layout of the log: geometry, run header, frame header (FORMAT.md §2, §4, §5). Superblocks: superblock.ts.
// Invariants: all integers are unsigned and big-endian; encode and decode stand side by side; decode answers null for
// everything that is not exactly what encode would have written (a scan meets strange bytes all the time: no exceptions).
// Must not: do I/O, know keys, or decide what a broken place means (recover.ts does).
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';

export const formatVersion = 1;
/** A run starts on a fresh page; nothing older shares it. */
export const pageBytes = 4096;
export const copyCount = 4;
export const copyStrideBytes = 1024 * 1024;
export const logStartBytes = copyCount * copyStrideBytes;
export const idBytes = 16;
export const dataKeyBytes = 32;
export const saltBytes = 32;
export const tagBytes = 16;
export const minSegmentBytes = 64 * 1024;
export const maxSegmentBytes = 64 * 1024 * 1024;
const defaultSegmentBytes = 1024 * 1024;
const largestDefaultSegmentBytes = 16 * 1024 * 1024;
/** Mounting reads one page of each segment: their number is what bounds its time. */
const wantedSegments = 4096;

export const runHeaderBytes = pageBytes;
export const frameHeaderBytes = 80;
const minSectorBytes = 512;
const runFixedBytes = 176;
const runChecksumBytes = 32;
/** State that a run begins with; sealed in the run header. */
export const checkpointMaxBytes = 3840;

const runMagic = Buffer.from('ukeydrun', 'ascii');
const frameMagic = Buffer.from('UKFR', 'ascii');

/** Where things are on one device. */
export interface Geometry {
  readonly sectorBytes: number;
  readonly segmentBytes: number;
  readonly segmentCount: number;
}

export function defaultSegmentBytesFor(sizeBytes: number): number {
  let segmentBytes = defaultSegmentBytes;
  while (segmentBytes < largestDefaultSegmentBytes && sizeBytes / segmentBytes > wantedSegments) segmentBytes *= 2;
  return segmentBytes;
}

export const segmentCountFor = (sizeBytes: number, segmentBytes: number): number =>
  Math.max(0, Math.floor((sizeBytes - logStartBytes) / segmentBytes));

export const segmentPosition = (geometry: Geometry, segment: number): number => logStartBytes + segment * geometry.segmentBytes;

export const segmentOf = (geometry: Geometry, position: number): number => Math.floor((position - logStartBytes) / geometry.segmentBytes);

export const roundUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit;

/** Largest payload of one frame: with its run header it fills a segment, even where zstd does not shrink it. */
export const maxPayloadBytes = (segmentBytes: number): number => segmentBytes - runHeaderBytes - frameHeaderBytes - tagBytes;

/** Most that can be carried forward: charter, templates, totals. */
const carryMaxBytes = 256 * 1024;
export const carryMaxBytesFor = (segmentBytes: number): number => Math.min(carryMaxBytes, maxPayloadBytes(segmentBytes));

/**
 * Segments that plain appends leave free: one for a batch of the largest size with its voids, one for acks and other small
 * entries, one for moving what is carried. Small stores keep a quarter, of less than four segments nothing.
 */
const reserveSegmentsMax = 3;
const segmentsPerReserve = 4;
export const reserveSegmentsFor = (segmentCount: number): number =>
  Math.min(reserveSegmentsMax, Math.floor(segmentCount / segmentsPerReserve));
/** Appends that may use the reserve leave this much of it: without it nothing could be carried, so nothing be freed. */
export const carryReserveSegmentsFor = (segmentCount: number): number => Math.min(1, reserveSegmentsFor(segmentCount));

/** Bytes of a frame on the device: header, ciphertext, tag, zeros up to the sector. */
export const frameBytesFor = (sealedBytes: number, sectorBytes: number): number =>
  roundUp(frameHeaderBytes + sealedBytes + tagBytes, sectorBytes);

/** Views bytes without copying. */
export const view = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Reads a u64; null when it is not a safe integer (nothing that we write is larger). */
export function safeU64(bytes: Buffer, at: number): number | null {
  const value = bytes.readBigUInt64BE(at);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : null;
}

export const sha256 = (...parts: readonly Uint8Array[]): Buffer => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
};

export function isBlank(bytes: Uint8Array): boolean {
  const words = view(bytes);
  return words.length === 0 || (words[0] === 0 && words.subarray(1).equals(words.subarray(0, -1)));
}

/** FORMAT.md §4. */
export interface RunHeader {
  readonly storeId: Uint8Array;
  readonly runIndex: number;
  readonly mountEpoch: number;
  readonly position: number;
  readonly segment: number;
  /** Index that the first frame of this run has; the checkpoint is the state before it. */
  readonly firstIndex: number;
  /** Oldest frame that the log keeps: 1 until segments are reclaimed. */
  readonly oldestIndex: number;
  readonly salt: Uint8Array;
  /** Tag of frame firstIndex - 1; zeros before the first frame of the store. */
  readonly previousTag: Uint8Array;
  /** Where the run before starts, 0 for the first. */
  readonly previousRunPosition: number;
  /** First byte behind frame firstIndex - 1: what lies between it and here was cut. 0 for the first. */
  readonly previousEndPosition: number;
  readonly checkpointBytes: number;
  /** The checkpoint is the state before this frame: firstIndex in a run of data, 0 while there is none. */
  readonly checkpointIndex: number;
  /** Run that the oldest kept segment begins with. */
  readonly oldestRun: number;
  /** Where the run starts that holds what was carried last, before this run; 0 for none. */
  readonly carryPosition: number;
  /** Bytes that were written to the device up to this run, since formatting. */
  readonly lifeBytes: number;
  /** Length on the device of the carried frame behind this header; 0 in a run of data. A run holds the one or the other. */
  readonly carryFrameBytes: number;
}

/** The authenticated part: associated data of the sealed checkpoint. */
export function encodeRunFixed(run: RunHeader): Buffer {
  const out = Buffer.alloc(runFixedBytes);
  runMagic.copy(out, 0);
  out.set(run.storeId, 8);
  out.writeBigUInt64BE(BigInt(run.runIndex), 24);
  out.writeBigUInt64BE(BigInt(run.mountEpoch), 32);
  out.writeBigUInt64BE(BigInt(run.position), 40);
  out.writeUInt32BE(run.segment, 48);
  out.writeUInt32BE(run.checkpointBytes, 52);
  out.writeBigUInt64BE(BigInt(run.firstIndex), 56);
  out.writeBigUInt64BE(BigInt(run.oldestIndex), 64);
  out.set(run.salt, 72);
  out.set(run.previousTag, 104);
  out.writeBigUInt64BE(BigInt(run.previousRunPosition), 120);
  out.writeBigUInt64BE(BigInt(run.previousEndPosition), 128);
  out.writeBigUInt64BE(BigInt(run.checkpointIndex), 136);
  out.writeBigUInt64BE(BigInt(run.oldestRun), 144);
  out.writeBigUInt64BE(BigInt(run.carryPosition), 152);
  out.writeBigUInt64BE(BigInt(run.lifeBytes), 160);
  out.writeUInt32BE(run.carryFrameBytes, 168);
  return out;
}

/** `sealed` is the checkpoint's ciphertext and tag. */
export function encodeRunHeader(run: RunHeader, sealed: Uint8Array): Buffer {
  const out = Buffer.alloc(runHeaderBytes);
  encodeRunFixed(run).copy(out, 0);
  out.set(sealed, runFixedBytes);
  sha256(out.subarray(0, runHeaderBytes - runChecksumBytes)).copy(out, runHeaderBytes - runChecksumBytes);
  return out;
}

export interface DecodedRun {
  readonly header: RunHeader;
  readonly sealed: Uint8Array;
}

/** Null unless `page` is a run header of this store that was written for this position. */
export function decodeRunHeader(page: Uint8Array, storeId: Uint8Array, segment: number, position: number): DecodedRun | null {
  const bytes = view(page);
  if (bytes.length < runHeaderBytes || !bytes.subarray(0, 8).equals(runMagic)) return null;
  if (!bytes.subarray(8, 24).equals(storeId) || bytes.readUInt32BE(48) !== segment) return null;
  const checksumAt = runHeaderBytes - runChecksumBytes;
  if (!sha256(bytes.subarray(0, checksumAt)).equals(bytes.subarray(checksumAt, runHeaderBytes))) return null;
  const checkpointBytes = bytes.readUInt32BE(52);
  const runIndex = safeU64(bytes, 24);
  const mountEpoch = safeU64(bytes, 32);
  const firstIndex = safeU64(bytes, 56);
  const oldestIndex = safeU64(bytes, 64);
  const previousRunPosition = safeU64(bytes, 120);
  const previousEndPosition = safeU64(bytes, 128);
  const checkpointIndex = safeU64(bytes, 136);
  const oldestRun = safeU64(bytes, 144);
  const carryPosition = safeU64(bytes, 152);
  const lifeBytes = safeU64(bytes, 160);
  const carryFrameBytes = bytes.readUInt32BE(168);
  if (runIndex === null || mountEpoch === null || firstIndex === null || oldestIndex === null) return null;
  if (previousRunPosition === null || previousEndPosition === null || safeU64(bytes, 40) !== position) return null;
  if (checkpointIndex === null || oldestRun === null || carryPosition === null || lifeBytes === null) return null;
  if (oldestIndex < 1 || oldestIndex > firstIndex || checkpointBytes > checkpointMaxBytes) return null;
  if (oldestRun < 1 || oldestRun > runIndex || checkpointIndex > firstIndex || carryFrameBytes > maxSegmentBytes) return null;
  if (carryFrameBytes % minSectorBytes !== 0 || (carryFrameBytes === 0 && checkpointIndex !== firstIndex)) return null;
  const header: RunHeader = {
    storeId: Uint8Array.from(storeId),
    runIndex,
    mountEpoch,
    position,
    segment,
    firstIndex,
    oldestIndex,
    salt: Uint8Array.from(bytes.subarray(72, 104)),
    previousTag: Uint8Array.from(bytes.subarray(104, 120)),
    previousRunPosition,
    previousEndPosition,
    checkpointBytes,
    checkpointIndex,
    oldestRun,
    carryPosition,
    lifeBytes,
    carryFrameBytes,
  };
  const sealed = Uint8Array.from(bytes.subarray(runFixedBytes, runFixedBytes + checkpointBytes + tagBytes));
  return encodeRunHeader(header, sealed).equals(bytes.subarray(0, runHeaderBytes)) ? { header, sealed } : null;
}

/** What a frame holds: a batch, or the bytes that are carried forward when segments are reclaimed. */
export const dataKind = 1;
export const carryKind = 2;
export const zstdFlag = 1;

/** FORMAT.md §5. */
export interface FrameHeader {
  readonly kind: number;
  readonly flags: number;
  readonly storeId: Uint8Array;
  /** Ciphertext without the tag. */
  readonly sealedBytes: number;
  /** Payload after decompression. */
  readonly payloadBytes: number;
  readonly index: number;
  readonly runIndex: number;
  readonly mountEpoch: number;
  readonly position: number;
  /** Place in the run from 1: the nonce. */
  readonly ordinal: number;
  /** First 8 bytes of the tag of the frame before; zeros in the first frame of the store. */
  readonly previousTag: Uint8Array;
}

export const previousTagBytes = 8;

const frameCrc = (storeId: Uint8Array, header: Buffer): number => crc32(header.subarray(0, 76), crc32(storeId));

export function encodeFrameHeader(frame: FrameHeader): Buffer {
  const out = Buffer.alloc(frameHeaderBytes);
  frameMagic.copy(out, 0);
  out.writeUInt8(frame.kind, 4);
  out.writeUInt8(frame.flags, 5);
  out.set(frame.storeId.subarray(0, 8), 8);
  out.writeUInt32BE(frame.sealedBytes, 16);
  out.writeUInt32BE(frame.payloadBytes, 20);
  out.writeBigUInt64BE(BigInt(frame.index), 24);
  out.writeBigUInt64BE(BigInt(frame.runIndex), 32);
  out.writeBigUInt64BE(BigInt(frame.mountEpoch), 40);
  out.writeBigUInt64BE(BigInt(frame.position), 48);
  out.writeUInt32BE(frame.ordinal, 56);
  out.set(frame.previousTag.subarray(0, previousTagBytes), 60);
  // 68..76 stays zero.
  out.writeUInt32BE(frameCrc(frame.storeId, out), 76);
  return out;
}

/** Null unless the bytes start with a frame header of this store that was written for this position. */
export function decodeFrameHeader(start: Uint8Array, storeId: Uint8Array, position: number): FrameHeader | null {
  if (start[0] !== frameMagic[0] || start.length < frameHeaderBytes) return null;
  const bytes = view(start);
  if (!bytes.subarray(0, 4).equals(frameMagic) || bytes.readUInt32BE(76) !== frameCrc(storeId, bytes)) return null;
  const index = safeU64(bytes, 24);
  const runIndex = safeU64(bytes, 32);
  const mountEpoch = safeU64(bytes, 40);
  if (index === null || runIndex === null || mountEpoch === null || safeU64(bytes, 48) !== position) return null;
  const header: FrameHeader = {
    kind: bytes.readUInt8(4),
    flags: bytes.readUInt8(5),
    storeId,
    sealedBytes: bytes.readUInt32BE(16),
    payloadBytes: bytes.readUInt32BE(20),
    index,
    runIndex,
    mountEpoch,
    position,
    ordinal: bytes.readUInt32BE(56),
    previousTag: Uint8Array.from(bytes.subarray(60, 68)),
  };
  if (header.kind !== dataKind && header.kind !== carryKind) return null;
  if (header.flags > zstdFlag || index < 1 || header.ordinal < 1 || (header.kind === carryKind && header.ordinal !== 1)) return null;
  if (header.payloadBytes > maxSegmentBytes) return null;
  // Raw payloads have one length; a compressed one is always shorter than what it stands for.
  if (header.flags === 0 ? header.sealedBytes !== header.payloadBytes : header.sealedBytes >= header.payloadBytes) return null;
  return encodeFrameHeader(header).equals(bytes.subarray(0, frameHeaderBytes)) ? header : null;
}
