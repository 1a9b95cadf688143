// Owns: one element of the ledger as bytes: the leaf (what a customer's paper shows, small enough for a QR) and the body (exact bytes for ever).
// Leaf: CBOR [1, kind, sequence, number|null, issuedAtMs, issuerTaxId, currency|null, total|null, taxTotal|null, bodyHash] (SPEC.md, Leaf).
// Entry: CBOR [leaf bytes, body bytes]. Body of an invoice: UTF-8 JSON; of a charter or template: the signed document; of an
// acknowledgement: upstream.ts; of an admin event: UTF-8 JSON.
import { decodeCbor, encodeCbor, FieldReader, malformed } from './cbor.ts';
import { hashBytes, sha256 } from './merkle.ts';
import { nonNegativePattern } from './money.ts';

/** Numbers of the kinds inside leaves. They are never reused. */
export const entryKinds = {
  invoice: 1,
  'credit-note': 2,
  void: 3,
  report: 4,
  file: 5,
  charter: 6,
  template: 7,
  acknowledgement: 8,
  admin: 9,
} as const;

export type EntryKind = keyof typeof entryKinds;

const kindsByNumber = new Map<number, EntryKind>(Object.entries(entryKinds).map(([kind, number]) => [number, kind as EntryKind]));

/** Kinds that count against the charter's limits and must reach the server before they may be forgotten. */
export function isFiscal(kind: EntryKind): kind is 'invoice' | 'credit-note' {
  return kind === 'invoice' || kind === 'credit-note';
}

export interface Leaf {
  readonly kind: EntryKind;
  /** From 1 over all entries of the token, without a hole. */
  readonly sequence: number;
  /** The document's own number in its series; null for entries that are no documents. */
  readonly number: string | null;
  readonly issuedAtMs: number;
  readonly issuerTaxId: string;
  readonly currency: string | null;
  readonly total: string | null;
  readonly taxTotal: string | null;
  readonly bodyHash: Uint8Array;
}

export interface Entry {
  readonly leaf: Uint8Array;
  readonly body: Uint8Array;
}

export const leafMaxBytes = 512;
export const bodyMaxBytes = 512 * 1024;

export function bodyHashOf(body: Uint8Array): Uint8Array {
  return sha256(body);
}

export function encodeLeaf(leaf: Leaf): Uint8Array {
  return encodeCbor([
    1,
    entryKinds[leaf.kind],
    leaf.sequence,
    leaf.number,
    leaf.issuedAtMs,
    leaf.issuerTaxId,
    leaf.currency,
    leaf.total,
    leaf.taxTotal,
    leaf.bodyHash,
  ]);
}

/** Throws invalid-request unless the bytes are one leaf in its only spelling. */
export function decodeLeaf(bytes: Uint8Array): Leaf {
  if (bytes.length > leafMaxBytes) throw malformed('leaf', 'is too long');
  const fields = new FieldReader('leaf', decodeCbor(bytes, 'leaf'));
  fields.version(1);
  const kind = kindsByNumber.get(fields.count('kind'));
  if (kind === undefined) throw malformed('leaf', 'is of an unknown kind');
  const leaf = {
    kind,
    sequence: fields.count('sequence'),
    number: fields.textOrNull('number'),
    issuedAtMs: fields.instantMs('issuedAtMs'),
    issuerTaxId: fields.text('issuerTaxId'),
    currency: fields.textOrNull('currency'),
    total: fields.textOrNull('total'),
    taxTotal: fields.textOrNull('taxTotal'),
    bodyHash: fields.bytes('bodyHash', hashBytes),
  };
  fields.end();
  if (leaf.sequence < 1) throw malformed('leaf', 'has no sequence');
  for (const field of [leaf.number, leaf.currency, leaf.total, leaf.taxTotal]) {
    if (isFiscal(kind) !== (field !== null)) throw malformed('leaf', 'has a number or amounts that do not fit its kind');
  }
  for (const amount of [leaf.total, leaf.taxTotal]) {
    if (amount !== null && !nonNegativePattern.test(amount)) throw malformed('leaf', 'has an amount that is not a decimal');
  }
  return leaf;
}

export function encodeEntry(entry: Entry): Uint8Array {
  return encodeCbor([entry.leaf, entry.body]);
}

export function decodeEntry(value: unknown): Entry {
  const fields = new FieldReader('entry', value);
  const entry = { leaf: fields.bytes('leaf'), body: fields.bytes('body') };
  fields.end();
  if (entry.leaf.length > leafMaxBytes || entry.body.length > bodyMaxBytes) throw malformed('entry', 'is too long');
  return entry;
}
