// Owns: an encoded batch as the FLASH holds it, opened, and what it adds to the backlog. Pure.
// Invariants: what it returns is as it was written, byte for byte; a batch that does not decode is `halted`, never skipped.
// Must not: know the index: the thread that makes uploads ready imports this.
import { type Batch, decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import type { ByteStrings } from '#ipc-schema/cbor.ts';
import { decodeLeaf, isFiscal, type Leaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { sumUnits, sumUnitsText } from '#ipc-schema/scaled.ts';

export interface OpenBatch extends Batch {
  readonly batchIndex: number;
  readonly leaves: readonly Leaf[];
}

/** What a batch adds to the backlog. */
export interface BatchSummary {
  readonly count: number;
  readonly amount: string;
  readonly oldestMs: number | null;
  readonly sealHash: Uint8Array;
}

export function openBatch(batchIndex: number, bytes: Uint8Array, byteStrings: ByteStrings = 'copies'): OpenBatch {
  try {
    const batch = decodeBatch(bytes, byteStrings);
    return { ...batch, batchIndex, leaves: batch.entries.map((entry) => decodeLeaf(entry.leaf)) };
  } catch (cause) {
    throw new UkeyError('halted', `batch ${batchIndex} on the FLASH does not decode`, { cause });
  }
}

export function summaryOf(leaves: readonly Leaf[], sealBytes: Uint8Array): BatchSummary {
  const fiscal = leaves.filter((leaf) => isFiscal(leaf.kind));
  return {
    count: fiscal.length,
    amount: sumUnitsText(fiscal.reduce((sum, leaf) => sum + sumUnits(leaf.total ?? '0'), 0n)),
    oldestMs: fiscal[0]?.issuedAtMs ?? null,
    // A copy of its own: the hash lies in Node's pool, and one that is kept keeps 64 KiB of documents there.
    sealHash: new Uint8Array(sealHashOf(sealBytes)),
  };
}
