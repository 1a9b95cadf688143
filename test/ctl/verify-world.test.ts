// What `sandbox verify` finds beyond unequal bytes.
import { describe, expect, test } from 'vitest';
import type { LedgerReport } from '#ctl/ledger-check.ts';
import { differencesOf, verdictText } from '#ctl/world/verify-world.ts';
import type { TokenView } from '#ipc-schema/upstream.ts';

const sums = {
  currency: 'GBP',
  invoices: 2,
  invoiceTotal: '7.5',
  invoiceTaxTotal: '1.25',
  creditNotes: 0,
  creditNoteTotal: '0',
  creditNoteTaxTotal: '0',
};
const report: LedgerReport = {
  holds: true,
  tokenId: '00'.repeat(16),
  firstBatch: 1,
  batches: 3,
  entries: 5,
  byKind: { invoice: 2 },
  sums: [sums],
  series: [],
  firstIssuedAt: null,
  lastIssuedAt: null,
  acknowledgedBatch: 2,
  pending: 0,
  head: { batchIndex: 3, nextSequence: 6, sealHash: '' },
  findings: [],
  findingsCount: 0,
};
const view: TokenView = {
  tokenId: report.tokenId,
  serial: '1',
  issuer: 'GB000000000',
  upToBatch: 3,
  lastSequence: 5,
  invoices: 2,
  lastContact: null,
  alarm: null,
};

describe('store and server', () => {
  test('agree when they are the same', () => {
    expect(differencesOf(report, report, report, view)).toEqual([]);
  });

  test('agree while the server has received nothing yet', () => {
    const offline = { ...report, acknowledgedBatch: 0 };
    expect(differencesOf(offline, null, null, { ...view, upToBatch: 0, invoices: 0 })).toEqual([]);
  });

  test.each<[string, LedgerReport, LedgerReport, TokenView]>([
    ['the server lacks what it acknowledged', report, { ...report, acknowledgedBatch: 0 }, { ...view, upToBatch: 1 }],
    ['the sums differ', report, { ...report, sums: [{ ...sums, invoiceTotal: '7.51' }] }, view],
    ['the server counts another number of documents', report, report, { ...view, invoices: 3 }],
    [
      'something in the store does not hold',
      { ...report, holds: false, findings: [{ kind: 'number', sequence: 4, what: 'a hole' }], findingsCount: 1 },
      report,
      view,
    ],
  ])('differ when %s', (_, store, server, seen) => {
    expect(differencesOf(store, report, server, seen).length).toBeGreaterThan(0);
  });
});

test('the verdict says which of both has what', () => {
  const verdict = { holds: true, differences: [], store: report, server: report, releasedBatches: 0, equalBatches: 3 };
  expect(verdictText(verdict)).toContain('3 batches equal');
  expect(verdictText({ ...verdict, holds: false, differences: ['the sums differ'] })).toContain('NOT agree');
});

test('a service that goes on is told apart from a difference, and what is acknowledged is told of the token alone', () => {
  const text = verdictText({
    holds: true,
    differences: [],
    store: { ...report, batches: 5 },
    server: report,
    releasedBatches: 0,
    equalBatches: 3,
  });
  expect(text).toContain('2 batches ahead');
  expect(text).toMatch(/acknowledged, as the token knows +up to batch 2$/m);
});
