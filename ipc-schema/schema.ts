// Owns: the only door to the schema library, and the one way a bad value becomes an error with a field path.
// Invariants: objects are strict (unknown fields are refused with their path); `check` throws UkeyError only.
import { z } from 'zod';
import { type ErrorCode, UkeyError } from './errors.ts';
import { decimalPattern } from './money.ts';

export { z };

export type Schema<T = unknown> = z.ZodType<T>;

/** `lines[3].unitPrice` from the path ['lines', 3, 'unitPrice']. */
export function fieldPath(path: readonly PropertyKey[]): string {
  return path.map((part, at) => (typeof part === 'number' ? `[${part}]` : `${at === 0 ? '' : '.'}${String(part)}`)).join('');
}

/** The checked value. Throws `code` (invalid-request unless said) naming the first bad field; the value itself is never in the text. */
export function check<T>(schema: z.ZodType<T>, value: unknown, code: ErrorCode = 'invalid-request'): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const extra = issue?.code === 'unrecognized_keys' ? [issue.keys[0] ?? ''] : [];
  const field = fieldPath([...(issue?.path ?? []), ...extra]);
  throw new UkeyError(code, `${field === '' ? 'parameters' : field}: ${issue?.message ?? 'not valid'}`, field === '' ? {} : { field });
}

/** JSON Schema (draft 2020-12) of a schema, for openrpc.json. */
export function jsonSchema(schema: z.ZodType, io: 'input' | 'output'): Record<string, unknown> {
  const { $schema, ...rest } = z.toJSONSchema(schema, { io, unrepresentable: 'throw' }) as Record<string, unknown>;
  return rest;
}

export const decimalText = z
  .string()
  .regex(decimalPattern, 'must be a decimal string such as "12.50"')
  .meta({ description: 'decimal string, at most 15 digits before and 6 after the point' });
export const positiveDecimalText = decimalText.refine((text) => !text.startsWith('-') && /[1-9]/.test(text), 'must be above zero');
export const instantText = z.iso.datetime({ offset: true, message: 'must be an RFC 3339 instant' });
export const base64Text = z.base64();
export const text = (minLength: number, maxLength: number) =>
  z
    .string()
    .min(minLength, minLength === 1 ? 'must not be empty' : `must have at least ${minLength} characters`)
    .max(maxLength, `must have at most ${maxLength} characters`)
    .regex(/^\P{Cc}*$/u, 'must not hold control characters');
/** Names that appear in file names, logs and signatures: a small alphabet on purpose. */
export const nameText = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, 'must be 1 to 64 of A-Z a-z 0-9 . _ -');
