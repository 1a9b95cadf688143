import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeEvidenceFile } from '#ipc-schema/evidence-file.ts';
import { ctl, ctlEntry, errorOf, jsonOf, type Run, runProgram } from '#test/support/ctl.ts';
import { FakeService, HangUp, type Script } from '#test/support/fake-service.ts';
import { budget, issuedAnswer } from './answers.ts';

const secret = Buffer.alloc(32, 0xa5);
const terminals = { 'till-1': secret };
const request = { key: 'sale-1', template: 'retail', lines: [{ description: 'T-LIGHT HOLDER', quantity: '6', unitPrice: '2.55' }] };
const { key: _, ...withoutKey } = request;
const identity = {
  tokenId: 'ab'.repeat(16),
  certificate: 'Y2VydA==',
  enrolmentCertificate: 'Y2VydA==',
  authorityCertificate: 'cm9vdA==',
  predecessors: [],
};
const script: Script = { 'invoice.issue': () => issuedAnswer, 'invoice.get': () => issuedAnswer, 'service.identity': () => identity };

let directory: string;
let secretFile: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ukey-ctl-'));
  secretFile = join(directory, 'secret');
  await writeFile(secretFile, secret.toString('hex'), { mode: 0o600 });
});
afterAll(async () => {
  await rm(directory, { recursive: true, force: true });
});

function asTill(service: FakeService, args: readonly string[], content: unknown = request): Promise<Run> {
  const stdin = typeof content === 'string' ? content : JSON.stringify(content);
  return ctl([...args, '--socket', service.socketPath, '--terminal', 'till-1', '--secret-file', secretFile], { stdin });
}

describe.concurrent('issue', () => {
  it('sends the file as it is and answers what was issued', async () => {
    const file = join(directory, 'sale.json');
    await writeFile(file, JSON.stringify(request));
    await using service = await FakeService.start({ script, terminals });
    const run = await asTill(service, ['issue', file, '--json']);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(run)).toEqual({ ...issuedAnswer, key: 'sale-1' });
    expect(service.paramsOf('invoice.issue')).toEqual(request);
  });

  it('takes all parameters of invoice.issue, and writes the evidence with the certificates of the token that they name', async () => {
    const named = { ...request, token: 'annex', issuer: 'GB1' };
    await using service = await FakeService.start({ script, terminals });
    const run = await asTill(service, ['issue', '-', '--json', '--evidence', join(directory, 'annex.json')], named);
    expect(run).toMatchObject({ status: 0, stderr: '' });
    expect(service.paramsOf('invoice.issue')).toEqual(named);
    expect(service.paramsOf('service.identity')).toEqual({ token: 'annex', issuer: 'GB1' });
  });

  it('sends nothing when file and --token name two tokens', async () => {
    await using service = await FakeService.start({ script, terminals });
    const run = await asTill(service, ['issue', '-', '--json', '--token', 'shop'], { ...request, token: 'annex' });
    expect(run.status).toBe(2);
    expect(errorOf(run)).toMatchObject({ code: 'invalid-request', field: 'token' });
    expect(service.requests).toEqual([]);
    const same = await asTill(service, ['issue', '-', '--json', '--token', 'annex'], { ...request, token: 'annex' });
    expect(same.status).toBe(0);
  });

  it('reads stdin, and says in words what became of it', async () => {
    await using service = await FakeService.start({ script, terminals });
    const run = await asTill(service, ['issue', '-']);
    expect(run.stdout).toMatchInlineSnapshot(`
      "Number    A-00000003
      Sequence  3
      Issued    2030-01-02T03:04:05.678Z
      Total     15.30 GBP
      Tax       2.55 GBP
      Delivery  pending: waits for the ticket server
      Budget    71.5 h, 998 documents, 99969.40 left (0 % used), at most 5000 each
      "
    `);
  });

  it('wants a key, or makes one with --new-key and tells it first', async () => {
    await using service = await FakeService.start({ script, terminals });
    const refused = await asTill(service, ['issue', '-', '--json'], withoutKey);
    expect(refused.status).toBe(2);
    expect(errorOf(refused)).toMatchObject({ field: 'key' });
    expect(service.requests).toEqual([]);
    const made = await asTill(service, ['issue', '-', '--json', '--new-key'], withoutKey);
    const { key } = jsonOf(made);
    expect(key).toMatch(/^[0-9a-f-]{36}$/);
    expect(made.stderr).toBe(`key: ${String(key)}\n`);
    expect(service.paramsOf('invoice.issue')).toEqual({ key, ...withoutKey });
  });

  it('keeps the key that the file has, also with --new-key', async () => {
    await using service = await FakeService.start({ script, terminals });
    const run = await asTill(service, ['issue', '-', '--json', '--new-key']);
    expect(jsonOf(run)['key']).toBe('sale-1');
  });

  it.each([
    ['no JSON', '{', undefined],
    ['a key twice', '{"key":"a","key":"b"}', 'key'],
    ['no lines', { ...request, lines: [] }, 'lines'],
    ['an unknown field', { ...request, colour: 'red' }, 'colour'],
    ['an amount that is no text', { ...request, lines: [{ description: 'x', quantity: '1', unitPrice: 2.55 }] }, 'lines[0].unitPrice'],
  ])('sends nothing when the file is not right: %s', async (_name, content, field) => {
    await using service = await FakeService.start({ script, terminals });
    const run = await asTill(service, ['issue', '-', '--json'], content);
    expect(run.status).toBe(2);
    if (field !== undefined) expect(errorOf(run)).toMatchObject({ field });
    expect(service.requests).toEqual([]);
  });

  it('is for terminals alone', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['issue', '-', '--json', '--socket', service.socketPath], { stdin: JSON.stringify(request) });
    expect(run.status).toBe(2);
    expect(errorOf(run)).toMatchObject({ field: '--terminal' });
    expect(service.requests).toEqual([]);
  });

  it('asks again with the same key when the connection is lost', async () => {
    let calls = 0;
    const shaky: Script = {
      'invoice.issue': () => {
        if (calls++ === 0) throw new HangUp();
        return { ...issuedAnswer, repeated: true };
      },
    };
    await using service = await FakeService.start({ script: shaky, terminals });
    const run = await asTill(service, ['issue', '-', '--json']);
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toMatchObject({ number: issuedAnswer.number, repeated: true });
    expect(service.asked).toEqual(['invoice.issue', 'invoice.issue']);
  });

  it('ends with the code of a refusal, and the key', async () => {
    const refusing: Script = {
      'invoice.issue': () => {
        throw new UkeyError('limit-count', 'no document is left');
      },
    };
    await using service = await FakeService.start({ script: refusing, terminals });
    const run = await asTill(service, ['issue', '-', '--json']);
    expect(run.status).toBe(3);
    expect(errorOf(run)).toMatchObject({ code: 'limit-count', exit: 'refused', key: 'sale-1' });
  });

  it('asks for nothing when the evidence could not be written', async () => {
    await using service = await FakeService.start({ script, terminals });
    const run = await asTill(service, ['issue', '-', '--json', '--evidence', join(directory, 'absent', 'e.json')]);
    expect(run.status).toBe(2);
    expect(service.asked).toEqual([]);
  });

  it.each(['--print', '--evidence'])('sends nothing when the file asks for a brief answer, of which there is no %s', async (option) => {
    await using service = await FakeService.start({ script, terminals });
    const args = ['issue', '-', '--json', option, ...(option === '--print' ? [] : [join(directory, 'brief.json')])];
    const run = await asTill(service, args, { ...request, brief: true });
    expect(run.status).toBe(2);
    expect(errorOf(run)).toMatchObject({ code: 'invalid-request', field: 'brief' });
    expect(service.requests).toEqual([]);
    expect(existsSync(join(directory, 'brief.json'))).toBe(false);
  });

  describe.skipIf(!existsSync('/dev/full'))('that has issued', () => {
    const issuedAs = /^internal: issued as A-00000003, but .+ ukeyctl get --sequence 3 /;

    it('says the number, and how to get the evidence, when that cannot be written', async () => {
      await using service = await FakeService.start({ script, terminals });
      const run = await asTill(service, ['issue', '-', '--evidence', '/dev/full']);
      expect(run.status).toBe(8);
      expect(run.stdout).toMatch(/^Number +A-00000003$/m);
      expect(run.stderr).toMatch(issuedAs);
      expect(run.stderr).toContain('--evidence');
      expect(service.asked).toEqual(['service.identity', 'invoice.issue']);
    });

    it('answers the same JSON value, and that one alone', async () => {
      await using service = await FakeService.start({ script, terminals });
      const run = await asTill(service, ['issue', '-', '--json', '--evidence', '/dev/full'], { ...request, token: 'annex' });
      expect(run.status).toBe(8);
      expect(jsonOf(run)).toEqual({ ...issuedAnswer, key: 'sale-1' });
      expect(run.stderr).toMatch(issuedAs);
      expect(run.stderr).toContain('--token annex');
    });

    it('says the number where the receipt cannot be made', async () => {
      const { document: _document, ...bare } = issuedAnswer;
      await using service = await FakeService.start({ script: { ...script, 'invoice.issue': () => bare }, terminals });
      const run = await asTill(service, ['issue', '-', '--print']);
      expect(run.status).toBe(8);
      expect(run.stdout).toMatch(/^Number +A-00000003$/m);
      expect(run.stderr).toMatch(issuedAs);
      expect(run.stderr).toContain('--print');
    });

    it('says the number on stderr, and writes the evidence, where stdout is full', async () => {
      const file = join(directory, 'kept.json');
      await using service = await FakeService.start({ script, terminals });
      const words = ['issue', '-', '--evidence', file, '--socket', service.socketPath, '--terminal', 'till-1', '--secret-file', secretFile];
      const line = ['-c', '"$@" > /dev/full', 'sh', process.execPath, ctlEntry, ...words];
      const run = await runProgram('sh', line, { stdin: JSON.stringify(request) });
      expect(run.status).toBe(8);
      expect(run.stderr).toMatch(issuedAs);
      expect(existsSync(file)).toBe(true);
      expect(decodeEvidenceFile(readFileSync(file)).document).toBe(issuedAnswer.document);
    });
  });

  it('previews without issuing', async () => {
    const { total, taxTotal, currency, document = '' } = issuedAnswer;
    const previewing: Script = { 'invoice.preview': () => ({ total, taxTotal, currency, document, budget }) };
    await using service = await FakeService.start({ script: previewing, terminals });
    const run = await asTill(service, ['issue', '-', '--preview', '--json']);
    expect(jsonOf(run)).toMatchObject({ total });
    expect(service.asked).toEqual(['invoice.preview']);
  });
});

describe.concurrent('get', () => {
  it.each([
    [['--number', 'A-00000003'], { number: 'A-00000003' }],
    [['--sequence', '3'], { sequence: 3 }],
    [['--key', 'sale-1'], { key: 'sale-1' }],
  ])('asks by %j', async (args, params) => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['get', '--json', ...args, '--socket', service.socketPath]);
    expect(jsonOf(run)).toEqual(issuedAnswer);
    expect(service.paramsOf('invoice.get')).toEqual(params);
  });

  it('writes an evidence file that holds all a verifier needs', async () => {
    const file = join(directory, 'evidence.json');
    await using service = await FakeService.start({ script });
    const run = await ctl(['get', '--sequence', '3', '--evidence', file, '--socket', service.socketPath]);
    expect(run.status).toBe(0);
    expect(decodeEvidenceFile(readFileSync(file))).toEqual({
      format: 'ukey-evidence/1',
      document: issuedAnswer.document,
      evidence: issuedAnswer.evidence,
      certificate: identity.certificate,
      authorityCertificate: identity.authorityCertificate,
    });
  });

  it('prints the document to the byte', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['get', '--sequence', '3', '--document', '--socket', service.socketPath]);
    expect(run.stdout).toBe(issuedAnswer.document);
  });

  it('prints a receipt', async () => {
    await using service = await FakeService.start({ script });
    const run = await ctl(['get', '--sequence', '3', '--print', '--socket', service.socketPath]);
    expect(run.stdout).toContain(issuedAnswer.number);
    expect(run.stdout).toContain('▀');
  });

  it('writes no evidence of what is not found', async () => {
    const file = join(directory, 'none.json');
    const missing: Script = {
      'invoice.get': () => {
        throw new UkeyError('not-found', 'no such document');
      },
    };
    await using service = await FakeService.start({ script: missing });
    const run = await ctl(['get', '--sequence', '9', '--evidence', file, '--json', '--socket', service.socketPath]);
    expect(errorOf(run)).toMatchObject({ code: 'not-found' });
    expect(existsSync(file)).toBe(false);
  });
});
