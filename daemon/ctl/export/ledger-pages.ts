// Owns: reading the ledger through the service, page by page, over lost connections and restarts of the service.
// Invariants: reading changes nothing, so that a page whose answer is lost is asked for again; the next page is asked for while this one is
// used, never more than one ahead; waiting for a service that is away has an end.
import type { Service } from '#ctl/connection.ts';
import { endAs } from '#ctl/exit-codes.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { asUkeyError, type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import type { MethodName, Params, Result } from '#ipc-schema/methods.ts';

/** How long a service that does not answer, or whose token is locked, is waited for. */
const patienceMs = 120_000;
const pauseMs = 500;
/** What may be over by itself, or because somebody acts: a restart, a login. */
const passing: readonly ErrorCode[] = ['busy', 'unknown-outcome', 'locked', 'no-token', 'token-failed'];

export type Page = Result<'ledger.read'>;

export class LedgerPages {
  readonly #service: Service;
  readonly #note: (what: string) => void;
  #answered = false;

  constructor(service: Service, note: (what: string) => void) {
    this.#service = service;
    this.#note = note;
  }

  /** Once it has answered, a service that is away is waited for, as long as anybody wants the answer. */
  async ask<M extends MethodName>(method: M, params: Params<M>, isWanted: () => boolean = () => true): Promise<Result<M>> {
    const endMs = performance.now() + patienceMs;
    for (let told = ''; ; ) {
      try {
        const result = await this.#service.call(method, params);
        this.#answered = true;
        return result;
      } catch (thrown) {
        const error = asUkeyError(thrown);
        const isPassing = error.code === 'busy' || error.code === 'unknown-outcome' || (this.#answered && passing.includes(error.code));
        if (!isPassing || !isWanted() || performance.now() >= endMs) throw thrown;
        if (error.message !== told && error.code !== 'busy') this.#note(`waiting for the service: ${error.message}`);
        told = error.message;
        await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs ?? pauseMs));
      }
    }
  }

  page(params: Params<'ledger.read'>): Promise<Page> {
    return this.ask('ledger.read', params);
  }

  /** The batches of a range, a page at a time. Throws invalid-request when the service answers others. */
  async *pages(fromBatch: number, toBatch: number): AsyncGenerator<readonly Uint8Array[]> {
    let next = fromBatch;
    let isWanted = true;
    const begin = (): Promise<Page> | null => (next <= toBatch ? this.#begin(next, () => isWanted) : null);
    try {
      for (let coming = begin(); coming !== null; ) {
        const { batches } = await coming;
        if (batches.length === 0) throw endAs('refused', new UkeyError('internal', `the service has no batch ${next}`));
        const wanted = batches.filter(({ batchIndex }) => batchIndex <= toBatch);
        for (const { batchIndex } of wanted)
          if (batchIndex !== next++) throw malformed(`batch ${batchIndex}`, `came where ${next - 1} was asked for`);
        coming = begin();
        yield wanted.map(({ bytes }) => Buffer.from(bytes, 'base64'));
      }
    } finally {
      isWanted = false;
    }
  }

  #begin(fromBatch: number, isWanted: () => boolean): Promise<Page> {
    const page = this.ask('ledger.read', { fromBatch }, isWanted);
    page.catch(() => undefined); // awaited when it is its turn
    return page;
  }
}
