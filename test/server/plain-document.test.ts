// A document that is recognised without being parsed: as the service writes it, and never one that the schema would refuse.
import { describe, expect, test } from 'vitest';
import { makeDraft } from '#desk/draft.ts';
import { charterSchema } from '#ipc-schema/charter.ts';
import { bodyHashOf, encodeLeaf, type Leaf } from '#ipc-schema/entry.ts';
import type { InvoiceRequest } from '#ipc-schema/invoice.ts';
import { parsedFlaw } from '#server/document-check.ts';
import { isPlainDocument } from '#server/plain-document.ts';
import { seededRandom, seedOf } from '#test/support/seed.ts';
import { template, charter as worldCharter } from '#test/vectors/world.ts';

const charter = charterSchema.parse(worldCharter);
const tokenIdHex = charter.tokenId;
const owner = { tokenId: tokenIdHex, issuerTaxId: charter.issuer.taxId };
const nowMs = Date.parse(template.validFrom) + 1;
const lines = [
  { description: 'WHITE HANGING HEART T-LIGHT HOLDER', quantity: '6', unitPrice: '2.55', sku: '85123A' },
  { description: 'Café crème, 0,5 l 😀', quantity: '1', unitPrice: '3', discount: '0.50' },
];
const sale: InvoiceRequest = { key: 'a-1', template: template.id, lines };
const requests: readonly InvoiceRequest[] = [
  sale,
  { ...sale, soldAt: '2026-01-02T03:04:05+01:00' },
  { ...sale, buyer: { reference: '16150', name: 'Ann', country: 'United Kingdom', address: ['1 High Street', 'Leeds'] } },
  { ...sale, payments: [{ method: 'cash', amount: '8.80' }] },
  { ...sale, kind: 'credit-note', corrects: { number: 'A000001', reason: 'broken' } },
];

interface Document {
  readonly text: string;
  readonly leaf: Leaf;
}

function written(request: InvoiceRequest): Document {
  const { payments, ...rest } = request;
  const facts = { terminal: 'till-1', tokenIdHex, charter, templates: [template], nowMs, corrects: null };
  const { total } = makeDraft(rest, facts);
  const paid = payments === undefined ? {} : { payments: payments.map((payment) => ({ ...payment, amount: total })) };
  const draft = makeDraft({ ...rest, ...paid }, facts);
  const place = { sequence: 7, number: 'A000007', issuedAtMs: nowMs };
  const body = draft.body(place);
  const { documentKind: kind, currency, taxTotal } = draft;
  return {
    text: Buffer.from(body).toString('utf8'),
    leaf: { kind, ...place, issuerTaxId: owner.issuerTaxId, currency, total, taxTotal, bodyHash: bodyHashOf(body) },
  };
}

const isPlain = ({ text, leaf }: Document): boolean => isPlainDocument(text, leaf, tokenIdHex);
const flawOf = ({ text, leaf }: Document): string | null =>
  parsedFlaw({ leaf: encodeLeaf(leaf), body: Buffer.from(text, 'utf8'), parsed: leaf }, owner);

describe('a document', () => {
  test.each(requests)('as the service writes it is recognised: %j', (request) => {
    const document = written(request);
    expect([isPlain(document), flawOf(document)]).toEqual([true, null]);
  });

  test('in another spelling is left to the schema, which takes it', () => {
    const document = written(sale);
    const other = { ...document, text: JSON.stringify(JSON.parse(document.text), null, 1) };
    expect([isPlain(other), flawOf(other)]).toEqual([false, null]);
    const escaped = { ...document, text: document.text.replace('WHITE', '\\u0057HITE') };
    expect([isPlain(escaped), flawOf(escaped)]).toEqual([false, null]);
  });

  test('that says something else than its leaf is not recognised', () => {
    const { text, leaf } = written(sale);
    const others: Partial<Leaf>[] = [
      { kind: 'credit-note' },
      { sequence: 8 },
      { number: 'A000008' },
      { issuedAtMs: leaf.issuedAtMs + 1 },
      { issuerTaxId: 'XX' },
      { currency: 'XXX' },
      { total: '1.00' },
      { taxTotal: '1.00' },
    ];
    for (const other of others) expect([other, isPlain({ text, leaf: { ...leaf, ...other } })]).toEqual([other, false]);
    expect(isPlainDocument(text, leaf, '0'.repeat(32))).toBe(false);
  });

  test('whose buyer, payments, correction or time of sale break a rule is not recognised', () => {
    const broken: readonly (readonly [InvoiceRequest | undefined, string, string])[] = [
      [requests[1], '2026-01-02T', '2026-13-02T'],
      [requests[2], '"country"', '"planet"'],
      [requests[2], '"Ann"', '" "'],
      [requests[2], '"name":"Ann"', '"name":"Ann","name":"Eve"'],
      [requests[3], '"cash"', '"ca sh"'],
      [requests[3], '"cash","amount":"', '"cash","amount":"-'],
      [requests[4], '"reason"', '"external"'],
    ];
    for (const [request, from, to] of broken) {
      const { text, leaf } = written(request ?? sale);
      const changed = { leaf, text: text.replace(from, to) };
      expect([to, changed.text !== text, isPlain(changed), flawOf(changed) !== null]).toEqual([to, true, false, true]);
    }
  });

  const seed = seedOf();
  test(`changed anywhere is recognised only where the schema takes it (seed ${seed})`, () => {
    const random = seededRandom(seed);
    const below = (count: number): number => Math.floor(random() * count);
    const pieces = [
      '"',
      '\\',
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '0',
      '-',
      '.',
      ' ',
      '\n',
      'x',
      'é',
      '\u0000',
      '\u202e',
      '""',
      '"x":"y",',
      'null',
      'true',
    ];
    let recognised = 0;
    let left = 0;
    for (let round = 0; round < 6_000; round += 1) {
      const { text, leaf } = written(requests[round % requests.length] ?? sale);
      const at = below(text.length);
      const end = Math.min(text.length, at + below(random() < 0.2 ? 60 : 3));
      const piece = random() < 0.2 ? text.slice(below(text.length)).slice(0, below(60)) : (pieces[below(pieces.length)] ?? '');
      const changed = { leaf, text: (text.slice(0, at) + piece + text.slice(end)).toWellFormed() };
      if (isPlain(changed)) {
        recognised += 1;
        expect([changed.text, flawOf(changed)]).toEqual([changed.text, null]);
      } else {
        left += 1;
      }
    }
    expect(recognised).toBeGreaterThan(100);
    expect(left).toBeGreaterThan(100);
  });

  test('that is very long is left to the schema', () => {
    const many = { ...sale, lines: Array.from({ length: 900 }, () => lines[0] ?? { description: 'x', quantity: '1', unitPrice: '1' }) };
    const document = written(many);
    expect([isPlain(document), flawOf(document)]).toEqual([false, null]);
  });
});
