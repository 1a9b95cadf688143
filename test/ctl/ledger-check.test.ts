import { X509Certificate } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { findingsMax, LedgerCheck, type LedgerReport } from '#ctl/ledger-check.ts';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { BuiltBatch } from '#test/support/batch-builder.ts';
import { BuiltLedger } from '#test/support/built-ledger.ts';
import { refusal } from '#test/support/refusal.ts';

const total = '15.30';
/** In the last weeks of the first certificate. */
const renewedAtMs = Date.parse('2039-11-01T00:00:00Z');

function report(ledger: BuiltLedger, batches: readonly BuiltBatch[] = ledger.batches): LedgerReport {
  const check = new LedgerCheck(ledger.origin);
  for (const { bytes } of batches) check.add(bytes);
  return check.result();
}

function kinds(ledger: BuiltLedger): string[] {
  return report(ledger).findings.map((finding) => `${finding.sequence} ${finding.kind}`);
}

describe('a ledger that is right', () => {
  it('holds when its certificate was renewed, once and again, whether or not the authority is known', async () => {
    const ledger = await BuiltLedger.begin();
    ledger.invoices(1);
    ledger.add([ledger.draft(), ledger.renewal(await ledger.renewed(renewedAtMs)), ledger.draft()]);
    ledger.add([ledger.renewal(await ledger.renewed(2 * renewedAtMs - Date.parse('2030-01-01T00:00:00Z')))]);
    ledger.invoices(2);
    expect(report(ledger)).toMatchObject({ holds: true, batches: 5, byKind: { admin: 2 } });
    const check = new LedgerCheck({ ...ledger.origin, authorityCertificate: null });
    for (const { bytes } of ledger.batches) check.add(bytes);
    expect(check.result().holds).toBe(true);
  });

  it('holds, and is counted and summed', async () => {
    const ledger = await BuiltLedger.begin();
    ledger.invoices(3);
    ledger.add([ledger.draft({ kind: 'credit-note', corrects: { number: 'A-00000002' } }), ledger.draft()]);
    ledger.add([ledger.acknowledgement(2)]);
    const found = report(ledger);
    expect(found).toMatchObject({
      holds: true,
      tokenId: ledger.token.tokenId,
      batches: 4,
      entries: 8,
      byKind: { charter: 1, template: 1, invoice: 4, 'credit-note': 1, acknowledgement: 1 },
      sums: [
        {
          currency: 'GBP',
          invoices: 4,
          invoiceTotal: '61.2',
          invoiceTaxTotal: '10.2',
          creditNotes: 1,
          creditNoteTotal: '15.3',
          creditNoteTaxTotal: '2.55',
        },
      ],
      series: [
        { prefix: 'A-', first: 'A-00000001', last: 'A-00000004', count: 4 },
        { prefix: 'C-', first: 'C-00000001', last: 'C-00000001', count: 1 },
      ],
      acknowledgedBatch: 2,
      pending: 2,
      head: { batchIndex: 4, nextSequence: 9 },
      findings: [],
    });
  });

  it('holds without the authority too, whose signatures are then not checked', async () => {
    const ledger = await BuiltLedger.begin();
    ledger.invoices(1);
    const check = new LedgerCheck({ certificate: ledger.certificate, authorityCertificate: null });
    for (const { bytes } of ledger.batches) check.add(bytes);
    expect(check.result().holds).toBe(true);
  });

  it('is empty before its first batch', async () => {
    const ledger = await BuiltLedger.begin();
    const found = report(ledger, []);
    expect(found).toMatchObject({ holds: true, batches: 0, entries: 0, firstIssuedAt: null, pending: 0, head: { nextSequence: 1 } });
  });
});

describe('a chain that is broken is refused at the place where it breaks', () => {
  async function threeBatches(): Promise<BuiltLedger> {
    const ledger = await BuiltLedger.begin();
    ledger.invoices(2);
    ledger.invoices(2);
    return ledger;
  }

  it.each([
    ['a batch is left out', [0], 2],
    ['a batch comes twice', [0, 1], 1],
    ['the first batch is missing', [], 1],
  ])('when %s', async (_, good, bad) => {
    const { batches, origin } = await threeBatches();
    const bytesOf = (at: number) => batches[at]?.bytes ?? new Uint8Array();
    const check = new LedgerCheck(origin);
    for (const at of good) check.add(bytesOf(at));
    refusal(() => check.add(bytesOf(bad)));
    expect(check.progress.batches).toBe(good.length);
  });

  it('when any one byte of a batch is another', async () => {
    const { batches, origin } = await threeBatches();
    const [first, second] = batches;
    if (first === undefined || second === undefined) throw new Error('no batches');
    for (let at = 0; at < second.bytes.length; at += 37) {
      const check = new LedgerCheck(origin);
      check.add(first.bytes);
      const changed = Uint8Array.from(second.bytes);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => check.add(changed), `byte ${at}`).toThrow(UkeyError);
      check.add(second.bytes);
    }
  });

  it("when it is another token's", async () => {
    const mine = await BuiltLedger.begin();
    const other = await BuiltLedger.begin();
    refusal(() => report(mine, other.batches));
  });

  it('when the enrolment certificate is another of the same key', async () => {
    const ledger = await BuiltLedger.begin();
    const again = Buffer.from(await ledger.authority.certifyToken(ledger.token.spki, Date.parse('2030-01-01T00:00:00Z')));
    refusal(() => new LedgerCheck({ ...ledger.origin, certificate: again }).add(ledger.batches[0]?.bytes ?? new Uint8Array()));
  });
});

describe('what is sealed rightly and still wrong is found', () => {
  it.each([
    ['a hole in the numbers', { number: 'A-00000003' }, ['4 number']],
    ['a number that was given before', { number: 'A-00000001' }, ['4 number']],
    ['a number of no series', { number: 'B-00000002' }, ['4 number']],
    ['a key that was used before', { request: { terminal: 'till-1', key: 'key-3', digest: '' } }, ['4 key-repeated']],
    ['a template that is not in the ledger', { template: { id: 'retail', version: 2 } }, ['4 template-unknown']],
    ["another token's id", { token: '0'.repeat(32) }, ['4 document-disagrees']],
    ['a total that does not add up', { total: '15.31' }, ['4 arithmetic']],
    ['a tax total that does not add up', { taxTotal: '2.54' }, ['4 arithmetic']],
    ['a credit of no invoice', { kind: 'credit-note' as const, number: 'C-00000001', corrects: { number: 'A-00000009' } }, ['4 credit']],
  ])('%s', async (_, change, expected) => {
    const ledger = await BuiltLedger.begin();
    ledger.invoices(1);
    ledger.add([ledger.draft(change)]);
    expect(kinds(ledger)).toEqual(expected);
    expect(report(ledger).holds).toBe(false);
  });

  it('a hole is told once: the numbers behind it are right again', async () => {
    const ledger = await BuiltLedger.begin();
    ledger.add([ledger.draft({ number: 'A-00000002' }), ledger.draft({ number: 'A-00000003' })]);
    expect(kinds(ledger)).toEqual(['3 number']);
  });

  it('a second credit note that takes more than is left', async () => {
    const ledger = await BuiltLedger.begin();
    ledger.invoices(1);
    const credit = () => ledger.draft({ kind: 'credit-note', corrects: { number: 'A-00000001' } });
    ledger.add([credit(), credit()]);
    expect(kinds(ledger)).toEqual(['5 credit']);
  });

  it('a leaf that disagrees with its document', async () => {
    const ledger = await BuiltLedger.begin();
    ledger.add([{ kind: 'document', change: { number: 'A-00000001' }, leaf: { total: '1.00' } }]);
    expect(kinds(ledger)).toEqual(['3 document-disagrees']);
    expect(report(ledger).sums[0]?.invoiceTotal).not.toBe(total);
  });

  it('a body that is no document', async () => {
    const ledger = await BuiltLedger.begin();
    const leaf = { number: 'A-00000001', currency: 'GBP', total, taxTotal: '2.55' };
    ledger.add([{ kind: 'body', entryKind: 'invoice', body: Buffer.from('{}'), leaf }]);
    expect(kinds(ledger)).toEqual(['3 document-unreadable']);
  });

  it('an acknowledgement of another head, one by a stranger, and one that goes back', async () => {
    const ledger = await BuiltLedger.begin();
    const stranger = await BuiltLedger.begin();
    ledger.invoices(1);
    ledger.invoices(1);
    ledger.add([
      ledger.acknowledgement(2, new Uint8Array(32)),
      stranger.acknowledgement(1),
      ledger.acknowledgement(9),
      ledger.acknowledgement(2),
      ledger.acknowledgement(1),
    ]);
    expect(kinds(ledger)).toEqual(['5 acknowledgement', '6 acknowledgement', '7 acknowledgement', '9 acknowledgement']);
    expect(report(ledger).acknowledgedBatch).toBe(2);
  });

  it('a charter by another authority, and one that is not newer', async () => {
    const ledger = await BuiltLedger.begin();
    const other = await BuiltLedger.begin();
    const body = (from: BuiltLedger) => from.batches[0]?.entries[0]?.body ?? new Uint8Array();
    ledger.add([
      { kind: 'body', entryKind: 'charter', body: body(other) },
      { kind: 'body', entryKind: 'charter', body: body(ledger) },
    ]);
    expect(kinds(ledger)).toEqual(['3 charter', '4 charter']);
  });

  it.each<[string, readonly (readonly ('handover' | 'handover-cancelled' | 'sale')[])[], string[]]>([
    ['that ends with a handover', [['handover']], []],
    ['that is taken back', [['sale', 'handover'], ['handover-cancelled', 'sale'], ['handover']], []],
    ['that goes on by its old key', [['handover'], ['sale', 'sale']], ['4 admin']],
    ['with entries behind a handover', [['handover', 'sale'], ['sale']], ['3 admin']],
    ['that is taken back too late', [['handover'], ['sale', 'handover-cancelled']], ['4 admin', '5 admin']],
    ['that nobody has handed over', [['sale'], ['handover-cancelled']], ['4 admin']],
  ])('a ledger %s', async (_what, batches, findings) => {
    const ledger = await BuiltLedger.begin();
    for (const batch of batches)
      ledger.add(
        batch.map((event) => (event === 'sale' ? ledger.draft() : { kind: 'body', entryKind: 'admin', body: encodeAdminEvent({ event }) })),
      );
    expect(kinds(ledger).filter((one) => one.endsWith('admin'))).toEqual(findings);
  });

  it('certificates that renew one in no right way', async () => {
    const ledger = await BuiltLedger.begin();
    const stranger = await BuiltLedger.begin();
    const { spki, tokenId } = ledger.token;
    const from = (der: Uint8Array): number => new X509Certificate(der).validFromDate.getTime();
    const first = await ledger.renewed(renewedAtMs);
    const wrong = [
      await stranger.renewed(renewedAtMs), // of another key, ledger and authority
      await stranger.authority.certifyToken(spki, renewedAtMs, tokenId, from(ledger.certificate)), // by another authority
      await ledger.authority.certifyToken(stranger.token.spki, renewedAtMs, tokenId, from(ledger.certificate)), // of another key
      await ledger.authority.certifyToken(spki, renewedAtMs, stranger.token.tokenId, from(ledger.certificate)), // of another ledger
      await ledger.authority.certifyToken(spki, renewedAtMs, tokenId), // that begins later
      ledger.certificate, // the same
      Buffer.from('no certificate'),
    ];
    ledger.add([...wrong.map((one) => ledger.renewal(one)), ledger.renewal(first), ledger.renewal(first)]);
    // The right one counts in spite of those before it, and no second time.
    expect(kinds(ledger)).toEqual([...wrong.map((_, at) => `${3 + at} admin`), `${4 + wrong.length} admin`]);
  });

  it('all are counted, and a bounded number kept', async () => {
    const ledger = await BuiltLedger.begin();
    ledger.add(
      Array.from({ length: findingsMax + 5 }, (_, at) =>
        ledger.draft({ token: '0'.repeat(32), number: `A-${String(at + 1).padStart(8, '0')}` }),
      ),
    );
    const found = report(ledger);
    expect(found.findings).toHaveLength(findingsMax);
    expect(found.findingsCount).toBe(findingsMax + 5);
  });
});
