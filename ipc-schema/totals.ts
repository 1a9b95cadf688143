// Owns: the arithmetic of a document: per-line amount and tax with the template's rates and rounding, totals, and the check of what the till gave.
// Pure. The till's request in, finished decimal strings out; desk/issue puts them into the document, a verifier may recompute them.
// Errors: invalid-invoice with the field's path.
import { UkeyError } from './errors.ts';
import { type DocumentLine, type DocumentTax, type InvoiceRequest, lineField } from './invoice.ts';
import { decimalsOf, fitsDecimal, type Money, money, moneyText, round, zero } from './money.ts';
import type { Template } from './template.ts';

export interface Totals {
  readonly lines: DocumentLine[];
  readonly taxes: DocumentTax[];
  readonly total: string;
  readonly taxTotal: string;
}

const refuse = (field: string, why: string): UkeyError => new UkeyError('invalid-invoice', `${field}: ${why}`, { field });

interface Sum {
  net: Money;
  tax: Money;
}

/** Amount and tax of each line, tax by code, totals. `pricesIncludeTax` decides whether tax is inside the amount or on top of it. */
export function computeTotals(request: Pick<InvoiceRequest, 'lines' | 'total' | 'payments'>, template: Template): Totals {
  const rates = new Map(template.taxes.map((tax) => [tax.code, money(tax.rate)]));
  const sums = new Map<string, Sum>();
  const lines: DocumentLine[] = [];
  let total = zero;
  let taxTotal = zero;
  for (const [at, line] of request.lines.entries()) {
    const taxCode = line.taxCode ?? template.defaultTax;
    const rate = rates.get(taxCode);
    if (rate === undefined) throw refuse(lineField(at, 'taxCode'), 'is not a tax code of the template');
    const amount = lineAmount(line, at, template);
    const tax = round(amount.times(rate).div(template.pricesIncludeTax ? rate.plus(100) : 100), template.decimals, template.rounding);
    const gross = template.pricesIncludeTax ? amount : amount.plus(tax);
    const sum = sums.get(taxCode) ?? { net: zero, tax: zero };
    sums.set(taxCode, { net: sum.net.plus(gross).minus(tax), tax: sum.tax.plus(tax) });
    total = total.plus(gross);
    taxTotal = taxTotal.plus(tax);
    lines.push(documentLine(line, taxCode, moneyText(amount, template.decimals), moneyText(tax, template.decimals)));
  }
  // Beyond that, no reader could take the document back. Lines are not negative: each is at most the total.
  if (!fitsDecimal(total)) throw refuse('lines', 'add up to a total of more than 15 digits');
  checkGiven(request, total, template);
  const taxes = template.taxes.flatMap((tax): DocumentTax[] => {
    const sum = sums.get(tax.code);
    if (sum === undefined) return [];
    return [{ code: tax.code, rate: tax.rate, net: moneyText(sum.net, template.decimals), tax: moneyText(sum.tax, template.decimals) }];
  });
  return { lines, taxes, total: moneyText(total, template.decimals), taxTotal: moneyText(taxTotal, template.decimals) };
}

function documentLine(line: InvoiceRequest['lines'][number], taxCode: string, amount: string, tax: string): DocumentLine {
  const { description, sku, quantity, unitPrice, discount } = line;
  return {
    description,
    ...(sku === undefined ? {} : { sku }),
    quantity,
    unitPrice,
    ...(discount === undefined ? {} : { discount }),
    taxCode,
    amount,
    tax,
  };
}

function lineAmount(line: InvoiceRequest['lines'][number], at: number, template: Template): Money {
  if (decimalsOf(line.quantity) > template.quantityDecimals)
    throw refuse(lineField(at, 'quantity'), `has more than ${template.quantityDecimals} decimals`);
  if (decimalsOf(line.unitPrice) > template.unitPriceDecimals)
    throw refuse(lineField(at, 'unitPrice'), `has more than ${template.unitPriceDecimals} decimals`);
  const unitPrice = money(line.unitPrice);
  if (unitPrice.isZero() && !template.allowZeroPrice) throw refuse(lineField(at, 'unitPrice'), 'must be above zero');
  const full = money(line.quantity).times(unitPrice);
  const exact = line.discount === undefined ? full : full.minus(money(line.discount));
  if (exact.lessThan(zero)) throw refuse(lineField(at, 'discount'), 'is more than the line amounts to');
  return round(exact, template.decimals, template.rounding);
}

function checkGiven(request: Pick<InvoiceRequest, 'total' | 'payments'>, total: Money, template: Template): void {
  if (request.total !== undefined && !money(request.total).equals(total)) {
    throw refuse('total', `does not match the computed total ${moneyText(total, template.decimals)}`);
  }
  if (request.payments !== undefined) {
    const paid = request.payments.reduce((sum, payment) => sum.plus(money(payment.amount)), zero);
    if (!paid.equals(total)) throw refuse('payments', `do not add up to the computed total ${moneyText(total, template.decimals)}`);
  }
}
