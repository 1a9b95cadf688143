// Shows: what is built is what is shipped: the staged program runs with the staged Node alone, the packages hold that tree and nothing else, two builds are equal.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jsonOf, runProgram } from '#test/support/ctl.ts';
import { describeTools } from './tools.ts';

const root = path.resolve(import.meta.dirname, '../..');
const buildWaitMs = 240_000;
const home = 'usr/lib/ukeyd';

let work: string;
let merged: string;

function build(out: string, ...more: string[]): { readonly status: number | null; readonly said: string } {
  const done = spawnSync(process.execPath, ['installers/packages.ts', '--out', out, ...more], { cwd: root, encoding: 'utf8' });
  return { status: done.status, said: done.stdout + done.stderr };
}

function output(command: string, ...args: string[]): string {
  const done = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
  expect(done.status, `${command} ${args.join(' ')}\n${done.stderr}`).toBe(0);
  return done.stdout;
}

function filesIn(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .sort();
}

const made = (out: string, ending: string): string => {
  const [name] = readdirSync(out).filter((file) => file.startsWith('ukeyd') && !file.startsWith('ukeyd-server') && file.endsWith(ending));
  return path.join(out, name ?? 'nothing');
};

describeTools('packages', ['strip', 'dpkg-deb', 'dpkg-shlibdeps', 'rpmbuild', 'rpm'], () => {
  beforeAll(() => {
    work = mkdtempSync(path.join(tmpdir(), 'ukeyd-packages-'));
    const { status, said } = build(path.join(work, 'one'));
    expect(status, said).toBe(0);
    merged = path.join(work, 'merged');
    const tree = path.join(work, 'one/tree');
    output('cp', '-al', path.join(tree, 'ukeyd'), merged);
    output('cp', '-al', `${tree}/ukeyd-server/.`, merged);
  }, buildWaitMs);
  afterAll(() => rmSync(work, { recursive: true, force: true }));

  const stagedNode = (): string => path.join(merged, home, 'bin/node');

  describe('the staged tree', () => {
    test('every module is imported by the staged Node, from the staged tree alone', () => {
      // Those run when they are imported; the sandbox below runs them.
      const entries = ['daemon/main.js', 'daemon/holder/child.js', 'daemon/holder/probing-child.js', 'server/main.js'];
      const modules = ['daemon', 'ipc-schema', 'server'].flatMap((folder) =>
        filesIn(path.join(merged, home, folder))
          .filter((file) => file.endsWith('.js'))
          .map((file) => `${folder}/${file}`),
      );
      expect(modules.length).toBeGreaterThan(250);
      expect(entries.filter((entry) => !modules.includes(entry))).toEqual([]);
      const imported = modules.filter((file) => !entries.includes(file));
      const script = path.join(merged, home, 'import-all.mjs');
      writeFileSync(script, `for (const file of ${JSON.stringify(imported)}) await import(\`./\${file}\`);\nprocess.exit(0);\n`);
      const done = spawnSync(stagedNode(), [script], { cwd: '/', encoding: 'utf8', env: {} });
      rmSync(script);
      expect(done.stderr.replaceAll(/^.*(ExperimentalWarning|--trace-warnings).*\n/gm, '')).toBe('');
      expect(done.status).toBe(0);
    });

    test('a program of the service is one file, and loads no module one by one', () => {
      const imports = /^import (?:[^'"]*? from )?["']([^"']+)["'];$/gm;
      const programs = ['daemon/main.js', 'daemon/ctl.js', 'daemon/holder/child.js', 'daemon/holder/probing-child.js'];
      const imported = programs.flatMap((file) =>
        [...readFileSync(path.join(merged, home, file), 'utf8').matchAll(imports)].map(([, name = '']) => name),
      );
      expect(imported).toContain('node:crypto');
      // What a program loads only when it is needed shares what both need.
      const others = imported.filter((name) => !name.startsWith('node:') && !/^(\.|\.\.)\/later\//.test(name));
      expect(others.filter((name) => !isBuiltin(name) && !['sqlite3', 'pkcs11js'].includes(name))).toEqual([]);
    });

    test('it makes a whole world and sells in it', { timeout: 120_000 }, async () => {
      const folder = path.join(work, 'world');
      const ctl = path.join(merged, home, 'daemon/ctl.js');
      const world = spawn(stagedNode(), [ctl, 'sandbox', '--dir', folder, '--module', 'none', '--json'], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { PATH: process.env['PATH'] },
      });
      const ended = once(world, 'exit');
      try {
        const [line] = await Promise.race([
          once(createInterface({ input: world.stdout }), 'line'),
          ended.then(() => Promise.reject(new Error('the world ended'))),
        ]);
        const { socket, terminal, secretFile, template } = JSON.parse(String(line)) as Record<string, string>;
        const sale = path.join(work, 'sale.json');
        writeFileSync(sale, JSON.stringify({ key: 'k', template, lines: [{ description: 'T', quantity: '6', unitPrice: '2.55' }] }));
        const till = ['--socket', String(socket), '--terminal', String(terminal), '--secret-file', String(secretFile), '--json'];
        const issued = jsonOf(await runProgram(stagedNode(), [ctl, 'issue', sale, ...till]));
        expect(issued['total']).toBe('15.30');
      } finally {
        world.kill('SIGTERM');
        expect((await ended)[0]).toBe(0);
      }
    });

    test('nothing is in it that only builds, and no path of this machine', () => {
      const files = filesIn(merged);
      expect(
        files.filter(
          (file) => /\.(ts|map|c|cc|h|o|a|gyp|md)$/.test(file) && !file.startsWith('usr/share/doc/') && !file.includes('/test/data/'),
        ),
      ).toEqual([]);
      expect(files.filter((file) => /node_modules\/(node-gyp|prebuild-install|vitest|typescript|tar)\//.test(file))).toEqual([]);
      const ours = files.filter((file) => !file.includes('/node_modules/') && !file.endsWith('bin/node'));
      expect(ours.filter((file) => readFileSync(path.join(merged, file)).includes(root))).toEqual([]);
      expect(files.filter((file) => (statSync(path.join(merged, file)).mode & 0o7022) !== 0)).toEqual([]);
    });

    test('parts list and licences name exactly what is shipped', () => {
      const doc = path.join(merged, 'usr/share/doc/ukeyd');
      const sbom = JSON.parse(readFileSync(path.join(doc, 'sbom.cdx.json'), 'utf8')) as {
        readonly bomFormat: string;
        readonly components: readonly { readonly name: string; readonly version: string; readonly hashes?: readonly unknown[] }[];
      };
      expect(sbom.bomFormat).toBe('CycloneDX');
      const shipped = filesIn(path.join(merged, home, 'node_modules'))
        .filter((file) => /(^|\/node_modules\/)(@[^/]+\/)?[^/]+\/package\.json$/.test(file))
        .map(
          (file) =>
            JSON.parse(readFileSync(path.join(merged, home, 'node_modules', file), 'utf8')) as {
              readonly name: string;
              readonly version: string;
            },
        )
        .map(({ name, version }) => `${name}@${version}`);
      const listed = sbom.components.map(({ name, version }) => `${name}@${version}`);
      expect(shipped.length).toBeGreaterThan(40);
      expect(listed.filter((id) => !id.startsWith('node@')).sort()).toEqual([...new Set(shipped)].sort());
      expect(sbom.components.filter(({ hashes }) => hashes === undefined)).toEqual([]);
      expect(existsSync(path.join(doc, 'licences/node.txt'))).toBe(true);
      const copyright = readFileSync(path.join(doc, 'copyright'), 'utf8');
      expect(shipped.filter((id) => !copyright.includes(` ${id.replace(/@([^@]*)$/, ' $1')}\n`))).toEqual([]);
      expect(copyright).not.toContain('UNKNOWN');
    });
  });

  describe('the packages', () => {
    test('another build has the same hashes', { timeout: buildWaitMs }, () => {
      const { status, said } = build(path.join(work, 'two'));
      expect(status, said).toBe(0);
      const sums = (out: string): string => readFileSync(path.join(work, out, 'SHA256SUMS'), 'utf8');
      expect(sums('one').trimEnd().split('\n').length).toBe(5);
      expect(sums('two')).toBe(sums('one'));
      output('sh', '-c', `cd ${path.join(work, 'two')} && sha256sum --quiet --check SHA256SUMS`);
      rmSync(path.join(work, 'two'), { recursive: true });
    });

    test('deb and rpm hold the tree, owned by root, and the configuration as such', () => {
      const deb = made(path.join(work, 'one'), '.deb');
      const rpm = made(path.join(work, 'one'), '.rpm');
      const tree = filesIn(path.join(work, 'one/tree/ukeyd'));
      const listed = output('dpkg-deb', '--contents', deb).trimEnd().split('\n');
      expect(listed.filter((line) => !/^[d-]rw[x-]r-[x-]r-[x-] root\/root /.test(line))).toEqual([]);
      const inDeb = listed.filter((line) => line.startsWith('-')).map((line) => line.replace(/^.* \.\//, ''));
      expect(inDeb.sort()).toEqual(tree);
      const inRpm = output('rpm', '-qp', '--queryformat', '[%{FILEMODES:perms} %{FILENAMES}\\n]', rpm).trimEnd().split('\n');
      const named = (kind: string): string[] => inRpm.flatMap((line) => (line.startsWith(kind) ? [line.replace(/^\S+ /, '')] : []));
      expect(named('-').sort()).toEqual(tree.map((file) => `/${file}`).sort());
      expect(named('d')).toEqual(expect.arrayContaining(['/usr/lib/ukeyd', '/usr/lib/ukeyd/daemon', '/etc/ukeyd']));
      expect(named('d').filter((folder) => !/^\/(usr\/lib|usr\/share\/doc|etc)\/ukeyd/.test(folder))).toEqual([]);
      expect(output('dpkg-deb', '--info', deb, 'conffiles')).toBe('/etc/ukeyd/ukeyd.toml\n');
      expect(output('rpm', '-qpc', rpm)).toBe('/etc/ukeyd/ukeyd.toml\n');
      expect(output('dpkg-deb', '--field', deb, 'Depends')).toMatch(/libc6 \(>= [\d.]+\).*libstdc\+\+6/);
    });

    test('their scripts are right as shell, and set to stop at the first error', () => {
      const deb = made(path.join(work, 'one'), '.deb');
      for (const script of ['postinst', 'prerm', 'postrm']) {
        const file = path.join(work, script);
        writeFileSync(file, output('dpkg-deb', '--info', deb, script));
        output('sh', '-n', file);
        expect(readFileSync(file, 'utf8')).toMatch(/^set -e$/m);
      }
    });

    test('another architecture is refused, and makes nothing', () => {
      const out = path.join(work, 'other');
      const { status } = build(out, '--arch', process.arch === 'arm64' ? 'amd64' : 'arm64');
      expect(status).toBe(1);
      expect(existsSync(out)).toBe(false);
    });
  });
});
