// Owns: how the order lines of a real shop (the Online Retail data set, docs/retail-data.md) become invoice.issue requests.
// Invariants: pure; one CSV invoice number = one request with that number as its key; nothing that the shop wrote is repaired
// silently: what is no invoice is sent as it stands, and the service's refusal is counted.
// Must not: know a socket, or what the service answered beyond "this CSV number got this number of ours".

import { UkeyError } from '#ipc-schema/errors.ts';
import type { InvoiceKind, InvoiceLine, InvoiceRequest } from '#ipc-schema/invoice.ts';
import { readCsv } from './csv.ts';

export const retailColumns = [
  'InvoiceNo',
  'StockCode',
  'Description',
  'Quantity',
  'InvoiceDate',
  'UnitPrice',
  'CustomerID',
  'Country',
] as const;
export type RetailRow = Record<(typeof retailColumns)[number], string>;

/** All rows of one InvoiceNo, wherever they stood in the file, in their order. */
export interface RetailInvoice {
  readonly number: string;
  readonly kind: InvoiceKind;
  readonly rows: readonly RetailRow[];
}

/** Placeholder of the data set for "country not known". */
const unknownCountry = 'Unspecified';
/** Zone of the shop's clock: the file has local times without one. */
const shopZone = 'Europe/London';
const currency = 'GBP';

/** Reads the file's text and groups its rows by invoice number, in order of first appearance. Throws invalid-request with the line. */
export function readRetail(text: string): RetailInvoice[] {
  const groups = new Map<string, RetailRow[]>();
  for (const row of readCsv(text, retailColumns)) {
    const rows = groups.get(row.InvoiceNo);
    if (rows === undefined) groups.set(row.InvoiceNo, [row]);
    else rows.push(row);
  }
  return Array.from(groups, ([number, rows]) => ({ number, kind: number.startsWith('C') ? 'credit-note' : 'invoice', rows }));
}

/**
 * For each credit note the CSV number of the invoice that it takes back: the newest earlier one of the same customer of which all its
 * lines (article and price) are left in sufficient quantity. Null where there is none: it was sold before the file begins,
 * to a customer without a number, or at another price.
 */
export function matchCredits(invoices: readonly RetailInvoice[]): Map<string, string | null> {
  const left = new Map<string, Map<string, bigint>>();
  const ofCustomer = new Map<string, string[]>();
  const matches = new Map<string, string | null>();
  for (const invoice of invoices) {
    const customer = invoice.rows[0]?.CustomerID ?? '';
    const wanted = quantities(invoice);
    if (invoice.kind === 'invoice') {
      if (customer === '' || invoice.rows.some((row) => row.Quantity.startsWith('-'))) continue;
      left.set(invoice.number, wanted);
      ofCustomer.set(customer, [invoice.number, ...(ofCustomer.get(customer) ?? [])]);
      continue;
    }
    const original = (ofCustomer.get(customer) ?? []).find((number) => holds(left.get(number), wanted)) ?? null;
    matches.set(invoice.number, original);
    const rest = original === null ? undefined : left.get(original);
    if (rest !== undefined) for (const [article, taken] of wanted) rest.set(article, (rest.get(article) ?? 0n) - taken);
  }
  return matches;
}

/** Pieces by article and price, counted positive. */
function quantities(invoice: RetailInvoice): Map<string, bigint> {
  const sums = new Map<string, bigint>();
  for (const row of invoice.rows) {
    const article = `${row.StockCode} ${row.UnitPrice}`;
    sums.set(article, (sums.get(article) ?? 0n) + wholeNumber(countedQuantity(row, invoice.kind)));
  }
  return sums;
}

function holds(left: ReadonlyMap<string, bigint> | undefined, wanted: ReadonlyMap<string, bigint>): boolean {
  return left !== undefined && Array.from(wanted).every(([article, pieces]) => (left.get(article) ?? 0n) >= pieces);
}

export interface RequestOptions {
  readonly template: string;
  /** Put before the CSV number, where the same day is sold again. */
  readonly keyPrefix?: string;
  /** Our number of the invoice that a credit note takes back; null: it is named as the shop's own. */
  readonly corrects?: string | null;
}

export function toRequest(invoice: RetailInvoice, options: RequestOptions): InvoiceRequest {
  const first = invoice.rows[0];
  if (first === undefined) throw new UkeyError('internal', `invoice ${invoice.number} has no rows`);
  const buyer = {
    ...(first.CustomerID === '' ? {} : { reference: first.CustomerID }),
    ...(first.Country === '' || first.Country === unknownCountry ? {} : { country: first.Country }),
  };
  return {
    key: `${options.keyPrefix ?? ''}${invoice.number}`,
    template: options.template,
    kind: invoice.kind,
    currency,
    soldAt: soldAt(first.InvoiceDate),
    ...(Object.keys(buyer).length === 0 ? {} : { buyer }),
    lines: invoice.rows.map((row) => toLine(row, invoice.kind)),
    ...(invoice.kind === 'credit-note' ? { corrects: correctsOf(invoice, options.corrects ?? null) } : {}),
  };
}

function correctsOf(invoice: RetailInvoice, number: string | null): NonNullable<InvoiceRequest['corrects']> {
  return number === null ? { external: invoice.number } : { number };
}

function toLine(row: RetailRow, kind: InvoiceKind): InvoiceLine {
  const written = printable(row.Description);
  return {
    description: written === '' ? `(no description) ${row.StockCode}` : written,
    quantity: countedQuantity(row, kind),
    unitPrice: row.UnitPrice,
    sku: row.StockCode,
  };
}

/** Control characters become spaces, and the ends are trimmed: both are typing accidents and neither can be printed. */
function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, ' ').trim();
}

/** A credit note counts what came back; the file writes that as a negative sale. Elsewhere the sign is left for the service to refuse. */
function countedQuantity(row: RetailRow, kind: InvoiceKind): string {
  if (kind === 'invoice') return row.Quantity;
  return row.Quantity.startsWith('-') ? row.Quantity.slice(1) : `-${row.Quantity}`;
}

const zoned = new Intl.DateTimeFormat('en-GB', { timeZone: shopZone, timeZoneName: 'longOffset' });

/** `2011-06-09 10:05:00` of the shop's clock as RFC 3339 with the offset that London had then. */
export function soldAt(local: string): string {
  const iso = local.replace(' ', 'T');
  const asUtc = new Date(`${iso}Z`);
  if (!/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}$/.test(iso) || Number.isNaN(asUtc.getTime())) {
    throw new UkeyError('invalid-request', 'InvoiceDate is not YYYY-MM-DD hh:mm:ss', { field: 'InvoiceDate' });
  }
  // In the hour in which the clocks go back this names the later of the two instants; no shop of the file sells at that time.
  const guess = offsetAt(asUtc);
  return `${iso}${offsetAt(new Date(`${iso}${guess}`))}`;
}

function offsetAt(instant: Date): string {
  const name = zoned.formatToParts(instant).find((part) => part.type === 'timeZoneName')?.value ?? 'GMT';
  return name === 'GMT' ? '+00:00' : name.replace('GMT', '');
}

// --- the sums that a replay is checked against: whole thousandths, read from the text, by another road than the service's ---

export interface RetailSums {
  readonly documents: number;
  /** Exact sum of quantity x price, in thousandths of the currency; credit notes counted positive. */
  readonly mills: bigint;
}

export function sumRows(invoices: readonly RetailInvoice[]): RetailSums {
  let mills = 0n;
  for (const invoice of invoices) {
    const sign = invoice.kind === 'credit-note' ? -1n : 1n;
    for (const row of invoice.rows) mills += sign * wholeNumber(row.Quantity) * inMills(row.UnitPrice);
  }
  return { documents: invoices.length, mills };
}

/** Cents of an exact sum of thousandths, half away from zero. */
export function centsOf(mills: bigint): bigint {
  return mills < 0n ? -((-mills + 5n) / 10n) : (mills + 5n) / 10n;
}

export function centsText(cents: bigint): string {
  const digits = (cents < 0n ? -cents : cents).toString().padStart(3, '0');
  return `${cents < 0n ? '-' : ''}${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

/** Cents of an amount that the service answered: always two decimals in this currency. */
export function centsOfText(amount: string): bigint {
  if (!/^-?\d+\.\d{2}$/.test(amount)) throw new UkeyError('internal', 'an amount without two decimals');
  return BigInt(amount.replace('.', ''));
}

function wholeNumber(text: string): bigint {
  if (!/^-?\d+$/.test(text)) throw new UkeyError('invalid-request', 'Quantity is not a whole number', { field: 'Quantity' });
  return BigInt(text);
}

function inMills(price: string): bigint {
  const match = /^(-?)(\d+)(?:\.(\d{1,3}))?$/.exec(price);
  if (match === null)
    throw new UkeyError('invalid-request', 'UnitPrice is not a number with at most three decimals', { field: 'UnitPrice' });
  return BigInt(`${match[1] ?? ''}${match[2] ?? ''}${(match[3] ?? '').padEnd(3, '0')}`);
}
