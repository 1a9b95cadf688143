// Owns: whether a replay adds up: what was issued and refused against what the file says. Pure.
// Invariants: the file's sums are made of whole thousandths (retail.ts), the answers' of whole cents: neither goes through the
// service's arithmetic; a document is missing, doubled or refused without a reason that a person accepts = a fault.
import { centsOf, centsOfText, centsText, type RetailInvoice, sumRows } from '#ctl/retail.ts';
import { counted, table } from '#ctl/screen.ts';
import type { Sale } from './selling.ts';

export interface KindAccount {
  readonly name: string;
  readonly documents: number;
  /** Cents. */
  readonly byFile: bigint;
  readonly byAnswers: bigint;
}

export interface Accounts {
  readonly kinds: readonly KindAccount[];
  /** Refused documents by reason, with what they amount to in the file. */
  readonly refused: readonly { readonly reason: string; readonly documents: number; readonly cents: bigint }[];
  readonly repeated: number;
  readonly givenAway: number;
  readonly creditsByNumber: number;
  readonly creditsExternal: number;
  /** One sentence each; empty when everything adds up. */
  readonly faults: readonly string[];
}

const faultsMax = 20;

/** True for what is no sale: stock that was written off, an adjustment. The service must refuse exactly these. */
export function isNoSale(invoice: RetailInvoice): boolean {
  const sign = invoice.kind === 'credit-note' ? '-' : '';
  return invoice.rows.some(
    ({ Quantity, UnitPrice }) => Quantity.startsWith('-') !== (sign === '-') || Quantity === '0' || UnitPrice.startsWith('-'),
  );
}

export function accountsOf(invoices: readonly RetailInvoice[], sales: readonly Sale[]): Accounts {
  const issued = sales.filter(({ outcome }) => outcome.kind === 'issued');
  const refused = sales.filter(({ outcome }) => outcome.kind === 'refused');
  const kinds = (['invoice', 'credit-note'] as const).map((kind) => kindAccount(kind, issued));
  const faults = [
    ...kinds.filter(({ byFile, byAnswers }) => byFile !== byAnswers).map(({ name }) => `the sums of ${name} differ`),
    ...missing(invoices, sales),
    ...repeatedNumbers(issued),
    ...refused
      .filter(({ invoice }) => !isNoSale(invoice))
      .map(({ invoice, outcome }) => `${invoice.number} was refused: ${reasonOf(outcome)}`),
    ...issued.filter(({ invoice }) => isNoSale(invoice)).map(({ invoice }) => `${invoice.number} was issued and is no sale`),
  ];
  const reasons = Map.groupBy(refused, ({ outcome }) => reasonOf(outcome));
  const credits = issued.map(({ outcome }) => (outcome.kind === 'issued' ? outcome.corrects : null));
  return {
    kinds,
    refused: Array.from(reasons, ([reason, those]) => ({ reason, documents: those.length, cents: fileCents(those) })),
    repeated: issued.filter(({ outcome }) => outcome.kind === 'issued' && outcome.issued.repeated).length,
    givenAway: issued.filter(({ invoice }) => invoice.rows.every(({ UnitPrice }) => !/[1-9]/.test(UnitPrice))).length,
    creditsByNumber: credits.filter((corrects) => corrects === 'number').length,
    creditsExternal: credits.filter((corrects) => corrects === 'external').length,
    faults: faults.slice(0, faultsMax),
  };
}

function kindAccount(kind: RetailInvoice['kind'], issued: readonly Sale[]): KindAccount {
  const those = issued.filter(({ invoice }) => invoice.kind === kind);
  const byAnswers = those.reduce((sum, { outcome }) => sum + (outcome.kind === 'issued' ? centsOfText(outcome.issued.total) : 0n), 0n);
  return { name: kind === 'invoice' ? 'invoices' : 'credit notes', documents: those.length, byFile: fileCents(those), byAnswers };
}

function fileCents(sales: readonly Sale[]): bigint {
  return centsOf(sumRows(sales.map(({ invoice }) => invoice)).mills);
}

function missing(invoices: readonly RetailInvoice[], sales: readonly Sale[]): string[] {
  const sold = new Set(sales.map(({ invoice }) => invoice.number));
  return invoices.filter(({ number }) => !sold.has(number)).map(({ number }) => `${number} has no outcome`);
}

function repeatedNumbers(issued: readonly Sale[]): string[] {
  const byNumber = Map.groupBy(issued, ({ outcome }) => (outcome.kind === 'issued' ? outcome.issued.number : ''));
  return Array.from(byNumber).flatMap(([number, those]) => (those.length > 1 ? [`number ${number} was given ${those.length} times`] : []));
}

function reasonOf(outcome: Sale['outcome']): string {
  return outcome.kind === 'refused' ? `${outcome.code}${outcome.field === '' ? '' : ` at ${outcome.field}`}` : 'issued';
}

export function accountsText({ kinds, refused, repeated, givenAway, creditsByNumber, creditsExternal }: Accounts): string {
  const rows = [
    ...kinds.map(({ name, documents, byFile, byAnswers }) => [
      name,
      String(documents),
      centsText(byFile),
      centsText(byAnswers),
      centsText(byAnswers - byFile),
    ]),
    ...refused.map(({ reason, documents, cents }) => [`refused: ${reason}`, String(documents), centsText(cents), '', '']),
  ];
  const notes = [
    `Credit notes: ${creditsByNumber} name an invoice of this ledger, ${creditsExternal} one of the shop's own system.`,
    ...(givenAway === 0 ? [] : [`${counted(givenAway, 'document')} ${givenAway === 1 ? 'gives' : 'give'} goods away: all lines are free.`]),
    ...(repeated === 0 ? [] : [`${repeated} were issued by an earlier run and only confirmed.`]),
  ];
  return `${table(['', 'documents', 'sum by the file', 'sum by the answers', 'difference'], rows, [1, 2, 3, 4])}\n${notes.join('\n')}\n`;
}
