// Owns: Debian packages from the staging trees. Invariants: what the programs link to is asked of the build machine's packages (dpkg-shlibdeps), not guessed;
// the archive's times are those of the tree, its owners root, its compression in one thread: equal trees give equal packages.
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Product, Trees } from './staging.ts';
import { BuildError, tool } from './tool.ts';

interface Package {
  readonly name: 'ukeyd' | 'ukeyd-server';
  readonly tree: string;
  readonly summary: string;
  readonly text: string;
  readonly relations: readonly string[];
  /** Maintainer script -> file beside this one. */
  readonly scripts: Readonly<Record<string, string>>;
}

const scripts = path.join(import.meta.dirname, 'deb');

/** Paths of the packages made, in `out`. `revision`: of the packaging, for the same version. */
export function buildDebs(trees: Trees, out: string, revision: number): readonly string[] {
  const version = `${trees.product.version}-${revision}`;
  return packagesOf(trees, version).map((one) => buildDeb(one, trees.product, version, out));
}

function packagesOf({ service, server }: Trees, version: string): readonly Package[] {
  const linked = linkedPackages(service);
  return [
    {
      ...{ name: 'ukeyd', tree: service, summary: 'owns a USB token and issues invoices, online or not' },
      text: 'A service that lets every till and business program of the machine issue invoices through a local socket, sealed by a USB token, whether or not the network is up. Brings its own runtime.',
      // util-linux: flock, setpriv and prlimit, which the service runs; dd is of an essential package.
      relations: [
        `Depends: ${linked}, debconf (>= 0.5), init-system-helpers, systemd (>= 252), util-linux`,
        'Recommends: pcscd',
        'Suggests: opensc, softhsm2, ukeyd-server',
      ],
      scripts: { postinst: 'postinst', prerm: 'prerm', postrm: 'postrm', templates: 'templates' },
    },
    {
      ...{ name: 'ukeyd-server', tree: server, summary: 'ticket server of ukeyd, and its sandbox' },
      text: 'Takes the invoices of a fleet of tokens, verifies and stores each once, acknowledges them. Also what `ukeyctl sandbox` runs against.',
      relations: [`Depends: ukeyd (= ${version})`],
      scripts: { postinst: 'server-postinst', prerm: 'server-prerm', postrm: 'server-postrm' },
    },
  ];
}

function buildDeb(one: Package, product: Product, version: string, out: string): string {
  const work = path.join(out, `.deb-${one.name}`);
  rmSync(work, { recursive: true, force: true });
  tool('cp', ['-al', one.tree, work]); // links: the runtime alone is 120 MB
  const control = path.join(work, 'DEBIAN');
  mkdirSync(control);
  for (const [name, file] of Object.entries(one.scripts)) {
    copyFileSync(path.join(scripts, file), path.join(control, name));
    if (name !== 'templates') tool('chmod', ['755', path.join(control, name)]);
  }
  const files = filesIn(one.tree);
  const conffiles = files.filter((file) => file.startsWith('etc/'));
  writeFileSync(path.join(control, 'conffiles'), conffiles.map((file) => `/${file}\n`).join(''));
  writeFileSync(
    path.join(control, 'md5sums'),
    files
      .filter((file) => !conffiles.includes(file))
      .map((file) => `${md5Of(path.join(one.tree, file))}  ${file}\n`)
      .join(''),
  );
  writeFileSync(path.join(control, 'control'), controlText(one, product, version, files));
  const target = path.join(out, `${one.name}_${version}_${product.architecture}.deb`);
  const env = { SOURCE_DATE_EPOCH: String(product.epochSeconds) };
  tool('dpkg-deb', ['--root-owner-group', '-Zzstd', '--threads-max=1', '--build', work, target], { env });
  rmSync(work, { recursive: true });
  return target;
}

function controlText(one: Package, product: Product, version: string, files: readonly string[]): string {
  const kibibytes = files.reduce((sum, file) => sum + Math.ceil(statSync(path.join(one.tree, file)).size / 1024), 0);
  return [
    `Package: ${one.name}`,
    `Version: ${version}`,
    `Architecture: ${product.architecture}`,
    'Maintainer: ukeyd maintainers <ukeyd@example.invalid>',
    `Installed-Size: ${kibibytes}`,
    'Section: misc',
    'Priority: optional',
    ...one.relations,
    `Description: ${one.summary}`,
    ` ${one.text}`,
    '',
  ].join('\n');
}

/** `libc6 (>= 2.34), ...`: what runtime and addons link to. */
function linkedPackages(tree: string): string {
  const work = path.join(path.dirname(tree), '.shlibs');
  mkdirSync(path.join(work, 'debian'), { recursive: true });
  writeFileSync(path.join(work, 'debian/control'), 'Source: ukeyd\n\nPackage: ukeyd\nArchitecture: any\n');
  const programs = filesIn(tree).filter((file) => file.endsWith('.node') || file.endsWith('/bin/node'));
  const said = tool('dpkg-shlibdeps', ['-O', ...programs.map((file) => `-e${path.join(tree, file)}`)], { cwd: work });
  rmSync(work, { recursive: true });
  const found = /^shlibs:Depends=(.+)$/m.exec(said)?.[1];
  if (found === undefined) throw new BuildError(`dpkg-shlibdeps says nothing of use: ${said}`);
  return found;
}

export function filesIn(tree: string): readonly string[] {
  return readdirSync(tree, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(tree, path.join(entry.parentPath, entry.name)))
    .sort();
}

/** Folders that nobody else's packages put anything into: rpm leaves what it is not told of. */
export function ownFoldersIn(tree: string): readonly string[] {
  return readdirSync(tree, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => path.relative(tree, path.join(entry.parentPath, entry.name)))
    .filter((folder) => /^(usr\/lib\/ukeyd|usr\/share\/doc\/ukeyd[^/]*|etc\/ukeyd)(\/|$)/.test(folder))
    .sort();
}

const md5Of = (file: string): string => createHash('md5').update(readFileSync(file)).digest('hex');
