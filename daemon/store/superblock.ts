// Owns: the byte layout of a superblock copy (FORMAT.md §3): what can be read without the data key, the key slots, the sealed identity.
// Invariants: a copy is 16 KiB; SHA-256 over all of it can be checked by anyone, HMAC-SHA-256 only with the data key; decode
// refuses what encode would not have written. Magic, version and checksum keep their places in every later version.
// Must not: choose between copies (recover.ts) or do I/O (mount.ts).
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { KeySlot } from '#store/store.ts';
import {
  formatVersion,
  type Geometry,
  idBytes,
  isBlank,
  maxSegmentBytes,
  minSegmentBytes,
  pageBytes,
  safeU64,
  saltBytes,
  segmentCountFor,
  sha256,
  tagBytes,
  view,
} from './format.ts';

export const superblockBytes = 16 * 1024;
export const identityMaxBytes = 8 * 1024;
export const slotsMax = 16;
export const slotBlobMaxBytes = 2048;
const slotMethodMaxBytes = 64;
const slotsAt = 512;
const slotsAreaBytes = 6144;
const identityAt = slotsAt + slotsAreaBytes;
const macAt = superblockBytes - 64;
const checksumAt = superblockBytes - 32;
/** What a copy begins with: what has it and no right checksum is ours, and damaged. */
export const superblockMark = Buffer.from('ukeyd superblock', 'ascii');
const flagBits = { leftovers: 1, mirrorMayLag: 2 } as const;

/** The end of the log as it was known when the superblock was written: the log may be longer, never shorter. */
export interface TailHint {
  readonly runIndex: number;
  readonly segment: number;
  /** Last durable frame, 0 for none. */
  readonly frameIndex: number;
  readonly frameTag: Uint8Array;
}

export interface Superblock extends Geometry {
  readonly updateCounter: number;
  readonly mountEpoch: number;
  readonly storeId: Uint8Array;
  /** The token that it belongs to now. */
  readonly tokenKeyId: Uint8Array;
  /** The token that it was formatted for: part of every seal. */
  readonly sealedFor: Uint8Array;
  readonly sizeBytes: number;
  /** The log area was not blank when it was formatted: strange bytes behind the tail mean nothing. */
  readonly leftovers: boolean;
  /** Opened last with a mirror that follows behind: where the two end alike, the FLASH may have held more that was told. */
  readonly mirrorMayLag: boolean;
  readonly tail: TailHint;
  /** Run that the oldest kept segment begins with, and the first frame that is kept. All before may be overwritten. */
  readonly oldestRun: number;
  readonly oldestIndex: number;
  /** Where the run starts that holds what was carried last; 0 for none. */
  readonly carryPosition: number;
  /** Bytes written to the device since formatting, at least. */
  readonly lifeBytes: number;
  readonly identitySalt: Uint8Array;
  readonly slots: readonly KeySlot[];
  /** Ciphertext and tag. */
  readonly identitySealed: Uint8Array;
}

export type CopyState =
  | { readonly kind: 'blank' }
  | { readonly kind: 'foreign' }
  | { readonly kind: 'newer-format'; readonly version: number }
  | { readonly kind: 'damaged' }
  | { readonly kind: 'valid'; readonly superblock: Superblock; readonly bytes: Buffer };

function encodeSlots(slots: readonly KeySlot[]): Buffer | null {
  const parts: Buffer[] = [];
  for (const slot of slots) {
    const method = Buffer.from(slot.method, 'ascii');
    if (!/^[a-z0-9-]+$/.test(slot.method) || method.length > slotMethodMaxBytes || slot.blob.length > slotBlobMaxBytes) return null;
    const lengths = Buffer.alloc(3);
    lengths.writeUInt8(method.length, 0);
    lengths.writeUInt16BE(slot.blob.length, 1);
    parts.push(lengths, method, view(slot.blob));
  }
  const all = Buffer.concat(parts);
  return slots.length <= slotsMax && all.length <= slotsAreaBytes ? all : null;
}

function decodeSlots(area: Buffer, count: number): KeySlot[] | null {
  const slots: KeySlot[] = [];
  let at = 0;
  for (let slot = 0; slot < count; slot += 1) {
    if (at + 3 > area.length) return null;
    const methodEnd = at + 3 + area.readUInt8(at);
    const end = methodEnd + area.readUInt16BE(at + 1);
    if (end > area.length) return null;
    slots.push({ method: area.toString('ascii', at + 3, methodEnd), blob: Uint8Array.from(area.subarray(methodEnd, end)) });
    at = end;
  }
  return slots;
}

/** Everything before the HMAC; null when the fields are not encodable. */
function encodeBody(superblock: Superblock): Buffer | null {
  const slots = encodeSlots(superblock.slots);
  if (slots === null || superblock.identitySealed.length > identityMaxBytes + tagBytes) return null;
  const out = Buffer.alloc(macAt);
  superblockMark.copy(out, 0);
  out.writeUInt32BE(formatVersion, 16);
  out.writeUInt32BE((superblock.leftovers ? flagBits.leftovers : 0) | (superblock.mirrorMayLag ? flagBits.mirrorMayLag : 0), 20);
  out.writeBigUInt64BE(BigInt(superblock.updateCounter), 24);
  out.writeBigUInt64BE(BigInt(superblock.mountEpoch), 32);
  out.set(superblock.storeId, 40);
  out.set(superblock.tokenKeyId, 56);
  out.writeBigUInt64BE(BigInt(superblock.sizeBytes), 72);
  out.writeUInt32BE(superblock.sectorBytes, 80);
  out.writeUInt32BE(superblock.segmentBytes, 84);
  out.writeUInt32BE(superblock.segmentCount, 88);
  out.writeUInt32BE(superblock.slots.length, 92);
  out.writeBigUInt64BE(BigInt(superblock.tail.runIndex), 96);
  out.writeBigUInt64BE(BigInt(superblock.tail.frameIndex), 104);
  out.set(superblock.tail.frameTag, 112);
  out.writeUInt32BE(superblock.tail.segment, 128);
  out.writeUInt32BE(superblock.identitySealed.length, 132);
  out.set(superblock.identitySalt, 136);
  out.writeBigUInt64BE(BigInt(superblock.oldestRun), 168);
  out.writeBigUInt64BE(BigInt(superblock.oldestIndex), 176);
  out.writeBigUInt64BE(BigInt(superblock.carryPosition), 184);
  out.writeBigUInt64BE(BigInt(superblock.lifeBytes), 192);
  out.set(superblock.sealedFor, 200);
  slots.copy(out, slotsAt);
  out.set(superblock.identitySealed, identityAt);
  return out;
}

export function encodeSuperblock(superblock: Superblock, macKey: Uint8Array): Buffer | null {
  const body = encodeBody(superblock);
  if (body === null) return null;
  const mac = createHmac('sha256', macKey).update(body).digest();
  return Buffer.concat([body, mac, sha256(body, mac)], superblockBytes);
}

/** Sizes that can be a store: sector 512 or 4096, whole pages per segment, at least one segment. */
export function isGeometry(geometry: Geometry, sizeBytes: number): boolean {
  const { sectorBytes, segmentBytes, segmentCount } = geometry;
  if (sectorBytes !== 512 && sectorBytes !== 4096) return false;
  if (segmentBytes < minSegmentBytes || segmentBytes > maxSegmentBytes || segmentBytes % pageBytes !== 0) return false;
  return segmentCount >= 1 && segmentCount === segmentCountFor(sizeBytes, segmentBytes);
}

function decodeFields(bytes: Buffer): Superblock | null {
  const updateCounter = safeU64(bytes, 24);
  const mountEpoch = safeU64(bytes, 32);
  const sizeBytes = safeU64(bytes, 72);
  const runIndex = safeU64(bytes, 96);
  const frameIndex = safeU64(bytes, 104);
  const oldestRun = safeU64(bytes, 168);
  const oldestIndex = safeU64(bytes, 176);
  const carryPosition = safeU64(bytes, 184);
  const lifeBytes = safeU64(bytes, 192);
  const identityLength = bytes.readUInt32BE(132);
  const flags = bytes.readUInt32BE(20);
  const slots = decodeSlots(bytes.subarray(slotsAt, identityAt), bytes.readUInt32BE(92) > slotsMax ? 0 : bytes.readUInt32BE(92));
  if (updateCounter === null || mountEpoch === null || sizeBytes === null || runIndex === null || frameIndex === null) return null;
  if (oldestRun === null || oldestIndex === null || carryPosition === null || lifeBytes === null) return null;
  if (oldestRun < 1 || oldestIndex < 1 || oldestIndex > frameIndex + 1) return null;
  if (slots === null || identityLength > identityMaxBytes + tagBytes) return null;
  const superblock: Superblock = {
    leftovers: (flags & flagBits.leftovers) !== 0,
    mirrorMayLag: (flags & flagBits.mirrorMayLag) !== 0,
    updateCounter,
    mountEpoch,
    storeId: Uint8Array.from(bytes.subarray(40, 40 + idBytes)),
    tokenKeyId: Uint8Array.from(bytes.subarray(56, 56 + idBytes)),
    sealedFor: Uint8Array.from(bytes.subarray(200, 200 + idBytes)),
    sizeBytes,
    sectorBytes: bytes.readUInt32BE(80),
    segmentBytes: bytes.readUInt32BE(84),
    segmentCount: bytes.readUInt32BE(88),
    tail: { runIndex, frameIndex, frameTag: Uint8Array.from(bytes.subarray(112, 128)), segment: bytes.readUInt32BE(128) },
    oldestRun,
    oldestIndex,
    carryPosition,
    lifeBytes,
    identitySalt: Uint8Array.from(bytes.subarray(136, 136 + saltBytes)),
    slots,
    identitySealed: Uint8Array.from(bytes.subarray(identityAt, identityAt + identityLength)),
  };
  return isGeometry(superblock, sizeBytes) ? superblock : null;
}

/** Without the data key: `valid` says that the bytes are whole, not who wrote them. */
export function decodeSuperblock(copy: Uint8Array): CopyState {
  const bytes = view(copy);
  if (isBlank(bytes)) return { kind: 'blank' };
  if (bytes.length !== superblockBytes || !bytes.subarray(0, superblockMark.length).equals(superblockMark)) return { kind: 'foreign' };
  if (!sha256(bytes.subarray(0, checksumAt)).equals(bytes.subarray(checksumAt))) return { kind: 'damaged' };
  const version = bytes.readUInt32BE(16);
  if (version > formatVersion) return { kind: 'newer-format', version };
  const superblock = decodeFields(bytes);
  const again = superblock === null ? null : encodeBody(superblock);
  if (superblock === null || again === null || !again.equals(bytes.subarray(0, macAt))) return { kind: 'damaged' };
  return { kind: 'valid', superblock, bytes };
}

/** With the data key: whether the copy was written by who holds it. */
export function isAuthentic(copy: Uint8Array, macKey: Uint8Array): boolean {
  const bytes = view(copy);
  return timingSafeEqual(createHmac('sha256', macKey).update(bytes.subarray(0, macAt)).digest(), bytes.subarray(macAt, checksumAt));
}
