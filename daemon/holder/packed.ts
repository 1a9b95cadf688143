// Owns: unpacking batches that were read as they stand in their frames: so they cross from the holder process to the front,
// a sixth of their size, and a backlog that is read takes little of the process in which tills' batches are signed.
// Invariants: in order, without a hole: what lies behind one that does not unpack is left out, and the next call names it.
import { turnBytes, unpackAside } from '#ground/unpacking.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { PackedBatch, StoredBatch } from './holder.ts';

/** Throws halted for the first that does not unpack: its tag did fit, so it was written so. */
export async function unpackBatches(batches: readonly PackedBatch[]): Promise<StoredBatch[]> {
  const coming: Promise<Uint8Array | null>[] = [];
  let turnEndsBytes = turnBytes;
  let seenBytes = 0;
  for (const { packed } of batches) {
    if (seenBytes >= turnEndsBytes) {
      await new Promise((resolve) => setImmediate(resolve));
      turnEndsBytes = seenBytes + turnBytes;
    }
    coming.push(unpackAside(packed));
    seenBytes += packed.plainBytes;
  }
  const unpacked: StoredBatch[] = [];
  for (const [place, { batchIndex }] of batches.entries()) {
    const bytes = await coming[place];
    if (bytes !== null && bytes !== undefined) unpacked.push({ batchIndex, bytes });
    else if (unpacked.length > 0) return unpacked;
    else throw new UkeyError('halted', `batch ${batchIndex} does not unpack`);
  }
  return unpacked;
}
