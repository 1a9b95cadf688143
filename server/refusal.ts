// Owns: the refusals of the ticket server: which HTTP status each code has (SPEC.md, Ticket server), and what becomes of an error.
// Invariants: a refusal carries no stack, no cause and nothing of what was sent beyond what the sender knows.
import { asUkeyError, type ErrorCode } from '#ipc-schema/errors.ts';
import type { Refusal } from '#ipc-schema/upstream.ts';

export type RefusalCode = Refusal['code'];

export const refusalStatus = {
  'bad-request': 400,
  'code-unknown': 403,
  'unknown-token': 404,
  fork: 409,
  gap: 409,
  'too-large': 413,
  'bad-signature': 422,
  poison: 422,
  'no-recovery-key': 409,
  'not-renewable': 409,
  busy: 503,
  internal: 500,
} as const satisfies Record<RefusalCode, number>;

/** Seconds that a caller who was told `busy` should wait. */
export const retryAfterSeconds = 1;

export function refuse(code: RefusalCode, message: string, wantBatch?: number): Refusal {
  return { code, message, ...(wantBatch === undefined ? {} : { wantBatch }) };
}

/** What a caller is told of an error: its own faults by name, ours only as such. */
export function refusalOf(thrown: unknown): Refusal {
  const error = asUkeyError(thrown);
  const code = refusalCodeOf(error.code);
  return refuse(code, code === 'internal' ? 'a fault of the server; the same request may be repeated' : error.message);
}

function refusalCodeOf(code: ErrorCode): RefusalCode {
  if (code === 'invalid-request') return 'bad-request';
  if (code === 'too-large' || code === 'busy') return code;
  return 'internal';
}
