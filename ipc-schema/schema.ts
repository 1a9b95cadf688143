// Owns: the only door to the schema library, and the one way a bad value becomes an error with a field path.
// Invariants: objects are strict (unknown fields are refused with their path); `check` throws UkeyError only.
import { z } from 'zod';
import { type ErrorCode, UkeyError } from './errors.ts';
import { decimalPattern, nonNegativePattern, positivePattern, sumPattern } from './money.ts';

export { z };

export type Schema<T = unknown> = z.ZodType<T>;

const fieldMaxChars = 200;

/** `lines[3].unitPrice` from the path ['lines', 3, 'unitPrice']; clipped, because keys may be the caller's. */
export function fieldPath(path: readonly PropertyKey[]): string {
  const field = path.map((part, at) => (typeof part === 'number' ? `[${part}]` : `${at === 0 ? '' : '.'}${String(part)}`)).join('');
  return field.length <= fieldMaxChars ? field : `${field.slice(0, fieldMaxChars).toWellFormed()}...`;
}

/** The checked value. Throws `code` (invalid-request unless said) naming the first bad field; the value itself is never in the text. */
export function check<T>(schema: z.ZodType<T>, value: unknown, code: ErrorCode = 'invalid-request'): T {
  const result = schema.safeParse(value, plainWords);
  if (result.success) return result.data;
  const { path, message } = firstFault(result.error.issues, []);
  const field = fieldPath(path);
  throw new UkeyError(code, `${field === '' ? 'parameters' : field}: ${message}`, field === '' ? {} : { field });
}

/** Where a field is absent the library would say which type it expected of `undefined`. */
const missingText = 'is missing';
const plainWords = { error: (issue: { readonly input?: unknown }) => (issue.input === undefined ? missingText : undefined) };

interface Fault {
  readonly path: readonly PropertyKey[];
  readonly message: string;
}

/** The first issue in words of ours where the library would quote the caller. Before a field that is missing goes one that is not known: it was typed. */
function firstFault(issues: readonly z.core.$ZodIssue[], above: readonly PropertyKey[]): Fault {
  const [first] = issues;
  const typed = first?.message === missingText ? issues.find(({ code }) => code === 'unrecognized_keys') : undefined;
  const issue = typed ?? first;
  if (issue === undefined) return { path: above, message: 'not valid' };
  const path = [...above, ...issue.path];
  if (issue.code === 'unrecognized_keys') return { path: [...path, issue.keys[0] ?? ''], message: 'is not known' };
  if (issue.code === 'invalid_union') return unionFault(issue.errors, path);
  return { path, message: issue.message };
}

/** What is wrong with the members of one alternative of a union, and with nothing below them. */
interface Misfit {
  readonly unknown: readonly string[];
  readonly missing: readonly string[];
}

/**
 * Of a union of objects: a member that no alternative knows; else the fault of the alternative that has just the members that were given; else the
 * members among which to choose.
 */
function unionFault(alternatives: readonly (readonly z.core.$ZodIssue[])[], path: readonly PropertyKey[]): Fault {
  const misfits = alternatives.map(misfitOf);
  const stranger = misfits[0]?.unknown.find((name) => misfits.every(({ unknown }) => unknown.includes(name)));
  if (stranger !== undefined) return { path: [...path, stranger], message: 'is not known' };
  const fitting = alternatives.find((_, at) => misfits[at]?.unknown.length === 0 && misfits[at].missing.length === 0);
  if (fitting !== undefined) return firstFault(fitting, path);
  const isChoice = (name: string): boolean => !misfits.every(({ missing }) => missing.includes(name));
  const choices = [...new Set(misfits.flatMap(({ unknown, missing }) => [...unknown, ...missing]))].filter(isChoice).sort();
  const [one, other] = choices;
  if (one === undefined || other === undefined) return firstFault(alternatives[0] ?? [], path);
  const isEither = choices.length === 2 && misfits.every(({ missing }) => missing.length === 0);
  return { path, message: isEither ? `give ${one} or ${other}, not both` : `give exactly one of ${choices.join(', ')}` };
}

function misfitOf(issues: readonly z.core.$ZodIssue[]): Misfit {
  const own = (issue: z.core.$ZodIssue, depth: number): boolean => issue.path.length === depth;
  return {
    unknown: issues.flatMap((issue) => (issue.code === 'unrecognized_keys' && own(issue, 0) ? issue.keys : [])),
    missing: issues.flatMap((issue) => (issue.message === missingText && own(issue, 1) ? [String(issue.path[0])] : [])),
  };
}

/** JSON Schema (draft 2020-12) of a schema, for openrpc.json. */
export function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): Record<string, unknown> {
  const { $schema, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'throw' }) as Record<string, unknown>;
  return rest;
}

/**
 * The same schema, which takes what `isGood` says is good without running its checks one by one: most of a request are texts like these. Whatever else
 * comes is the checks' to judge. To be put on last: what is derived from a schema does not know of it. Must not say of anything that it is good that the checks refuse.
 */
function quick<S extends z.ZodString>(schema: S, isGood: (value: string) => boolean): S {
  const { run } = schema._zod;
  schema._zod.run = (payload, context) =>
    typeof payload.value === 'string' && isGood(payload.value) ? payload : run.call(schema._zod, payload, context);
  return schema;
}

const fitting = (pattern: RegExp, message: string): z.ZodString => z.string().regex(pattern, message);
const quickly = (schema: z.ZodString, pattern: RegExp): z.ZodString => quick(schema, (value) => pattern.test(value));

export const decimalText = fitting(decimalPattern, 'must be a decimal string such as "12.50"').meta({
  description: 'decimal string, at most 15 digits before and 6 after the point',
});
export const nonNegativeDecimalText = quickly(
  fitting(nonNegativePattern, 'must be a decimal string such as "12.50", not below zero').meta({
    description: 'decimal string, zero or above, at most 15 digits before and 6 after the point',
  }),
  nonNegativePattern,
);
export const positiveDecimalText = quickly(
  fitting(positivePattern, 'must be a decimal string such as "12.50", above zero').meta({
    description: 'decimal string above zero, at most 15 digits before and 6 after the point',
  }),
  positivePattern,
);
/** A sum over many documents. */
export const sumText = z
  .string()
  .regex(sumPattern, 'must be a decimal string')
  .meta({ description: 'decimal string, at most 30 digits before and 6 after the point' });
const noInstant = 'must be an RFC 3339 instant';
const clockTime = String.raw`(?:[01]\d|2[0-3]):[0-5]\d`;
const instantPattern = new RegExp(
  String.raw`^${z.regexes.date.source.replace(/^\^|\$$/g, '')}T${clockTime}:[0-5]\d(?:\.\d{1,9})?(?:Z|(?!-00:00)[+-]${clockTime})$`,
);
/** RFC 3339 §5.6 with upper-case T and Z, seconds, at most nine digits of a second, and an offset that is known (§4.3). */
export const instantText = z.string().max(35, noInstant).regex(instantPattern, noInstant).meta({ format: 'date-time' });
/** The longest body in base64, and room: a regular expression of groups exhausts the stack on many millions. */
const base64MaxChars = 1_000_000;
/** RFC 4648 §4 with padding, and no stray bits before it: one spelling for each byte string. */
export const base64Text = z
  .string()
  .max(base64MaxChars, { error: `must have at most ${base64MaxChars} characters`, abort: true })
  .regex(/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$/, 'must be base64')
  .meta({ description: 'base64 (RFC 4648 §4)', contentEncoding: 'base64' });
/** Control characters would move a printer's head, separators break a line, direction marks show a text as another than it is. */
const plainPattern = /^[^\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]*$/u;
/** Something that can be seen: no blank, nothing of no width, no empty braille cell. */
const visiblePattern = /[^\p{Z}\p{Default_Ignorable_Code_Point}\u2800]/u;
/** Printable ASCII, one of it no space: neither of the two has anything against it. Each character is looked at once, whatever comes. */
const asciiPattern = /^ *[\x21-\x7e][\x20-\x7e]*$/;
export const text = (minLength: number, maxLength: number): z.ZodString => {
  const plain = z
    .string()
    .min(minLength, minLength === 1 ? 'must not be empty' : `must have at least ${minLength} characters`)
    .max(maxLength, `must have at most ${maxLength} characters`)
    .regex(plainPattern, 'must not hold control characters, line separators or direction marks');
  const isGood = (value: string): boolean => value.length >= minLength && value.length <= maxLength && asciiPattern.test(value);
  return quick(minLength === 0 ? plain : plain.regex(visiblePattern, 'must not be blank'), isGood);
};
/** Names that appear in file names, logs and signatures: a small alphabet on purpose. */
export const nameText = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'must be 1 to 64 of A-Z a-z 0-9 . _ -');
