// Owns: what was asked for (sequences, a number, times) as a range of batches and sequences, fixed once.
// How: sequences and numbers are found by the service's index; times by halving over the batches, whose entries never go back in time.
// Invariants: what was asked for by sequence or number and is not kept any more is refused; what is issued later does not belong to the range.
import type { LedgerPages, Page } from '#ctl/export/ledger-pages.ts';
import { decodeBatch, decodeSeal } from '#ipc-schema/batch.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { decodeLeaf } from '#ipc-schema/entry.ts';
import type { ExportAsked, ExportOrigin } from '#ipc-schema/export.ts';

export type Range = Pick<ExportOrigin, 'fromBatch' | 'toBatch' | 'fromSequence' | 'toSequence'>;

/** An entry, by its batch and sequence. */
interface Place {
  readonly batch: number;
  readonly sequence: number;
}

interface Brief {
  readonly batchIndex: number;
  readonly firstSequence: number;
  readonly nextSequence: number;
  /** Of its entries, in order. */
  readonly issuedAtMs: readonly number[];
}

export interface FoundRange extends Range {
  /** First batch that the token keeps. */
  readonly oldestBatch: number;
}

/** Throws not-found, as the service says it, for a beginning that was released. */
export async function findRange(pages: LedgerPages, asked: ExportAsked): Promise<FoundRange> {
  const page = await pages.page({ maxBytes: 1 });
  const { oldestBatch, newestBatch } = page;
  const oldest = briefOf(page);
  if (oldest === null) return { ...empty({ batch: 1, sequence: 1 }), oldestBatch };
  const newest = newestBatch === oldest.batchIndex ? oldest : await briefAt(pages, newestBatch);
  const ends: Ends = {
    first: { batch: oldest.batchIndex, sequence: oldest.firstSequence },
    last: { batch: newestBatch, sequence: newest.nextSequence - 1 },
  };
  const from = await beginOf(pages, asked, ends);
  const to = await endOf(pages, asked, ends);
  if (to === null || to.sequence < from.sequence) return { ...empty(from), oldestBatch };
  return { fromBatch: from.batch, toBatch: to.batch, fromSequence: from.sequence, toSequence: to.sequence, oldestBatch };
}

/** Of what the token keeps. */
interface Ends {
  readonly first: Place;
  readonly last: Place;
}

function empty({ batch, sequence }: Place): Range {
  return { fromBatch: batch, toBatch: batch - 1, fromSequence: sequence, toSequence: sequence - 1 };
}

/** The first entry; one behind the newest where there is none yet. */
async function beginOf(pages: LedgerPages, { from, fromNumber, since }: ExportAsked, ends: Ends): Promise<Place> {
  const sequence = fromNumber === undefined ? from : (await pages.ask('invoice.get', { number: fromNumber })).sequence;
  if (sequence !== undefined) {
    const brief = briefOf(await pages.page({ fromSequence: sequence, maxBytes: 1 }));
    return brief === null ? { batch: ends.last.batch + 1, sequence: ends.last.sequence + 1 } : { batch: brief.batchIndex, sequence };
  }
  if (since === undefined) return ends.first;
  const before = await lastBefore(pages, Date.parse(since), ends);
  if (before === null) return ends.first;
  return { batch: before.isBatchEnd ? before.batch + 1 : before.batch, sequence: before.sequence + 1 };
}

/** The last entry; null where there is none. */
async function endOf(pages: LedgerPages, { to, until }: ExportAsked, { first, last }: Ends): Promise<Place | null> {
  if (until !== undefined) return await lastBefore(pages, Date.parse(until), { first, last });
  if (to === undefined || to >= last.sequence) return last;
  if (to < first.sequence) return null;
  const brief = briefOf(await pages.page({ fromSequence: to, maxBytes: 1 }));
  return brief === null ? last : { batch: brief.batchIndex, sequence: to };
}

/** The last entry that was issued before that time; null where all were issued then or later. */
async function lastBefore(
  pages: LedgerPages,
  timeMs: number,
  { first, last }: Ends,
): Promise<(Place & { readonly isBatchEnd: boolean }) | null> {
  let low = first.batch; // batches before this one begin before that time
  let high = last.batch + 1; // those from this one on do not
  let found: Brief | null = null;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const brief = await briefAt(pages, middle);
    if ((brief.issuedAtMs[0] ?? 0) < timeMs) {
      found = brief;
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (found === null) return null;
  const within = found.issuedAtMs.findIndex((atMs) => atMs >= timeMs);
  const nextSequence = within < 0 ? found.nextSequence : found.firstSequence + within;
  return { batch: found.batchIndex, sequence: nextSequence - 1, isBatchEnd: within < 0 };
}

async function briefAt(pages: LedgerPages, fromBatch: number): Promise<Brief> {
  const brief = briefOf(await pages.page({ fromBatch, maxBytes: 1 }));
  if (brief === null) throw malformed(`batch ${fromBatch}`, 'is not there');
  return brief;
}

function briefOf({ batches }: Page): Brief | null {
  const [first] = batches;
  if (first === undefined) return null;
  const { sealBytes, entries } = decodeBatch(Buffer.from(first.bytes, 'base64'));
  const { firstSequence, count } = decodeSeal(sealBytes).seal;
  const issuedAtMs = entries.map(({ leaf }) => decodeLeaf(leaf).issuedAtMs);
  return { batchIndex: first.batchIndex, firstSequence, nextSequence: firstSequence + count, issuedAtMs };
}
