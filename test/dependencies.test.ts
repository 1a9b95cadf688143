// What comes with an installation (docs/dependencies.md): exact pins, a hash for each package, install scripts by name only, licences of a known list,
// nothing from a URL. Read from package.json, the lockfile, and every package that is installed here.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';

const root = path.resolve(import.meta.dirname, '..');

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly license?: unknown;
  readonly scripts?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly allowScripts?: Readonly<Record<string, boolean>>;
}

interface Locked {
  readonly version: string;
  readonly integrity?: string;
  readonly resolved?: string;
  readonly link?: boolean;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly license?: string;
  readonly hasInstallScript?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

const read = <T>(file: string): T => JSON.parse(readFileSync(path.join(root, file), 'utf8')) as T;
const own = read<Manifest>('package.json');
const lock = read<{ readonly lockfileVersion: number; readonly packages: Readonly<Record<string, Locked>> }>('package-lock.json');
const locked = Object.entries(lock.packages).filter(([place]) => place !== '');
const direct = { ...own.dependencies, ...own.devDependencies };
const nameOf = (place: string): string => place.slice(place.lastIndexOf('node_modules/') + 'node_modules/'.length);

/** All of them let the program be shipped under its own licence; MPL-2.0 (of one file set, unchanged) stands in the tools alone. */
const licences = ['MIT', 'ISC', '0BSD', 'BSD-2-Clause', 'BSD-3-Clause', 'Apache-2.0', 'BlueOak-1.0.0'];
const toolLicences = ['MPL-2.0'];

/** `MIT OR Apache-2.0`, in brackets or not: one of them must be ours to choose. */
function isAllowed(licence: unknown, allowed: readonly string[]): boolean {
  if (typeof licence !== 'string') return false;
  return licence
    .replace(/^\((.*)\)$/, '$1')
    .split(' OR ')
    .some((choice) => allowed.includes(choice));
}

test('the lockfile was really read', () => {
  expect(lock.lockfileVersion).toBe(3);
  expect(locked.length).toBeGreaterThan(100);
  for (const name of Object.keys(direct)) expect(lock.packages[`node_modules/${name}`], name).toBeDefined();
});

test('what we ask for is one version each, and the lockfile has that one', () => {
  for (const [name, version] of Object.entries(direct)) {
    expect(version, name).toMatch(/^\d+\.\d+\.\d+$/);
    expect(lock.packages[`node_modules/${name}`]?.version, name).toBe(version);
  }
});

test('every package has a SHA-512 of its bytes', () => {
  const without = locked.filter(([, { integrity = '' }]) => !/^sha512-[A-Za-z0-9+/]{86}==$/.test(integrity));
  expect(without.map(([place]) => place)).toEqual([]);
});

test('nothing comes from a URL, a repository, a folder or a link', () => {
  const foreign = locked.flatMap(([place, { link = false, resolved = '', dependencies = {}, optionalDependencies = {} }]) => [
    ...(link || /^(git|file|ssh)|\.git$/.test(resolved) ? [place] : []),
    ...Object.entries({ ...dependencies, ...optionalDependencies })
      .filter(([, range]) => /[/:]/.test(range.replace(/^npm:@?[^:]+$/, '')))
      .map(([name, range]) => `${place} wants ${name} ${range}`),
  ]);
  expect(foreign).toEqual([]);
});

test('only what allowScripts names runs code when it is installed', () => {
  const named = Object.keys(own.allowScripts ?? {}).sort();
  const marked = locked.filter(([, { hasInstallScript = false, optional = false }]) => hasInstallScript && !optional);
  expect(marked.map(([place, { version }]) => `${nameOf(place)}@${version}`).sort()).toEqual(named);
  const running = installed().filter(
    ({ place, manifest: { scripts = {} } }) =>
      ['preinstall', 'install', 'postinstall'].some((script) => script in scripts) || existsSync(path.join(root, place, 'binding.gyp')),
  );
  expect(running.map(({ manifest: { name, version } }) => `${name}@${version}`).filter((id) => !named.includes(id))).toEqual([]);
});

test('every licence is on the list, in the lockfile and in what is installed', () => {
  const bad = locked.filter(([, { license, dev = false }]) => !isAllowed(license, dev ? [...licences, ...toolLicences] : licences));
  expect(bad.map(([place, { license }]) => `${place} ${license}`)).toEqual([]);
  const other = installed().filter(({ place, manifest }) => manifest.license !== lock.packages[place]?.license);
  expect(other.map(({ place, manifest }) => `${place} ${String(manifest.license)}`)).toEqual([]);
});

test('what is installed is what the lockfile says', () => {
  const found = installed();
  expect(found.length).toBeGreaterThan(90);
  expect(found.filter(({ place, manifest }) => manifest.version !== lock.packages[place]?.version).map(({ place }) => place)).toEqual([]);
});

test('docs/dependencies.md has a row for each package that we ask for, with its version and licence', () => {
  const rows = readFileSync(path.join(root, 'docs/dependencies.md'), 'utf8').split('\n');
  for (const [name, version] of Object.entries(direct)) {
    const row = rows.find((line) => line.startsWith(`| ${name} |`));
    expect(row, name).toBeDefined();
    const cells = row?.split('|').map((cell) => cell.trim()) ?? [];
    expect(cells[2], name).toBe(version);
    expect(cells[3], name).toBe(lock.packages[`node_modules/${name}`]?.license);
  }
  const named = rows.flatMap((line) => /^\| ([@a-z][^ ]*) \| \d/.exec(line)?.[1] ?? []);
  expect(named.filter((name) => !(name in direct))).toEqual([]);
});

function installed(): { readonly place: string; readonly manifest: Manifest }[] {
  return locked.flatMap(([place]) => {
    const file = path.join(place, 'package.json');
    return existsSync(path.join(root, file)) ? [{ place, manifest: read<Manifest>(file) }] : [];
  });
}

test("a start loads no part of Node that the service does not use: its HTTP client for the web comes with one careless import of 'node:http'", () => {
  const loaded = (file: string): string[] => {
    const script = `await import(${JSON.stringify(path.join(root, file))}); console.log(JSON.stringify(process.moduleLoadList));`;
    const done = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 20_000 });
    return JSON.parse(done.stdout) as string[];
  };
  for (const file of ['daemon/compose.ts', 'daemon/holder/parts.ts']) {
    const names = loaded(file);
    expect(names).toContain('NativeModule crypto');
    expect(names.filter((name) => name.includes('undici'))).toEqual([]);
  }
});
