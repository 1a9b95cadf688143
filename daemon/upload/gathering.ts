// Owns: the batches of the next upload, as the FLASH holds them.
// Invariants: consecutive, at least one, within the bounds of an upload; only what is durable; what is decoded anyway is noted for the ledger.
import type { Holder } from '#holder/holder.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { uploadMaxBytes } from '#ipc-schema/upstream.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { openBatch, summaryOf } from '#ledger/stored.ts';

/** Tills wait as long as the holder opens, and the front looks through, so much. */
const readChunkBytes = 512 * 1024;
/** Heads around the batches. */
const framingBytes = 8 * 1024;

export interface Gathered {
  readonly batches: readonly Uint8Array[];
  readonly lastBatch: number;
}

export async function gather(holder: Holder, ledger: Ledger, fromBatch: number, batchesMax: number): Promise<Gathered> {
  const batches: Uint8Array[] = [];
  let roomBytes = uploadMaxBytes - framingBytes;
  const next = (): number => fromBatch + batches.length;
  while (next() < ledger.tip.nextBatch && batches.length < batchesMax) {
    const read = await holder.read(next(), Math.min(readChunkBytes, roomBytes));
    if (read.length === 0) throw new UkeyError('halted', `batch ${next()} cannot be read`);
    for (const { batchIndex, bytes } of read) {
      const isEnough = batches.length >= batchesMax || batchIndex >= ledger.tip.nextBatch || bytes.length > roomBytes;
      if (isEnough && batches.length > 0) return { batches, lastBatch: next() - 1 };
      const batch = openBatch(batchIndex, bytes, 'views');
      ledger.noteSummary(batchIndex, summaryOf(batch.leaves, batch.sealBytes));
      batches.push(bytes);
      roomBytes -= bytes.length;
    }
  }
  return { batches, lastBatch: next() - 1 };
}
