// Owns: the Windows installer: `node installers/msi.ts HOME --wrapper WinSW.exe --out FILE.msi`, from a home folder that was staged on Windows
// (`npm run packages -- --only home`). wixl makes it, also on Linux. Installs the program and the service; configuration and ledger stand in ProgramData and
// are never touched, neither by an upgrade nor by an uninstallation.
// Invariants: runtime, addons and wrapper must be programs for Windows, else it is refused: a package that cannot start is not made.
// Exit codes: 0 made, 1 refused or failed, 2 the command line was not understood.
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { filesIn } from './deb.ts';
import { BuildError, tool } from './tool.ts';

/** Of this product for ever: by it Windows knows an older version to replace. */
const upgradeCode = '6B1F5A62-6C53-4C0E-9C5B-2D2C1C0E7A11';
const wrapperFile = 'ukeyd.exe';
const definitionFile = 'ukeyd.xml';
const definition = path.join(import.meta.dirname, '../service-files/windows', definitionFile);

interface Folder {
  readonly files: string[];
  readonly folders: Map<string, Folder>;
}

/** The installer's source (WiX). `files`: from the home folder; `sourceOf` says where each is read from. */
export function wixText(version: string, files: readonly string[], sourceOf: (file: string) => string): string {
  const root: Folder = { files: [], folders: new Map() };
  for (const file of files) {
    let at = root;
    for (const part of path.dirname(file).split('/')) {
      if (part === '.') continue;
      const next: Folder = at.folders.get(part) ?? { files: [], folders: new Map() };
      at.folders.set(part, next);
      at = next;
    }
    at.files.push(file);
  }
  const references = files.map((file) => `      <ComponentRef Id="${idOf('c', file)}"/>`).join('\n');
  return `<?xml version="1.0" encoding="utf-8"?>
<Wix xmlns="http://schemas.microsoft.com/wix/2006/wi">
  <Product Id="*" Name="ukeyd" Language="1033" Version="${version}" Manufacturer="ukeyd" UpgradeCode="${upgradeCode}">
    <Package InstallerVersion="200" Compressed="yes" InstallScope="perMachine"/>
    <MajorUpgrade DowngradeErrorMessage="A newer version is installed."/>
    <Media Id="1" Cabinet="ukeyd.cab" EmbedCab="yes"/>
    <Directory Id="TARGETDIR" Name="SourceDir">
      <Directory Id="ProgramFiles64Folder">
        <Directory Id="INSTALLDIR" Name="ukeyd">
${folderText(root, '', sourceOf)}
        </Directory>
      </Directory>
    </Directory>
    <Feature Id="Program" Level="1">
${references}
    </Feature>
  </Product>
</Wix>
`;
}

function folderText(folder: Folder, at: string, sourceOf: (file: string) => string): string {
  const files = folder.files.map((file) => {
    const name = escaped(path.basename(file));
    const service = file === wrapperFile ? serviceText : '';
    return `<Component Id="${idOf('c', file)}" Guid="${guidOf(file)}" Win64="yes"><File Id="${idOf('f', file)}" Name="${name}" Source="${escaped(sourceOf(file))}" KeyPath="yes"/>${service}</Component>`;
  });
  const folders = [...folder.folders].map(([name, child]) => {
    const inside = `${at}${name}/`;
    return `<Directory Id="${idOf('d', inside)}" Name="${escaped(name)}">\n${folderText(child, inside, sourceOf)}\n</Directory>`;
  });
  return [...files, ...folders].join('\n');
}

/** Started by a person once the configuration names a token, and at each start of the machine; stopped before files are replaced. */
const serviceText =
  '<ServiceInstall Id="service" Name="ukeyd" DisplayName="ukeyd" Type="ownProcess" Start="auto" ErrorControl="normal" Account="NT SERVICE\\ukeyd" ' +
  'Description="Owns a USB token and issues invoices for tills and ERP programs, online or not."/>' +
  '<ServiceControl Id="control" Name="ukeyd" Stop="both" Remove="uninstall" Wait="yes"/>';

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('"', '&quot;').replaceAll('<', '&lt;');
const hexOf = (text: string): string => createHash('sha256').update(text).digest('hex').toUpperCase();
/** Identifiers have 72 characters at most, and few kinds of them. */
const idOf = (kind: 'c' | 'd' | 'f', file: string): string => `${kind}${hexOf(file).slice(0, 32)}`;

/** A component keeps its GUID as long as its file keeps its place. */
function guidOf(file: string): string {
  const hex = hexOf(`${upgradeCode}/${file}`);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-5${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

function expectWindows(file: string): void {
  const head = readFileSync(file).subarray(0, 2).toString('latin1');
  if (head !== 'MZ')
    throw new BuildError(`${file} is no program for Windows: stage the home folder on Windows (npm run packages -- --only home)`);
}

function build(home: string, wrapper: string, out: string): void {
  const files = filesIn(home).map((file) => file.split(path.sep).join('/'));
  const programs = files.filter((file) => file.endsWith('.node'));
  if (!files.includes('bin/node.exe') || programs.length === 0) throw new BuildError(`${home} holds no runtime and addons for Windows`);
  for (const file of ['bin/node.exe', ...programs]) expectWindows(path.join(home, file));
  expectWindows(wrapper);
  const { version } = JSON.parse(readFileSync(path.join(home, 'package.json'), 'utf8')) as { version: string };
  const extra: Readonly<Record<string, string>> = { [wrapperFile]: wrapper, [definitionFile]: definition };
  const work = mkdtempSync(path.join(tmpdir(), 'ukeyd-msi-'));
  try {
    const source = path.join(work, 'ukeyd.wxs');
    // wixl looks for files from the folder of its source only.
    const sourceOf = (file: string): string => path.relative(work, path.resolve(extra[file] ?? path.join(home, file)));
    writeFileSync(source, wixText(version, [...files, ...Object.keys(extra)], sourceOf));
    tool('wixl', ['--arch', 'x64', '--output', path.resolve(out), source]);
  } finally {
    rmSync(work, { recursive: true });
  }
}

function main(argv: readonly string[]): number {
  const usage = 'Usage: node installers/msi.ts HOME --wrapper WinSW.exe --out FILE.msi\n';
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      options: { wrapper: { type: 'string' }, out: { type: 'string' } },
      allowPositionals: true,
    });
    const [home, ...more] = positionals;
    if (home === undefined || more.length > 0 || values.wrapper === undefined || values.out === undefined) throw new TypeError('wrong use');
    build(home, values.wrapper, values.out);
    return 0;
  } catch (thrown) {
    if (thrown instanceof TypeError) {
      process.stderr.write(usage);
      return 2;
    }
    process.stderr.write(`${thrown instanceof BuildError ? thrown.message : String(thrown)}\n`);
    return 1;
  }
}

if (import.meta.main) process.exitCode = main(process.argv.slice(2));
