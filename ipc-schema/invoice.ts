// Owns: what a till may ask (`invoice.issue`), and the document (body) that comes of it. Field names are fixed (SPEC.md, Document).
// Invariants: amounts are decimal strings; unknown fields are refused; credit notes carry positive amounts (as EN 16931, type code 381),
// the kind says the direction.
import { fieldPath, instantText, nameText, nonNegativeDecimalText, positiveDecimalText, text, z } from './schema.ts';

export const invoiceKinds = ['invoice', 'credit-note'] as const;
export type InvoiceKind = (typeof invoiceKinds)[number];

export const linesMax = 2_000;
const paymentsMax = 20;
const extMaxChars = 8_192;
export const keyText = z.string().regex(/^[\x21-\x7e]{1,128}$/, 'must be 1 to 128 printable ASCII characters without spaces');

const line = z.strictObject({
  description: text(1, 300),
  quantity: positiveDecimalText,
  unitPrice: nonNegativeDecimalText,
  taxCode: nameText.optional(),
  /** Amount taken off this line, in the currency. */
  discount: nonNegativeDecimalText.optional(),
  sku: text(1, 64).optional(),
});

const buyer = z.strictObject({
  name: text(1, 200).optional(),
  taxId: text(1, 64).optional(),
  address: z.array(text(1, 200)).max(6).optional(),
  country: text(1, 60).optional(),
  reference: text(1, 64).optional(),
});

const payment = z.strictObject({ method: nameText, amount: nonNegativeDecimalText });

/** What a credit note takes back: one of our documents by its number, or one of another system. */
const corrects = z.union([
  z.strictObject({ number: text(1, 64), reason: text(1, 200).optional() }),
  z.strictObject({ external: text(1, 64), reason: text(1, 200).optional() }),
]);

/** Wide enough for any sale that is told late; a year of 0001 or 9999 is a fault of the caller's clock or code. */
const soldAtText = instantText.regex(/^20\d\d-/, 'must be in the years 2000 to 2099');

/** Whatever it is, it came out of a JSON text and goes into one (json.ts has bounded its depth). */
const anyJson = z.unknown();

const ext = z
  .record(z.string().max(64), anyJson)
  .refine((value) => JSON.stringify(value).length <= extMaxChars, `must be at most ${extMaxChars} characters of JSON`);

const requestFields = {
  /** The caller's idempotency key: same key, same content = the same invoice, for ever. Scope: the terminal. */
  key: keyText,
  template: nameText,
  kind: z.enum(invoiceKinds).optional(),
  currency: z
    .string()
    .regex(/^[A-Z]{3}$/)
    .optional(),
  /** The caller's statement; copied into the document and used for nothing. */
  soldAt: soldAtText.optional(),
  buyer: buyer.optional(),
  lines: z.array(line).min(1, 'must hold at least one line').max(linesMax, `must hold at most ${linesMax} lines`),
  payments: z.array(payment).max(paymentsMax).optional(),
  /** Checked against the recomputed total when given. */
  total: nonNegativeDecimalText.optional(),
  corrects: corrects.optional(),
  ext: ext.optional(),
  wait: z.enum(['durable', 'acknowledged']).optional(),
  brief: z.boolean().optional(),
};

export const invoiceRequestSchema = z.strictObject(requestFields);
export type InvoiceRequest = z.infer<typeof invoiceRequestSchema>;
export type InvoiceLine = InvoiceRequest['lines'][number];

export const documentFormat = 'ukey-document/1';

export interface DocumentLine {
  description: string;
  sku?: string | undefined;
  quantity: string;
  unitPrice: string;
  discount?: string | undefined;
  taxCode: string;
  /** quantity x unitPrice - discount, rounded by the template. */
  amount: string;
  tax: string;
}

export interface DocumentTax {
  code: string;
  rate: string;
  /** Amount without tax. */
  net: string;
  tax: string;
}

/** The body of an invoice or credit note, in the order in which its members are written. */
export interface InvoiceDocument {
  format: typeof documentFormat;
  kind: InvoiceKind;
  token: string;
  sequence: number;
  number: string;
  issuedAt: string;
  soldAt?: string | undefined;
  issuer: { taxId: string; name: string; address: string[] };
  template: { id: string; version: number };
  currency: string;
  buyer?: z.infer<typeof buyer> | undefined;
  pricesIncludeTax: boolean;
  lines: DocumentLine[];
  taxes: DocumentTax[];
  total: string;
  taxTotal: string;
  payments?: z.infer<typeof payment>[] | undefined;
  corrects?: z.infer<typeof corrects> | undefined;
  ext?: Record<string, unknown> | undefined;
  /** Which terminal asked, under which key, and the digest of what it asked: proof of exactly-once. */
  request: { terminal: string; key: string; digest: string };
}

const amountText = z.string();

/** Strict form of a body, for verifiers and clients. */
export const invoiceDocumentSchema = z.strictObject({
  format: z.literal(documentFormat),
  kind: z.enum(invoiceKinds),
  token: z.string(),
  sequence: z.int().min(1),
  number: z.string(),
  issuedAt: instantText,
  soldAt: instantText.optional(),
  issuer: z.strictObject({ taxId: z.string(), name: z.string(), address: z.array(z.string()) }),
  template: z.strictObject({ id: z.string(), version: z.int().min(1) }),
  currency: z.string(),
  buyer: buyer.optional(),
  pricesIncludeTax: z.boolean(),
  lines: z.array(
    z.strictObject({
      description: z.string(),
      sku: z.string().optional(),
      quantity: amountText,
      unitPrice: amountText,
      discount: amountText.optional(),
      taxCode: z.string(),
      amount: amountText,
      tax: amountText,
    }),
  ),
  taxes: z.array(z.strictObject({ code: z.string(), rate: z.string(), net: amountText, tax: amountText })),
  total: amountText,
  taxTotal: amountText,
  payments: z.array(payment).optional(),
  corrects: corrects.optional(),
  ext: z.record(z.string(), anyJson).optional(),
  request: z.strictObject({ terminal: z.string(), key: z.string(), digest: z.string() }),
}) satisfies z.ZodType<InvoiceDocument>;

/** Path of a field of line `at`, for errors. */
export function lineField(at: number, field: string): string {
  return fieldPath(['lines', at, field]);
}
