// Owns: recognising, without parsing it, a document in the very form in which the service writes it: the bulk of what a server is sent. Pure.
// Invariants: it only ever says "certainly good"; whatever differs in a blank, an escape or the order of members is left to the schema
// (document-check.ts), which alone says what is wrong. What it says is good the schema takes too: a test holds one against the other.
// How: members that may be any text are matched by their place; those with rules of their own are cut out and given to their part of the schema.
import type { Leaf } from '#ipc-schema/entry.ts';
import { documentFormat, invoiceDocumentSchema } from '#ipc-schema/invoice.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import type { z } from '#ipc-schema/schema.ts';

/** Matching keeps a place to return to for each character. */
const plainMaxChars = 64 * 1024;
const pieceMaxDepth = 4;

/** JSON text without escapes. */
const chars = '[^"\\\\\\x00-\\x1f]*';
const anyText = `"${chars}"`;
const list = (item: string): string => `\\[(?:${item}(?:,${item})*)?\\]`;
const line = `\\{"description":${anyText},(?:"sku":${anyText},)?"quantity":${anyText},"unitPrice":${anyText},(?:"discount":${anyText},)?"taxCode":${anyText},"amount":${anyText},"tax":${anyText}\\}`;
const tax = `\\{"code":${anyText},"rate":${anyText},"net":${anyText},"tax":${anyText}\\}`;
const piece = (name: string, open: string, close: string): string => `(?:"${name}":(?<${name}>${open}[^\\\\{}]*${close}),)?`;

/** What follows the head, in the order in which draft.ts writes it. */
const restPattern = new RegExp(
  [
    `(?:"soldAt":"(?<soldAt>${chars})",)?`,
    `"issuer":\\{"taxId":"(?<taxId>${chars})","name":${anyText},"address":${list(anyText)}\\},`,
    `"template":\\{"id":${anyText},"version":[1-9][0-9]{0,14}\\},"currency":"(?<currency>${chars})",`,
    piece('buyer', '\\{', '\\}'),
    `"pricesIncludeTax":(?:true|false),"lines":${list(line)},"taxes":${list(tax)},`,
    `"total":"(?<total>${chars})","taxTotal":"(?<taxTotal>${chars})",`,
    `(?:"payments":(?<payments>\\[[^\\\\[\\]]*\\]),)?`,
    piece('corrects', '\\{', '\\}'),
    `"request":\\{"terminal":${anyText},"key":${anyText},"digest":${anyText}\\}\\}$`,
  ].join(''),
  'y',
);

const { soldAt, buyer, payments, corrects } = invoiceDocumentSchema.shape;

/** True only for a document that the schema takes and that says the same as its leaf. `text`: decoded from UTF-8 without loss. */
export function isPlainDocument(text: string, leaf: Leaf, tokenId: string): boolean {
  if (text.length > plainMaxChars) return false;
  const head = headOf(leaf, tokenId);
  if (!text.startsWith(head)) return false;
  restPattern.lastIndex = head.length;
  const found = restPattern.exec(text)?.groups;
  return (
    found !== undefined &&
    found['taxId'] === leaf.issuerTaxId &&
    found['currency'] === leaf.currency &&
    found['total'] === leaf.total &&
    found['taxTotal'] === leaf.taxTotal &&
    soldAt.safeParse(found['soldAt']).success &&
    fits(buyer, found['buyer']) &&
    fits(payments, found['payments']) &&
    fits(corrects, found['corrects'])
  );
}

function headOf({ kind, sequence, number, issuedAtMs }: Leaf, tokenId: string): string {
  const issuedAt = new Date(issuedAtMs).toISOString();
  return `{"format":"${documentFormat}","kind":"${kind}","token":"${tokenId}","sequence":${sequence},"number":${JSON.stringify(number)},"issuedAt":"${issuedAt}",`;
}

function fits(schema: z.ZodType, json: string | undefined): boolean {
  if (json === undefined) return true;
  try {
    return schema.safeParse(decodeJson(Buffer.from(json, 'utf8'), { maxBytes: 4 * plainMaxChars, maxDepth: pieceMaxDepth })).success;
  } catch {
    return false; // not strict JSON: the whole document's reading says where
  }
}
