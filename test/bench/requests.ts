// Owns: the invoices that are issued: real order lines of the Online Retail data (docs/retail-data.md); the bundled day, or a larger file.
// Invariants: only what the service takes (invoices, no returns, no prices of zero or below), so that every request of a load succeeds; each is
// another one, so that a batch does not compress better than a shop's would.
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { type RetailInvoice, readRetail, toRequest } from '#ctl/retail.ts';
import type { InvoiceRequest } from '#ipc-schema/invoice.ts';

const bundled = new URL('../data/retail-day.csv', import.meta.url);
/** A typical invoice; longer orders are cut into several. */
const typicalLines = 10;
/** Fewer are a remnant. */
const leastLines = 8;
/** As many are kept of a large file. */
const mostRequests = 10_000;

export interface Requests {
  readonly typical: readonly InvoiceRequest[];
}

/** `file`: null: the bundled day. */
export function readRequests(file: string | null): Requests {
  const bytes = readFileSync(file ?? bundled);
  const text = (file?.endsWith('.gz') === true ? gunzipSync(bytes) : bytes).toString('utf8');
  const typical = readRetail(text)
    .filter(({ kind }) => kind === 'invoice')
    .flatMap(cut)
    .slice(0, mostRequests)
    .map((invoice) => toRequest(invoice, { template: 'retail' }));
  return { typical };
}

function cut(invoice: RetailInvoice): RetailInvoice[] {
  const rows = invoice.rows.filter(
    (row) => /^[1-9]\d*$/.test(row.Quantity) && /^\d+(\.\d+)?$/.test(row.UnitPrice) && Number(row.UnitPrice) > 0,
  );
  const parts = Array.from({ length: Math.ceil(rows.length / typicalLines) }, (_, at) =>
    rows.slice(at * typicalLines, (at + 1) * typicalLines),
  );
  return parts.filter((part) => part.length >= leastLines).map((part) => ({ ...invoice, rows: part }));
}

/** A request's JSON without its key, which is put in front for each sending. */
export function restOf(request: InvoiceRequest): string {
  const { key: _, ...rest } = request;
  return JSON.stringify(rest).slice(1);
}
