// Owns: the template: fields, tax rates, rounding and print layout of one kind of invoice; signed by the authority, versioned, valid from a date.
// Form: COSE_Sign1 (cose.ts); payload = the UTF-8 JSON below, kept as exact bytes.
import type { KeyObject } from 'node:crypto';
import { openSign1 } from './cose.ts';
import { UkeyError } from './errors.ts';
import { decodeJson } from './json.ts';
import { check, instantText, nameText, text, z } from './schema.ts';

const rate = z.string().regex(/^(?:0|[1-9]\d?)(?:\.\d{1,4})?$/, 'must be a percentage such as "20" or "5.5"');

export const templateSchema = z.strictObject({
  format: z.literal('ukey-template/1'),
  id: nameText,
  version: z.int().min(1),
  title: z.strictObject({ invoice: text(1, 60), creditNote: text(1, 60) }),
  currency: z.string().regex(/^[A-Z]{3}$/),
  /** Decimals of amounts; unit prices and quantities may carry more. */
  decimals: z.int().min(0).max(4),
  unitPriceDecimals: z.int().min(0).max(6),
  quantityDecimals: z.int().min(0).max(6),
  pricesIncludeTax: z.boolean(),
  taxes: z
    .array(z.strictObject({ code: nameText, rate, label: text(1, 60) }))
    .min(1)
    .max(20),
  defaultTax: nameText,
  rounding: z.enum(['half-up', 'half-even', 'down']),
  /** Lines given away: a unit price of zero. */
  allowZeroPrice: z.boolean(),
  /** Credit notes for documents that another system issued (`corrects.external`). */
  allowExternalCorrection: z.boolean(),
  buyer: z.enum(['none', 'optional', 'required']),
  /** Lines printed above and below the document; `{name}`, `{taxId}`, `{number}` are filled in. */
  layout: z.strictObject({
    widthChars: z.int().min(24).max(132),
    header: z.array(text(0, 132)).max(12),
    footer: z.array(text(0, 132)).max(12),
  }),
  validFrom: instantText,
  validUntil: instantText.nullable(),
});

export type Template = z.infer<typeof templateSchema>;

/** Verifies the authority's signature and the form. Throws invalid-request naming the template. */
export function openTemplate(signed: Uint8Array, authorityKey: KeyObject): Template {
  const template = check(templateSchema, decodeJson(openSign1(signed, authorityKey, 'template').payload));
  const codes = new Set(template.taxes.map((tax) => tax.code));
  if (codes.size !== template.taxes.length) throw new UkeyError('invalid-request', 'template: a tax code stands twice', { field: 'taxes' });
  if (!codes.has(template.defaultTax))
    throw new UkeyError('invalid-request', 'template: the default tax is not listed', { field: 'defaultTax' });
  if (template.validUntil !== null && Date.parse(template.validUntil) <= Date.parse(template.validFrom))
    throw new UkeyError('invalid-request', 'template: ends before it begins', { field: 'validUntil' });
  return template;
}
