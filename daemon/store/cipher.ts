// Owns: every key and every cipher call of the store (FORMAT.md §6): HKDF-SHA-256 (RFC 5869), AES-256-GCM (SP 800-38D), zstd before it.
// Invariants: a frame key belongs to one run (a fresh random 32-byte salt) and its nonce is the frame's ordinal in that run,
// which only goes up; so a (key, nonce) pair is used once, even when a torn tail is overwritten: the overwriting run has another key.
// Must not: keep keys (callers wipe what they derive).
import { createCipheriv, createDecipheriv, hkdfSync } from 'node:crypto';
import { constants, zstdCompressSync } from 'node:zlib';
import { type Packed, unpack } from '#ground/unpacking.ts';
import {
  encodeFrameHeader,
  encodeRunFixed,
  type FrameHeader,
  frameBytesFor,
  frameHeaderBytes,
  type RunHeader,
  tagBytes,
  view,
  zstdFlag,
} from './format.ts';

const cipherName = 'aes-256-gcm';
const nonceBytes = 12;
const keyBytes = 32;
/** Level 3 is where a typical invoice stops getting smaller. */
const zstdLevel = 3;
const zstdMinBytes = 64;
/** Output is gathered in pieces of this size, or of the payload where that is smaller: a piece comes out of Node's pool then. The default of 128 KiB costs more than compressing an invoice. */
const zstdChunkBytes = 8192;

export type Purpose = 'frame' | 'checkpoint' | 'identity' | 'superblock';

export const deriveKey = (dataKey: Uint8Array, salt: Uint8Array, purpose: Purpose): Buffer =>
  Buffer.from(hkdfSync('sha256', dataKey, salt, `ukeyd store 1 ${purpose}`, keyBytes));

function nonceOf(counter: number): Buffer {
  const nonce = Buffer.alloc(nonceBytes);
  nonce.writeBigUInt64BE(BigInt(counter), nonceBytes - 8);
  return nonce;
}

/**
 * Node 24 finds out that a key is plain bytes by making two errors, which costs more than the cipher unless they go without a stack. A KeyObject would
 * need none, and would be a copy of the key that nobody can overwrite.
 */
function withoutStacks<T>(act: () => T): T {
  const before = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return act();
  } finally {
    Error.stackTraceLimit = before;
  }
}

/** Ciphertext and tag. */
function seal(key: Uint8Array, counter: number, aad: readonly Uint8Array[], plain: Uint8Array): Buffer {
  const cipher = withoutStacks(() => createCipheriv(cipherName, key, nonceOf(counter), { authTagLength: tagBytes }));
  cipher.setAAD(Buffer.concat(aad));
  const body = cipher.update(plain);
  cipher.final();
  return Buffer.concat([body, cipher.getAuthTag()]);
}

/** Null when the tag does not fit. */
function unseal(key: Uint8Array, counter: number, aad: readonly Uint8Array[], sealed: Uint8Array): Buffer | null {
  if (sealed.length < tagBytes) return null;
  const decipher = withoutStacks(() => createDecipheriv(cipherName, key, nonceOf(counter), { authTagLength: tagBytes }));
  decipher.setAAD(Buffer.concat(aad));
  decipher.setAuthTag(sealed.subarray(sealed.length - tagBytes));
  const plain = decipher.update(sealed.subarray(0, sealed.length - tagBytes));
  try {
    decipher.final();
    return plain;
  } catch {
    // The one thing final() reports here is a tag that does not fit: that is the answer, not an error.
    return null;
  }
}

/** What a store's ids contribute to every seal. */
export interface StoreIds {
  readonly storeId: Uint8Array;
  /** Key id of the token that it was formatted for: it stays when the store moves to another token. */
  readonly sealedFor: Uint8Array;
}

export function sealIdentity(dataKey: Uint8Array, salt: Uint8Array, ids: StoreIds, identity: Uint8Array): Buffer {
  const key = deriveKey(dataKey, salt, 'identity');
  const sealed = seal(key, 0, [ids.storeId, ids.sealedFor], identity);
  key.fill(0);
  return sealed;
}

export function openIdentity(dataKey: Uint8Array, salt: Uint8Array, ids: StoreIds, sealed: Uint8Array): Buffer | null {
  const key = deriveKey(dataKey, salt, 'identity');
  const identity = unseal(key, 0, [ids.storeId, ids.sealedFor], sealed);
  key.fill(0);
  return identity;
}

/** The salt is fresh for each run, so nonce 0 under the run's own checkpoint key is used once. */
export function sealCheckpoint(dataKey: Uint8Array, ids: StoreIds, run: RunHeader, checkpoint: Uint8Array): Buffer {
  const key = deriveKey(dataKey, run.salt, 'checkpoint');
  const sealed = seal(key, 0, [ids.sealedFor, encodeRunFixed(run)], checkpoint);
  key.fill(0);
  return sealed;
}

/** Null: the run header was not written by who holds the data key. */
export function openCheckpoint(dataKey: Uint8Array, ids: StoreIds, run: RunHeader, sealed: Uint8Array): Buffer | null {
  const key = deriveKey(dataKey, run.salt, 'checkpoint');
  const checkpoint = unseal(key, 0, [ids.sealedFor, encodeRunFixed(run)], sealed);
  key.fill(0);
  return checkpoint;
}

function frameAad(ids: StoreIds, segment: number, header: Buffer, position: number): Uint8Array[] {
  const place = Buffer.alloc(12);
  place.writeUInt32BE(segment, 0);
  place.writeBigUInt64BE(BigInt(position), 4);
  return [ids.storeId, ids.sealedFor, place, header];
}

export interface FrameContent {
  readonly flags: number;
  readonly bytes: Uint8Array;
}

/** Compressed when that is smaller. */
export function pack(payload: Uint8Array): FrameContent {
  if (payload.length >= zstdMinBytes) {
    const packed = zstdCompressSync(payload, {
      chunkSize: Math.min(zstdChunkBytes, payload.length),
      params: { [constants.ZSTD_c_compressionLevel]: zstdLevel },
    });
    if (packed.length < payload.length) return { flags: zstdFlag, bytes: packed };
  }
  return { flags: 0, bytes: payload };
}

export type FramePlace = Omit<FrameHeader, 'flags' | 'sealedBytes' | 'payloadBytes' | 'storeId'>;

/** The frame as it stands on the device (padded) and its tag. */
export function sealFrame(
  frameKey: Uint8Array,
  ids: StoreIds,
  segment: number,
  place: FramePlace,
  payloadBytes: number,
  packed: FrameContent,
  sectorBytes: number,
): { bytes: Buffer; tag: Uint8Array } {
  const header = encodeFrameHeader({
    ...place,
    flags: packed.flags,
    storeId: ids.storeId,
    sealedBytes: packed.bytes.length,
    payloadBytes,
  });
  const sealed = seal(frameKey, place.ordinal, frameAad(ids, segment, header, place.position), packed.bytes);
  const bytes = Buffer.alloc(frameBytesFor(packed.bytes.length, sectorBytes));
  header.copy(bytes, 0);
  sealed.copy(bytes, frameHeaderBytes);
  // A copy of its own: frames of the newest segment remember it, and one in Node's pool would keep 64 KiB there.
  return { bytes, tag: new Uint8Array(sealed.subarray(sealed.length - tagBytes)) };
}

/** The plain content still packed, or null when the tag does not fit. `bytes` starts at the frame. */
function unsealFrame(frameKey: Uint8Array, ids: StoreIds, segment: number, frame: FrameHeader, bytes: Uint8Array): Buffer | null {
  const end = frameHeaderBytes + frame.sealedBytes + tagBytes;
  if (bytes.length < end) return null;
  const header = view(bytes).subarray(0, frameHeaderBytes);
  return unseal(frameKey, frame.ordinal, frameAad(ids, segment, header, frame.position), bytes.subarray(frameHeaderBytes, end));
}

export function isFrameWhole(frameKey: Uint8Array, ids: StoreIds, segment: number, frame: FrameHeader, bytes: Uint8Array): boolean {
  return unsealFrame(frameKey, ids, segment, frame, bytes) !== null;
}

/** As it was packed; null when the tag does not fit. */
export function openPacked(frameKey: Uint8Array, ids: StoreIds, segment: number, frame: FrameHeader, bytes: Uint8Array): Packed | null {
  const packed = unsealFrame(frameKey, ids, segment, frame, bytes);
  return packed === null ? null : { isZstd: (frame.flags & zstdFlag) !== 0, bytes: packed, plainBytes: frame.payloadBytes };
}

export function openFrame(frameKey: Uint8Array, ids: StoreIds, segment: number, frame: FrameHeader, bytes: Uint8Array): Uint8Array | null {
  const packed = openPacked(frameKey, ids, segment, frame, bytes);
  return packed === null ? null : unpack(packed);
}
