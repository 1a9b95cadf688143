// Owns: what can be configured, as a list that is read off the schema (config.ts): from it come the names in the environment and on the command line,
// the help, the example file, the wording of errors, and what a reload may change. So a key is written down once.
// Invariants: every leaf of the schema is told about (`tell`); one that is not is a fault of ours and thrown at the start.
// Must not: read anything; know a key.
import { UkeyError } from '#ipc-schema/errors.ts';
import { z } from '#ipc-schema/schema.ts';

export interface Told {
  /** For people: what it is for. */
  readonly says: string;
  /** What may stand there, in words, where the schema's own are not enough. */
  readonly allowed?: string;
  /** For the example file, where there is no default. */
  readonly example?: string;
  /** A path, or a list of them: relative ones are taken from where they were given. */
  readonly path?: true;
  /** Takes effect at a reload; all else at the next start. */
  readonly live?: true;
}

const told = z.registry<Told>();

/** Notes what is to be told of a leaf. */
export function tell<S extends z.ZodType>(schema: S, facts: Told): S {
  told.add(schema, facts);
  return schema;
}

export interface Setting extends Told {
  /** As in the file: `token.flash_mib`. */
  readonly key: string;
  readonly environment: string;
  /** Without the dashes. */
  readonly flag: string;
  readonly form: 'text' | 'number' | 'list';
  readonly allowed: string;
  readonly fallback: unknown;
}

const environmentPrefix = 'UKEYD_';

/** All leaves, in the order of the schema. */
export function settingsOf(schema: z.ZodType): readonly Setting[] {
  return leavesOf(schema, []);
}

function leavesOf(schema: z.ZodType, path: readonly string[]): readonly Setting[] {
  const { inner, fallback } = unwrapped(schema);
  if (inner instanceof z.ZodObject)
    return Object.entries(inner.shape).flatMap(([name, member]) => leavesOf(member as z.ZodType, [...path, name]));
  const key = path.join('.');
  const facts = told.get(schema);
  if (facts === undefined) throw new UkeyError('internal', `nothing is told about the key ${key}`);
  const words = path.join('_');
  return [
    {
      ...facts,
      key,
      environment: environmentPrefix + words.toUpperCase(),
      flag: words.replaceAll('_', '-'),
      form: inner instanceof z.ZodNumber ? 'number' : inner instanceof z.ZodArray ? 'list' : 'text',
      allowed: facts.allowed ?? allowedBy(inner, facts),
      fallback,
    },
  ];
}

/** What is inside defaults and the like; `fallback`: the value where the key is left out. */
function unwrapped(schema: z.ZodType): { readonly inner: z.ZodType; readonly fallback: unknown } {
  let inner = schema;
  let fallback: unknown;
  while (inner instanceof z.ZodDefault || inner instanceof z.ZodPrefault || inner instanceof z.ZodOptional) {
    if (inner instanceof z.ZodDefault) fallback = inner.def.defaultValue;
    inner = inner.def.innerType as z.ZodType;
  }
  return { inner, fallback };
}

function allowedBy(schema: z.ZodType, { path }: Told): string {
  if (schema instanceof z.ZodEnum) return `one of ${schema.options.join(', ')}`;
  if (schema instanceof z.ZodNumber) return `a whole number from ${schema.minValue} to ${schema.maxValue}`;
  if (schema instanceof z.ZodArray) return path === true ? 'a list of paths' : 'a list';
  return path === true ? 'a path' : 'text';
}

/** A value from the environment or the command line, in the form of its key; what does not fit stays text, for the schema to refuse. */
export function readText({ form }: Setting, text: string): unknown {
  switch (form) {
    case 'number':
      return /^\d{1,15}$/.test(text) ? Number(text) : text;
    case 'list':
      return text === '' ? [] : text.split(',');
    case 'text':
      return text;
  }
}

/** The name that was probably meant; null: none is near. */
export function nearest(name: string, names: readonly string[]): string | null {
  const ranked = names.map((known) => ({ known, steps: distance(name, known) })).sort((a, b) => a.steps - b.steps);
  const [best] = ranked;
  return best !== undefined && best.steps <= Math.max(2, Math.floor(name.length / 3)) ? best.known : null;
}

/** Letters to insert, remove or change (Levenshtein). Names are short: both are cut. */
function distance(a: string, b: string): number {
  const [from, to] = [a.slice(0, 64), b.slice(0, 64)];
  let row = Array.from({ length: to.length + 1 }, (_, at) => at);
  for (let i = 1; i <= from.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= to.length; j += 1) {
      const change = (row[j - 1] ?? 0) + (from[i - 1] === to[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[to.length] ?? 0;
}
