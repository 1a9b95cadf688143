// Owns: what goes with a package on paper: licences of everything in it, and its parts list (SBOM, CycloneDX 1.5 as `npm sbom` writes it).
// Invariants: both list exactly what is shipped; neither names a time or a chance of its own, so that two builds are equal.
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import type { ShippedModule } from './shipped-modules.ts';
import { BuildError, tool } from './tool.ts';

interface Component {
  readonly 'bom-ref': string;
  readonly name: string;
  readonly version: string;
  readonly scope: string;
}

interface Sbom {
  serialNumber: string;
  metadata: { timestamp: string; lifecycles: unknown; component: Component };
  components: Component[];
  dependencies: { readonly ref: string; dependsOn: string[] }[];
}

/** The runtime's package; it is no module of the tree but bin/node. */
const runtimeName = 'node';

/** npm's own list, less what is not shipped. */
export function sbomText(root: string, modules: readonly ShippedModule[], epochSeconds: number): string {
  // Not with --omit=dev: npm then leaves out also what development needs besides us.
  const npm = ['sbom', '--sbom-format', 'cyclonedx', '--package-lock-only'];
  const sbom = JSON.parse(tool('npm', npm, { cwd: root })) as Sbom;
  const product = sbom.metadata.component;
  const shipped = new Set(modules.map(({ name, version }) => `${name}@${version}`));
  const isShipped = ({ name, version }: Component): boolean => name === runtimeName || shipped.has(`${name}@${version}`);
  sbom.components = sbom.components.filter(isShipped).map((component) => ({ ...component, scope: 'required' }));
  const missing = [...shipped].filter((id) => !sbom.components.some(({ name, version }) => `${name}@${version}` === id));
  if (missing.length > 0) throw new BuildError(`the parts list lacks ${missing.join(', ')}`);
  const refs = new Set([product['bom-ref'], ...sbom.components.map((component) => component['bom-ref'])]);
  sbom.dependencies = sbom.dependencies
    .filter(({ ref }) => refs.has(ref))
    .map(({ ref, dependsOn }) => ({ ref, dependsOn: dependsOn.filter((target) => refs.has(target)) }));
  sbom.metadata = {
    ...sbom.metadata,
    timestamp: new Date(epochSeconds * 1_000).toISOString(),
    lifecycles: [{ phase: 'build' }],
    component: { ...product, name: product['bom-ref'].replace(/@[^@]*$/, '') }, // npm names the folder
  };
  sbom.serialNumber = '';
  sbom.serialNumber = `urn:uuid:${uuidOf(JSON.stringify(sbom))}`;
  return `${JSON.stringify(sbom, null, 2)}\n`;
}

/** A name-based UUID (RFC 9562, version 8: our own hash). */
function uuidOf(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** Debian's machine-readable form says who holds what; the texts stand in licences/. */
export function copyrightText(modules: readonly ShippedModule[], nodeVersion: string): string {
  const lines = [
    'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/',
    'Upstream-Name: ukeyd',
    'Comment: texts of all licences, with their holders: /usr/share/doc/ukeyd/licences',
    '',
    'Files: *',
    'Copyright: the authors of ukeyd',
    'License: Apache-2.0',
    ' On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.',
    '',
    'Files: usr/lib/ukeyd/bin/node',
    `Copyright: Node.js contributors and others (version ${nodeVersion})`,
    'License: MIT and others',
    ' See licences/node.txt.',
    ...modules.flatMap(({ name, version, license, place }) => [
      ...['', `Files: usr/lib/ukeyd/${place}/*`, `Copyright: the authors of ${name} ${version}`],
      ...[`License: ${license}`, ` See licences/${licenceFile(name, version)} where the package carries a text.`],
    ]),
  ];
  return `${lines.join('\n')}\n`;
}

export function licenceFile(name: string, version: string): string {
  return `${name.replaceAll(/[@/]/g, (sign) => (sign === '/' ? '+' : ''))}-${version}.txt`;
}

/** The licence texts that a package carries, or null: then its field in package.json, and so `copyright`, is all there is. */
export function licenceText(folder: string): string | null {
  if (!existsSync(folder)) return null;
  const files = readdirSync(folder).filter((name) => /^(licen[cs]e|copying|notice|patents)/i.test(name));
  if (files.length === 0) return null;
  return files
    .sort()
    .map((name) => readFileSync(path.join(folder, name), 'utf8'))
    .join('\n');
}
