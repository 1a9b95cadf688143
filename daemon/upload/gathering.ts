// Owns: the batches of the next upload, as the FLASH holds them.
// Invariants: consecutive, at least one, within the bounds; only what is durable.
import type { Holder, PackedBatch } from '#holder/holder.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { uploadMaxBytes } from '#ipc-schema/upstream.ts';
import type { Ledger } from '#ledger/ledger.ts';

/** Tills wait as long as the holder decrypts so much. */
const readChunkBytes = 512 * 1024;
/** Heads around the batches. */
const framingBytes = 8 * 1024;

export interface Gathered {
  /** As they stand in their frames: packing.ts unpacks them. */
  readonly batches: readonly PackedBatch[];
  readonly lastBatch: number;
}

export interface Bounds {
  readonly batches: number;
  /** Of what the batches are unpacked; the first batch goes in any case. */
  readonly plainBytes: number;
}

/** No upload holds more. */
export const mostPlainBytes = uploadMaxBytes - framingBytes;

export async function gather(holder: Holder, ledger: Ledger, fromBatch: number, bounds: Bounds): Promise<Gathered> {
  const { batches: batchesMax } = bounds;
  const batches: PackedBatch[] = [];
  let roomBytes = bounds.plainBytes;
  const next = (): number => fromBatch + batches.length;
  while (next() < ledger.tip.nextBatch && batches.length < batchesMax && roomBytes > 0) {
    const read = await holder.readPacked(next(), Math.min(readChunkBytes, roomBytes));
    if (read.length === 0) throw new UkeyError('halted', `batch ${next()} cannot be read`);
    for (const batch of read) {
      const { plainBytes } = batch.packed;
      const isEnough = batches.length >= batchesMax || batch.batchIndex >= ledger.tip.nextBatch || plainBytes > roomBytes;
      if (isEnough && batches.length > 0) return { batches, lastBatch: next() - 1 };
      batches.push(batch);
      roomBytes -= plainBytes;
    }
  }
  return { batches, lastBatch: next() - 1 };
}
