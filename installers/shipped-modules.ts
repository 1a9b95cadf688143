// Owns: which npm packages are shipped, and which of their files. From package-lock.json alone, so that SBOM, licences and tree say the same.
// Invariants: the closure of `dependencies`, less what only builds or installs (named below, with the reason); a package on no path of the lockfile, or one
// that is not installed in the locked version, ends the build.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { BuildError } from './tool.ts';

export interface ShippedModule {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  /** As in the lockfile and on disk, from the root: `node_modules/logform/node_modules/@colors/colors`. */
  readonly place: string;
  /** Of the registry's archive, as the lockfile has it. */
  readonly integrity: string;
}

interface LockedPackage {
  readonly version: string;
  readonly license?: string;
  readonly integrity?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
}

interface Lockfile {
  readonly packages: Readonly<Record<string, LockedPackage>>;
}

/** Needed to install or to compile, never while running: `dependent -> dependency`. The runtime itself is shipped as bin/node. */
const buildOnly = new Set([' -> node', 'sqlite3 -> node-addon-api', 'sqlite3 -> prebuild-install', 'sqlite3 -> tar']);

/** What a program loads; sources, types, maps, texts and objects stay behind. */
const loadedEndings = ['.js', '.cjs', '.mjs', '.json', '.node'];
const leftFolders = new Set([
  'node_modules',
  'test',
  'tests',
  'example',
  'examples',
  'docs',
  'benchmark',
  'obj',
  'obj.target',
  'deps',
  '.github',
]);

export function shippedModules(root: string): readonly ShippedModule[] {
  const { packages } = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8')) as Lockfile;
  const found = new Map<string, ShippedModule>();
  const visit = (place: string): void => {
    const dependent = nameOf(place);
    for (const dependency of Object.keys(packages[place]?.dependencies ?? {})) {
      if (buildOnly.has(`${dependent} -> ${dependency}`)) continue;
      const target = resolve(packages, place, dependency);
      if (found.has(target)) continue;
      found.set(target, moduleAt(root, packages, target));
      visit(target);
    }
  };
  visit('');
  return [...found.values()].sort((a, b) => (a.place < b.place ? -1 : 1));
}

/** `node_modules/a/node_modules/@b/c` -> `@b/c`; the root is ''. */
function nameOf(place: string): string {
  const mark = 'node_modules/';
  return place === '' ? '' : place.slice(place.lastIndexOf(mark) + mark.length);
}

/** As Node looks for it: beside, then upwards. */
function resolve(packages: Lockfile['packages'], from: string, name: string): string {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/node_modules/')))) {
    const candidate = at === '' ? `node_modules/${name}` : `${at}/node_modules/${name}`;
    if (packages[candidate] !== undefined) return candidate;
    if (at === '') throw new BuildError(`package-lock.json has no ${name}, which ${from} needs`);
  }
}

function moduleAt(root: string, packages: Lockfile['packages'], place: string): ShippedModule {
  const { version = '', license = 'UNKNOWN', integrity = '' } = packages[place] ?? {};
  const installed = JSON.parse(readFileSync(path.join(root, place, 'package.json'), 'utf8')) as { version: string };
  if (installed.version !== version)
    throw new BuildError(`${place} is installed as ${installed.version}, locked as ${version}: run npm ci`);
  return { name: nameOf(place), version, license, place, integrity };
}

/** Files of a package that are shipped, from its own folder. */
export function shippedFiles(folder: string): readonly string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && loadedEndings.includes(path.extname(entry.name)))
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)))
    .filter(
      (file) =>
        !path
          .dirname(file)
          .split(path.sep)
          .some((part) => leftFolders.has(part)),
    )
    .filter((file) => !/^tsconfig.*\.json$|^package-lock\.json$/.test(path.basename(file)))
    .sort();
}
