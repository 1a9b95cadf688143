// Shows: an export of a real service, on a real store: what an ERP program and an auditor do with it.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { evidenceFileFormat } from '#ipc-schema/evidence-file.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import { ctl, jsonOf, type Run } from '#test/support/ctl.ts';
import { openRig, type Rig, sale } from '#test/support/rig.ts';

let rig: Rig;
let directory: string;
const issued: Issued[] = [];
beforeAll(async () => {
  rig = await openRig();
  directory = mkdtempSync(join(tmpdir(), 'ukey-export-'));
  for (let at = 0; at < 4; at++)
    issued.push(
      ...(await Promise.all([0, 1, 2].map((one) => rig.till.issue(sale(`${at}-${one}`, { buyer: { name: `Zoë "${at}" \\ 中` } }))))),
    );
  const number = issued[0]?.number ?? '';
  issued.push(await rig.till.issue(sale('back', { kind: 'credit-note', corrects: { number } })));
  await rig.admin.call('backlog.flush', {});
});
afterAll(async () => {
  await rig.close();
  rmSync(directory, { recursive: true, force: true });
});

let files = 0;
const fresh = (): string => join(directory, `export-${++files}`);
const exporting = (file: string, ...more: string[]): Promise<Run> =>
  ctl(['export', '--json', '--output', file, '--socket', rig.config.admin_socket, ...more]);
const verify = (...args: string[]): Promise<Run> => ctl(['verify', '--json', ...args, '--authority', rig.server.authorityFingerprint]);

describe('with a real service', () => {
  it('an export has every document, exact, and is verified without the service', async () => {
    const file = fresh();
    expect(await exporting(file)).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(await verify('--export', file))).toMatchObject({ holds: true, trusted: true, byKind: { invoice: 12, 'credit-note': 1 } });
    const [origin = {}, ...lines] = readFileSync(file, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const documents = lines.filter((line) => line['number'] !== undefined && line['number'] !== null);
    expect(documents.map(({ number, document, evidence, total }) => ({ number, document, evidence, total }))).toEqual(
      issued
        .toSorted((a, b) => a.sequence - b.sequence)
        .map(({ number, document, evidence, total }) => ({ number, document, evidence, total })),
    );
    // One line alone, with the certificates of the origin, proves itself.
    const { document, evidence } = documents[3] ?? {};
    const { certificates, authorityCertificate } = origin as { certificates: string[]; authorityCertificate: string };
    const [certificate] = certificates;
    const one = join(directory, 'one.json');
    writeFileSync(one, JSON.stringify({ format: evidenceFileFormat, document, evidence, certificate, authorityCertificate }));
    expect(jsonOf(await verify(one))).toMatchObject({ holds: true, number: documents[3]?.['number'] });
  });

  it('an archive is taken apart by tar(1); each document stands there, and its evidence file verifies', async () => {
    const file = fresh();
    expect(await exporting(file, '--format', 'tar')).toMatchObject({ status: 0, stderr: '' });
    expect(jsonOf(await verify('--export', file))).toMatchObject({ holds: true, complete: true, byKind: { invoice: 12 } });
    const folder = mkdtempSync(join(directory, 'taken-apart-'));
    expect(execFileSync('tar', ['-xvf', file, '-C', folder], { encoding: 'utf8' })).toContain('manifest.json');
    expect(readdirSync(folder).sort()).toEqual([
      'certificates',
      'documents',
      'evidence',
      'manifest.json',
      'origin.json',
      'others',
      'seals',
    ]);
    expect(readdirSync(join(folder, 'documents'))).toHaveLength(13);
    for (const { number, sequence, document } of issued) {
      const name = String(sequence).padStart(10, '0');
      expect(readFileSync(join(folder, 'documents', `${name}-${number}.json`), 'utf8')).toBe(document);
    }
    const name = String(issued[5]?.sequence ?? 0).padStart(10, '0');
    const run = await verify(join(folder, 'evidence', `${name}.json`), '--certificate', join(folder, 'certificates', 'token.pem'));
    expect(jsonOf(run)).toMatchObject({ holds: true, number: issued[5]?.number, document: 'verified' });
    expect(existsSync(join(folder, 'certificates', 'authority.pem'))).toBe(true);
  });

  it('a range begins with a number or at a time, and an ERP program asks for what is new', async () => {
    const { secret } = await rig.admin.call('terminal.enrol', { terminal: 'erp-1', role: 'erp' });
    const secretFile = join(directory, 'erp-1.secret');
    writeFileSync(secretFile, `${secret}\n`, { mode: 0o600 });
    const erp = ['--terminal', 'erp-1', '--secret-file', secretFile, '--socket', rig.config.socket];
    const [fifth, last] = [issued.toSorted((a, b) => a.sequence - b.sequence)[4], issued.at(-1)];
    const file = fresh();
    const run = await ctl([
      'export',
      '--json',
      '--output',
      file,
      '--from-number',
      fifth?.number ?? '',
      '--kind',
      'invoice,credit-note',
      ...erp,
    ]);
    expect(jsonOf(run)).toMatchObject({ entries: 9, range: { fromSequence: fifth?.sequence } });
    expect(jsonOf(await verify('--export', file))).toMatchObject({ holds: true, complete: false });
    const since = await exporting(fresh(), '--since', last?.issuedAt ?? '', '--kind', 'credit-note');
    expect(jsonOf(since)).toMatchObject({ entries: 1, byKind: { 'credit-note': 1 } });
    const till = await ctl(['export', '--output', fresh(), '--from-number', 'A-99999999', '--socket', rig.config.admin_socket]);
    expect(till.status).toBe(3);
  });

  it('the range ends where it ended when the export began, also after a restart of the service', async () => {
    for (let at = 0; at < 30; at++) await rig.till.issue(sale(`more-${at}`));
    const whole = fresh();
    await exporting(whole);
    const { toSequence } = (jsonOf(await verify('--export', whole)) as { range: { toSequence: number } }).range;
    const cut = fresh();
    writeFileSync(`${cut}.part`, readFileSync(whole).subarray(0, 9_000));
    await rig.till.issue(sale('later'));
    await rig.restart();
    const resumed = await exporting(cut, '--resume');
    expect(resumed.status, resumed.stderr).toBe(0);
    expect(readFileSync(cut).equals(readFileSync(whole))).toBe(true);
    const anew = jsonOf(await exporting(fresh())) as { range: { toSequence: number } };
    expect(anew.range.toSequence).toBeGreaterThan(toSequence);
  });
});
