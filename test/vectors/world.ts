// Owns: the small fixed world that the vectors are made of: test keys, one token's first three batches, and the bytes that are signed.
// Invariants: everything is a function of this file and fixed.json. P-256 keys are derived from their names (they protect nothing);
// random signatures are made once and then kept in fixed.json, so that the vectors never change by themselves.
// Must not: be imported by anything but tests.
import { createECDH, createHash, createPrivateKey, createPublicKey, constants as cryptoConstants, type KeyObject, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { encodeBatch, joinEntries, type Seal, sealHashOf, sealPayload } from '#ipc-schema/batch.ts';
import { type Algorithm, encodeSign1, keyIdOf, protectedHeader, toBeSigned } from '#ipc-schema/cose.ts';
import { type Entry, encodeEntry, encodeLeaf, type Leaf } from '#ipc-schema/entry.ts';
import type { Evidence } from '#ipc-schema/evidence.ts';
import type { InvoiceDocument, InvoiceRequest } from '#ipc-schema/invoice.ts';
import { buildTree, inclusionPath, leafHash, rootOf, sha256 } from '#ipc-schema/merkle.ts';
import type { Template } from '#ipc-schema/template.ts';
import { computeTotals } from '#ipc-schema/totals.ts';

export const fixedPath = new URL('./fixed.json', import.meta.url);

export interface Fixed {
  description: string;
  rsaPrivateKey: string;
  tokenCertificate: string;
  successorCertificates: Record<'successor' | 'rsa' | 'foreign' | 'selfMade', string>;
  renewedCertificates: Record<
    'renewed' | 'begins later' | 'does not end later' | 'of another key' | 'of another ledger' | 'signs itself',
    string
  >;
  signatures: Record<string, string>;
}

export const fixed = JSON.parse(readFileSync(fixedPath, 'utf8')) as Fixed;

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
export const unhex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'));
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);

export type KeyName = 'token' | 'server' | 'authority' | 'stranger' | 'successor' | 'rsa';

function ecKey(name: string): KeyObject {
  const pair = createECDH('prime256v1');
  const d = createHash('sha256').update(`ukeyd test vectors: ${name}`).digest();
  pair.setPrivateKey(d);
  const point = pair.getPublicKey();
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map((part) => part.toString('base64url')) as [string, string];
  return createPrivateKey({ format: 'jwk', key: { kty: 'EC', crv: 'P-256', d: d.toString('base64url'), x, y } });
}

export const privateKeys: Readonly<Record<KeyName, KeyObject>> = {
  token: ecKey('token'),
  server: ecKey('server'),
  authority: ecKey('authority'),
  stranger: ecKey('stranger'),
  successor: ecKey('successor'),
  rsa: createPrivateKey({ key: Buffer.from(fixed.rsaPrivateKey, 'base64'), format: 'der', type: 'pkcs8' }),
};

export const publicKey = (name: KeyName): KeyObject => createPublicKey(privateKeys[name]);
export const spkiOf = (name: KeyName): Uint8Array => new Uint8Array(publicKey(name).export({ type: 'spki', format: 'der' }));
export const tokenId = keyIdOf(publicKey('token'));
export const tokenCertificate = unhex(fixed.tokenCertificate);
/** Of keys that go on with the ledger, by the authority; `foreign` names another ledger, `selfMade` is signed by the stranger. */
export const successorCertificates = {
  successor: unhex(fixed.successorCertificates.successor),
  rsa: unhex(fixed.successorCertificates.rsa),
  foreign: unhex(fixed.successorCertificates.foreign),
  selfMade: unhex(fixed.successorCertificates.selfMade),
};

/** A signature that stays the same for ever: from fixed.json, or made now and kept there when make.ts writes. */
export function keptSignature(name: KeyName, algorithm: Algorithm, message: Uint8Array): Uint8Array {
  const slot = `${name} ${algorithm} ${hex(sha256(message))}`;
  const kept = fixed.signatures[slot] ?? hex(freshSignature(privateKeys[name], algorithm, message));
  fixed.signatures[slot] = kept;
  return unhex(kept);
}

export function freshSignature(key: KeyObject, algorithm: Algorithm, message: Uint8Array): Uint8Array {
  switch (algorithm) {
    case 'ES256':
      return sign('sha256', message, { key, dsaEncoding: 'ieee-p1363' });
    case 'RS256':
      return sign('sha256', message, key);
    case 'PS256':
      return sign('sha256', message, { key, padding: cryptoConstants.RSA_PKCS1_PSS_PADDING, saltLength: 32 });
  }
}

/** In the spelling that the signature was made in, high or low: ledgers have both, and a reader takes both. */
export function signed(name: KeyName, payload: Uint8Array, algorithm: Algorithm = 'ES256'): Uint8Array {
  const header = protectedHeader(algorithm, keyIdOf(publicKey(name)));
  return new Uint8Array(encodeSign1(header, payload, keptSignature(name, algorithm, toBeSigned(header, payload))));
}

// ---- Charter and template

export const charter = {
  format: 'ukey-charter/1',
  serial: 1,
  tokenId: hex(tokenId),
  issuer: { taxId: 'GB123456789', name: 'Example Gifts Ltd', address: ['1 Example Street', 'London'] },
  currency: 'GBP',
  mode: 'hybrid',
  limits: { hours: 72, count: 5000, amount: '250000.00', single: '20000.00' },
  series: [
    { kind: 'invoice', prefix: 'A', digits: 6, first: 1, last: 999_999 },
    { kind: 'credit-note', prefix: 'C', digits: 6, first: 1, last: 999_999 },
  ],
  server: {
    url: 'https://tickets.example',
    tlsCertificate: null,
    ackKey: Buffer.from(spkiOf('server')).toString('base64'),
    sealKey: Buffer.from(spkiOf('server').subarray(-65)).toString('base64'), // an SPKI of P-256 ends with the raw point
    recoveryKey: null,
  },
  verifyUrl: 'https://verify.example/e',
  keepDays: 30,
  validFrom: '2026-01-01T00:00:00Z',
  validUntil: '2027-01-01T00:00:00Z',
} as const;

export const template: Template = {
  format: 'ukey-template/1',
  id: 'retail',
  version: 1,
  title: { invoice: 'Invoice', creditNote: 'Credit note' },
  currency: 'GBP',
  decimals: 2,
  unitPriceDecimals: 3,
  quantityDecimals: 3,
  pricesIncludeTax: true,
  taxes: [
    { code: 'S', rate: '20', label: 'VAT 20 %' },
    { code: 'Z', rate: '0', label: 'VAT 0 %' },
  ],
  defaultTax: 'S',
  rounding: 'half-up',
  allowZeroPrice: true,
  allowExternalCorrection: true,
  buyer: 'optional',
  layout: { widthChars: 42, header: ['{name}', '{taxId}'], footer: ['Thank you'] },
  validFrom: '2026-01-01T00:00:00Z',
  validUntil: null,
};

const jsonBytes = (value: unknown): Uint8Array => utf8(JSON.stringify(value));
export const signedCharter = signed('authority', jsonBytes(charter));
export const signedTemplate = signed('authority', jsonBytes(template));

// ---- Entries

const firstInstantMs = Date.parse('2026-03-02T09:30:00.000Z');

function plainEntry(kind: 'charter' | 'template', sequence: number, body: Uint8Array): Entry {
  const leaf = encodeLeaf({
    kind,
    sequence,
    number: null,
    issuedAtMs: firstInstantMs,
    issuerTaxId: charter.issuer.taxId,
    currency: null,
    total: null,
    taxTotal: null,
    bodyHash: sha256(body),
  });
  return { leaf, body };
}

/** JSON with members in code-unit order, as the digest of a request wants it (SPEC.md, Document). */
function orderedJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(orderedJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${orderedJson(member)}`).join(',')}}`;
}

function invoiceEntry(
  kind: InvoiceDocument['kind'],
  sequence: number,
  number: string,
  lines: InvoiceRequest['lines'],
  corrects?: string,
): Entry {
  const { lines: computed, taxes, total, taxTotal } = computeTotals({ lines }, template);
  const issuedAtMs = firstInstantMs + sequence * 1_000;
  const correction = corrects === undefined ? {} : { corrects: { number: corrects, reason: 'returned' } };
  const request = { key: `sale-${sequence}`, template: template.id, kind, lines, ...correction };
  const document: InvoiceDocument = {
    format: 'ukey-document/1',
    kind,
    token: hex(tokenId),
    sequence,
    number,
    issuedAt: new Date(issuedAtMs).toISOString(),
    issuer: { taxId: charter.issuer.taxId, name: charter.issuer.name, address: [...charter.issuer.address] },
    template: { id: template.id, version: template.version },
    currency: template.currency,
    pricesIncludeTax: template.pricesIncludeTax,
    lines: computed,
    taxes,
    total,
    taxTotal,
    ...correction,
    request: { terminal: 'till-1', key: request.key, digest: Buffer.from(sha256(utf8(orderedJson(request)))).toString('base64url') },
  };
  const body = jsonBytes(document);
  const leaf: Leaf = {
    kind,
    sequence,
    number,
    issuedAtMs,
    issuerTaxId: charter.issuer.taxId,
    currency: template.currency,
    total,
    taxTotal,
    bodyHash: sha256(body),
  };
  return { leaf: encodeLeaf(leaf), body };
}

const heart = { description: 'WHITE HANGING HEART T-LIGHT HOLDER', sku: '85123A', quantity: '6', unitPrice: '2.55' };
const ribbon = { description: 'Ribbon, cut to length', quantity: '1.250', unitPrice: '0.845', taxCode: 'Z' };

export const entriesByBatch: readonly (readonly Entry[])[] = [
  [plainEntry('charter', 1, signedCharter), plainEntry('template', 2, signedTemplate)],
  [
    invoiceEntry('invoice', 3, 'A000001', [heart]),
    invoiceEntry('invoice', 4, 'A000002', [heart, ribbon]),
    invoiceEntry('credit-note', 5, 'C000001', [{ ...heart, quantity: '2' }], 'A000001'),
  ],
  [invoiceEntry('invoice', 6, 'A000003', [ribbon, { description: 'Čaj, 紅茶 ☕', quantity: '1', unitPrice: '4', discount: '0.5' }])],
];

// ---- Batches

export interface SealedBatch {
  readonly seal: Seal;
  readonly sealBytes: Uint8Array;
  readonly bytes: Uint8Array;
  readonly entries: readonly Entry[];
}

function sealBatches(): SealedBatch[] {
  const sealed: SealedBatch[] = [];
  let previousSealHash = sha256(tokenCertificate);
  let firstSequence = 1;
  for (const [at, entries] of entriesByBatch.entries()) {
    const root = rootOf(buildTree(entries.map((entry) => leafHash(entry.leaf))));
    const sealedAtMs = firstInstantMs + 60_000 * (at + 1);
    const seal: Seal = { tokenId, batchIndex: at + 1, firstSequence, count: entries.length, root, previousSealHash, sealedAtMs };
    const sealBytes = signed('token', sealPayload(seal));
    sealed.push({ seal, sealBytes, bytes: encodeBatch(sealBytes, joinEntries(entries.map(encodeEntry))), entries });
    previousSealHash = sealHashOf(sealBytes);
    firstSequence += entries.length;
  }
  return sealed;
}

export const batches: readonly SealedBatch[] = sealBatches();

export function batchAt(batchIndex: number): SealedBatch {
  const batch = batches[batchIndex - 1];
  if (batch === undefined) throw new Error(`no batch ${batchIndex} in this world`);
  return batch;
}

/** Evidence of one entry, by sequence. */
export function evidenceOf(sequence: number): { readonly evidence: Evidence; readonly entry: Entry } {
  for (const { seal, sealBytes, entries } of batches) {
    const index = sequence - seal.firstSequence;
    const entry = entries[index];
    if (index < 0 || entry === undefined) continue;
    const path = inclusionPath(buildTree(entries.map((one) => leafHash(one.leaf))), index).map((step) => new Uint8Array(step));
    return { evidence: { leaf: entry.leaf, index, count: entries.length, path, sealBytes }, entry };
  }
  throw new Error(`no entry ${sequence} in this world`);
}
