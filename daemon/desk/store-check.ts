// Owns: the errand store.check: one segment of the store read on FLASH and mirror, put right from one another, and what nobody has, from the ticket server.
// Invariants: tills go on meanwhile; a batch from the server is written only as the very bytes that stood there (the holder sees to it), so that nothing
// here has to be believed. A server that does not answer only leaves things as they are.
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, SegmentCheck, StoredBatch } from '#holder/holder.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { Holdings } from '#upload/holdings.ts';

export interface StoreCheckParts {
  readonly custody: Custody;
  readonly holder: Holder;
  readonly log: Log;
}

/** Batches that one call fetches: the next scrub goes on. */
const fetchedMax = 256;

export async function checkStore(parts: StoreCheckParts, params: Params<'store.check'>): Promise<Result<'store.check'>> {
  const { custody, holder, log } = parts;
  const ledger = await custody.use();
  const heal = params.heal === true;
  const found = await holder.check(params.fromRun ?? 1, heal);
  if (found.flashDamaged.length > 0 || found.mirrorDamaged.length > 0)
    log.warn('the store is damaged', { segment: found.done, flash: found.flashDamaged.length, mirror: found.mirrorDamaged.length });
  const mended = heal && found.missing.length > 0 ? await mend(parts, ledger, found) : [];
  const back = new Set(mended);
  const lost = found.missing.flatMap(({ from, to }) => Array.from({ length: to - from + 1 }, (_, at) => from + at));
  const missing = lost.filter((batch) => !back.has(batch));
  if (missing.length > 0) log.error('batches cannot be read from the store', { first: missing[0] ?? 0, count: missing.length });
  const { nextRun, done, segments, frames, flashDamaged, mirrorDamaged } = found;
  return {
    ...{ nextRun, done, segments, batches: frames, flashDamaged: [...flashDamaged], mirrorDamaged: [...mirrorDamaged] },
    ...{ healed: found.healed, mended: [...mended], missing },
  };
}

async function mend({ holder, log }: StoreCheckParts, ledger: Ledger, found: SegmentCheck): Promise<readonly number[]> {
  const { charter, mount, tip } = ledger;
  if (charter === null) return [];
  const server = new Holdings(charter, mount.tokenId);
  try {
    const batches: StoredBatch[] = [];
    for (const { from, to } of found.missing) {
      // What was not acknowledged nobody else has.
      const last = Math.min(to, tip.ackedBatch, from + fetchedMax - 1 - batches.length);
      let batchIndex = from;
      for await (const page of server.batches(from, last)) for (const bytes of page) batches.push({ batchIndex: batchIndex++, bytes });
    }
    return batches.length === 0 ? [] : await holder.mend(batches);
  } catch (error) {
    log.warn('the ticket server gives no copies of damaged batches', { why: whyOf(error) });
    return [];
  } finally {
    server.close();
  }
}
