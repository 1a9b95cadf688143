// Owns: what is counted while an export is written or verified: entries by kind, sums by currency, the last batch, and a hash over all bytes.
// Invariants: its size does not grow with the ledger; a copy goes on by itself, so that a reader can go back to where a batch ended.
import { createHash, type Hash } from 'node:crypto';
import { type EntryKind, isFiscal, type Leaf } from '#ipc-schema/entry.ts';
import type { ExportEnd, ExportSums } from '#ipc-schema/export.ts';
import { type Money, money, sumTextOf, zero } from '#ipc-schema/money.ts';
import type { ChainHead } from '#ipc-schema/verify.ts';

interface Sum {
  readonly count: number;
  readonly total: Money;
  readonly tax: Money;
}

type Sums = Readonly<Record<'invoice' | 'credit-note', Sum>>;

const none: Sum = { count: 0, total: zero, tax: zero };

export class Tally {
  #hash: Hash = createHash('sha256');
  #batches = 0;
  #entries = 0;
  #head: ChainHead | null = null;
  #byKind = new Map<EntryKind, number>();
  #sums = new Map<string, Sums>();

  get head(): ChainHead | null {
    return this.#head;
  }

  get batches(): number {
    return this.#batches;
  }

  get entries(): number {
    return this.#entries;
  }

  /** Of the whole export, the end excepted. */
  addBytes(bytes: Uint8Array): void {
    this.#hash.update(bytes);
  }

  addBatch(head: ChainHead): void {
    this.#batches += 1;
    this.#head = head;
  }

  addEntry({ kind, currency, total, taxTotal }: Leaf): void {
    this.#entries += 1;
    this.#byKind.set(kind, (this.#byKind.get(kind) ?? 0) + 1);
    if (!isFiscal(kind)) return;
    const before = this.#sums.get(currency ?? '') ?? { invoice: none, 'credit-note': none };
    const { count, total: sum, tax } = before[kind];
    const after = { count: count + 1, total: sum.plus(money(total ?? '0')), tax: tax.plus(money(taxTotal ?? '0')) };
    this.#sums.set(currency ?? '', { ...before, [kind]: after });
  }

  copy(): Tally {
    const other = new Tally();
    other.#hash = this.#hash.copy();
    other.#batches = this.#batches;
    other.#entries = this.#entries;
    other.#head = this.#head;
    other.#byKind = new Map(this.#byKind);
    other.#sums = new Map(this.#sums);
    return other;
  }

  end(): ExportEnd {
    return {
      batches: this.#batches,
      entries: this.#entries,
      byKind: Object.fromEntries([...this.#byKind].sort(([a], [b]) => (a < b ? -1 : 1))),
      sums: [...this.#sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([currency, sums]) => sumsOf(currency, sums)),
      head:
        this.#head === null
          ? null
          : {
              batch: this.#head.batchIndex,
              nextSequence: this.#head.nextSequence,
              sealHash: Buffer.from(this.#head.sealHash).toString('hex'),
            },
      sha256: this.#hash.copy().digest('hex'),
    };
  }
}

function sumsOf(currency: string, { invoice, 'credit-note': credit }: Sums): ExportSums {
  return {
    currency,
    invoices: invoice.count,
    invoiceTotal: sumTextOf(invoice.total),
    invoiceTaxTotal: sumTextOf(invoice.tax),
    creditNotes: credit.count,
    creditNoteTotal: sumTextOf(credit.total),
    creditNoteTaxTotal: sumTextOf(credit.tax),
  };
}
