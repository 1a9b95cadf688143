// Owns: a batch (the entries that one commit made durable together) and its seal, as bytes.
// Seal: COSE_Sign1 by the token; payload CBOR [1, tokenId, batchIndex, firstSequence, count, root, previousSealHash, sealedAtMs] (SPEC.md, Seal).
// Batch: CBOR [seal bytes, [entry, …]], the same bytes on the FLASH (before encryption) and in an upload.
// The first previousSealHash is SHA-256 of the enrolment certificate; every later one SHA-256 of the seal's bytes before it.
import { type ByteStrings, cborHead, decodeCbor, encodeCbor, FieldReader, malformed } from './cbor.ts';
import { decodeSign1, type Sign1 } from './cose.ts';
import { decodeEntry, type Entry } from './entry.ts';
import { hashBytes, sha256 } from './merkle.ts';

/** Entries in one batch. */
export const batchMaxEntries = 1_024;
/** Encoded entries of one batch; an entry has at most bodyMaxBytes and always fits. As many as one segment of a FLASH takes with its heads, rounded down. */
export const batchMaxBytes = 960 * 1024;
/** A whole encoded batch: its entries, its seal, and heads. */
const encodedMaxBytes = batchMaxBytes + 4_096;
export const tokenIdBytes = 16;

export interface Seal {
  readonly tokenId: Uint8Array;
  /** From 1. */
  readonly batchIndex: number;
  readonly firstSequence: number;
  readonly count: number;
  readonly root: Uint8Array;
  readonly previousSealHash: Uint8Array;
  readonly sealedAtMs: number;
}

export interface Batch {
  readonly sealBytes: Uint8Array;
  readonly entries: readonly Entry[];
}

export function sealPayload(seal: Seal): Uint8Array {
  return encodeCbor([1, seal.tokenId, seal.batchIndex, seal.firstSequence, seal.count, seal.root, seal.previousSealHash, seal.sealedAtMs]);
}

/** Throws invalid-request unless the bytes are one seal. Checks no signature: `verify.ts` does. */
export function decodeSeal(sealBytes: Uint8Array): { readonly sign1: Sign1; readonly seal: Seal } {
  const sign1 = decodeSign1(sealBytes, 'seal');
  const fields = new FieldReader('seal', decodeCbor(sign1.payload, 'seal'));
  fields.version(1);
  const seal: Seal = {
    tokenId: fields.bytes('tokenId', tokenIdBytes),
    batchIndex: fields.count('batchIndex'),
    firstSequence: fields.count('firstSequence'),
    count: fields.count('count'),
    root: fields.bytes('root', hashBytes),
    previousSealHash: fields.bytes('previousSealHash', hashBytes),
    sealedAtMs: fields.instantMs('sealedAtMs'),
  };
  fields.end();
  if (seal.batchIndex < 1 || seal.firstSequence < 1 || seal.count < 1 || seal.count > batchMaxEntries)
    throw malformed('seal', 'has counts out of range');
  if (!Number.isSafeInteger(seal.firstSequence + seal.count)) throw malformed('seal', 'has a sequence out of range');
  return { sign1, seal };
}

export function sealHashOf(sealBytes: Uint8Array): Uint8Array {
  return sha256(sealBytes);
}

/** The entries' part of a batch, from entries that are already encoded. */
export function joinEntries(encodedEntries: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat([cborHead(4, encodedEntries.length), ...encodedEntries]);
}

export function encodeBatch(sealBytes: Uint8Array, joinedEntries: Uint8Array): Uint8Array {
  return Buffer.concat([cborHead(4, 2), cborHead(2, sealBytes.length), sealBytes, joinedEntries]);
}

export function decodeBatch(bytes: Uint8Array, byteStrings: ByteStrings = 'copies'): Batch {
  if (bytes.length > encodedMaxBytes) throw malformed('batch', 'is too long');
  const fields = new FieldReader('batch', decodeCbor(bytes, 'batch', byteStrings));
  const sealBytes = fields.bytes('seal');
  const entries = fields.list('entries');
  fields.end();
  if (entries.length < 1 || entries.length > batchMaxEntries) throw malformed('batch', 'has a number of entries out of range');
  return { sealBytes, entries: entries.map(decodeEntry) };
}
