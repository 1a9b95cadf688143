import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { invoiceDocumentSchema } from '#ipc-schema/invoice.ts';
import type { Params } from '#ipc-schema/methods.ts';
import { openRig, type Rig, sale } from '#test/support/rig.ts';
import { StepClock } from '#test/support/step-clock.ts';

const retail = JSON.parse(readFileSync(new URL('../../server/templates/retail.json', import.meta.url), 'utf8')) as object;
const clock = new StepClock(Date.now(), true);
const hourMs = 3_600_000;
let rig: Rig;
beforeAll(async () => {
  rig = await openRig({
    overrides: { clock },
    line: true,
    templates: {
      seasonal: { ...retail, id: 'seasonal', validUntil: new Date(clock.wallMs() + hourMs).toISOString() },
      strict: { ...retail, id: 'strict', buyer: 'required', allowExternalCorrection: false, allowZeroPrice: false },
    },
    grant: { templates: ['retail', 'seasonal', 'strict'] },
  });
});
afterAll(() => rig?.close());

type Sale = Params<'invoice.issue'>;
const refused = async (request: Sale, code: string, field?: string): Promise<void> => {
  const documents = rig.running.custody.ledger?.tip.documents;
  for (const method of ['invoice.preview', 'invoice.issue'] as const)
    await expect(rig.till.call(method, request), method).rejects.toMatchObject({ code, ...(field === undefined ? {} : { field }) });
  expect(rig.running.custody.ledger?.tip.documents).toBe(documents);
};

describe('issuing', () => {
  test('answers the document, which says what was asked and computed', async () => {
    const buyer = { name: 'A. Buyer', country: 'United Kingdom' };
    const issued = await rig.till.issue(sale('doc-1', { buyer, soldAt: '2026-01-02T03:04:05Z', total: '35.64', ext: { shift: 3 } }));
    const document = invoiceDocumentSchema.parse(JSON.parse(issued.document ?? ''));
    expect(document).toMatchObject({
      ...{ number: issued.number, sequence: issued.sequence, issuedAt: issued.issuedAt, total: '35.64', buyer, ext: { shift: 3 } },
      ...{ kind: 'invoice', soldAt: '2026-01-02T03:04:05Z', request: { terminal: 'till-1', key: 'doc-1' } },
    });
    expect(document.token).toBe((await rig.admin.call('service.identity', {})).tokenId);
  });

  test('brief leaves document and evidence out, and the repeat may ask for them', async () => {
    const brief = await rig.till.call('invoice.issue', sale('brief-1', { brief: true }));
    expect(brief.document).toBeUndefined();
    expect(brief.evidence).toBeUndefined();
    expect(brief.qr).toContain('UKEY1:');
    const whole = await rig.till.call('invoice.issue', sale('brief-1'));
    expect(whole).toMatchObject({ number: brief.number, repeated: true });
    expect(whole.document).toContain('WHITE HANGING HEART');
  });

  test('the same key gives the same bytes; another content is refused', async () => {
    const first = await rig.till.issue(sale('same'));
    const again = await rig.till.issue(sale('same'));
    const comparable = ({ number, sequence, document, evidence, qr, issuedAt }: typeof first) => [
      ...[number, sequence, document, evidence, qr, issuedAt],
    ];
    expect(comparable(again)).toEqual(comparable(first));
    expect([first.repeated, again.repeated]).toEqual([false, true]);
    await expect(rig.till.call('invoice.issue', sale('same', { total: '35.64' }))).rejects.toMatchObject({ code: 'key-reused' });
  });

  test('an operator without a terminal cannot issue', async () => {
    await expect(rig.admin.call('invoice.issue', sale('x'))).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('refuses what does not fit, with the field, and issues nothing', async () => {
    const line = { description: 'X', quantity: '1', unitPrice: '1.00' };
    await refused(sale('bad', { total: '35.65' }), 'invalid-invoice', 'total');
    await refused(sale('bad', { payments: [{ method: 'cash', amount: '35.63' }] }), 'invalid-invoice', 'payments');
    await refused(sale('bad', { currency: 'EUR' }), 'invalid-invoice', 'currency');
    await refused(sale('bad', { template: 'nothing' }), 'template-unknown', 'template');
    await refused(sale('bad', { lines: [{ ...line, taxCode: 'luxury' }] }), 'invalid-invoice', 'lines[0].taxCode');
    await refused(sale('bad', { lines: [line, { ...line, discount: '1.01' }] }), 'invalid-invoice', 'lines[1].discount');
    await refused(sale('bad', { template: 'strict' }), 'invalid-invoice', 'buyer');
    await refused(sale('bad', { corrects: { external: '1' } }), 'invalid-invoice', 'corrects');
    await refused(sale('bad', { kind: 'credit-note' }), 'invalid-invoice', 'corrects');
    const strictNote: Partial<Sale> = { template: 'strict', buyer: { name: 'B' }, kind: 'credit-note', corrects: { external: '1' } };
    await refused(sale('bad', strictNote), 'invalid-invoice', 'corrects.external');
    await refused(sale('bad', { kind: 'credit-note', corrects: { number: 'A-99999999' } }), 'not-found', 'corrects.number');
    await refused(sale('bad', { lines: [{ ...line, unitPrice: '100000.01' }] }), 'limit-single');
    expect((await rig.till.issue(sale('bad'))).repeated).toBe(false);
  });

  test('a credit note refers to its invoice and takes back no more than it', async () => {
    const original = await rig.till.issue(sale('orig'));
    const corrects = { number: original.number, reason: 'returned' };
    const note = await rig.till.issue(sale('note-1', { kind: 'credit-note', corrects }));
    expect(note).toMatchObject({ number: expect.stringMatching(/^C-/), total: '35.64' });
    expect(JSON.parse(note.document ?? '')).toMatchObject({ kind: 'credit-note', corrects });
    await refused(sale('note-2', { kind: 'credit-note', corrects }), 'credit-exceeds');
    await refused(sale('note-3', { kind: 'credit-note', corrects: { number: note.number } }), 'not-found');
    expect(await rig.till.issue(sale('note-1', { kind: 'credit-note', corrects }))).toMatchObject({ number: note.number, repeated: true });
  });
});

describe('previewing', () => {
  test('shows what issuing would say, and commits nothing', async () => {
    await rig.admin.call('backlog.flush', {}); // an acknowledgement that is on its way is committed, too
    const before = rig.running.custody.ledger?.tip;
    const shown = await rig.till.call('invoice.preview', sale('pre'));
    expect(shown).toMatchObject({ currency: 'GBP', total: '35.64', taxTotal: '5.94' });
    expect(JSON.parse(shown.document)).toMatchObject({ number: '', sequence: 0, total: '35.64' });
    expect(rig.running.custody.ledger?.tip).toEqual(before);
    await expect(rig.till.call('invoice.get', { key: 'pre' })).rejects.toMatchObject({ code: 'not-found' });
    expect((await rig.till.issue(sale('pre'))).repeated).toBe(false);
  });
});

describe('waiting for the acknowledgement', () => {
  test('answers `acknowledged` when it came', async () => {
    await rig.admin.call('backlog.flush', {});
    const issued = await rig.till.issue(sale('wait-1', { wait: 'acknowledged' }));
    expect(issued.delivery).toBe('acknowledged');
    expect(issued.budget.countLeft).toBeGreaterThan(9_900);
  });

  test('does not wait while the line is down, and the repeat says what has become of it', async () => {
    rig.line.state = 'down';
    rig.line.hangUp();
    for (let at = 0; at < 2; at += 1) await rig.admin.call('backlog.flush', {}).catch(() => undefined);
    await expect.poll(async () => (await rig.admin.call('backlog.status', {})).link).toBe('down');
    const startedMs = performance.now();
    expect((await rig.till.issue(sale('wait-2', { wait: 'acknowledged' }))).delivery).toBe('pending');
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    rig.line.state = 'up';
    await rig.admin.call('backlog.flush', {});
    expect((await rig.till.issue(sale('wait-2', { wait: 'acknowledged' }))).delivery).toBe('acknowledged');
    expect((await rig.till.call('invoice.get', { key: 'wait-2' })).delivery).toBe('acknowledged');
  });
});

describe('finding', () => {
  test('by key, number and sequence gives what was answered, byte for byte', async () => {
    const issued = await rig.till.issue(sale('find-1'));
    for (const which of [{ key: 'find-1' }, { number: issued.number }, { sequence: issued.sequence }]) {
      const found = await rig.till.call('invoice.get', which);
      expect(found).toMatchObject({ document: issued.document, evidence: issued.evidence, qr: issued.qr, repeated: true });
    }
    expect((await rig.till.call('invoice.last', {})).number).toBe(issued.number);
  });

  test('a key belongs to its terminal; numbers are everybody’s', async () => {
    const issued = await rig.till.issue(sale('find-2'));
    const other = await rig.connectAs('till-2', 'till');
    await expect(other.call('invoice.get', { key: 'find-2' })).rejects.toMatchObject({ code: 'not-found' });
    expect((await other.call('invoice.get', { number: issued.number })).sequence).toBe(issued.sequence);
    await expect(other.call('invoice.last', {})).rejects.toMatchObject({ code: 'not-found' });
    const own = await other.issue(sale('find-2'));
    expect(own.number).not.toBe(issued.number);
    expect((await other.call('invoice.last', {})).number).toBe(own.number);
    expect((await rig.till.call('invoice.last', {})).number).toBe(issued.number);
    const auditor = await rig.connectAs('auditor-1', 'auditor');
    expect((await auditor.call('invoice.last', {})).number).toBe(own.number);
    expect((await rig.admin.call('invoice.last', {})).number).toBe(own.number);
    await expect(rig.admin.call('invoice.get', { key: 'find-2' })).rejects.toMatchObject({ code: 'not-found' });
  });

  test('what is no document is not found as one', async () => {
    await expect(rig.till.call('invoice.get', { sequence: 1 })).rejects.toMatchObject({ code: 'not-found' });
    await expect(rig.till.call('invoice.get', { sequence: 1_000_000 })).rejects.toMatchObject({ code: 'not-found' });
  });
});

describe('a template that has expired', () => {
  test('issues nothing new, and still answers for what was issued', async () => {
    const seasonal = sale('season-1', { template: 'seasonal' });
    const issued = await rig.till.issue(seasonal);
    clock.pass(2 * hourMs);
    await refused(sale('season-2', { template: 'seasonal' }), 'template-expired');
    expect(await rig.till.issue(seasonal)).toMatchObject({ number: issued.number, document: issued.document, repeated: true });
    await expect(rig.till.call('invoice.issue', { ...seasonal, total: '35.64' })).rejects.toMatchObject({ code: 'key-reused' });
    await expect(rig.till.call('invoice.issue', sale('season-1'))).rejects.toMatchObject({ code: 'key-reused' });
    expect((await rig.till.issue(sale('after'))).repeated).toBe(false);
  });
});
