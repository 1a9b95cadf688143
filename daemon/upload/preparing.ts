// Owns: uploads made ready to be sent: read from the FLASH, packed (packer.ts); and in a backlog the next one while the one before is on its way.
// Invariants: what was made ready is used only where it begins where the next upload begins, for the same ledger and server, and within the bound of
// batches of that moment; at most one waits, as its sealed bytes. What is decoded anyway is noted for the ledger. It is made ahead only behind a full upload: behind another one, more may come.
// The first one of a process is small enough to be packed where tills are served: starting a thread takes longer than a service lives that is ended again and again,
// and each time something comes home.
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder } from '#holder/holder.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { gather, mostPlainBytes } from './gathering.ts';
import { hereMaxBytes, Packer } from './packer.ts';

export interface Prepared {
  readonly body: Uint8Array;
  readonly batchCount: number;
  readonly lastBatch: number;
  /** More than fits was there. */
  readonly isFull: boolean;
}

export interface Wish {
  readonly ledger: Ledger;
  readonly charter: Charter;
  readonly fromBatch: number;
  readonly batchesMax: number;
}

export class Preparing {
  readonly #holder: Holder;
  readonly #packer: Packer;
  #isFirst = true;
  #ahead: { readonly wish: Wish; readonly made: Promise<Prepared | null> } | null = null;

  constructor(holder: Holder, log: Log) {
    this.#holder = holder;
    this.#packer = new Packer({
      onFailed: (cause) => log.warn('an upload is packed where tills are served, not in a thread of its own', { why: whyOf(cause) }),
    });
  }

  /** Throws what reading the FLASH throws. */
  async take(wish: Wish): Promise<Prepared> {
    const ahead = this.#ahead;
    this.#ahead = null;
    const made = ahead !== null && isSame(ahead.wish, wish) ? await ahead.made : null;
    return made !== null && made.batchCount <= wish.batchesMax ? made : await this.#make(wish);
  }

  /** `sent` is on its way: begins with what comes after it. */
  goOn(sent: Prepared, wish: Omit<Wish, 'fromBatch'>): void {
    if (!sent.isFull) return;
    const next = { ...wish, fromBatch: sent.lastBatch + 1 };
    // One that failed is made anew when its turn comes: then it says why.
    this.#ahead = { wish: next, made: this.#make(next).catch(() => null) };
  }

  drop(): void {
    this.#ahead = null;
  }

  async close(): Promise<void> {
    await this.#packer.close();
  }

  async #make({ ledger, charter, fromBatch, batchesMax }: Wish): Promise<Prepared> {
    const plainBytes = this.#isFirst ? hereMaxBytes : mostPlainBytes;
    this.#isFirst = false;
    const { batches, lastBatch } = await gather(this.#holder, ledger, fromBatch, { batches: batchesMax, plainBytes });
    const isFull = lastBatch + 1 < ledger.tip.nextBatch;
    const sealKey = Buffer.from(charter.server.sealKey, 'base64');
    const { body, summaries } = await this.#packer.pack({ tokenId: ledger.mount.tokenId, sealKey, batches });
    for (const [place, { batchIndex }] of batches.entries()) {
      const summary = summaries[place];
      if (summary !== undefined) ledger.noteSummary(batchIndex, summary);
    }
    return { body, batchCount: batches.length, lastBatch, isFull };
  }
}

function isSame(made: Wish, wish: Wish): boolean {
  return made.ledger === wish.ledger && made.charter === wish.charter && made.fromBatch === wish.fromBatch;
}
