// Owns: `npm run packages`: staging trees, then the packages made of them, and SHA256SUMS beside them.
// Exit codes: 0 made, 1 the build cannot go on (one sentence says why), 2 the command line was not understood.
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { buildDebs } from './deb.ts';
import { buildRpms } from './rpm.ts';
import { readProduct, stage, stageHome, type Trees } from './staging.ts';
import { BuildError } from './tool.ts';

type Kind = 'deb' | 'rpm';
const builders: Readonly<Record<Kind, (trees: Trees, out: string, revision: number) => readonly string[]>> = {
  deb: buildDebs,
  rpm: buildRpms,
};

const usage = `npm run packages -- [--out DIR] [--only deb|rpm|tree|home]... [--arch amd64|arm64] [--revision N]

  --out DIR      where packages and staging trees are made (default: dist)
  --only KIND    this kind, and may be given again (default: deb and rpm); tree: nothing but the staging trees; home: program, modules and
                 runtime in one folder, on any system, for the recipes of docs/platforms.md
  --arch NAME    refused unless it is this machine's own
  --revision N   of the packaging, for the same version (default: 1)
`;

interface Order {
  readonly out: string;
  readonly kinds: readonly Kind[];
  readonly isHomeAlone: boolean;
  readonly architecture: string | undefined;
  readonly revision: number;
}

const isKind = (name: string): name is Kind => Object.hasOwn(builders, name);

function parseOrder(argv: readonly string[]): Order | null {
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: {
        out: { type: 'string' },
        only: { type: 'string', multiple: true },
        arch: { type: 'string' },
        revision: { type: 'string' },
      },
    });
    const names = values.only ?? Object.keys(builders);
    const revision = Number(values.revision ?? 1);
    if (names.includes('home') && names.length > 1) return null;
    if (!names.every((name) => ['tree', 'home'].includes(name) || isKind(name)) || !Number.isSafeInteger(revision) || revision < 1)
      return null;
    return {
      out: path.resolve(values.out ?? 'dist'),
      kinds: names.filter(isKind),
      isHomeAlone: names.includes('home'),
      architecture: values.arch,
      revision,
    };
  } catch {
    return null; // parseArgs says only that an option is unknown; the usage says which there are
  }
}

async function build({ out, kinds, isHomeAlone, architecture, revision }: Order): Promise<void> {
  const product = readProduct(architecture);
  mkdirSync(out, { recursive: true });
  if (isHomeAlone) {
    const home = path.join(out, 'home');
    rmSync(home, { recursive: true, force: true });
    await stageHome(home, product);
    process.stdout.write(`${home}\n`);
    return;
  }
  const trees = await stage(path.join(out, 'tree'), product);
  const made = kinds.flatMap((kind) => builders[kind](trees, out, revision));
  if (made.length > 0) {
    const sbom = path.join(out, `ukeyd-${product.version}.sbom.cdx.json`);
    copyFileSync(path.join(trees.service, 'usr/share/doc/ukeyd/sbom.cdx.json'), sbom);
    const sums = [...made, sbom].map(
      (file) => `${createHash('sha256').update(readFileSync(file)).digest('hex')}  ${path.basename(file)}\n`,
    );
    writeFileSync(path.join(out, 'SHA256SUMS'), sums.join(''));
  }
  for (const file of made) process.stdout.write(`${file}\n`);
}

async function main(argv: readonly string[]): Promise<number> {
  const order = parseOrder(argv);
  if (order === null) {
    process.stderr.write(usage);
    return 2;
  }
  try {
    await build(order);
    return 0;
  } catch (thrown) {
    process.stderr.write(`${thrown instanceof BuildError ? thrown.message : String(thrown instanceof Error ? thrown.stack : thrown)}\n`);
    return 1;
  }
}

process.exitCode = await main(process.argv.slice(2));
