import { describe, expect, it } from 'vitest';
import { invoiceDocumentSchema, invoiceRequestSchema, linesMax } from '#ipc-schema/invoice.ts';
import { base64Text, check, fieldPath, instantText, text } from '#ipc-schema/schema.ts';
import { refusal } from '#test/support/refusal.ts';
import { evidenceOf } from '#test/vectors/world.ts';

const line = { description: 'thing', quantity: '1', unitPrice: '1.20' };
const request = { key: 'sale-1', template: 'retail', lines: [line] };

/** A request that is wrong, and the field that is named. */
const wrong: readonly (readonly [string, unknown, string | undefined])[] = [
  ['no object', null, undefined],
  ['an array', [], undefined],
  ['without key', { ...request, key: undefined }, 'key'],
  ['key with a space', { ...request, key: 'a b' }, 'key'],
  ['key of 129 characters', { ...request, key: 'k'.repeat(129) }, 'key'],
  ['key as a number', { ...request, key: 7 }, 'key'],
  ['an unknown field', { ...request, colour: 'red' }, 'colour'],
  ['an unknown field of a line', { ...request, lines: [line, { ...line, price: '1' }] }, 'lines[1].price'],
  ['an unknown field of a name that is in every object', { ...request, constructor: 1 }, 'constructor'],
  ['template with a slash', { ...request, template: '../x' }, 'template'],
  ['kind unknown', { ...request, kind: 'receipt' }, 'kind'],
  ['currency in lower case', { ...request, currency: 'gbp' }, 'currency'],
  ['soldAt without an offset', { ...request, soldAt: '2026-01-01T00:00:00' }, 'soldAt'],
  ['soldAt with ten digits of a second', { ...request, soldAt: '2026-01-01T00:00:00.1234567890Z' }, 'soldAt'],
  ['soldAt with an unknown offset', { ...request, soldAt: '2026-01-01T00:00:00-00:00' }, 'soldAt'],
  ['no lines', { ...request, lines: [] }, 'lines'],
  ['too many lines', { ...request, lines: Array.from({ length: linesMax + 1 }, () => line) }, 'lines'],
  ['lines as an object', { ...request, lines: { 0: line } }, 'lines'],
  ['a line that is null', { ...request, lines: [line, null] }, 'lines[1]'],
  ['a quantity as a number', { ...request, lines: [{ ...line, quantity: 1 }] }, 'lines[0].quantity'],
  ['a quantity of zero', { ...request, lines: [{ ...line, quantity: '0.000' }] }, 'lines[0].quantity'],
  ['a quantity below zero', { ...request, lines: [{ ...line, quantity: '-1' }] }, 'lines[0].quantity'],
  ['a price below zero', { ...request, lines: [line, line, line, { ...line, unitPrice: '-0.01' }] }, 'lines[3].unitPrice'],
  ['a price with an exponent', { ...request, lines: [{ ...line, unitPrice: '1e2' }] }, 'lines[0].unitPrice'],
  ['a price with seven decimals', { ...request, lines: [{ ...line, unitPrice: '1.0000001' }] }, 'lines[0].unitPrice'],
  ['an empty description', { ...request, lines: [{ ...line, description: '' }] }, 'lines[0].description'],
  ['a description with a line feed', { ...request, lines: [{ ...line, description: 'a\nb' }] }, 'lines[0].description'],
  ['a description with an escape', { ...request, lines: [{ ...line, description: 'a\u001b[31m' }] }, 'lines[0].description'],
  ['a description with a line separator', { ...request, lines: [{ ...line, description: 'a\u2028b' }] }, 'lines[0].description'],
  ['a description with half a character', { ...request, lines: [{ ...line, description: 'a\ud83d' }] }, 'lines[0].description'],
  ['a description of 301 characters', { ...request, lines: [{ ...line, description: 'x'.repeat(301) }] }, 'lines[0].description'],
  ['a misspelt price', { ...request, lines: [{ description: 'thing', quantity: '1', prise: '1.20' }] }, 'lines[0].prise'],
  [
    'a misspelt price and a total that is none',
    { ...request, lines: [{ description: 'x', quantity: '1', prise: '1' }], total: 1 },
    'lines[0].prise',
  ],
  ['a description of blanks', { ...request, lines: [{ ...line, description: ' \u00a0\u3000' }] }, 'lines[0].description'],
  ['a description of no width', { ...request, lines: [{ ...line, description: '\u200b\ufeff\u3164' }] }, 'lines[0].description'],
  ...[0x061c, 0x200e, 0x200f, 0x202a, 0x202e, 0x2066, 0x2069].map(
    (mark) =>
      [
        `a description with the direction mark ${mark.toString(16)}`,
        { ...request, lines: [{ ...line, description: `a${String.fromCodePoint(mark)}b` }] },
        'lines[0].description',
      ] as const,
  ),
  ['a buyer of blanks', { ...request, buyer: { name: ' ' } }, 'buyer.name'],
  ['sold in the year 1999', { ...request, soldAt: '1999-12-31T23:59:59Z' }, 'soldAt'],
  ['sold in the year 2100', { ...request, soldAt: '2100-01-01T00:00:00Z' }, 'soldAt'],
  ['a discount below zero', { ...request, lines: [{ ...line, discount: '-1' }] }, 'lines[0].discount'],
  ['a payment without amount', { ...request, payments: [{ method: 'cash' }] }, 'payments[0].amount'],
  ['a total below zero', { ...request, total: '-1' }, 'total'],
  ['corrects as text', { ...request, corrects: 'A1' }, 'corrects'],
  ['corrects nothing', { ...request, corrects: {} }, 'corrects'],
  ['corrects a number that is no text', { ...request, corrects: { number: 1 } }, 'corrects.number'],
  ['corrects two', { ...request, corrects: { number: 'A1', external: 'B1' } }, 'corrects'],
  ['corrects two and an unknown field', { ...request, corrects: { number: 'A1', external: 'B1', why: 'x' } }, 'corrects.why'],
  ['corrects with a reason alone', { ...request, corrects: { reason: 'x' } }, 'corrects'],
  ['corrects an empty external number', { ...request, corrects: { external: '' } }, 'corrects.external'],
  ['corrects with a reason too long', { ...request, corrects: { external: 'B1', reason: 'x'.repeat(201) } }, 'corrects.reason'],
  ['corrects with an unknown field', { ...request, corrects: { external: 'B1', why: 'x' } }, 'corrects.why'],
  ['an address of seven lines', { ...request, buyer: { address: Array.from({ length: 7 }, () => 'x') } }, 'buyer.address'],
  ['ext as a list', { ...request, ext: [] }, 'ext'],
  ['ext of 9,000 characters', { ...request, ext: { note: 'x'.repeat(9_000) } }, 'ext'],
  ['ext with a key of 65 characters', { ...request, ext: { ['k'.repeat(65)]: 1 } }, `ext.${'k'.repeat(65)}`],
  ['wait for ever', { ...request, wait: 'for ever' }, 'wait'],
  ['brief as text', { ...request, brief: 'yes' }, 'brief'],
];

describe('a request for an invoice', () => {
  it('with all fields passes unchanged', () => {
    const full = {
      ...request,
      kind: 'credit-note',
      currency: 'GBP',
      soldAt: '2026-03-02T10:30:00.123456789+05:30',
      buyer: { name: 'Ž. Čapek', taxId: 'X1', address: ['a', 'b'], country: 'UK', reference: 'PO 7' },
      lines: [
        { ...line, taxCode: 'S', discount: '0', sku: '85123A' },
        { ...line, unitPrice: '0' },
      ],
      payments: [{ method: 'cash', amount: '0.00' }],
      total: '2.40',
      corrects: { number: 'A1', reason: 'returned' },
      ext: { a: [1, { b: null }], c: 'x', d: true },
      wait: 'acknowledged',
      brief: true,
    };
    expect(check(invoiceRequestSchema, full)).toEqual(full);
    expect(check(invoiceRequestSchema, { ...request, corrects: { external: 'old-7' } }).corrects).toEqual({ external: 'old-7' });
  });

  it.each(wrong)('is refused: %s', (_, value, field) => {
    expect(refusal(() => check(invoiceRequestSchema, value)).field).toBe(field);
  });

  it('is refused with the code that the errand asks for', () => {
    expect(refusal(() => check(invoiceRequestSchema, { ...request, lines: [] }, 'invalid-invoice'), 'invalid-invoice').field).toBe('lines');
  });

  it('is refused without quoting it: keys are clipped, values never shown', () => {
    const long = refusal(() => check(invoiceRequestSchema, { ...request, ['x'.repeat(100_000)]: 1, ['y'.repeat(100_000)]: 1 }));
    expect((long.field ?? '').length).toBeLessThan(250);
    expect(long.message.length).toBeLessThan(300);
    const secret = refusal(() => check(invoiceRequestSchema, { ...request, total: 'hunter2', wait: 'hunter2' }));
    expect(JSON.stringify(secret.toData()) + secret.message).not.toContain('hunter2');
  });
});

describe('a document', () => {
  it('of this world is in the form of a body', () => {
    for (const sequence of [3, 4, 5, 6]) {
      const body = Buffer.from(evidenceOf(sequence).entry.body).toString('utf8');
      expect(JSON.stringify(check(invoiceDocumentSchema, JSON.parse(body)))).toBe(body);
    }
  });
});

describe('texts of the contract', () => {
  it.each([
    ['2026-03-02T10:30:00Z', true],
    ['2026-03-02T10:30:00.5Z', true],
    ['2024-02-29T23:59:59+14:00', true],
    ['2026-02-29T00:00:00Z', false],
    ['2026-03-02T10:30Z', false],
    ['2026-03-02 10:30:00Z', false],
    ['2026-03-02t10:30:00z', false],
    ['2026-03-02T10:30:00', false],
    ['2026-03-02T24:00:00Z', false],
    ['2026-03-02T10:30:60Z', false],
    ['2026-03-02T10:30:00+24:00', false],
    ['2026-13-02T10:30:00Z', false],
    [`2026-03-02T10:30:00.${'1'.repeat(40)}Z`, false],
    ['2026-03-02T10:30:00.123456789Z', true],
    ['2026-03-02T10:30:00.123456789-05:00', true],
    ['2026-03-02T10:30:00.1234567890Z', false],
    ['2026-03-02T10:30:00.1234567890+1:00', false],
    ['2026-03-02T10:30:00.Z', false],
    ['2026-03-02T10:30:00+00:00', true],
    ['2026-03-02T10:30:00-00:30', true],
    ['2026-03-02T10:30:00-00:00', false],
    ['2026-03-02T10:30:00Z\n', false],
    ['1772447400000', false],
  ])('an instant: %s', (value, good) => {
    expect(instantText.safeParse(value).success).toBe(good);
    if (good) expect(Date.parse(value)).not.toBeNaN();
  });

  it.each([
    ['', true],
    ['TQ==', true],
    ['TWE=', true],
    ['TWFu', true],
    ['+/+/', true],
    ['TR==', false],
    ['TWF=', false],
    ['TQ', false],
    ['TQ=', false],
    ['T===', false],
    ['-_-_', false],
    ['TWFu\n', false],
    [' TWFu', false],
    ['A'.repeat(8_000_000), false],
  ])('base64', (value, good) => {
    expect(base64Text.safeParse(value).success).toBe(good);
    if (good) expect(Buffer.from(value, 'base64').toString('base64')).toBe(value);
  });

  it('a text counts its characters and has no controls', () => {
    expect(text(1, 3).safeParse('abc').success).toBe(true);
    for (const bad of ['', 'abcd', 'a\u0000', 'a\u0085', '\u2029', '\udc00'])
      expect(text(1, 3).safeParse(bad).success, JSON.stringify(bad)).toBe(false);
  });

  it('a path is written as a person would', () => {
    expect(fieldPath(['lines', 3, 'unitPrice'])).toBe('lines[3].unitPrice');
    expect(fieldPath([0, 'a', 1, 2])).toBe('[0].a[1][2]');
    expect(fieldPath([])).toBe('');
  });
});
