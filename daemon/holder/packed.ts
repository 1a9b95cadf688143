// Owns: unpacking batches that were read as they stand in their frames: so they cross from the holder process to the front,
// a sixth of their size, and a backlog that is read takes little of the process in which tills' batches are signed.
// Invariants: in order, without a hole: what lies behind one that does not unpack is left out, and the next call names it.
import { giveBack, unpackAside } from '#ground/unpacking.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { PackedBatch, StoredBatch } from './holder.ts';

/** Small ones are unpacked one after the other: after so many bytes others have their turn. */
const turnBytes = 64 * 1024;

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
    else throw spoilt(batchIndex);
  }
  return unpacked;
}

/**
 * What `use` makes of each; as `unpackBatches` otherwise. A batch is lent for the call, and one more is unpacked meanwhile: whoever reads a whole ledger
 * leaves no heap of batches behind.
 */
export async function mapUnpacked<T>(batches: readonly PackedBatch[], use: (batch: StoredBatch) => T): Promise<T[]> {
  const made: T[] = [];
  let coming = begin(batches[0]);
  for (const [place, { batchIndex, packed }] of batches.entries()) {
    const bytes = await coming;
    if (bytes === null && made.length === 0) throw spoilt(batchIndex);
    if (bytes === null) break;
    coming = begin(batches[place + 1]);
    made.push(use({ batchIndex, bytes }));
    if (packed.isZstd) giveBack(bytes);
  }
  return made;
}

const begin = async (batch: PackedBatch | undefined): Promise<Uint8Array | null> =>
  batch === undefined ? null : await unpackAside(batch.packed);

const spoilt = (batchIndex: number): UkeyError => new UkeyError('halted', `batch ${batchIndex} does not unpack`);
