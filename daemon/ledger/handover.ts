// Owns: whether a ledger was handed over: then the KEY that did so issues nothing more, until another one goes on or it is taken back.
// Invariants: the log alone says so, by its newest batch (admin.ts): it outlives restarts, and a copy of the store tells the same.
import { handsOver } from '#ipc-schema/admin.ts';
import type { Ledger } from './ledger.ts';
import { type Reads, readBatch } from './stored.ts';

/** What stops a ledger that was handed over. */
export const handedOver = { kind: 'handed-over', reason: 'this KEY has handed its ledger over to another one' } as const;

export async function isHandedOver(holder: Reads, { tip, kept }: Ledger): Promise<boolean> {
  const newest = tip.nextBatch - 1;
  return newest >= Math.max(1, kept.oldestBatch) && handsOver(await readBatch(holder, newest));
}
