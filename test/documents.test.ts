// What the documents name is there: files and folders of this tree, commands of package.json, parts of the torture run.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';

const root = path.resolve(import.meta.dirname, '..');
const sourceFolders = ['daemon', 'ipc-schema', 'server', 'installers', 'test'];
const filesBelow = (folder: string): string[] =>
  readdirSync(path.join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)));
const documents = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...filesBelow('docs').filter((file) => file.endsWith('.md')),
  'ipc-schema/SPEC.md',
  'daemon/store/FORMAT.md',
];
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');
const scripts = (JSON.parse(read('package.json')) as { readonly scripts: Readonly<Record<string, string>> }).scripts;

/** Paths in backquotes, and what links lead to. */
function pathsIn(text: string): string[] {
  const quoted = [...text.matchAll(/`((?:daemon|ipc-schema|server|test|docs|installers|service-files)\/[\w./-]+)`/g)].map(
    (match) => match[1] ?? '',
  );
  const linked = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)\)/g)].map((match) => match[1] ?? '');
  return [...new Set([...quoted, ...linked])];
}

describe.each(documents)('%s', (document) => {
  const text = read(document);

  test('names files that are there', () => {
    // A module is named without its ending too: `daemon/ipc/listen`.
    const folder = path.dirname(document);
    const isThere = (file: string): boolean =>
      ['', '.ts'].some((ending) => [root, path.join(root, folder)].some((base) => existsSync(path.join(base, file + ending))));
    expect(pathsIn(text).filter((file) => !isThere(file))).toEqual([]);
  });

  test('names commands that are there', () => {
    const commands = [...text.matchAll(/npm run (?:-s )?([a-z-]+)/g)].map((match) => match[1] ?? '');
    expect(commands.filter((command) => !(command in scripts))).toEqual([]);
  });
});

describe('comments', () => {
  const sources = sourceFolders.flatMap(filesBelow).filter((file) => file.endsWith('.ts'));
  const commentsOf = (file: string): string[] =>
    read(file)
      .split('\n')
      .flatMap((line) => /(?:^\s*(?:\/\/|\/?\*)|\s\/\/ )(.*)/.exec(line)?.[1] ?? []);
  const isExample = (name: string): boolean => name === 'x.ts';

  test('name files that are there', () => {
    const known = new Set([...sources, ...documents].map((file) => path.basename(file)));
    const missing = sources.flatMap((file) =>
      commentsOf(file)
        .flatMap((comment) => comment.match(/[\w.-]+\.(?:ts|md)\b/g) ?? [])
        .filter((name) => !known.has(name) && !isExample(name))
        .map((name) => `${file}: ${name}`),
    );
    expect(missing).toEqual([]);
  });

  test('cite nothing that only its writer has', () => {
    const cited = sources.filter((file) => commentsOf(file).some((comment) => /\b\d-[a-z]+,? (?:§|promise)/.test(comment)));
    expect(cited).toEqual([]);
  });
});

describe('SECURITY.md', () => {
  const [, borders = ''] = read('SECURITY.md')
    .split(/^## /m)
    .filter((chapter) => /^(Who|The borders)/.test(chapter));
  const rows = borders
    .split('\n')
    .filter((line) => line.startsWith('| '))
    .map((line) => line.split('|').map((cell) => cell.trim()))
    .filter((cells) => cells.length === 5);
  const threats = rows.filter(([, threat]) => threat !== 'threat');
  const partNames = [...read('test/torture/run.ts').matchAll(/^ {2}'?([a-z-]+)'?: async \(\) =>/gm)].map((match) => match[1] ?? '');

  test('has a test or a part of the torture run for each threat', () => {
    expect(threats.length).toBeGreaterThan(30);
    const unshown = threats.filter(
      ([, , , shownBy = '']) => pathsIn(shownBy).every((file) => !file.endsWith('.test.ts')) && !shownBy.includes('torture `'),
    );
    expect(unshown.map(([, threat]) => threat)).toEqual([]);
  });

  test('names parts of the torture run that are there', () => {
    expect(partNames.length).toBeGreaterThan(15);
    const named = threats.flatMap(([, , , shownBy = '']) =>
      [...(shownBy.split('torture')[1] ?? '').matchAll(/`([a-z-]+)`/g)].map((match) => match[1] ?? ''),
    );
    expect(named.length).toBeGreaterThan(10);
    expect(named.filter((name) => !partNames.includes(name))).toEqual([]);
  });
});
