// Owns: selling a list of documents through the local socket as tills do, and what came of each.
// Invariants: documents are begun in their order; a credit note is not sent before the invoice that it takes back has its number; at most
// `inFlight` requests are open; each is issued exactly once by its key, whatever happens to service or line meanwhile.
// A refusal is an outcome; an outcome that stays unknown is thrown.
import { matchCredits, type RetailInvoice, toRequest } from '#ctl/retail.ts';
import type { Client } from '#ipc-schema/client.ts';
import { asUkeyError, type ErrorCode } from '#ipc-schema/errors.ts';
import type { Issued } from '#ipc-schema/issued.ts';

export interface Sale {
  readonly invoice: RetailInvoice;
  /** From the moment at which it was sent to the answer. */
  readonly tookMs: number;
  /** When the answer came, on the monotonic clock. */
  readonly answeredAtMs: number;
  readonly outcome: Outcome;
}

export type Outcome =
  | { readonly kind: 'issued'; readonly issued: Issued; readonly corrects: 'number' | 'external' | null }
  | { readonly kind: 'refused'; readonly code: ErrorCode; readonly field: string };

export interface SellOptions {
  readonly invoices: readonly RetailInvoice[];
  /** Connections; requests are spread over them. */
  readonly tills: readonly Client[];
  readonly inFlight: number;
  readonly template: string;
  readonly keyPrefix: string;
  /** Shortest time from one request to the next, for a till that shall be watched; 0: as fast as it goes. */
  readonly paceMs: number;
  onSale?(sale: Sale): void;
  /** Awaited before document `at` is begun. */
  before?(at: number): Promise<void>;
  /** True: nothing more is begun. */
  isOver?(): boolean;
}

/** A service that is restarted, or a token that is plugged out and in, is waited for this long. */
const issueDeadlineMs = 300_000;

export async function sell(options: SellOptions): Promise<Sale[]> {
  const { invoices, tills, inFlight, paceMs } = options;
  const matches = matchCredits(invoices);
  const numbers = new Map<string, Promise<string | null>>();
  const sales: Sale[] = [];
  let next = 0;
  let gate: Promise<unknown> = Promise.resolve();
  const worker = async (at: number): Promise<void> => {
    const till = tills[at % tills.length];
    if (till === undefined) return;
    for (let turn = next++; turn < invoices.length && options.isOver?.() !== true; turn = next++) {
      const invoice = invoices[turn];
      if (invoice === undefined) return;
      const mine = turn;
      const begun = gate.then(() => options.before?.(mine)).then(() => (paceMs > 0 ? pause(paceMs) : undefined));
      gate = begun;
      const original = matches.get(invoice.number) ?? null;
      const sale = begun.then(
        async () => await sellOne(options, till, invoice, original === null ? null : ((await numbers.get(original)) ?? null)),
      );
      numbers.set(
        invoice.number,
        sale.then(
          ({ outcome }) => (outcome.kind === 'issued' ? outcome.issued.number : null),
          () => null,
        ),
      );
      const done = await sale;
      sales.push(done);
      options.onSale?.(done);
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, inFlight) }, (_, at) => worker(at)));
  return sales;
}

async function sellOne(options: SellOptions, till: Client, invoice: RetailInvoice, corrects: string | null): Promise<Sale> {
  const { template, keyPrefix } = options;
  const request = { ...toRequest(invoice, { template, keyPrefix, corrects }), brief: true };
  const sentAtMs = performance.now();
  const outcome = await till.issue(request, { deadlineMs: issueDeadlineMs }).then(
    (issued): Outcome => ({
      kind: 'issued',
      issued,
      corrects: invoice.kind === 'invoice' ? null : corrects === null ? 'external' : 'number',
    }),
    (thrown: unknown): Outcome => {
      const error = asUkeyError(thrown);
      // Not a word about the document: it may exist. Nothing can add up then.
      if (error.retry === 'same-key' || error.retry === 'after-ms') throw error;
      return { kind: 'refused', code: error.code, field: (error.field ?? '').replace(/\[\d+\]/g, '[]') };
    },
  );
  const answeredAtMs = performance.now();
  return { invoice, tookMs: answeredAtMs - sentAtMs, answeredAtMs, outcome };
}

function pause(waitMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, waitMs));
}
