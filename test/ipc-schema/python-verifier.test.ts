// Runs ipc-schema/clients/verify_evidence.py, which shares nothing with our code, on the vectors: both must say the same.
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { encodeEvidenceFile } from '#ipc-schema/evidence-file.ts';
import { BuiltLedger } from '#test/support/built-ledger.ts';
import { readVectors } from '#test/support/vectors.ts';
import { spkiOf, tokenCertificate, unhex } from '#test/vectors/world.ts';

const run = promisify(execFile);
const verifier = new URL('../../ipc-schema/clients/verify_evidence.py', import.meta.url).pathname;
/** The interpreter itself: a version manager's stand-in costs more than the check. */
const python = spawnSync('python3', ['-c', 'import sys; print(sys.executable)'], { encoding: 'utf8' }).stdout?.trim() ?? '';
const isPresent = python !== '' && spawnSync('openssl', ['version']).status === 0;
const isSkipped = !isPresent && !process.env['CI'];
if (isSkipped) console.warn('SKIPPED: python3 or openssl is not on this machine; the independent verifier was not run');

const folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-verifier-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
function fileOf(content: Uint8Array | string): string {
  const name = path.join(folder, String(files++));
  writeFileSync(name, content);
  return name;
}

interface Outcome {
  readonly status: number;
  readonly stdout: string;
}

async function verify(...inputs: readonly (Uint8Array | string)[]): Promise<Outcome> {
  try {
    const { stdout } = await run(python, ['-S', '-B', verifier, ...inputs.map(fileOf)]);
    return { status: 0, stdout };
  } catch (error) {
    const { code, stdout } = error as { code: number; stdout: string };
    return { status: code, stdout };
  }
}

/** A few at a time: each starts several processes. */
async function inTurns<T>(items: readonly T[], visit: (item: T) => Promise<void>): Promise<void> {
  const rest = [...items];
  const turn = async (): Promise<void> => {
    for (let item = rest.shift(); item !== undefined; item = rest.shift()) await visit(item);
  };
  await Promise.all([turn(), turn(), turn()]);
}

const evidence = readVectors<
  { name: string; bytes: string; body: string; sequence: number },
  { name: string; bytes: string; body: string }
>('evidence.json');
const pem = (label: string, der: Uint8Array): string =>
  `-----BEGIN ${label}-----\n${Buffer.from(der).toString('base64').replace(/.{64}/g, '$&\n')}\n-----END ${label}-----\n`;
const key = spkiOf('token');

describe.skipIf(isSkipped)('a verifier that shares nothing with ours', () => {
  it('holds the valid evidence to be valid, with and without the document', async () => {
    await inTurns(evidence.valid, async ({ name, bytes, body, sequence }) => {
      const { status, stdout } = await verify(key, unhex(bytes), unhex(body));
      expect(status, name).toBe(0);
      expect(JSON.parse(stdout), name).toMatchObject({ holds: true, leaf: { sequence } });
      expect((await verify(key, unhex(bytes))).status, name).toBe(0);
    });
  });

  it('refuses invalid evidence', async () => {
    await inTurns(evidence.invalid.slice(-6), async ({ name, bytes, body }) => {
      const { status, stdout } = await verify(key, unhex(bytes), unhex(body));
      expect([status, stdout], name).toEqual([1, '']);
    });
  });

  it('takes the key as a certificate or in PEM, and the evidence as base64, QR text or evidence file', async () => {
    const [first] = evidence.valid;
    const bytes = unhex(first?.bytes ?? '');
    for (const form of [tokenCertificate, pem('CERTIFICATE', tokenCertificate), pem('PUBLIC KEY', key)]) {
      expect((await verify(form, bytes)).status).toBe(0);
    }
    expect((await verify(key, `${Buffer.from(bytes).toString('base64')}\n`)).status).toBe(0);
    const qr = readVectors<{ name: string; text: string }, { name: string; text: string }>('qr.json');
    for (const { text } of qr.valid.slice(0, 2)) expect((await verify(key, `${text}\n`)).status).toBe(0);
    await inTurns(qr.invalid, async ({ name, text }) => expect((await verify(key, text)).status, name).toBe(1));
  });

  it('takes an evidence file, and refuses one whose document was changed', async () => {
    const invoice = evidence.valid[2];
    const parts = {
      document: Buffer.from(invoice?.body ?? '', 'hex').toString('utf8'),
      evidence: Buffer.from(invoice?.bytes ?? '', 'hex').toString('base64'),
      certificate: Buffer.from(tokenCertificate).toString('base64'),
      authorityCertificate: '',
    };
    expect((await verify(key, encodeEvidenceFile(parts))).status).toBe(0);
    expect((await verify(key, encodeEvidenceFile({ ...parts, document: parts.document.replace('15.30', '15.31') }))).status).toBe(1);
    expect((await verify(key, encodeEvidenceFile(parts).replace('ukey-evidence/1', 'ukey-evidence/2'))).status).toBe(1);
  });

  it('takes the certificate that renewed another one, for what was sealed under either', async () => {
    const ledger = await BuiltLedger.begin();
    const renewed = await ledger.renewed(Date.parse('2039-11-01T00:00:00Z'));
    const batches = [ledger.invoices(1), ledger.add([ledger.renewal(renewed), ledger.draft()])];
    const stranger = await BuiltLedger.begin();
    const files = batches.map((batch, at) => ledger.evidenceFile(batch, at, renewed));
    for (const file of files) {
      expect((await verify(renewed, file)).status).toBe(0);
      expect((await verify(ledger.certificate, file)).status).toBe(0);
      expect((await verify(await stranger.renewed(Date.parse('2039-11-01T00:00:00Z')), file)).status).toBe(1);
    }
  });

  it('refuses evidence under the key of another token, RSA or not', async () => {
    const bytes = unhex(evidence.valid[2]?.bytes ?? '');
    for (const other of ['stranger', 'rsa'] as const) expect((await verify(spkiOf(other), bytes)).status).toBe(1);
  });

  it('says by its status when it is called wrongly', async () => {
    expect((await verify(key)).status).toBe(2);
  });
});

describe.skipIf(isSkipped)('its parts, on the vectors', () => {
  it('agree with ours on every leaf, seal and evidence, of all algorithms', async () => {
    const script = `
import json, sys
sys.path.insert(0, sys.argv[1])
import verify_evidence as v
tried, wrong = 0, []
def judge(name, expected, read):
    global tried
    tried += 1
    try:
        read()
        holds = True
    except v.Refused:
        holds = False
    if holds != expected: wrong.append(name)
leaf, seal, evidence = (json.load(open(sys.argv[2] + name)) for name in ("leaf.json", "seal.json", "evidence.json"))
key = bytes.fromhex(evidence["tokenKey"])
for expected, rows in ((True, leaf["valid"]), (False, leaf["invalid"])):
    for row in rows: judge(row["name"], expected, lambda: v.read_leaf(bytes.fromhex(row["bytes"])))
for expected, rows in ((True, seal["valid"]), (False, seal["invalid"])):
    for row in rows: judge(row["name"], expected, lambda: v.read_seal(bytes.fromhex(row["bytes"]), bytes.fromhex(row.get("tokenKey", seal["tokenKey"]))))
for expected, rows in ((True, evidence["valid"]), (False, evidence["invalid"])):
    for row in rows: judge(row["name"], expected, lambda: v.verify(bytes.fromhex(row["bytes"]), key, bytes.fromhex(row["body"])))
print(json.dumps({"tried": tried, "wrong": wrong}))
`;
    const vectors = new URL('../vectors/', import.meta.url).pathname;
    const { stdout } = await run(python, ['-S', '-B', '-c', script, path.dirname(verifier), vectors]);
    const { tried, wrong } = JSON.parse(stdout) as { tried: number; wrong: string[] };
    expect(wrong).toEqual([]);
    expect(tried).toBeGreaterThan(130);
  });
});
