// Owns: an issued document as a receipt of 42 columns, as a till would print it, with its QR code under it.
// Invariants: every figure is the document's own text; nothing is computed. A QR code that is wider than the terminal would be
// cut and useless: its text is printed instead.
// Must not: verify anything.
import { centred, columnsOf, cut, leftRight, wrap } from '#ctl/columns.ts';
import { qrCode } from '#ctl/qr-code.ts';
import { plain } from '#ctl/screen.ts';
import { bodyMaxBytes } from '#ipc-schema/entry.ts';
import { type InvoiceDocument, invoiceDocumentSchema } from '#ipc-schema/invoice.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { check } from '#ipc-schema/schema.ts';

export const receiptColumns = 42;

export interface ReceiptOptions {
  /** Text of the QR code; left out: none is printed. */
  readonly qr?: string | undefined;
  /** Black on white by terminal colours. */
  readonly colours?: boolean;
  /** Columns of the terminal; null: as many as it takes. */
  readonly widthColumns?: number | null;
}

/** The receipt of a document (body text). Throws invalid-request when it is no document. */
export function receiptText(documentText: string, options: ReceiptOptions = {}): string {
  const document = readDocument(documentText);
  const lines = [...headLines(document), ...itemLines(document), ...sumLines(document), ...footLines(document)].map(plain);
  return `${[...lines, ...qrLines(options)].join('\n')}\n`;
}

export function readDocument(documentText: string): InvoiceDocument {
  const bytes = Buffer.from(documentText, 'utf8');
  return check(invoiceDocumentSchema, decodeJson(bytes, { maxBytes: bodyMaxBytes, maxDepth: 32 }));
}

const rule = '-'.repeat(receiptColumns);
const indent = '  ';
const titles = { invoice: 'INVOICE', 'credit-note': 'CREDIT NOTE' } as const;

function headLines({ issuer, kind, number, issuedAt, soldAt, buyer, corrects }: InvoiceDocument): string[] {
  const corrected = corrects === undefined ? null : 'number' in corrects ? corrects.number : corrects.external;
  return [
    ...[issuer.name, ...issuer.address, issuer.taxId].flatMap((text) => centred(text, receiptColumns)),
    '',
    ...centred(titles[kind], receiptColumns),
    ...leftRight('Number', number, receiptColumns),
    ...leftRight('Issued', timeText(issuedAt), receiptColumns),
    ...(soldAt === undefined ? [] : leftRight('Sold', timeText(soldAt), receiptColumns)),
    ...(corrected === null ? [] : leftRight('Corrects', corrected, receiptColumns)),
    ...(corrects?.reason === undefined ? [] : leftRight('Reason', corrects.reason, receiptColumns)),
    ...(buyer === undefined ? [] : buyerLines(buyer)),
    rule,
  ];
}

function buyerLines(buyer: NonNullable<InvoiceDocument['buyer']>): string[] {
  const rows: (readonly [string, string | undefined])[] = [
    ['Buyer', buyer.name],
    ['Tax id', buyer.taxId],
    ...(buyer.address ?? []).map((line, at) => [at === 0 ? 'Address' : '', line] as const),
    ['Country', buyer.country],
    ['Reference', buyer.reference],
  ];
  return rows.flatMap(([name, value]) => (value === undefined ? [] : leftRight(name, value, receiptColumns)));
}

function itemLines({ lines }: InvoiceDocument): string[] {
  return [
    ...lines.flatMap((line) => {
      const discount = line.discount === undefined ? '' : ` - ${line.discount}`;
      const plainItem = line.quantity === '1' && discount === '';
      if (plainItem && columnsOf(line.description) + columnsOf(line.amount) < receiptColumns)
        return leftRight(line.description, line.amount, receiptColumns);
      const figures = leftRight(`${line.quantity} x ${line.unitPrice}${discount}`, line.amount, receiptColumns - indent.length);
      return [...wrap(line.description, receiptColumns), ...figures.map((text) => indent + text)];
    }),
    rule,
  ];
}

function sumLines({ total, taxTotal, currency, taxes, payments, pricesIncludeTax }: InvoiceDocument): string[] {
  return [
    ...leftRight('TOTAL', `${currency} ${total}`, receiptColumns),
    ...taxes.flatMap((tax) => leftRight(`${tax.code} ${tax.rate}% of ${tax.net}`, tax.tax, receiptColumns)),
    ...leftRight(pricesIncludeTax ? 'Tax included' : 'Tax', taxTotal, receiptColumns),
    ...(payments ?? []).flatMap((payment) => leftRight(payment.method, payment.amount, receiptColumns)),
    rule,
  ];
}

function footLines({ token, sequence }: InvoiceDocument): string[] {
  return [...leftRight('Token', token, receiptColumns), ...leftRight('Sequence', String(sequence), receiptColumns)];
}

function qrLines({ qr, colours = false, widthColumns = null }: ReceiptOptions): string[] {
  if (qr === undefined) return [];
  const code = qrCode(qr);
  if (code !== null && (widthColumns === null || code.widthColumns <= widthColumns)) return ['', ...code.rows(colours)];
  const why = code === null ? 'Too long for a QR code; its text:' : `The QR code takes ${code.widthColumns} columns; its text:`;
  return ['', ...wrap(why, receiptColumns), ...cut(plain(qr), receiptColumns)];
}

/** `2026-01-31T10:05:00.123Z` as `2026-01-31 10:05:00Z`: the instant as it is written, without the fraction. */
function timeText(instant: string): string {
  return instant.replace('T', ' ').replace(/\.\d+/, '');
}
