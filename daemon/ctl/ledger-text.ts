// Owns: the report of a ledger check for people, and how a broken chain ends. Pure.
import { distrust } from '#ctl/certificates.ts';
import { endAs } from '#ctl/exit-codes.ts';
import type { LedgerCheck, LedgerReport } from '#ctl/ledger-check.ts';
import { counted, facts, table } from '#ctl/screen.ts';
import { type EntryKind, entryKinds } from '#ipc-schema/entry.ts';
import { asUkeyError, type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';

/** All kinds that a leaf can have, in the order of their numbers: for tables. */
const kindsInOrder = Object.keys(entryKinds) as readonly EntryKind[];

export function ledgerText(report: LedgerReport, more: readonly (readonly [string, string | null])[] = []): string {
  const kinds = kindsInOrder.filter((kind) => report.byKind[kind] !== undefined).map((kind) => `${report.byKind[kind]} ${kind}`);
  const head = facts([
    ['Verdict', report.holds ? 'holds' : `does NOT hold: ${counted(report.findingsCount, 'finding')}`],
    ...more,
    ['Token id', report.tokenId],
    ['Batches', batchesText(report)],
    ['Entries', `${report.entries}${kinds.length === 0 ? '' : ` (${kinds.join(', ')})`}, without a gap`],
    ['Time', report.firstIssuedAt === null ? null : `${report.firstIssuedAt} to ${report.lastIssuedAt ?? ''}`],
    ...report.series.map((one): [string, string] => [
      'Series',
      `${one.prefix}: ${one.first} to ${one.last}, ${counted(one.count, 'document')}`,
    ]),
    ['Acknowledged', report.acknowledgedBatch === 0 ? 'nothing yet' : `up to batch ${report.acknowledgedBatch}`],
    ['Pending', counted(report.pending, 'document')],
    ['Head', `batch ${report.head.batchIndex}, seal ${report.head.sealHash}`],
  ]);
  return [head, sumsText(report.sums), findingsText(report)].filter((part) => part !== '').join('\n');
}

function batchesText({ firstBatch, batches }: LedgerReport): string {
  if (firstBatch === 1) return String(batches);
  return `${firstBatch} to ${batches}; those before were acknowledged and released: the ticket server has them`;
}

export function sumsText(sums: LedgerReport['sums']): string {
  if (sums.length === 0) return '';
  const rows = sums.flatMap((sum) => [
    [sum.currency, 'invoices', String(sum.invoices), sum.invoiceTotal, sum.invoiceTaxTotal],
    [sum.currency, 'credit notes', String(sum.creditNotes), sum.creditNoteTotal, sum.creditNoteTaxTotal],
  ]);
  return table(['Currency', '', 'Count', 'Total', 'Tax'], rows, [2, 3, 4]);
}

function findingsText({ findings, findingsCount }: LedgerReport): string {
  if (findings.length === 0) return '';
  const rows = findings.map((one) => [String(one.sequence), one.kind, one.what]);
  const rest = findingsCount - findings.length;
  return table(['Sequence', 'Finding', ''], rows, [0]) + (rest === 0 ? '' : `and ${rest} more\n`);
}

/** The chain broke. A token that went away says nothing about the chain. */
export function chainBroken(thrown: unknown, check: LedgerCheck): UkeyError {
  const error = asUkeyError(thrown);
  const { batches, entries } = check.progress;
  return breaking.includes(error.code) ? brokenBehind(error, { batches, entries }) : endAs('refused', error, { batches, entries });
}

/** What held until there is told; nothing behind it can be believed. */
export function brokenBehind(error: UkeyError, { batches, entries }: { readonly batches: number; readonly entries: number }): UkeyError {
  const before = `${counted(batches, 'batch', 'batches')} with ${counted(entries, 'entry', 'entries')} before it ${batches === 1 ? 'holds' : 'hold'}`;
  const said = new UkeyError(error.code, `does not hold: ${error.message}; ${before}`, {
    field: error.field,
    action: distrust,
    cause: error,
  });
  return endAs('unverified', said, { batches, entries });
}

const breaking: readonly ErrorCode[] = ['invalid-request', 'too-large', 'halted', 'internal'];
