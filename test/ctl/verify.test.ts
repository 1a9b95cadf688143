import { X509Certificate } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { distrust } from '#ctl/certificates.ts';
import { qrText } from '#ipc-schema/evidence.ts';
import { type EvidenceFile, encodeEvidenceFile } from '#ipc-schema/evidence-file.ts';
import { BuiltLedger } from '#test/support/built-ledger.ts';
import { ctl, errorOf, jsonOf, type Run } from '#test/support/ctl.ts';

let directory: string;
let ledger: BuiltLedger;
let stranger: BuiltLedger;
let authorityFile: string;
let certificateFile: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ukey-verify-'));
  ledger = await BuiltLedger.begin();
  stranger = await BuiltLedger.begin();
  for (const one of [ledger, stranger]) {
    one.invoices(3);
    one.add([one.draft({ kind: 'credit-note', corrects: { number: 'A-00000001' } })]);
  }
  authorityFile = await kept('authority.pem', new X509Certificate(ledger.authority.certificate).toString());
  certificateFile = await kept('token.der', ledger.certificate);
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function kept(name: string, content: string | Uint8Array): Promise<string> {
  const file = join(directory, name);
  await writeFile(file, content);
  return file;
}

const verify = (args: readonly string[], stdin: string | Buffer = ''): Promise<Run> => ctl(['verify', '--json', ...args], { stdin });

function invoiceBatch(of: BuiltLedger = ledger) {
  const batch = of.batches[1];
  if (batch === undefined) throw new Error('no batch');
  return batch;
}

const evidenceFile = (): EvidenceFile => JSON.parse(ledger.evidenceFile(invoiceBatch(), 1)) as EvidenceFile;

function expectUnverified(run: Run): void {
  expect(run.status).toBe(5);
  expect(errorOf(run)).toMatchObject({ code: 'invalid-request', exit: 'unverified', action: distrust });
}

describe.concurrent('an evidence file', () => {
  it('holds, with what it proves', async () => {
    const file = await kept('good.json', ledger.evidenceFile(invoiceBatch(), 1));
    const run = await verify([file, '--authority', authorityFile]);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toMatchObject({
      holds: true,
      kind: 'invoice',
      number: 'A-00000002',
      sequence: 4,
      total: '15.30',
      currency: 'GBP',
      tokenId: ledger.token.tokenId,
      batchIndex: 2,
      document: 'verified',
      authority: ledger.authority.fingerprint,
      trusted: true,
      warnings: [],
    });
  });

  it('holds by the fingerprint of the authority, from stdin, in words', async () => {
    const colons = ledger.authority.fingerprint.toUpperCase().match(/../g)?.join(':') ?? '';
    const run = await ctl(['verify', '-', '--authority', colons], { stdin: ledger.evidenceFile(invoiceBatch(), 0) });
    expect(run.status).toBe(0);
    expect(run.stdout).toContain('A-00000001');
    expect(run.stdout).toMatch(/^Verdict +holds$/m);
  });

  it('says so when nobody named the authority', async () => {
    const run = await verify(['-'], ledger.evidenceFile(invoiceBatch(), 0));
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toMatchObject({ holds: true, trusted: false, authority: ledger.authority.fingerprint });
    expect(jsonOf(run)['warnings']).toHaveLength(1);
  });

  it.each<[string, (file: EvidenceFile) => Partial<EvidenceFile>]>([
    ['the document is changed', ({ document }) => ({ document: document.replace('15.30', '14.30') })],
    ['the document is spelled otherwise', ({ document }) => ({ document: `${document} ` })],
    ['it is of another document', () => ({ evidence: Buffer.from(ledger.evidenceOf(invoiceBatch(), 2)).toString('base64') })],
    ['the certificate is of another token', () => ({ certificate: stranger.certificate.toString('base64') })],
    ['the certificate is none', () => ({ certificate: 'AAAA' })],
    ['the evidence is none', () => ({ evidence: 'AAAA' })],
    ['it is of another format', () => ({ format: 'ukey-evidence/2' as never })],
    ['the whole is a stranger’s but for the authority', () => JSON.parse(stranger.evidenceFile(invoiceBatch(stranger), 1)) as EvidenceFile],
  ])('does not hold when %s', async (_, change) => {
    const file = evidenceFile();
    expectUnverified(await verify(['-', '--authority', authorityFile], JSON.stringify({ ...file, ...change(file) })));
  });

  it("does not hold under another authority's certificate or fingerprint", async () => {
    const other = await kept('stranger.der', Buffer.from(stranger.authority.certificate));
    for (const authority of [other, stranger.authority.fingerprint]) {
      expectUnverified(await verify(['-', '--authority', authority], ledger.evidenceFile(invoiceBatch(), 0)));
    }
  });

  it('does not hold at any changed byte of its evidence', async () => {
    const file = evidenceFile();
    const bytes = Buffer.from(file.evidence, 'base64');
    const places = [3, 40, 150, bytes.length - 80, bytes.length - 1];
    for (const at of places) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 0x10;
      const { format: _format, ...parts } = { ...file, evidence: changed.toString('base64') };
      expectUnverified(await verify(['-', '--authority', authorityFile], encodeEvidenceFile(parts)));
    }
  });
});

describe.concurrent('the text of a QR code', () => {
  it.each([
    ['with a URL', 'https://verify.example/e'],
    ['without', null],
  ])('holds %s, as argument and as file', async (name, url) => {
    const text = qrText(ledger.evidenceOf(invoiceBatch(), 1), url);
    const file = await kept(`qr-${name}.txt`, `${text}\n`);
    for (const source of [text, file]) {
      const run = await verify([source, '--certificate', certificateFile, '--authority', authorityFile]);
      expect(run.status).toBe(0);
      expect(jsonOf(run)).toMatchObject({ holds: true, number: 'A-00000002', document: 'absent', trusted: true });
    }
  });

  it("needs the token's certificate, and does not hold with another's", async () => {
    const text = qrText(ledger.evidenceOf(invoiceBatch(), 1), null);
    const without = await verify([text]);
    expect(without.status).toBe(2);
    expect(errorOf(without)).toMatchObject({ field: '--certificate' });
    const other = await kept('stranger-token.der', stranger.certificate);
    expectUnverified(await verify([text, '--certificate', other]));
  });

  it('does not hold when it was misread', async () => {
    const text = qrText(ledger.evidenceOf(invoiceBatch(), 1), null);
    expectUnverified(await verify([text.replace(/A/, 'B').replace(/.$/, ''), '--certificate', certificateFile]));
  });

  it('is told from a file that holds neither', async () => {
    const run = await verify([await kept('nothing.txt', 'hello')]);
    expect(run.status).toBe(2);
  });
});

describe.concurrent("a server's export", () => {
  it('holds, with counts, sums and the head', async () => {
    const file = await kept('export.jsonl', `${ledger.exportLines().join('\n')}\n`);
    const run = await verify(['--server-export', file, '--authority', authorityFile]);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toMatchObject({ holds: true, batches: 3, entries: 6, head: { batchIndex: 3, nextSequence: 7 }, findingsCount: 0 });
  });

  it('holds as the pages that a server gives out, with the certificate named', async () => {
    const pages = [ledger.token.upload(ledger.batches.slice(0, 2)), ledger.token.upload(ledger.batches.slice(2))];
    const file = await kept('export.cbor', Buffer.concat(pages));
    const run = await verify(['--server-export', file, '--certificate', certificateFile, '--authority', authorityFile]);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toMatchObject({ holds: true, batches: 3, entries: 6 });
    const without = await verify(['--server-export', file]);
    expect(without.status).toBe(2);
  });

  it('in words shows a table of sums', async () => {
    const run = await ctl(['verify', '--server-export', '-'], { stdin: ledger.exportLines().join('\r\n') });
    expect(run.status).toBe(0);
    expect(run.stdout).toMatch(/^GBP +invoices +3 +45\.9 +7\.65$/m);
  });

  it('does not hold with a batch missing, and says how far it held', async () => {
    const lines = ledger.exportLines();
    const run = await verify(['--server-export', '-'], [...lines.slice(0, 2), ...lines.slice(3)].join('\n'));
    expectUnverified(run);
    expect(errorOf(run)).toMatchObject({ batches: 1, entries: 2 });
  });

  it('does not hold when it is cut off, in either form', async () => {
    const text = `${ledger.exportLines().join('\n')}\n`;
    expectUnverified(await verify(['--server-export', '-'], text.slice(0, -20)));
    const page = ledger.token.upload(ledger.batches);
    expectUnverified(await verify(['--server-export', '-', '--certificate', certificateFile], Buffer.from(page.subarray(0, -20))));
  });

  it('does not hold when what is sealed is wrong, and lists what', async () => {
    const wrong = await BuiltLedger.begin();
    wrong.add([wrong.draft({ number: 'A-00000002' })]);
    const run = await verify(['--server-export', '-'], wrong.exportLines().join('\n'));
    expect(run.status).toBe(5);
    expect(jsonOf(run)).toMatchObject({ holds: false, findingsCount: 1, findings: [{ kind: 'number', sequence: 3 }] });
  });

  it("does not hold when its certificate is another token's", async () => {
    const lines = stranger.exportLines();
    const [first = ''] = ledger.exportLines();
    const forged = { ...(JSON.parse(first) as object), tokenId: stranger.token.tokenId };
    expectUnverified(await verify(['--server-export', '-'], [JSON.stringify(forged), ...lines.slice(1)].join('\n')));
  });

  it('is refused when it is empty, or holds neither form', async () => {
    expect((await verify(['--server-export', '-'], '')).status).toBe(2);
    expectUnverified(await verify(['--server-export', '-', '--certificate', certificateFile], 'nonsense'));
  });
});
