// Owns: the arithmetic of a document: per-line amount and tax with the template's rates and rounding, totals, and the check of what the till gave.
// Pure. The till's request in, finished decimal strings out; desk/issue puts them into the document, a verifier may recompute them.
// Errors: invalid-invoice with the field's path.
import { UkeyError } from './errors.ts';
import { type DocumentLine, type DocumentTax, type InvoiceRequest, lineField } from './invoice.ts';
import { decimalsOf } from './money.ts';
import { powerOfTen, quotient, scaled, scaledText, wireDecimals } from './scaled.ts';
import type { Template } from './template.ts';

export interface Totals {
  readonly lines: DocumentLine[];
  readonly taxes: DocumentTax[];
  readonly total: string;
  readonly taxTotal: string;
}

const refuse = (field: string, why: string): UkeyError => new UkeyError('invalid-invoice', `${field}: ${why}`, { field });

/** In units of the template's decimals. */
interface Sum {
  net: bigint;
  tax: bigint;
}

/** Quantities, prices, discounts and rates are read at this scale. */
const wireUnit = powerOfTen(wireDecimals);
const hundredPercent = 100n * wireUnit;
/** 15 digits before the point are all that a total may have. */
const totalDigits = 15;

/** Amount and tax of each line, tax by code, totals. `pricesIncludeTax` decides whether tax is inside the amount or on top of it. */
export function computeTotals(request: Pick<InvoiceRequest, 'lines' | 'total' | 'payments'>, template: Template): Totals {
  const { decimals } = template;
  const sums = new Map<string, Sum>();
  const lines: DocumentLine[] = [];
  let total = 0n;
  let taxTotal = 0n;
  for (const [at, line] of request.lines.entries()) {
    const taxCode = line.taxCode ?? template.defaultTax;
    const rate = template.taxes.find(({ code }) => code === taxCode)?.rate;
    if (rate === undefined) throw refuse(lineField(at, 'taxCode'), 'is not a tax code of the template');
    const amount = lineAmount(line, at, template);
    const rateUnits = scaled(rate, wireDecimals);
    const tax = quotient(amount * rateUnits, template.pricesIncludeTax ? hundredPercent + rateUnits : hundredPercent, template.rounding);
    const gross = template.pricesIncludeTax ? amount : amount + tax;
    const sum = sums.get(taxCode);
    if (sum === undefined) sums.set(taxCode, { net: gross - tax, tax });
    else {
      sum.net += gross - tax;
      sum.tax += tax;
    }
    total += gross;
    taxTotal += tax;
    lines.push(documentLine(line, taxCode, scaledText(amount, decimals), scaledText(tax, decimals)));
  }
  // Beyond that, no reader could take the document back. Lines are not negative: each is at most the total.
  if (total >= powerOfTen(totalDigits + decimals)) throw refuse('lines', 'add up to a total of more than 15 digits');
  checkGiven(request, total, decimals);
  const taxes = template.taxes.flatMap((tax): DocumentTax[] => {
    const sum = sums.get(tax.code);
    if (sum === undefined) return [];
    return [{ code: tax.code, rate: tax.rate, net: scaledText(sum.net, decimals), tax: scaledText(sum.tax, decimals) }];
  });
  return { lines, taxes, total: scaledText(total, decimals), taxTotal: scaledText(taxTotal, decimals) };
}

function documentLine(line: InvoiceRequest['lines'][number], taxCode: string, amount: string, tax: string): DocumentLine {
  const { description, sku, quantity, unitPrice, discount } = line;
  return { description, sku, quantity, unitPrice, discount, taxCode, amount, tax };
}

/** In units of the template's decimals. */
function lineAmount(line: InvoiceRequest['lines'][number], at: number, template: Template): bigint {
  if (decimalsOf(line.quantity) > template.quantityDecimals)
    throw refuse(lineField(at, 'quantity'), `has more than ${template.quantityDecimals} decimals`);
  if (decimalsOf(line.unitPrice) > template.unitPriceDecimals)
    throw refuse(lineField(at, 'unitPrice'), `has more than ${template.unitPriceDecimals} decimals`);
  const unitPrice = scaled(line.unitPrice, wireDecimals);
  if (unitPrice === 0n && !template.allowZeroPrice) throw refuse(lineField(at, 'unitPrice'), 'must be above zero');
  const full = scaled(line.quantity, wireDecimals) * unitPrice;
  const exact = line.discount === undefined ? full : full - scaled(line.discount, wireDecimals) * wireUnit;
  if (exact < 0n) throw refuse(lineField(at, 'discount'), 'is more than the line amounts to');
  return quotient(exact, powerOfTen(2 * wireDecimals - template.decimals), template.rounding);
}

/** `total` in units of `decimals`. What was given may have more decimals, and then differs. */
function checkGiven(request: Pick<InvoiceRequest, 'total' | 'payments'>, total: bigint, decimals: number): void {
  const exact = total * powerOfTen(wireDecimals - decimals);
  if (request.total !== undefined && scaled(request.total, wireDecimals) !== exact) {
    throw refuse('total', `does not match the computed total ${scaledText(total, decimals)}`);
  }
  if (request.payments !== undefined) {
    const paid = request.payments.reduce((sum, payment) => sum + scaled(payment.amount, wireDecimals), 0n);
    if (paid !== exact) throw refuse('payments', `do not add up to the computed total ${scaledText(total, decimals)}`);
  }
}
