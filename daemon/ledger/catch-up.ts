// Owns: bringing the index up to the log when the ledger is mounted: forward from where it stands, or anew when it does not belong to this log.
// Invariants: an index is believed only if the seal that it names is the very seal at that place in this token's log; rows of batches that were released stay.
// Must not: be given one that reaches further than the log (index-witness.ts), unless what it knows beyond was given up.
import type { Holder, Mount } from '#holder/holder.ts';
import { sealHashOf } from '#ipc-schema/batch.ts';
import type { IndexRow, Lookup } from './lookup.ts';
import { readBatch, readBatches, rowFromLog } from './stored.ts';

const chunkBytes = 1024 * 1024;
/** A transaction's price is the same for few rows and for many. */
const rowsPerWrite = 10_000;
/** After so many entries what has come in meanwhile is taken in: only so are the next ones unpacked, in another thread, while these are read. */
const entriesPerTurn = 128;

/** The index goes back to the log: what it knew beyond is given up. */
export function rewind(lookup: Lookup, { tokenId, nextBatch, headSealHash }: Mount): Promise<void> {
  return lookup.rewind({ tokenId: hex(tokenId), batch: nextBatch - 1, sealHash: hex(headSealHash) });
}

/** Returns how many entries were read anew. */
export async function catchUp(
  lookup: Lookup,
  holder: Holder,
  mount: Mount,
  onProgress: (batch: number, lastBatch: number) => void,
): Promise<number> {
  const lastBatch = mount.nextBatch - 1;
  const tokenId = hex(mount.tokenId);
  const from = await believedUpTo(lookup, holder, tokenId, mount);
  if (from > 0) return await readOn(lookup, holder, from, { tokenId, lastBatch, oldestBatch: mount.oldestBatch, onProgress });
  await lookup.clear();
  await lookup.beginFilling();
  const entries = await readOn(lookup, holder, from, { tokenId, lastBatch, oldestBatch: mount.oldestBatch, onProgress });
  await lookup.endFilling();
  return entries;
}

interface Way {
  readonly tokenId: string;
  readonly lastBatch: number;
  readonly oldestBatch: number;
  readonly onProgress: (batch: number, lastBatch: number) => void;
}

/** While some rows are written, the next are read: one write at a time is under way. */
async function readOn(lookup: Lookup, holder: Holder, from: number, { tokenId, lastBatch, oldestBatch, onProgress }: Way): Promise<number> {
  let rows: IndexRow[] = [];
  let entries = 0;
  let written: Promise<void> = Promise.resolve();
  /** Of the rows that no write has taken yet; a question to the lookup waits for the write before it. */
  const held = new Map<string, number>();
  const resolve = async (number: string): Promise<number | null> => held.get(number) ?? (await lookup.byNumber(number))?.sequence ?? null;
  for await (const batch of readBatches(holder, Math.max(from + 1, oldestBatch), lastBatch, chunkBytes, 'views')) {
    for (const place of batch.leaves.keys()) {
      if (entries % entriesPerTurn === 0) await new Promise((resolve) => setImmediate(resolve));
      const { row, correctedNumber } = rowFromLog(batch, place);
      rows.push({ ...row, corrects: correctedNumber === null ? null : await resolve(correctedNumber) });
      if (row.number !== null) held.set(row.number, row.sequence);
      entries += 1;
    }
    if (rows.length >= rowsPerWrite || batch.batchIndex === lastBatch) {
      await written;
      const head = { tokenId, batch: batch.batchIndex, sealHash: hex(sealHashOf(batch.sealBytes)) };
      written = lookup.write(rows, head).then(() => onProgress(head.batch, lastBatch));
      written.catch(() => undefined); // told when it is awaited
      rows = [];
      held.clear();
    }
  }
  await written;
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
