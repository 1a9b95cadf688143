// Owns: the layers of a configuration and how they lie upon one another: file < conf.d in the order of its names < environment < command line. The only
// door to the TOML library.
// Invariants: a value keeps the place where it was given (`Origin`); a key that is not known is refused in each layer, with the nearest name, also where
// another layer would hide it. Tables are joined key by key, lists of tables by `name`; whatever else is given again replaces what was there.
// Must not: know a key, or whether a value is right: the schema decides on what the layers come to (config.ts).
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parse, TomlError } from 'smol-toml';
import { UkeyError } from '#ipc-schema/errors.ts';
import { fieldPath } from '#ipc-schema/schema.ts';
import { nearest, readText, type Setting } from './settings.ts';

/** Where a value was given. */
export interface Origin {
  readonly kind: 'file' | 'environment' | 'flag';
  /** `/etc/ukeyd/ukeyd.toml:12`, `$UKEYD_MIRROR_MODE`, `--mirror-mode`. */
  readonly text: string;
}

interface Leaf {
  readonly value: unknown;
  readonly origin: Origin;
}
type Table = ReadonlyMap<string, Tree>;
export type Tree =
  | ({ readonly kind: 'leaf' } & Leaf)
  | { readonly kind: 'table'; readonly members: Table; readonly origin: Origin }
  | { readonly kind: 'tables'; readonly items: readonly Table[]; readonly origin: Origin };

export const emptyTree: Tree = { kind: 'table', members: new Map(), origin: { kind: 'file', text: '' } };
const correctFile = 'Correct the configuration file.';
const prefix = 'UKEYD_';
/** Names the file itself; no key of it. */
export const configVariable = 'UKEYD_CONFIG';

/** A TOML text. `name`: as it is told in errors; `base`: the folder from which relative paths are taken. */
export function textLayer(settings: readonly Setting[], text: string, name: string, base: string): Tree {
  let raw: Record<string, unknown>;
  try {
    raw = parse(text);
  } catch (cause) {
    const at = cause instanceof TomlError ? `:${cause.line}` : '';
    const why = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : '';
    throw new UkeyError('invalid-request', `${name}${at} is not TOML: ${why}`, { cause, action: correctFile });
  }
  const origin = (place: Place): Origin => {
    const line = lineOf(text, place);
    return { kind: 'file', text: line === null ? name : `${name}:${line}` };
  };
  return treeOf(raw, [], { settings, origin, base });
}

/** The file, and `conf.d/*.toml` beside it. A file that is not `needed` may be absent. */
export function fileLayers(settings: readonly Setting[], file: string, needed: boolean): Tree[] {
  const base = path.dirname(path.resolve(file));
  const folder = path.join(base, 'conf.d');
  const more = namesIn(folder)
    .filter((name) => name.endsWith('.toml'))
    .sort()
    .map((name) => path.join(folder, name));
  return [file, ...more].flatMap((one, at) => {
    const text = textOf(one, needed || at > 0);
    return text === null ? [] : [textLayer(settings, text, one, base)];
  });
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw unreadable(folder, cause);
  }
}

function textOf(file: string, needed: boolean): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    if (!needed && (cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw unreadable(file, cause);
  }
}

function unreadable(file: string, cause: unknown): UkeyError {
  return new UkeyError('invalid-request', `configuration ${file} cannot be read`, {
    cause,
    action: 'Name a readable file with --config.',
  });
}

/** All that begins with UKEYD_ is meant for us: a name that is not known is refused, and so is each that would carry a secret. */
export function environmentLayer(settings: readonly Setting[], environment: NodeJS.ProcessEnv): Tree {
  const byName = new Map(settings.map((setting) => [setting.environment, setting]));
  const given = Object.entries(environment).filter(
    ([name, value]) => name.startsWith(prefix) && name !== configVariable && value !== undefined,
  );
  return overlay(
    given.map(([name, value]) => {
      const setting = byName.get(name);
      if (setting === undefined) throw unknownName(`$${name}`, '', nearest(name, [...byName.keys()]), 'Correct the environment.');
      return { setting, value: value ?? '', origin: { kind: 'environment', text: `$${name}` } };
    }),
  );
}

/** `flags`: what followed each flag, by its name without dashes; only names of `settings`. */
export function flagLayer(settings: readonly Setting[], flags: Readonly<Record<string, string>>): Tree {
  return overlay(
    settings.flatMap((setting) => {
      const value = flags[setting.flag];
      return value === undefined ? [] : [{ setting, value, origin: { kind: 'flag', text: `--${setting.flag}` } }];
    }),
  );
}

function overlay(given: readonly { readonly setting: Setting; readonly value: string; readonly origin: Origin }[]): Tree {
  let tree = emptyTree;
  for (const { setting, value, origin } of given) {
    const leaf: Tree = { kind: 'leaf', value: atBase(setting, readText(setting, value), process.cwd()), origin };
    const keys = setting.key.split('.');
    const grown = keys.reduceRight<Tree>((inner, key) => ({ kind: 'table', members: new Map([[key, inner]]), origin }), leaf);
    tree = joined(tree, grown, setting.key);
  }
  return tree;
}

/** `at`: where it stands, or nothing. */
export function unknownName(field: string, at: string, near: string | null, action: string): UkeyError {
  const hint = near === null ? '' : `; did you mean ${near}?`;
  return new UkeyError('invalid-request', `${field} is not known${at === '' ? '' : ` (${at})`}${hint}`, { field, action });
}

// ---- From plain values to a tree

/** Keys from the outermost on; in a list of tables, the index behind its key. */
type Place = readonly (string | number)[];

interface Reading {
  readonly settings: readonly Setting[];
  readonly base: string;
  origin(place: Place): Origin;
}

const keyOf = (place: Place): string => place.filter((part) => typeof part === 'string').join('.');

function treeOf(value: unknown, place: Place, reading: Reading): Tree {
  const origin = reading.origin(place);
  const key = keyOf(place);
  const setting = reading.settings.find((one) => one.key === key);
  if (setting !== undefined) return { kind: 'leaf', value: atBase(setting, value, reading.base), origin };
  const isTable = key === '' || reading.settings.some((one) => one.key.startsWith(`${key}.`));
  if (!isTable) throw unknownKey(place, reading);
  if (isPlainTable(value)) return { kind: 'table', members: membersOf(value, place, reading), origin };
  if (Array.isArray(value) && value.length > 0 && value.every(isPlainTable))
    return { kind: 'tables', items: value.map((item, at) => membersOf(item, [...place, at], reading)), origin };
  const field = fieldPath(place);
  throw new UkeyError('invalid-request', `${field}: must be a table (${origin.text})`, { field, action: correctFile });
}

function membersOf(table: Readonly<Record<string, unknown>>, place: Place, reading: Reading): Table {
  return new Map(Object.entries(table).map(([name, member]) => [name, treeOf(member, [...place, name], reading)]));
}

function isPlainTable(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function unknownKey(place: Place, { settings, origin }: Reading): UkeyError {
  // All keys and the tables above them: a whole table may be misspelt.
  const names = new Set(settings.flatMap((one) => [one.key, ...one.key.split('.').slice(0, -1)]));
  const near = nearest(keyOf(place), [...names]) ?? nearest(String(place.at(-1)), [...names]);
  return unknownName(fieldPath(place), origin(place).text, near, correctFile);
}

function atBase({ path: isPath }: Setting, value: unknown, base: string): unknown {
  const at = (one: unknown): unknown => (typeof one === 'string' && one !== '' ? path.resolve(base, one) : one);
  if (isPath !== true) return value;
  return Array.isArray(value) ? value.map(at) : at(value);
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** The line on which a key is given, as far as it can be told without the parser's help; null: it stands in no place of its own. */
function lineOf(text: string, place: Place): number | null {
  if (place.length === 0) return null;
  const lists = new Map<string, number>();
  let table: Place = [];
  for (const [at, line] of text.split('\n').entries()) {
    const [, brackets, header] = /^\s*(\[\[?)\s*([^\]]+?)\s*\]/.exec(line) ?? [];
    if (header !== undefined) table = tableOf(header.replaceAll('"', '').split(/\s*\.\s*/), brackets === '[[', lists);
    if (!isSame(table, place.slice(0, table.length))) continue;
    const rest = place.slice(table.length);
    if (header !== undefined && (rest.length === 0 || (rest.length === 1 && typeof rest[0] === 'number'))) return at + 1;
    const keys = rest.filter((part) => typeof part === 'string').map((key) => `"?${escaped(key)}"?`);
    if (keys.length > 0 && new RegExp(`^\\s*${keys.join('\\s*\\.\\s*')}\\s*[=.]`).test(line)) return at + 1;
  }
  return null;
}

/** Of a header: `[[token]]` begins the next of its list, `[token.mirror]` behind it is in that one. */
function tableOf(names: readonly string[], isNext: boolean, lists: Map<string, number>): Place {
  return names.flatMap((name, depth) => {
    const key = names.slice(0, depth + 1).join('.');
    if (isNext && depth === names.length - 1) lists.set(key, (lists.get(key) ?? -1) + 1);
    const index = lists.get(key);
    return index === undefined ? [name] : [name, index];
  });
}

const isSame = (a: Place, b: Place): boolean => a.length === b.length && a.every((part, at) => part === b[at]);

// ---- One upon the other

/** `over` upon `under`. Throws where one gives one table and the other a list of them. */
export function joined(under: Tree, over: Tree, key = ''): Tree {
  if (under.kind === 'leaf' || over.kind === 'leaf') return over;
  if (under.kind === 'table' && over.kind === 'table') return { ...over, members: joinedMembers(under.members, over.members, key) };
  if (under.kind === 'tables' && over.kind === 'tables') return { ...over, items: joinedItems(under.items, over.items, key) };
  const text = `${key}: is one table in ${under.kind === 'table' ? under.origin.text : over.origin.text}, and a list of them elsewhere`;
  throw new UkeyError('invalid-request', text, { field: key, action: correctFile });
}

function joinedMembers(under: Table, over: Table, above: string): Table {
  const all = new Map(under);
  for (const [name, member] of over) {
    const known = all.get(name);
    all.set(name, known === undefined ? member : joined(known, member, above === '' ? name : `${above}.${name}`));
  }
  return all;
}

function joinedItems(under: readonly Table[], over: readonly Table[], key: string): readonly Table[] {
  const all = [...under];
  for (const item of over) {
    const name = nameOf(item);
    const at = name === null ? -1 : all.findIndex((one) => nameOf(one) === name);
    const known = all[at];
    if (known === undefined) all.push(item);
    else all[at] = joinedMembers(known, item, key);
  }
  return all;
}

function nameOf(table: Table): unknown {
  const member = table.get('name');
  return member?.kind === 'leaf' ? member.value : null;
}

// ---- What they come to

/** As the schema takes it. */
export function plainOf(tree: Tree): unknown {
  switch (tree.kind) {
    case 'leaf':
      return tree.value;
    case 'table':
      return plainTable(tree.members);
    case 'tables':
      return tree.items.map(plainTable);
  }
}

function plainTable(members: Table): Record<string, unknown> {
  return Object.fromEntries([...members].map(([name, member]) => [name, plainOf(member)]));
}

/** Where each value was given, by its key: `mirror.mode`, of a list of tables `token[1].flash`. */
export function originsOf(tree: Tree): ReadonlyMap<string, Origin> {
  return new Map(walk(tree, ''));
}

function walk(tree: Tree, key: string): [string, Origin][] {
  const below = (members: Table, at: string): [string, Origin][] =>
    [...members].flatMap(([name, member]) => walk(member, at === '' ? name : `${at}.${name}`));
  switch (tree.kind) {
    case 'leaf':
      return [[key, tree.origin]];
    case 'table':
      return below(tree.members, key);
    case 'tables':
      return tree.items.flatMap((item, at) => below(item, `${key}[${at}]`));
  }
}
