// Real sales as requests: the strict CSV reader, the mapping of docs/retail-data.md, and the sums a replay is judged by.
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readCsv } from '#ctl/csv.ts';
import { accountsOf, isNoSale } from '#ctl/replay/accounts.ts';
import { durationsOf, durationText } from '#ctl/replay/figures.ts';
import type { Sale } from '#ctl/replay/selling.ts';
import {
  centsOf,
  centsOfText,
  centsText,
  matchCredits,
  type RetailInvoice,
  readRetail,
  retailColumns,
  soldAt,
  sumRows,
  toRequest,
} from '#ctl/retail.ts';
import { invoiceRequestSchema } from '#ipc-schema/invoice.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import { templateSchema } from '#ipc-schema/template.ts';
import { computeTotals } from '#ipc-schema/totals.ts';
import { refusal } from '#test/support/refusal.ts';

const header = retailColumns.join(',');
const day = readRetail(readFileSync(new URL('../data/retail-day.csv', import.meta.url), 'utf8'));
const retailTemplate = templateSchema.parse(
  JSON.parse(readFileSync(new URL('../../server/templates/retail.json', import.meta.url), 'utf8')),
);

type Line = readonly [article: string, quantity: string, price: string];

function rowsOf(number: string, customer: string, lines: readonly Line[], date = '2011-06-09 10:05:00'): string {
  return lines
    .map(([article, quantity, price]) => `${number},${article},THING ${article},${quantity},${date},${price},${customer},France\r\n`)
    .join('');
}

function invoicesOf(...parts: readonly string[]): RetailInvoice[] {
  return readRetail(`${header}\r\n${parts.join('')}`);
}

function only(text: string): RetailInvoice {
  const [invoice, ...more] = invoicesOf(text);
  if (invoice === undefined || more.length > 0) throw new Error('not exactly one invoice');
  return invoice;
}

describe('the CSV reader', () => {
  test('gives back what was written, whatever the fields hold', () => {
    const field = fc.string({ unit: fc.constantFrom('a', '"', ',', '\n', '\r', ' ', 'é', "'") });
    fc.assert(
      fc.property(fc.array(fc.tuple(field, field), { maxLength: 8 }), fc.constantFrom('\n', '\r\n'), (rows, end) => {
        const quoted = (value: string): string => `"${value.replaceAll('"', '""')}"`;
        const text = `a,b${end}${rows.map((row) => row.map(quoted).join(',') + end).join('')}`;
        expect(readCsv(text, ['a', 'b'])).toEqual(rows.map(([a, b]) => ({ a, b })));
      }),
      { seed: 20_101_201 },
    );
  });

  test('takes a last line without an end, an empty field and a byte order mark', () => {
    expect(readCsv('\ufeffa,b\n,2\n1,', ['a', 'b'])).toEqual([
      { a: '', b: '2' },
      { a: '1', b: '' },
    ]);
  });

  test.each([
    ['another header', 'b,a\n1,2\n'],
    ['a row that is too short', 'a,b\n1\n'],
    ['a row that is too long', 'a,b\n1,2,3\n'],
    ['an empty line', 'a,b\n\n1,2\n'],
    ['a quote inside a plain field', 'a,b\n1"1,2\n'],
    ['text behind a closing quote', 'a,b\n"1"1,2\n'],
    ['a quote that is never closed', 'a,b\n"1,2\n'],
    ['a carriage return inside a field', 'a,b\n1\r1,2\n'],
    ['nothing at all', ''],
  ])('refuses %s', (_, text) => {
    refusal(() => readCsv(text, ['a', 'b']), 'invalid-request');
  });

  test('names the line of the fault, counting line feeds inside quotes', () => {
    expect(refusal(() => readCsv('a,b\n"x\ny",2\n1\n', ['a', 'b'])).field).toBe('line 4');
  });
});

describe('a row becomes a line', () => {
  test('rows of one number are one document, wherever they stand', () => {
    const invoices = invoicesOf(
      rowsOf('1', '7', [['A', '1', '2.00']]),
      rowsOf('2', '7', [['B', '1', '3.00']]),
      rowsOf('1', '7', [['C', '4', '1.00']]),
    );
    expect(invoices.map(({ number, rows }) => [number, rows.map((row) => row.StockCode).join('')])).toEqual([
      ['1', 'AC'],
      ['2', 'B'],
    ]);
  });

  test('an invoice carries key, buyer, instant and lines as the file has them', () => {
    expect(toRequest(only(rowsOf('536597', '12583', [['22728', '24', '0.001']])), { template: 'retail' })).toEqual({
      key: '536597',
      template: 'retail',
      kind: 'invoice',
      currency: 'GBP',
      soldAt: '2011-06-09T10:05:00+01:00',
      buyer: { reference: '12583', country: 'France' },
      lines: [{ description: 'THING 22728', quantity: '24', unitPrice: '0.001', sku: '22728' }],
    });
  });

  test('an empty description names the article, control characters and blank ends go', () => {
    const text = `${header}\n1,22139,,1,2011-01-04 10:00:00,0,,Unspecified\n1,B,"\t BIG\u0007BOX ",1,2011-01-04 10:00:00,1,,Unspecified\n`;
    const [invoice] = readRetail(text);
    if (invoice === undefined) throw new Error('no invoice');
    const request = toRequest(invoice, { template: 'retail' });
    expect(request.lines.map((line) => line.description)).toEqual(['(no description) 22139', 'BIG BOX']);
    expect(request.buyer).toBeUndefined();
  });

  test('a cancellation becomes a credit note with positive quantities', () => {
    const credit = only(rowsOf('C536379', '14527', [['D', '-1', '27.50']]));
    expect(toRequest(credit, { template: 'retail', corrects: null })).toMatchObject({
      kind: 'credit-note',
      corrects: { external: 'C536379' },
      lines: [{ quantity: '1', unitPrice: '27.50' }],
    });
    expect(toRequest(credit, { template: 'retail', corrects: 'S00000007' }).corrects).toEqual({ number: 'S00000007' });
  });

  test.each([
    ['a negative quantity outside of a credit note', rowsOf('1', '7', [['A', '-10', '0']]), 'lines[0].quantity'],
    ['a negative price', rowsOf('A563186', '', [['B', '1', '-11062.06']]), 'lines[0].unitPrice'],
    ['a positive quantity in a credit note', rowsOf('C1', '7', [['A', '1', '2.00']]), 'lines[0].quantity'],
  ])('%s is no sale: it is sent as it is and the contract refuses it', (_, text, field) => {
    const invoice = only(text);
    expect(isNoSale(invoice)).toBe(true);
    const issues = invoiceRequestSchema.safeParse(toRequest(invoice, { template: 'retail' })).error?.issues ?? [];
    expect(issues[0]?.path.map(String)).toEqual(['lines', '0', field.split('.')[1]]);
  });

  test.each([
    ['2010-12-02 08:26:00', '2010-12-02T08:26:00+00:00'],
    ['2011-03-27 00:59:00', '2011-03-27T00:59:00+00:00'],
    ['2011-03-27 02:01:00', '2011-03-27T02:01:00+01:00'],
    ['2011-06-09 10:05:00', '2011-06-09T10:05:00+01:00'],
    ['2011-10-30 03:00:00', '2011-10-30T03:00:00+00:00'],
  ])("the shop's clock %s is %s", (local, instant) => {
    expect(soldAt(local)).toBe(instant);
  });

  test('a date of another form is refused', () => {
    expect(refusal(() => soldAt('09/06/2011 10:05')).field).toBe('InvoiceDate');
  });
});

describe('a credit note names its invoice', () => {
  const sold = rowsOf('1', '7', [
    ['A', '6', '2.00'],
    ['B', '2', '3.00'],
  ]);
  const matched = (...parts: readonly string[]): (string | null)[] => [...matchCredits(invoicesOf(...parts)).values()];

  test('when one earlier invoice of the customer holds all its lines', () => {
    expect(
      matched(
        sold,
        rowsOf('C2', '7', [
          ['A', '-2', '2.00'],
          ['B', '-1', '3.00'],
        ]),
      ),
    ).toEqual(['1']);
  });

  test('the newest, when several do', () => {
    expect(matched(sold, rowsOf('2', '7', [['A', '9', '2.00']]), rowsOf('C3', '7', [['A', '-2', '2.00']]))).toEqual(['2']);
  });

  test('only as far as something is left', () => {
    const half = (number: string): string => rowsOf(number, '7', [['A', '-4', '2.00']]);
    expect(matched(sold, half('C2'), half('C3'))).toEqual(['1', null]);
  });

  test.each([
    ['another customer', rowsOf('C2', '8', [['A', '-1', '2.00']])],
    ['no customer', rowsOf('C2', '', [['A', '-1', '2.00']])],
    ['another price', rowsOf('C2', '7', [['A', '-1', '2.10']])],
    [
      'another article beside it',
      rowsOf('C2', '7', [
        ['A', '-1', '2.00'],
        ['D', '-1', '5.00'],
      ]),
    ],
  ])('not with %s', (_, credit) => {
    expect(matched(sold, credit)).toEqual([null]);
  });

  test('not when the invoice comes later', () => {
    expect(matched(rowsOf('C2', '7', [['A', '-1', '2.00']]), sold)).toEqual([null]);
  });
});

describe('the bundled day', () => {
  test('is one whole day with enough of everything', () => {
    expect(new Set(day.flatMap(({ rows }) => rows.map((row) => row.InvoiceDate.slice(0, 10))))).toEqual(new Set(['2010-12-02']));
    expect(day.length).toBe(167);
    expect(day.filter(({ kind }) => kind === 'credit-note').length).toBe(23);
    expect(day.filter(({ kind }) => kind === 'invoice').length).toBeGreaterThanOrEqual(140);
    expect(day.filter(isNoSale).length).toBe(1);
  });

  test('fits the contract and the bundled template, and amounts to what its text says', () => {
    const sales = day.filter((invoice) => !isNoSale(invoice));
    let cents = 0n;
    for (const invoice of sales) {
      const request = invoiceRequestSchema.parse(toRequest(invoice, { template: 'retail' }));
      const total = centsOfText(computeTotals(request, retailTemplate).total);
      expect(total, invoice.number).toBe(centsOf(sumRows([invoice]).mills));
      cents += total;
    }
    expect(cents).toBe(centsOf(sumRows(sales).mills));
    expect(sales.length).toBe(166);
  });
});

describe('the accounts of a replay', () => {
  const issued = (invoice: RetailInvoice, total: string, number: string): Sale => ({
    invoice,
    tookMs: 1,
    answeredAtMs: 1,
    outcome: {
      kind: 'issued',
      issued: { total, number, repeated: false } as Issued,
      corrects: invoice.kind === 'invoice' ? null : 'external',
    },
  });
  const refused = (invoice: RetailInvoice): Sale => ({
    invoice,
    tookMs: 1,
    answeredAtMs: 1,
    outcome: { kind: 'refused', code: 'invalid-request', field: 'lines[].quantity' },
  });
  const invoices = invoicesOf(
    rowsOf('1', '7', [['A', '3', '2.15']]),
    rowsOf('C2', '7', [['A', '-1', '2.15']]),
    rowsOf('3', '', [['A', '-1', '0']]),
  );
  const [invoice, credit, writeOff] = invoices as [RetailInvoice, RetailInvoice, RetailInvoice];
  const right = [issued(invoice, '6.45', 'S1'), issued(credit, '2.15', 'SC1'), refused(writeOff)];

  test('add up when all is as the file says', () => {
    const accounts = accountsOf(invoices, right);
    expect(accounts.faults).toEqual([]);
    expect(accounts.kinds.map(({ documents, byFile, byAnswers }) => [documents, centsText(byFile), centsText(byAnswers)])).toEqual([
      [1, '6.45', '6.45'],
      [1, '2.15', '2.15'],
    ]);
    expect(accounts.refused).toEqual([{ reason: 'invalid-request at lines[].quantity', documents: 1, cents: 0n }]);
  });

  test.each<[string, readonly Sale[]]>([
    ['a cent is missing', [issued(invoice, '6.44', 'S1'), ...right.slice(1)]],
    ['a document has no outcome', right.slice(0, 2)],
    ['a number was given twice', [issued(invoice, '6.45', 'S1'), issued(credit, '2.15', 'S1'), refused(writeOff)]],
    ['a sale was refused', [refused(invoice), ...right.slice(1)]],
    ['what is no sale was issued', [...right.slice(0, 2), issued(writeOff, '0.00', 'S2')]],
  ])('do not when %s', (_, sales) => {
    expect(accountsOf(invoices, sales).faults.length).toBeGreaterThan(0);
  });

  test('cents are rounded half away from zero and written with two decimals', () => {
    expect([4n, 5n, -5n, 12_345n, -1n].map((mills) => centsText(centsOf(mills)))).toEqual(['0.00', '0.01', '-0.01', '12.35', '0.00']);
  });
});

test('durations are nearest-rank percentiles', () => {
  const values = Array.from({ length: 200 }, (_, at) => 200 - at);
  expect(durationsOf(values)).toEqual({ count: 200, p50Ms: 100, p99Ms: 198, maxMs: 200 });
  expect(durationsOf([])).toBeNull();
  expect([0.4, 9.96, 12.3, 999, 1_500].map(durationText)).toEqual(['0.4 ms', '10.0 ms', '12 ms', '999 ms', '1.5 s']);
});
