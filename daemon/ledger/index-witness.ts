// Owns: what an index on disk knows beyond its log. What it knows of was durable: where the log ends before, the log has lost it.
// Invariants: writes nothing. A spoilt index is no witness: it must hold what it says, and go on from this very log.
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Mount } from '#holder/holder.ts';
import { entryKinds } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { isDamage, Lookup } from './lookup.ts';
import { type Reads, readBatch, rowFromLog } from './stored.ts';

/** The index of one token in its state folder. */
export const indexFileOf = (stateDirectory: string, tokenId: Uint8Array): string =>
  path.join(stateDirectory, `index-${Buffer.from(tokenId).toString('hex')}.sqlite`);

/** What an index that reaches further than its log tells: indexes of batches. */
export interface Beyond {
  readonly newestBatch: number;
  /** With more than acknowledgements, which bear no number. It may stand in the log. */
  readonly newestWeightyBatch: number;
}

/** Null: the index tells nothing beyond the log. That of a log that has just begun is of an earlier attempt. */
export async function beyondLog(lookup: Lookup, reads: Reads, mount: Mount): Promise<Beyond | null> {
  const head = await lookup.head();
  const lastBatch = mount.nextBatch - 1;
  if (head === null || head.tokenId !== Buffer.from(mount.tokenId).toString('hex') || head.batch <= lastBatch || lastBatch < 1) return null;
  if ((await lookup.newestBatch()) !== head.batch || !(await hasLast(lookup, reads, mount))) return null;
  return { newestBatch: head.batch, newestWeightyBatch: await lookup.newestBatch({ beside: entryKinds.acknowledgement }) };
}

/** The same of a file, which need not be there. Rejects where it cannot be asked: `isSpoilt` says whether it ever can. */
export async function askIndex(file: string, reads: Reads, mount: Mount): Promise<Beyond | null> {
  if (!existsSync(file)) return null;
  const lookup = await Lookup.openToRead(file);
  try {
    return await beyondLog(lookup, reads, mount);
  } finally {
    await lookup.close();
  }
}

/** Damaged, or of another version (internal): what it holds helps nobody. */
export const isSpoilt = (failure: unknown): boolean => isDamage(failure) || (failure instanceof UkeyError && failure.code === 'internal');

/** Whether the index has the log's newest batch, row for row. */
async function hasLast(lookup: Lookup, reads: Reads, { nextBatch, oldestBatch }: Mount): Promise<boolean> {
  if (nextBatch - 1 < oldestBatch) return true; // released: nothing is left to compare
  const batch = await readBatch(reads, nextBatch - 1);
  for (const place of batch.leaves.keys()) {
    const { row } = rowFromLog(batch, place);
    const known = await lookup.bySequence(row.sequence);
    if (known?.batch !== row.batch || known.kind !== row.kind || known.number !== row.number || known.digest !== row.digest) return false;
  }
  return true;
}
