// Owns: whether the body of an invoice or credit note is a document that says the same as its leaf. Pure.
// Invariants: never throws on a body, whatever it holds; what it finds parks one entry and stops nothing else.
import { isUtf8 } from 'node:buffer';
import { bodyMaxBytes, isFiscal } from '#ipc-schema/entry.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { type InvoiceDocument, invoiceDocumentSchema } from '#ipc-schema/invoice.ts';
import { decodeJson, decodeUtf8 } from '#ipc-schema/json.ts';
import { check } from '#ipc-schema/schema.ts';
import type { VerifiedEntry } from '#ipc-schema/verify.ts';
import { isPlainDocument } from './plain-document.ts';

/** Whose entry it is. */
export interface Owner {
  /** Hex. */
  readonly tokenId: string;
  readonly issuerTaxId: string;
}

const documentLimits = { maxBytes: bodyMaxBytes, maxDepth: 32 };

/** What is wrong with the document in a few words; null for a good one, and for an entry that is no document. */
export function documentFlaw(entry: VerifiedEntry, owner: Owner): string | null {
  const leaf = entry.parsed;
  if (!isFiscal(leaf.kind)) return null;
  if (leaf.issuerTaxId !== owner.issuerTaxId) return 'the leaf names another issuer than the token is enrolled for';
  if (isUtf8(entry.body) && isPlainDocument(decodeUtf8(entry.body), leaf, owner.tokenId)) return null;
  return parsedFlaw(entry, owner);
}

/** The same by reading the whole of it. For a document whose leaf names its owner's issuer. */
export function parsedFlaw({ body, parsed: leaf }: VerifiedEntry, owner: Owner): string | null {
  let document: InvoiceDocument;
  try {
    document = check(invoiceDocumentSchema, decodeJson(body, documentLimits));
  } catch (thrown) {
    return `the body is no invoice document: ${asUkeyError(thrown).message}`.slice(0, 300).toWellFormed();
  }
  const agreeing: readonly (readonly [string, boolean])[] = [
    ['kind', document.kind === leaf.kind],
    ['token', document.token === owner.tokenId],
    ['sequence', document.sequence === leaf.sequence],
    ['number', document.number === leaf.number],
    ['issuedAt', Date.parse(document.issuedAt) === leaf.issuedAtMs],
    ['issuer.taxId', document.issuer.taxId === leaf.issuerTaxId],
    ['currency', document.currency === leaf.currency],
    ['total', document.total === leaf.total],
    ['taxTotal', document.taxTotal === leaf.taxTotal],
  ];
  const differing = agreeing.find(([, agrees]) => !agrees);
  return differing === undefined ? null : `the document's ${differing[0]} is not the leaf's`;
}
