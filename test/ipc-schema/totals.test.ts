import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { InvoiceLine } from '#ipc-schema/invoice.ts';
import { money } from '#ipc-schema/money.ts';
import type { Template } from '#ipc-schema/template.ts';
import { computeTotals } from '#ipc-schema/totals.ts';
import { refusal } from '#test/support/refusal.ts';
import { template as inclusive } from '#test/vectors/world.ts';

const seed = Number(process.env['SEED'] ?? 20_260_305);
const exclusive: Template = { ...inclusive, pricesIncludeTax: false };
const line = (quantity: string, unitPrice: string, more: Partial<InvoiceLine> = {}): InvoiceLine => ({
  description: 'thing',
  quantity,
  unitPrice,
  ...more,
});

/** Lines, template, then [amount, tax] of each line, total, taxTotal. */
const table: readonly (readonly [string, InvoiceLine[], Template, [string, string][], string, string])[] = [
  ['tax inside the price', [line('1', '120')], inclusive, [['120.00', '20.00']], '120.00', '20.00'],
  ['tax on top of the price', [line('1', '120')], exclusive, [['120.00', '24.00']], '144.00', '24.00'],
  ['six hearts', [line('6', '2.55')], inclusive, [['15.30', '2.55']], '15.30', '2.55'],
  ['a third of a penny', [line('3', '0.333')], inclusive, [['1.00', '0.17']], '1.00', '0.17'],
  ['three decimals in the price', [line('10', '1.005')], exclusive, [['10.05', '2.01']], '12.06', '2.01'],
  ['half up at the amount', [line('1', '0.005')], inclusive, [['0.01', '0.00']], '0.01', '0.00'],
  ['half even at the amount', [line('1', '0.005')], { ...inclusive, rounding: 'half-even' }, [['0.00', '0.00']], '0.00', '0.00'],
  ['down at the amount', [line('1', '0.009')], { ...inclusive, rounding: 'down' }, [['0.00', '0.00']], '0.00', '0.00'],
  [
    'half up at the tax',
    [line('1', '0.25')],
    { ...exclusive, taxes: [{ code: 'S', rate: '10', label: 'x' }] },
    [['0.25', '0.03']],
    '0.28',
    '0.03',
  ],
  [
    'half even at the tax',
    [line('1', '0.25')],
    { ...exclusive, rounding: 'half-even', taxes: [{ code: 'S', rate: '10', label: 'x' }] },
    [['0.25', '0.02']],
    '0.27',
    '0.02',
  ],
  ['a discount', [line('2', '10', { discount: '5' })], inclusive, [['15.00', '2.50']], '15.00', '2.50'],
  ['a discount of everything', [line('2', '10', { discount: '20.00' })], inclusive, [['0.00', '0.00']], '0.00', '0.00'],
  [
    'a free line',
    [line('1', '0'), line('1', '1.20')],
    inclusive,
    [
      ['0.00', '0.00'],
      ['1.20', '0.20'],
    ],
    '1.20',
    '0.20',
  ],
  [
    'two rates',
    [line('1', '1.20'), line('1', '3.00', { taxCode: 'Z' })],
    inclusive,
    [
      ['1.20', '0.20'],
      ['3.00', '0.00'],
    ],
    '4.20',
    '0.20',
  ],
  [
    'tax rounded line by line',
    Array.from({ length: 3 }, () => line('1', '0.01')),
    exclusive,
    Array.from({ length: 3 }, () => ['0.01', '0.00'] as [string, string]),
    '0.03',
    '0.00',
  ],
  ['fractions of a quantity', [line('0.333', '9.99')], inclusive, [['3.33', '0.56']], '3.33', '0.56'],
  [
    'no decimals at all',
    [line('3', '333')],
    { ...inclusive, decimals: 0, taxes: [{ code: 'S', rate: '10', label: 'x' }] },
    [['999', '91']],
    '999',
    '91',
  ],
  [
    'a rate with decimals',
    [line('1', '100')],
    { ...exclusive, taxes: [{ code: 'S', rate: '5.5', label: 'x' }] },
    [['100.00', '5.50']],
    '105.50',
    '5.50',
  ],
  [
    'the largest amount',
    [line('1', '999999999999999')],
    { ...inclusive, defaultTax: 'Z' },
    [['999999999999999.00', '0.00']],
    '999999999999999.00',
    '0.00',
  ],
];

describe('the totals of a document', () => {
  it.each(table)('with %s', (_, lines, template, expected, total, taxTotal) => {
    const computed = computeTotals({ lines }, template);
    expect(computed.lines.map(({ amount, tax }) => [amount, tax])).toEqual(expected);
    expect([computed.total, computed.taxTotal]).toEqual([total, taxTotal]);
  });

  it('are given for each tax code in the order of the template, unused codes left out', () => {
    const lines = [line('1', '3', { taxCode: 'Z' }), line('1', '1.20'), line('2', '1.20')];
    expect(computeTotals({ lines }, inclusive).taxes).toEqual([
      { code: 'S', rate: '20', net: '3.00', tax: '0.60' },
      { code: 'Z', rate: '0', net: '3.00', tax: '0.00' },
    ]);
    expect(computeTotals({ lines: [line('1', '1', { taxCode: 'Z' })] }, inclusive).taxes.map((tax) => tax.code)).toEqual(['Z']);
  });

  it('keep what the till wrote on a line, and put the tax code that counted', () => {
    const [first] = computeTotals({ lines: [line('1.50', '2.00', { sku: 'A1', discount: '0.10' })] }, inclusive).lines;
    expect(first).toEqual({
      description: 'thing',
      sku: 'A1',
      quantity: '1.50',
      unitPrice: '2.00',
      discount: '0.10',
      taxCode: 'S',
      amount: '2.90',
      tax: '0.48',
    });
    expect(JSON.stringify(computeTotals({ lines: [line('1', '1')] }, inclusive).lines[0])).not.toContain('sku');
  });

  it.each([
    ['total', { total: '119.99' }],
    ['total', { total: '120.001' }],
    ['payments', { payments: [{ method: 'cash', amount: '100.00' }] }],
    ['payments', { payments: [] }],
    [
      'payments',
      {
        payments: [
          { method: 'cash', amount: '100' },
          { method: 'card', amount: '20.01' },
        ],
      },
    ],
  ])('given wrongly are refused by the field %s', (field, given) => {
    expect(refusal(() => computeTotals({ lines: [line('1', '120')], ...given }, inclusive), 'invalid-invoice').field).toBe(field);
  });

  it('given rightly, in any spelling, are taken', () => {
    for (const total of ['120', '120.0', '120.000000'])
      expect(computeTotals({ lines: [line('1', '120')], total }, inclusive).total).toBe('120.00');
    const payments = [
      { method: 'cash', amount: '100.5' },
      { method: 'card', amount: '19.50' },
    ];
    expect(computeTotals({ lines: [line('1', '120')], payments }, inclusive).total).toBe('120.00');
  });

  it.each([
    ['lines[1].taxCode', [line('1', '1'), line('1', '1', { taxCode: 'X' })], inclusive],
    ['lines[0].taxCode', [line('1', '1', { taxCode: '__proto__' })], inclusive],
    ['lines[0].quantity', [line('1.0001', '1')], inclusive],
    ['lines[0].unitPrice', [line('1', '1.0001')], inclusive],
    ['lines[0].unitPrice', [line('1', '0.00')], { ...inclusive, allowZeroPrice: false }],
    ['lines[0].discount', [line('1', '1', { discount: '1.01' })], inclusive],
    ['lines[0].discount', [line('1', '0.004', { discount: '0.005' })], inclusive],
    ['lines[0].discount', [line('1', '0', { discount: '0.001' })], { ...inclusive, rounding: 'down' }],
    ['lines', [line('2', '999999999999999')], inclusive],
    ['lines', [line('1', '999999999999999'), line('1', '1')], inclusive],
    ['lines', [line('999999999999999', '999999999999999')], inclusive],
  ] as readonly (readonly [string, InvoiceLine[], Template])[])(
    'refuse what the template does not admit by the field %s',
    (field, lines, template) => {
      expect(refusal(() => computeTotals({ lines }, template), 'invalid-invoice').field).toBe(field);
    },
  );

  const anyLines = fc.array(
    fc.record({
      description: fc.constant('x'),
      quantity: fc.integer({ min: 1, max: 10 ** 6 }).map((mills) => (mills / 1000).toFixed(3)),
      unitPrice: fc.integer({ min: 0, max: 10 ** 7 }).map((mills) => (mills / 1000).toFixed(3)),
      taxCode: fc.constantFrom('S', 'Z'),
    }),
    { minLength: 1, maxLength: 20 },
  );

  it(`add up: lines to taxes, taxes to totals; twice the same (seed ${seed})`, () => {
    fc.assert(
      fc.property(anyLines, fc.boolean(), fc.constantFrom('half-up', 'half-even', 'down' as const), (lines, pricesIncludeTax, rounding) => {
        const template: Template = { ...inclusive, pricesIncludeTax, rounding: rounding as Template['rounding'] };
        const computed = computeTotals({ lines }, template);
        const sum = (texts: readonly string[]): string => texts.reduce((all, one) => all.plus(money(one)), money('0')).toFixed(2);
        expect(sum(computed.lines.map((one) => one.tax))).toBe(computed.taxTotal);
        expect(sum(computed.taxes.map((one) => one.tax))).toBe(computed.taxTotal);
        expect(sum([...computed.taxes.map((one) => one.net), computed.taxTotal])).toBe(computed.total);
        const amounts = sum(computed.lines.map((one) => one.amount));
        expect(pricesIncludeTax ? amounts : sum([amounts, computed.taxTotal])).toBe(computed.total);
        expect(computeTotals({ lines, total: computed.total, payments: [{ method: 'cash', amount: computed.total }] }, template)).toEqual(
          computed,
        );
      }),
      { seed, numRuns: 200 },
    );
  });

  it(`agree with whole-number arithmetic (seed ${seed})`, () => {
    const halfUp = (numerator: bigint, denominator: bigint): bigint => (2n * numerator + denominator) / (2n * denominator);
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: 10n ** 9n }), fc.bigInt({ min: 0n, max: 10n ** 9n }), (quantityMills, priceMills) => {
        const text = (mills: bigint): string => `${mills / 1000n}.${String(mills % 1000n).padStart(3, '0')}`;
        const cents = (value: bigint): string => `${value / 100n}.${String(value % 100n).padStart(2, '0')}`;
        const amount = halfUp(quantityMills * priceMills, 10_000n);
        const [computed] = computeTotals({ lines: [line(text(quantityMills), text(priceMills))] }, inclusive).lines;
        expect(computed).toMatchObject({ amount: cents(amount), tax: cents(halfUp(amount * 20n, 120n)) });
      }),
      { seed, numRuns: 300 },
    );
  });
});
