// Shows: unit files that systemd takes without a word, walls as high as promised, definitions of other systems that are well formed, and
// manuals and a completion that fit the program.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { settings } from '#ground/config.ts';
import { completionText, configManualText, manualText } from '../../installers/manual.ts';
import { describeTools } from './tools.ts';

const root = path.resolve(import.meta.dirname, '../..');
const exposureMax = 1.8;
const text = (file: string): string => readFileSync(path.join(root, file), 'utf8');

describeTools('units', ['systemd-analyze'], () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-units-'));
    // The program is not installed here; the container run verifies the units as they stand.
    for (const unit of ['ukeyd', 'ukeyd-server'])
      writeFileSync(
        path.join(folder, `${unit}.service`),
        text(`service-files/systemd/${unit}.service`).replace(/^ExecStart=\S+/m, 'ExecStart=/bin/true'),
      );
    writeFileSync(
      path.join(folder, 'mine.service'),
      text('service-files/systemd/user/ukeyd.service').replace(/^ExecStart=\S+/m, 'ExecStart=/bin/true'),
    );
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test.each([
    ['ukeyd', []],
    ['ukeyd-server', []],
    ['mine', ['--user']],
  ])('%s is taken without a word', (unit, more) => {
    const done = spawnSync(
      'systemd-analyze',
      [...more, 'verify', '--man=no', '--recursive-errors=no', path.join(folder, `${unit}.service`)],
      { encoding: 'utf8', env: { ...process.env, XDG_RUNTIME_DIR: folder } },
    );
    expect(done.stderr + done.stdout).toBe('');
    expect(done.status).toBe(0);
  });

  test.each(['ukeyd', 'ukeyd-server'])('the exposure of %s is as low as promised', (unit) => {
    const said = spawnSync('systemd-analyze', ['security', '--offline=true', '--no-pager', path.join(folder, `${unit}.service`)], {
      encoding: 'utf8',
    }).stdout;
    const exposure = Number(/Overall exposure level for \S+: ([\d.]+)/.exec(said)?.[1]);
    console.log(`systemd-analyze security ${unit}.service: ${exposure}`);
    expect(exposure).toBeGreaterThan(0);
    expect(exposure).toBeLessThanOrEqual(exposureMax);
  });

  test('the unit does not claim what Node cannot bear, and lets the holder end after the front', () => {
    const unit = text('service-files/systemd/ukeyd.service');
    expect(unit).not.toMatch(/^MemoryDenyWriteExecute=/m);
    expect(unit).toMatch(/^KillMode=mixed$/m);
    expect(unit).toMatch(/^LimitCORE=1$/m);
  });
});

describeTools('other systems', ['python3'], () => {
  test('the definitions for launchd and Windows are well formed and name the program', () => {
    const script = `
import plistlib, sys, xml.etree.ElementTree as tree
job = plistlib.load(open(sys.argv[1], "rb"))
service = tree.parse(sys.argv[2]).getroot()
print(job["ProgramArguments"][2], job["ExitTimeOut"], service.findtext("arguments"))`;
    const files = ['service-files/launchd/ukeyd.plist', 'service-files/windows/ukeyd.xml'].map((file) => path.join(root, file));
    const done = spawnSync('python3', ['-c', script, ...files], { encoding: 'utf8' });
    expect(done.stderr).toBe('');
    expect(done.stdout).toMatch(/daemon\/main\.js 90 .*daemon\\main\.js/);
  });
});

describe('what goes with the program', () => {
  test('the manual of the configuration names every key', () => {
    const manual = configManualText(settings, '1.0', '2026-01-01');
    expect(settings.length).toBeGreaterThan(20);
    expect(settings.filter(({ key }) => !manual.includes(`\n.B ${key}\n`))).toEqual([]);
  });

  test('the manual of ukeyctl names every command', () => {
    const manual = manualText('1.0', '2026-01-01');
    for (const words of ['status', 'token probe', 'store restore', 'terminal enrol']) expect(manual).toContain(`.SS ukeyctl ${words}`);
  });

  test('the completion offers commands, those below them, and options', () => {
    const ask = (...words: string[]): readonly string[] => {
      const script = `${completionText()}
COMP_WORDS=(ukeyctl ${words.map((word) => `'${word}'`).join(' ')})
COMP_CWORD=${words.length}
_ukeyctl
printf '%s\\n' "\${COMPREPLY[@]}"`;
      const done = spawnSync('bash', ['--norc', '-c', script], { encoding: 'utf8', cwd: '/proc/self/fdinfo' });
      expect(done.stderr).toBe('');
      return done.stdout.trimEnd().split('\n');
    };
    expect(ask('sta')).toEqual(['status']);
    expect(ask('token', 'pr')).toEqual(['probe']);
    expect(ask('--socket', '/run/x', 'store', 'res')).toEqual(['resume', 'restore']);
    expect(ask('issue', '--sec')).toEqual(['--secret-file']);
  });

  test('every file of the service is packed', () => {
    const staging = text('installers/staging.ts');
    const files = readdirSync(path.join(root, 'service-files'), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && !/launchd|windows/.test(entry.parentPath))
      .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)));
    expect(files.length).toBeGreaterThan(6);
    expect(files.filter((file) => !staging.includes(`'${file}'`))).toEqual([]);
  });
});
