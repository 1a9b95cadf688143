// Shows: the recipe of the Windows installer makes an installer that holds every file and the service, and refuses what is not for Windows.
// What is in it here are stand-ins that begin as programs for Windows do: nothing of it is run.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { describeTools } from './tools.ts';

const recipe = path.resolve(import.meta.dirname, '../../installers/msi.ts');
let folder: string;

const put = (file: string, content: string): void => {
  mkdirSync(path.dirname(path.join(folder, file)), { recursive: true });
  writeFileSync(path.join(folder, file), content);
};

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-msi-test-'));
  put('home/package.json', '{"version":"0.1.0"}');
  put('home/bin/node.exe', 'MZ runtime');
  put('home/daemon/main.js', '// program');
  put('home/node_modules/a&b/build/Release/addon.node', 'MZ addon');
  put('WinSW.exe', 'MZ wrapper');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function build(): { readonly status: number | null; readonly said: string } {
  const args = [recipe, path.join(folder, 'home'), '--wrapper', path.join(folder, 'WinSW.exe'), '--out', path.join(folder, 'ukeyd.msi')];
  const done = spawnSync(process.execPath, args, { encoding: 'utf8' });
  return { status: done.status, said: done.stderr };
}

const table = (name: string): string => spawnSync('msiinfo', ['export', path.join(folder, 'ukeyd.msi'), name], { encoding: 'utf8' }).stdout;

describeTools('the Windows installer', ['wixl', 'msiinfo'], () => {
  test('holds every file, and the service with its wrapper', () => {
    expect(build()).toEqual({ status: 0, said: '' });
    const files = table('File');
    for (const name of ['node.exe', 'main.js', 'addon.node', 'package.json', 'ukeyd.exe', 'ukeyd.xml'])
      expect(files).toMatch(new RegExp(`[\\t|]${name}\\t`));
    expect(table('ServiceInstall')).toMatch(/\tukeyd\tukeyd\t/);
    expect(table('ServiceControl')).toContain('ukeyd');
    expect(table('Upgrade')).toContain('6B1F5A62-6C53-4C0E-9C5B-2D2C1C0E7A11');
  });

  test.each(['home/bin/node.exe', 'home/node_modules/a&b/build/Release/addon.node', 'WinSW.exe'])(
    '%s of another system is refused',
    (file) => {
      put(file, '\x7fELF');
      expect(build().status).toBe(1);
      expect(existsSync(path.join(folder, 'ukeyd.msi'))).toBe(false);
    },
  );
});
