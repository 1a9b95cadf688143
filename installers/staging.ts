// Owns: the staging trees, from which every package is made: one for the service, one for the ticket server. What stands in them is what is installed.
// Invariants: nothing is compiled or fetched at the customer's: JavaScript is emitted here, the addons were built here, the runtime is the released
// Node, byte for byte. Every file has a fixed mode and the time of the last commit, so that equal inputs give equal trees.
// Must not: build for another machine than this one: an addon that was not built for it would only be found out at the customer's.
import { chmodSync, copyFileSync, lutimesSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import { settings } from '#ground/config.ts';
import { frontFlags, nodeEnvironment } from '#ground/runtime.ts';
import { bundlePrograms } from './bundle.ts';
import { completionText, configManualText, manualText } from './manual.ts';
import { copyrightText, licenceFile, licenceText, sbomText } from './paperwork.ts';
import { type ShippedModule, shippedFiles, shippedModules } from './shipped-modules.ts';
import { BuildError, tool } from './tool.ts';

export interface Product {
  readonly version: string;
  readonly description: string;
  /** As Debian names it. */
  readonly architecture: 'amd64' | 'arm64';
  /** Time of the last commit, or SOURCE_DATE_EPOCH. */
  readonly epochSeconds: number;
}

export interface Trees {
  /** Each a root directory. */
  readonly service: string;
  readonly server: string;
  readonly product: Product;
}

const root = path.resolve(import.meta.dirname, '..');
const home = 'usr/lib/ukeyd';
/** Folders that TypeScript is emitted from; `server` goes into a package of its own. */
const programs = ['daemon', 'ipc-schema', 'server'];
const gzipLevel = 9;

const windows = process.platform === 'win32';
const nodeFile = windows ? 'node.exe' : 'node';
/** Of the machine that builds. */
const architectures: Readonly<Record<string, Product['architecture']>> = { x64: 'amd64', arm64: 'arm64' };

/** `architecture`: refused unless it is this machine's own. */
export function readProduct(architecture: string | undefined): Product {
  const { version, description } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as Product;
  const own = architectures[process.arch];
  if (own === undefined) throw new BuildError(`packages are built on x64 or arm64, not on ${process.arch}`);
  if (architecture !== undefined && architecture !== own) {
    throw new BuildError(
      `${architecture} cannot be built on ${own}: the native addons are compiled by npm ci on the machine itself. Run this on an ${architecture} machine.`,
    );
  }
  return { version, description, architecture: own, epochSeconds: epochOf() };
}

function epochOf(): number {
  const given = process.env['SOURCE_DATE_EPOCH'] ?? tool('git', ['log', '-1', '--format=%ct'], { cwd: root }).trim();
  if (!/^\d{1,11}$/.test(given)) throw new BuildError('SOURCE_DATE_EPOCH is no number of seconds');
  return Number(given);
}

/** The trees of Linux packages. */
export async function stage(out: string, product: Product): Promise<Trees> {
  if (process.platform !== 'linux') throw new BuildError('packages for Linux are built on Linux; here only --only home is made');
  const trees = { service: path.join(out, 'ukeyd'), server: path.join(out, 'ukeyd-server'), product };
  for (const tree of [trees.service, trees.server]) rmSync(tree, { recursive: true, force: true });
  const modules = await stageHome(path.join(trees.service, home), product);
  moveFolder(path.join(trees.service, home, 'server'), path.join(trees.server, home, 'server'));
  // What `ukeyctl demo` sells; a sandbox needs the ticket server anyway.
  copyFolder(path.join(root, 'test/data'), path.join(trees.server, home, 'test/data'));
  stageSystem(trees);
  stagePaper(trees, modules);
  for (const tree of [trees.service, trees.server]) settle(tree, product.epochSeconds);
  return trees;
}

/** Program, modules and runtime in one folder, which runs from wherever it stands: on any system, what its installer puts there. */
export async function stageHome(to: string, product: Product): Promise<readonly ShippedModule[]> {
  const modules = shippedModules(root);
  stageModules(to, modules);
  await stagePrograms(to, product);
  copy(path.join(root, 'node_modules/node/bin', nodeFile), path.join(to, 'bin', nodeFile)); // not stripped: the very file whose hash Node.js publishes
  expectRunning(to);
  return modules;
}

// ---- The program

/** As it is shipped; `to` has the packages. */
export async function stagePrograms(to: string, facts: Pick<Product, 'version' | 'description'>): Promise<void> {
  stageProgram(to, facts);
  await bundlePrograms(to);
}

/** Imports of `#room/x.ts` are left as they are and mapped to `.js` by the shipped package.json; relative ones are rewritten by the compiler. */
function stageProgram(to: string, { version, description }: Pick<Product, 'version' | 'description'>): void {
  const config = path.join(to, 'tsconfig.json');
  const compilerOptions = {
    ...{ noEmit: false, outDir: to, rootDir: root, rewriteRelativeImportExtensions: true, removeComments: true },
    // Types are checked by `npm run check`; here the compiler would only complain that it does not rewrite `#room/x.ts`.
    ...{ noCheck: true, typeRoots: [path.join(root, 'node_modules/@types')] },
  };
  const include = programs.map((name) => path.join(root, name));
  write(config, JSON.stringify({ extends: path.join(root, 'tsconfig.json'), compilerOptions, include }));
  tool(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '--project', config]);
  rmSync(config);
  const { imports } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { imports: Readonly<Record<string, string>> };
  const shipped = Object.entries(imports)
    .filter(([, target]) => programs.some((name) => target.startsWith(`./${name}/`)))
    .map(([alias, target]) => [`${alias}.ts`, `${target}.js`]);
  const facts = { name: 'ukeyd', version, description, license: 'Apache-2.0', private: true, type: 'module' };
  write(path.join(to, 'package.json'), `${JSON.stringify({ ...facts, imports: Object.fromEntries(shipped) }, null, 2)}\n`);
  copyFolder(path.join(root, 'server/templates'), path.join(to, 'server/templates'));
}

function stageModules(to: string, modules: readonly ShippedModule[]): void {
  for (const { place } of modules) {
    for (const file of shippedFiles(path.join(root, place))) {
      const target = path.join(to, place, file);
      copy(path.join(root, place, file), target);
      if (target.endsWith('.node') && process.platform === 'linux') tool('strip', ['--strip-unneeded', target]);
    }
  }
}

/** The staged runtime loads the staged addons: what was built for another machine, or has lost a file, ends the build here. */
function expectRunning(to: string): void {
  const load = "await import('sqlite3'); await import('pkcs11js'); process.stdout.write(process.arch);";
  const said = tool(path.join(to, 'bin', nodeFile), ['--input-type=module', '--eval', load], { cwd: to });
  if (said !== process.arch)
    throw new BuildError(`the runtime is for ${said}, this machine is ${process.arch}: delete node_modules and run npm ci`);
}

// ---- The system around it

const serviceFiles: readonly (readonly [source: string, target: string])[] = [
  ['service-files/systemd/ukeyd.service', 'usr/lib/systemd/system/ukeyd.service'],
  ['service-files/systemd/user/ukeyd.service', 'usr/lib/systemd/user/ukeyd.service'],
  ['service-files/sysusers.d/ukeyd.conf', 'usr/lib/sysusers.d/ukeyd.conf'],
  ['service-files/tmpfiles.d/ukeyd.conf', 'usr/lib/tmpfiles.d/ukeyd.conf'],
  ['service-files/udev/65-ukeyd.rules', 'usr/lib/udev/rules.d/65-ukeyd.rules'],
  ['service-files/polkit/ukeyd.rules', 'usr/share/polkit-1/rules.d/ukeyd.rules'],
  ['service-files/ukeyd.toml', 'etc/ukeyd/ukeyd.toml'],
];

const serverFiles: typeof serviceFiles = [
  ['service-files/systemd/ukeyd-server.service', 'usr/lib/systemd/system/ukeyd-server.service'],
  ['service-files/sysusers.d/ukeyd-server.conf', 'usr/lib/sysusers.d/ukeyd-server.conf'],
  ['installers/etc/ukeyd-server', 'etc/default/ukeyd-server'],
];

/** Program in /usr/bin -> its entry. */
const commands = { service: { ukeyd: 'daemon/main.js', ukeyctl: 'daemon/ctl.js' }, server: { 'ticket-server': 'server/main.js' } };

function stageSystem({ service, server, product }: Trees): void {
  for (const [source, target] of serviceFiles) copy(path.join(root, source), path.join(service, target));
  for (const [source, target] of serverFiles) copy(path.join(root, source), path.join(server, target));
  for (const [name, entry] of Object.entries(commands.service)) writeCommand(service, name, entry);
  for (const [name, entry] of Object.entries(commands.server)) writeCommand(server, name, entry);
  write(path.join(service, 'usr/share/bash-completion/completions/ukeyctl'), completionText());
  const date = new Date(product.epochSeconds * 1_000).toISOString().slice(0, 10);
  const page = (file: string): string =>
    readFileSync(path.join(root, 'installers/man', file), 'utf8')
      .replaceAll('@DATE@', date)
      .replaceAll('@VERSION@', product.version);
  writeZipped(path.join(service, 'usr/share/man/man1/ukeyctl.1.gz'), manualText(product.version, date));
  writeZipped(path.join(service, 'usr/share/man/man8/ukeyd.8.gz'), page('ukeyd.8'));
  writeZipped(path.join(service, 'usr/share/man/man5/ukeyd.toml.5.gz'), configManualText(settings, product.version, date));
}

function writeCommand(tree: string, name: string, entry: string): void {
  write(path.join(tree, 'usr/bin', name), commandText(name, entry));
}

/** The service runs for months, with flags of its own; what a drop-in of its unit says of the environment counts. */
export function commandText(name: string, entry: string): string {
  const isService = name === 'ukeyd';
  const settled = isService
    ? Object.entries(nodeEnvironment).map(([variable, value]) => `export ${variable}="\${${variable}:-${value}}"\n`)
    : [];
  const command = ['exec', `/${home}/bin/node`, ...(isService ? frontFlags : []), `/${home}/${entry}`, '"$@"'];
  return `#!/bin/sh\n${settled.join('')}${command.join(' ')}\n`;
}

function stagePaper({ service, server, product }: Trees, modules: readonly ShippedModule[]): void {
  const doc = path.join(service, 'usr/share/doc/ukeyd');
  const nodePackage = JSON.parse(readFileSync(path.join(root, 'node_modules/node/package.json'), 'utf8')) as { version: string };
  write(path.join(doc, 'copyright'), copyrightText(modules, nodePackage.version));
  write(path.join(doc, 'sbom.cdx.json'), sbomText(root, modules, product.epochSeconds));
  writeZipped(path.join(doc, 'changelog.gz'), readFileSync(path.join(root, 'CHANGELOG.md'), 'utf8'));
  copyFolder(path.join(root, 'docs'), path.join(doc, 'docs'));
  // For who writes a till: the contract, and the verifier that needs nothing but Python.
  for (const file of ['SPEC.md', 'openrpc.json', 'clients/verify_evidence.py'])
    copy(path.join(root, 'ipc-schema', file), path.join(doc, 'ipc-schema', file));
  for (const { name, version, place } of modules) {
    const text = licenceText(path.join(root, place));
    if (text !== null) write(path.join(doc, 'licences', licenceFile(name, version)), text);
  }
  const runtime = licenceText(path.join(root, `node_modules/node/node_modules/node-linux-${process.arch}`));
  if (runtime === null) throw new BuildError("Node's licence is not where npm puts it");
  write(path.join(doc, 'licences/node.txt'), runtime);
  copy(path.join(doc, 'copyright'), path.join(server, 'usr/share/doc/ukeyd-server/copyright'));
}

// ---- Files

function write(file: string, content: string | Uint8Array): void {
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, content);
}

function writeZipped(file: string, text: string): void {
  write(file, gzipSync(text, { level: gzipLevel })); // zlib of Node writes no time into the header
}

function copy(source: string, target: string): void {
  mkdirSync(path.dirname(target), { recursive: true });
  copyFileSync(source, target);
}

function copyFolder(source: string, target: string): void {
  for (const entry of readdirSync(source, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const file = path.join(entry.parentPath, entry.name);
    copy(file, path.join(target, path.relative(source, file)));
  }
}

function moveFolder(source: string, target: string): void {
  copyFolder(source, target);
  rmSync(source, { recursive: true });
}

/** Fixed modes and one time for everything; directories last, because writing into them changes theirs. */
function settle(tree: string, epochSeconds: number): void {
  const entries = readdirSync(tree, { recursive: true, withFileTypes: true }).map((entry) => ({
    entry,
    file: path.join(entry.parentPath, entry.name),
  }));
  const files = entries.filter(({ entry }) => entry.isFile());
  const isProgram = (file: string): boolean => /^usr\/(lib\/ukeyd\/)?bin\//.test(path.relative(tree, file));
  for (const { file } of files) chmodSync(file, isProgram(file) ? 0o755 : 0o644);
  const folders = [...entries.filter(({ entry }) => entry.isDirectory()).map(({ file }) => file), tree];
  for (const folder of folders) chmodSync(folder, 0o755);
  for (const file of [...files.map(({ file: each }) => each), ...folders]) lutimesSync(file, epochSeconds, epochSeconds);
}
