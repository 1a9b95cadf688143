// Owns: the records of an export of a ledger (docs/export.md): the origin, then of each batch its seal and the entries that were chosen of it, then the end.
// Their JSON is one line each in the form `jsonl`; the form `tar` spreads them over files (daemon/ctl/export/tar.ts).
// Invariants: everything that a reader may act on is proven by evidence, or recomputed and compared (counts, sums); a line stands in one spelling; pure.
import { isUtf8 } from 'node:buffer';
import { malformed } from './cbor.ts';
import { type EntryKind, entryKinds } from './entry.ts';
import { decodeJson } from './json.ts';
import { base64Text, check, instantText, sumText, text, z } from './schema.ts';

export const exportFormat = 'ukey-export/1';
/** A body of half a MiB, escaped as JSON text and with its evidence. */
export const exportLineMaxBytes = 4 * 1024 * 1024;

const kinds = Object.keys(entryKinds) as readonly EntryKind[];
const index = z.int().min(1);
const count = z.int().min(0);
const certificate = base64Text.max(16 * 1024);
const hashText = z.string().regex(/^[0-9a-f]{64}$/);

/** What was asked for, as it was typed; a bound that was not given is left out. */
export const exportAskedSchema = z.strictObject({
  from: index.optional(),
  fromNumber: text(1, 64).optional(),
  since: instantText.optional(),
  to: index.optional(),
  until: instantText.optional(),
});
export type ExportAsked = z.infer<typeof exportAskedSchema>;

export const exportOriginSchema = z.strictObject({
  format: z.literal(exportFormat),
  /** The ledger: id of its first key. */
  tokenId: z.string().regex(/^[0-9a-f]{32}$/),
  /** Certificates (DER) of the ledger's keys, the first key's first: its hash stands before the first seal. A seal names its own. */
  certificates: z.array(certificate).min(1).max(64),
  authorityCertificate: certificate,
  asked: exportAskedSchema,
  /** Only entries of these kinds; null: all. */
  kinds: z
    .array(z.enum(kinds as [EntryKind, ...EntryKind[]]))
    .min(1)
    .nullable(),
  /** The range, fixed when the export began. An empty one ends before it begins. */
  fromBatch: index,
  toBatch: count,
  fromSequence: index,
  toSequence: count,
});
export type ExportOrigin = z.infer<typeof exportOriginSchema>;

const sealSchema = z.strictObject({
  batch: index,
  /** batch.ts seal bytes. */
  seal: base64Text.max(4 * 1024),
  /** How many of its entries follow. */
  entries: count,
});
export type ExportSeal = z.infer<typeof sealSchema>;

const entrySchema = z.strictObject({
  sequence: index,
  number: z.string().nullable(),
  kind: z.enum(kinds as [EntryKind, ...EntryKind[]]),
  issuedAt: instantText,
  currency: z.string().nullable(),
  total: z.string().nullable(),
  taxTotal: z.string().nullable(),
  /** The body as text, exact; or `bytes`, where it is no text. */
  document: z.string().optional(),
  bytes: base64Text.optional(),
  /** evidence.ts bytes: proves this line alone. */
  evidence: base64Text.max(8 * 1024),
});
export type ExportEntry = z.infer<typeof entrySchema>;

/** Amounts of one currency, without sign. */
const sumsSchema = z.strictObject({
  currency: z.string(),
  invoices: count,
  invoiceTotal: sumText,
  invoiceTaxTotal: sumText,
  creditNotes: count,
  creditNoteTotal: sumText,
  creditNoteTaxTotal: sumText,
});
export type ExportSums = z.infer<typeof sumsSchema>;

const endSchema = z.strictObject({
  end: z.strictObject({
    batches: count,
    entries: count,
    byKind: z.partialRecord(z.enum(kinds as [EntryKind, ...EntryKind[]]), count),
    sums: z.array(sumsSchema).max(200),
    /** The last batch; null where there is none. */
    head: z.strictObject({ batch: index, nextSequence: index, sealHash: hashText }).nullable(),
    /** SHA-256 of all bytes of the export before this record. */
    sha256: hashText,
  }),
});
export type ExportEnd = z.infer<typeof endSchema>['end'];

export type ExportRecord =
  | { readonly kind: 'origin'; readonly origin: ExportOrigin }
  | { readonly kind: 'seal'; readonly seal: ExportSeal }
  | { readonly kind: 'entry'; readonly entry: ExportEntry }
  | { readonly kind: 'end'; readonly end: ExportEnd };

/** Kinds whose bodies are signed structures; what is written of the others is text. */
const binaryKinds: readonly EntryKind[] = ['charter', 'template', 'acknowledgement'];

/** The body's member of an entry. */
export function exportBody(kind: EntryKind, body: Uint8Array): { readonly document: string } | { readonly bytes: string } {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.length);
  return binaryKinds.includes(kind) || !isUtf8(bytes) ? { bytes: bytes.toString('base64') } : { document: bytes.toString('utf8') };
}

/** The exact bytes of the body. Throws invalid-request unless there is one body. */
export function bodyOfExport({ sequence, document, bytes }: ExportEntry): Buffer {
  if ((document === undefined) === (bytes === undefined)) throw malformed(`entry ${sequence}`, 'has no body, or two');
  return document === undefined ? Buffer.from(bytes ?? '', 'base64') : Buffer.from(document, 'utf8');
}

/** The record as JSON, without the end of the line. */
export function encodeExportRecord(record: ExportRecord): string {
  switch (record.kind) {
    case 'origin':
      return JSON.stringify(record.origin);
    case 'seal':
      return JSON.stringify(record.seal);
    case 'entry':
      return JSON.stringify(record.entry);
    case 'end':
      return JSON.stringify({ end: record.end });
  }
}

/** Throws invalid-request (or too-large) unless the bytes are one record. Verifies nothing. */
export function decodeExportRecord(bytes: Uint8Array): ExportRecord {
  const value = decodeJson(bytes, { maxBytes: exportLineMaxBytes, maxDepth: 5 });
  const has = (name: string): boolean => typeof value === 'object' && value !== null && Object.hasOwn(value, name);
  if (has('format')) return { kind: 'origin', origin: check(exportOriginSchema, value) };
  if (has('batch')) return { kind: 'seal', seal: check(sealSchema, value) };
  if (has('sequence')) return { kind: 'entry', entry: check(entrySchema, value) };
  if (has('end')) return { kind: 'end', end: check(endSchema, value).end };
  throw malformed('export', 'holds what is no record of it');
}
