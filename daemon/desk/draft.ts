// Owns: making a till's request into a draft: template, kind, currency, buyer, totals, what it corrects, and the document's bytes. No I/O.
// Errors: invalid-invoice (with the field), template-unknown, template-expired.

import type { Charter } from '#ipc-schema/charter.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { documentFormat, type InvoiceDocument, type InvoiceKind, type InvoiceRequest } from '#ipc-schema/invoice.ts';
import type { Template } from '#ipc-schema/template.ts';
import { computeTotals } from '#ipc-schema/totals.ts';
import { keyHashOf } from '#ledger/lookup.ts';
import type { DocumentDraft, Numbered } from '#ledger/numbering.ts';
import { requestDigest } from './request-digest.ts';

export interface DraftFacts {
  readonly terminal: string;
  readonly tokenIdHex: string;
  readonly charter: Charter;
  readonly templates: readonly Template[];
  readonly nowMs: number;
  /** Sequence of the document that `corrects.number` names; null when the request names none of ours. */
  readonly corrects: number | null;
  readonly onSealed?: DocumentDraft['onSealed'];
}

/** Room for sequence, number and times in front of the rest of a document. */
const headMaxBytes = 256;

const refuse = (field: string, why: string): UkeyError => new UkeyError('invalid-invoice', `${field}: ${why}`, { field });

export function makeDraft(request: InvoiceRequest, facts: DraftFacts): DocumentDraft {
  const template = templateFor(facts.templates, request.template, facts.nowMs);
  const kind = request.kind ?? 'invoice';
  checkParties(request, kind, template);
  const totals = computeTotals(request, template);
  const digest = requestDigest(request);
  const { charter } = facts;
  // In the order in which they are written; what is undefined is not.
  const rest = {
    soldAt: request.soldAt,
    issuer: charter.issuer,
    template: { id: template.id, version: template.version },
    currency: template.currency,
    buyer: request.buyer,
    pricesIncludeTax: template.pricesIncludeTax,
    lines: totals.lines,
    taxes: totals.taxes,
    total: totals.total,
    taxTotal: totals.taxTotal,
    payments: request.payments,
    corrects: request.corrects,
    ext: request.ext,
    request: { terminal: facts.terminal, key: request.key, digest },
  } satisfies Omit<InvoiceDocument, keyof Head>;
  const tail = JSON.stringify(rest).slice(1);
  return {
    kind: 'document',
    documentKind: kind,
    terminal: facts.terminal,
    keyHash: keyHashOf(facts.terminal, request.key),
    digest,
    currency: template.currency,
    total: totals.total,
    taxTotal: totals.taxTotal,
    corrects: facts.corrects,
    bodyBytes: Buffer.byteLength(tail) + headMaxBytes,
    body: (numbered) => Buffer.from(`${headText(kind, facts.tokenIdHex, numbered)},${tail}`),
    onSealed: facts.onSealed,
  };
}

type Head = Pick<InvoiceDocument, 'format' | 'kind' | 'token' | 'sequence' | 'number' | 'issuedAt'>;

/** The members that exist only once the number does stand first, so that the rest is written before. */
function headText(kind: InvoiceKind, token: string, { sequence, number, issuedAtMs }: Numbered): string {
  const head: Head = { format: documentFormat, kind, token, sequence, number, issuedAt: new Date(issuedAtMs).toISOString() };
  return JSON.stringify(head).slice(0, -1);
}

/** The newest version that is valid now. */
export function templateFor(templates: readonly Template[], id: string, nowMs: number): Template {
  const versions = templates.filter((template) => template.id === id);
  if (versions.length === 0) {
    const known = [...new Set(templates.map((template) => template.id))].join(', ');
    throw new UkeyError('template-unknown', `the token has no template ${id}; it has ${known === '' ? 'none' : known}`, {
      field: 'template',
    });
  }
  const valid = versions.filter(
    (each) => Date.parse(each.validFrom) <= nowMs && (each.validUntil === null || nowMs < Date.parse(each.validUntil)),
  );
  const newest = valid.sort((a, b) => b.version - a.version)[0];
  if (newest === undefined) throw new UkeyError('template-expired', 'no version of this template is valid now', { field: 'template' });
  return newest;
}

function checkParties(request: InvoiceRequest, kind: InvoiceKind, template: Template): void {
  if (request.currency !== undefined && request.currency !== template.currency) throw refuse('currency', `must be ${template.currency}`);
  if (template.buyer === 'required' && request.buyer === undefined) throw refuse('buyer', 'is required by the template');
  if (template.buyer === 'none' && request.buyer !== undefined) throw refuse('buyer', 'is not allowed by the template');
  if (kind === 'invoice' && request.corrects !== undefined) throw refuse('corrects', 'belongs to a credit note');
  if (kind === 'credit-note' && request.corrects === undefined) throw refuse('corrects', 'is needed: say which document is taken back');
  if (request.corrects !== undefined && 'external' in request.corrects && !template.allowExternalCorrection) {
    throw refuse('corrects.external', 'is not allowed by the template: name one of our documents by its number');
  }
}
