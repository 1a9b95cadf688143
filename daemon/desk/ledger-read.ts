// Owns: the errand ledger.read: sealed batches as the token keeps them, a page at a time, for exports and ERP programs.
// Invariants: only what is durable; a page is bounded, and one is read at a time over all callers: who reads a whole ledger stands between
// two commits of a till for one page at most. Who would wait behind too many others is told busy.
// Must not: look into a batch; what is read says of itself whether it holds.
import { Gate } from '#ground/gate.ts';
import { mapUnpacked } from '#ground/unpacking.ts';
import type { Holder } from '#holder/holder.ts';
import { batchMaxBytes } from '#ipc-schema/batch.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { ledgerPageBytes } from '#ipc-schema/ledger-page.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';

/** Readers in line, and those of one who asks. */
const waitingMax = 16;
const waitingMaxOfOne = 8;

export class LedgerReading {
  readonly #custody: Custody;
  readonly #holder: Pick<Holder, 'readPacked'>;
  readonly #gate = new Gate({ atOnce: 1, waitingMax, waitingMaxOfOne, busy: 'too many read the ledger' });

  constructor(custody: Custody, holder: Pick<Holder, 'readPacked'>) {
    this.#custody = custody;
    this.#holder = holder;
  }

  /** Errors: busy, not-found for what was released, and the holder's. */
  read(params: Params<'ledger.read'>): Promise<Result<'ledger.read'>> {
    return this.inLine(() => this.#page(params));
  }

  /** One after the other, with all who read pages; those who ask take turns. Rejects with busy, or as `act` does. */
  inLine<T>(act: () => Promise<T>): Promise<T> {
    return this.#gate.pass(act);
  }

  async #page({ fromBatch, fromSequence, maxBytes = ledgerPageBytes }: Params<'ledger.read'>): Promise<Result<'ledger.read'>> {
    if (fromBatch !== undefined && fromSequence !== undefined)
      throw new UkeyError('invalid-request', 'give fromBatch or fromSequence, not both', { field: 'fromSequence' });
    const ledger = await this.#custody.use();
    const newestBatch = ledger.tip.nextBatch - 1;
    const { oldestBatch } = ledger.kept;
    const first = fromSequence === undefined ? (fromBatch ?? oldestBatch) : await ledger.batchOf(fromSequence);
    if (first === null || first > newestBatch) return { batches: [], nextBatch: null, oldestBatch, newestBatch };
    if (first < oldestBatch) throw released(oldestBatch);
    const read = await this.#holder.readPacked(first, Math.min(maxBytes, batchMaxBytes)).catch((error: unknown) => {
      // Released between the look and the read.
      throw asUkeyError(error).code === 'not-found' ? released(Math.max(first + 1, ledger.kept.oldestBatch)) : error;
    });
    const durable = read.filter(({ batchIndex }) => batchIndex <= newestBatch);
    const packed = durable.map((batch) => batch.packed);
    const batches = await mapUnpacked(packed, (bytes, place) => ({ batchIndex: first + place, bytes: base64Of(bytes) }));
    if (durable.length > 0 && batches.length === 0) throw new UkeyError('halted', `batch ${first} does not unpack`);
    const next = first + batches.length;
    return {
      batches,
      nextBatch: next > newestBatch ? null : next,
      oldestBatch,
      newestBatch,
    };
  }
}

/** Of the bytes where they are: a copy of each batch would double what a reader of the whole ledger leaves behind. */
const base64Of = ({ buffer, byteOffset, byteLength }: Uint8Array): string => Buffer.from(buffer, byteOffset, byteLength).toString('base64');

function released(oldestBatch: number): UkeyError {
  return new UkeyError('not-found', `the token keeps batches from ${oldestBatch} on: those before were acknowledged and released`, {
    action: `Begin with batch ${oldestBatch}; the ticket server has the older ones and gives them out (GET /v1/tokens/<id>/batches).`,
  });
}
