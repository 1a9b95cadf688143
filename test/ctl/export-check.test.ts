// Shows: an export holds as it was written, in both forms, and in no other way.
import { beforeAll, describe, expect, it } from 'vitest';
import { recordsOf } from '#ctl/export/records.ts';
import { jsonLines } from '#ctl/export/spelling.ts';
import { tar } from '#ctl/export/tar.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { ExportEntry, ExportRecord } from '#ipc-schema/export.ts';
import { verifyBatch } from '#ipc-schema/verify.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { BuiltLedger } from '#test/support/built-ledger.ts';
import { recordsOfLedger, spelled, verified } from '#test/support/exported.ts';
import { seededRandom, seedOf } from '#test/support/seed.ts';

let ledger: BuiltLedger;
let stranger: BuiltLedger;
beforeAll(async () => {
  ledger = await BuiltLedger.begin();
  stranger = await BuiltLedger.begin();
  for (const one of [ledger, stranger]) {
    one.invoices(3);
    one.add([one.draft({ kind: 'credit-note', corrects: { number: 'A-00000001' } }), one.draft()]);
    one.add([one.acknowledgement(2)]);
    one.invoices(1);
  }
});

const forms = [jsonLines, tar] as const;
const refused = async (bytes: Uint8Array, form = jsonLines as (typeof forms)[number]): Promise<string> =>
  verified(bytes, form).then(
    () => 'holds',
    (error: unknown) => (error instanceof UkeyError ? error.code : String(error)),
  );
const isEntry = (record: ExportRecord): record is Extract<ExportRecord, { kind: 'entry' }> => record.kind === 'entry';
const entryAt = (records: readonly ExportRecord[], at: number): ExportEntry => {
  const entry = records.filter(isEntry)[at];
  if (entry === undefined) throw new Error('no such entry');
  return entry.entry;
};
/** The records with the entry of one sequence replaced (or left out). */
const withEntry = (
  records: readonly ExportRecord[],
  sequence: number,
  change: (entry: ExportEntry) => ExportEntry | null,
): ExportRecord[] =>
  records.flatMap((record): ExportRecord[] => {
    if (!isEntry(record) || record.entry.sequence !== sequence) return [record];
    const changed = change(record.entry);
    return changed === null ? [] : [{ kind: 'entry', entry: changed }];
  });

describe.each(forms)('an export as $name', (form) => {
  it('holds, with everything that a ledger has', async () => {
    const { origin, records } = recordsOfLedger(ledger);
    const check = await verified(spelled(origin, records, form), form);
    expect(check.end).toMatchObject({
      batches: 5,
      entries: 9,
      byKind: { charter: 1, template: 1, invoice: 5, 'credit-note': 1, acknowledgement: 1 },
      sums: [{ currency: 'GBP', invoices: 5, invoiceTotal: '76.50', creditNotes: 1, creditNoteTotal: '15.30' }],
      head: { batch: 5, nextSequence: 10 },
    });
    expect(check.findingsCount).toBe(0);
  });

  it('holds as a part of the ledger, within batches too, and as a selection', async () => {
    const part = recordsOfLedger(ledger, { fromBatch: 2, toBatch: 3, fromSequence: 4, toSequence: 6 });
    expect((await verified(spelled(part.origin, part.records, form), form)).end).toMatchObject({ batches: 2, entries: 3 });
    const credits = recordsOfLedger(ledger, { kinds: ['credit-note'] });
    expect((await verified(spelled(credits.origin, credits.records, form), form)).end).toMatchObject({ batches: 5, entries: 1 });
  });

  it('holds when it is empty', async () => {
    const { origin } = recordsOfLedger(ledger, { fromBatch: 6, toBatch: 5, fromSequence: 10, toSequence: 9 });
    expect((await verified(spelled(origin, [], form), form)).end).toMatchObject({ batches: 0, entries: 0, head: null });
  });

  it('does not hold with any one bit changed, or cut off anywhere', async () => {
    const seed = seedOf();
    const random = seededRandom(seed);
    const { origin, records } = recordsOfLedger(ledger);
    const whole = spelled(origin, records, form);
    for (let round = 0; round < 40; round++) {
      const at = Math.floor(random() * whole.length);
      const changed = Buffer.from(whole);
      changed[at] = (changed[at] ?? 0) ^ (1 << Math.floor(random() * 8));
      expect(await refused(changed, form), `seed ${seed}, byte ${at} of ${whole.length}`).toBe('invalid-request');
      expect(await refused(whole.subarray(0, at), form), `seed ${seed}, cut at ${at}`).toBe('invalid-request');
    }
  });

  it('does not hold with something behind its end', async () => {
    const { origin, records } = recordsOfLedger(ledger);
    const whole = spelled(origin, records, form);
    expect(await refused(Buffer.concat([whole, whole]), form)).toBe('invalid-request');
    expect(await refused(Buffer.concat([whole, Buffer.alloc(512)]), form)).toBe('invalid-request');
  });

  // Who changes an export counts it anew, so that nothing but the evidence speaks against it.
  it.each<[string, (records: readonly ExportRecord[]) => readonly ExportRecord[]]>([
    ['an entry is left out', (records) => withEntry(records, 4, () => null)],
    [
      'an entry is left out and its batch says so',
      (records) =>
        withEntry(records, 4, () => null).map((record) =>
          record.kind === 'seal' && record.seal.batch === 2 ? { kind: 'seal', seal: { ...record.seal, entries: 2 } } : record,
        ),
    ],
    ['a batch is left out', (records) => records.filter((_, at) => at < 3 || at > 6)],
    ['the last batch is left out', (records) => records.slice(0, -2)],
    ['two entries have changed places', (records) => [...records.slice(0, 4), ...records.slice(4, 6).reverse(), ...records.slice(6)]],
    ['an entry comes twice', (records) => [...records.slice(0, 5), ...records.slice(4)]],
    ['a batch comes twice', (records) => [...records.slice(0, 7), ...records.slice(3)]],
    [
      'an entry has the evidence of another',
      (records) => withEntry(records, 4, (entry) => ({ ...entry, evidence: entryAt(records, 2).evidence })),
    ],
    [
      'an entry has the body of another',
      (records) => withEntry(records, 4, (entry) => ({ ...entry, document: entryAt(records, 2).document ?? '' })),
    ],
    ['an entry is another token’s', (records) => withEntry(records, 4, () => entryAt(recordsOfLedger(stranger).records, 3))],
    [
      'a batch is another token’s',
      (records) => [...records.slice(0, 3), ...recordsOfLedger(stranger).records.slice(3, 7), ...records.slice(7)],
    ],
  ])('does not hold when %s', async (_, change) => {
    const { origin, records } = recordsOfLedger(ledger);
    expect(await refused(spelled(origin, records, form), form)).toBe('holds');
    expect(await refused(spelled(origin, change(records), form), form)).toBe('invalid-request');
  });

  it.each([
    ['begins later than it says', { fromSequence: 2 }],
    ['says a range that ends later', { toSequence: 10 }],
    ['says another last batch', { toBatch: 6 }],
    ['says a range that contradicts itself', { toBatch: 0 }],
    ['says that it is a selection of other kinds', { kinds: ['invoice' as const] }],
    ['is of another token', { tokenId: 'ab'.repeat(16) }],
  ])('does not hold when it %s', async (_, change) => {
    const { origin, records } = recordsOfLedger(ledger);
    expect(await refused(spelled({ ...origin, ...change }, records, form), form)).toBe('invalid-request');
  });
});

describe('a line', () => {
  it.each([
    ['number', 'A-00000009'],
    ['total', '0.01'],
    ['taxTotal', '0.01'],
    ['currency', 'EUR'],
    ['issuedAt', '2030-01-02T03:04:05.000Z'],
    ['kind', 'credit-note'],
  ])('does not hold when its %s is another than its evidence says', async (name, value) => {
    const { origin, records } = recordsOfLedger(ledger);
    const changed = withEntry(records, 4, (entry) => ({ ...entry, [name]: value }));
    expect(await refused(spelled(origin, changed))).toBe('invalid-request');
  });

  it('has one body', async () => {
    const { origin, records } = recordsOfLedger(ledger);
    const both = withEntry(records, 4, (entry) => ({ ...entry, bytes: 'AAAA' }));
    expect(await refused(spelled(origin, both))).toBe('invalid-request');
  });
});

describe('what is sealed rightly and still wrong', () => {
  it('is found', async () => {
    const wrong = await BuiltLedger.begin();
    wrong.add([{ kind: 'document', change: { number: 'A-00000001' }, leaf: { total: '1.00' } }]);
    const { origin, records } = recordsOfLedger(wrong);
    const check = await verified(spelled(origin, records));
    expect(check.findings).toMatchObject([{ sequence: 3 }]);
  });
});

describe('a ledger whose certificate was renewed', () => {
  const renewedAtMs = Date.parse('2039-11-01T00:00:00Z');

  /** Seals before and behind the renewal; the certificates as the service gives them. */
  async function renewedLedger(by?: BuiltLedger) {
    const own = await BuiltLedger.begin();
    own.invoices(1);
    const certificate = await own.renewed(renewedAtMs);
    own.add([own.renewal(certificate)]);
    own.invoices(2);
    const newest = by === undefined ? certificate : await by.renewed(renewedAtMs);
    const certificates = [own.certificate, Buffer.from(newest)].map((der) => der.toString('base64'));
    return { own, certificate, ...recordsOfLedger(own, { certificates }) };
  }

  it.each(forms)('holds under both, as $name', async (form) => {
    const { origin, records, certificate } = await renewedLedger();
    const check = await verified(spelled(origin, records, form), form);
    expect(check.findingsCount).toBe(0);
    expect(check.token.certificate.raw).toEqual(Buffer.from(certificate));
  });

  it("does not hold with a stranger's certificate, nor with the newest one in the first one's place", async () => {
    const forged = await renewedLedger(stranger);
    expect(await refused(spelled(forged.origin, forged.records))).toBe('invalid-request');
    const { origin, records } = await renewedLedger();
    const turned = { ...origin, certificates: [...origin.certificates].reverse() };
    expect(await refused(spelled(turned, records))).toBe('invalid-request');
  });
});

describe('a ledger that another key goes on with', () => {
  /** Two batches by the first key, one by the second. */
  async function goneOn(certifiedFor?: string) {
    const first = await BuiltLedger.begin();
    first.invoices(2);
    const { token, authority } = first;
    const second = new BuiltToken();
    second.head = token.head;
    const batch = second.batch([first.draft({ token: token.tokenId })], { tokenId: token.tokenIdBytes });
    const certificate = await authority.certifyToken(second.spki, Date.parse('2030-01-01T00:00:00Z'), certifiedFor ?? token.tokenId);
    const range = { toBatch: 3, toSequence: batch.head.nextSequence - 1 };
    const certificates = [first.certificate, Buffer.from(certificate)].map((der) => der.toString('base64'));
    const { origin, records } = recordsOfLedger(first, { ...range, certificates });
    const verifiedBatch = verifyBatch(batch.bytes, second.publicKey, token.head, token.tokenIdBytes);
    return { origin, records: [...records, ...recordsOf(verifiedBatch, origin)] };
  }

  it.each(forms)('holds with the certificates of both, as $name', async (form) => {
    const { origin, records } = await goneOn();
    const check = await verified(spelled(origin, records, form), form);
    expect(check.end).toMatchObject({ batches: 3, entries: 5 });
    expect(check.findingsCount).toBe(0);
  });

  it('does not hold without the second one, in another order, or with one for another ledger', async () => {
    const { origin, records } = await goneOn();
    const [one = '', two = ''] = origin.certificates;
    expect(await refused(spelled({ ...origin, certificates: [one] }, records))).toBe('invalid-request');
    expect(await refused(spelled({ ...origin, certificates: [two, one] }, records))).toBe('invalid-request');
    const other = await goneOn('ab'.repeat(16));
    expect(await refused(spelled(other.origin, other.records))).toBe('invalid-request');
  });
});
