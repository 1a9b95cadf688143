// Owns: whether one document (body of an invoice or credit note) says what its leaf says, and adds up under its template.
// Pure. Whether leaf, seal and chain hold is ipc-schema/verify.ts's; what spans several documents is ledger-check.ts's.
import { bodyMaxBytes, type Leaf } from '#ipc-schema/entry.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { type InvoiceDocument, invoiceDocumentSchema } from '#ipc-schema/invoice.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { check } from '#ipc-schema/schema.ts';
import type { Template } from '#ipc-schema/template.ts';
import { computeTotals } from '#ipc-schema/totals.ts';

export type DocumentReading =
  | { readonly kind: 'document'; readonly document: InvoiceDocument; readonly faults: readonly string[] }
  /** No document at all: nothing further can be said of it. */
  | { readonly kind: 'unreadable'; readonly why: string };

/** Compares the document with its leaf and the token that it names. */
export function readChecked(leaf: Leaf, body: Uint8Array, tokenId: string): DocumentReading {
  let document: InvoiceDocument;
  try {
    document = check(invoiceDocumentSchema, decodeJson(body, { maxBytes: bodyMaxBytes, maxDepth: 32 }));
  } catch (thrown) {
    return { kind: 'unreadable', why: asUkeyError(thrown).message };
  }
  const pairs: readonly (readonly [name: string, inDocument: unknown, inLeaf: unknown])[] = [
    ['token', document.token, tokenId],
    ['kind', document.kind, leaf.kind],
    ['sequence', document.sequence, leaf.sequence],
    ['number', document.number, leaf.number],
    ['issuedAt', Date.parse(document.issuedAt), leaf.issuedAtMs],
    ['issuer.taxId', document.issuer.taxId, leaf.issuerTaxId],
    ['currency', document.currency, leaf.currency],
    ['total', document.total, leaf.total],
    ['taxTotal', document.taxTotal, leaf.taxTotal],
  ];
  const faults = pairs
    .filter(([, inDocument, inLeaf]) => inDocument !== inLeaf)
    .map(([name, inDocument, inLeaf]) => `${name} is ${String(inDocument)} in the document and ${String(inLeaf)} in the leaf`);
  return { kind: 'document', document, faults };
}

/** What comes out otherwise when lines, taxes and totals are computed again under the template. */
export function arithmeticFaults(document: InvoiceDocument, template: Template): string[] {
  try {
    const again = computeTotals(document, template);
    const faults = document.lines.flatMap((line, at) => {
      const computed = again.lines[at];
      return line.amount === computed?.amount && line.tax === computed.tax ? [] : [`lines[${at}] does not add up`];
    });
    for (const name of ['total', 'taxTotal'] as const) {
      if (document[name] !== again[name]) faults.push(`${name} is ${document[name]}, computed ${again[name]}`);
    }
    if (JSON.stringify(document.taxes) !== JSON.stringify(again.taxes)) faults.push('taxes do not add up');
    return faults;
  } catch (thrown) {
    return [asUkeyError(thrown).message];
  }
}
