// Owns: bringing the index up to the log when the ledger is mounted: forward from where it stands, or anew when it does not belong to this log.
// Invariants: an index is believed only if the seal that it names is the very seal at that place in this token's log; rows of batches that were released stay.
import type { Holder, Mount } from '#holder/holder.ts';
import { sealHashOf } from '#ipc-schema/batch.ts';
import type { IndexRow, Lookup } from './lookup.ts';
import { readBatch, readBatches, rowFromLog } from './stored.ts';

const chunkBytes = 1024 * 1024;
const rowsPerWrite = 2_000;

/** Returns how many entries were read anew. */
export async function catchUp(
  lookup: Lookup,
  holder: Holder,
  mount: Mount,
  onProgress: (batch: number, lastBatch: number) => void,
): Promise<number> {
  const lastBatch = mount.nextBatch - 1;
  const tokenId = Buffer.from(mount.tokenId).toString('hex');
  const from = await believedUpTo(lookup, holder, tokenId, mount);
  if (from === 0) await lookup.clear();
  let rows: IndexRow[] = [];
  let entries = 0;
  const held = new Map<string, number>();
  const resolve = async (number: string): Promise<number | null> => held.get(number) ?? (await lookup.byNumber(number))?.sequence ?? null;
  for await (const batch of readBatches(holder, Math.max(from + 1, mount.oldestBatch), lastBatch, chunkBytes)) {
    for (const place of batch.leaves.keys()) {
      const row = await rowFromLog(batch, place, resolve);
      rows.push(row);
      if (row.number !== null) held.set(row.number, row.sequence);
      entries += 1;
    }
    if (rows.length >= rowsPerWrite || batch.batchIndex === lastBatch) {
      await lookup.write(rows, { tokenId, batch: batch.batchIndex, sealHash: hex(sealHashOf(batch.sealBytes)) });
      rows = [];
      held.clear();
      onProgress(batch.batchIndex, lastBatch);
    }
  }
  return entries;
}

/**
 * Newest batch whose rows the index surely has; 0 = begin anew. One that names a released batch cannot be proven and is believed: its rows are all that
 * still knows of the keys that were used then.
 */
async function believedUpTo(lookup: Lookup, holder: Holder, tokenId: string, { nextBatch, oldestBatch }: Mount): Promise<number> {
  const head = await lookup.head();
  if (head === null || head.tokenId !== tokenId || head.batch >= nextBatch || head.batch < 1) return 0;
  if (head.batch < oldestBatch) return head.batch;
  const batch = await readBatch(holder, head.batch);
  return hex(sealHashOf(batch.sealBytes)) === head.sealHash ? head.batch : 0;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
