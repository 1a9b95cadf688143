// Owns: what an error of PostgreSQL or of the way to it means, and whether the same work is tried again. Pure.
// Invariants: nothing is repeated without an end; an error that leaves open what was committed is never told as a definite one.
import { UkeyError } from '#ipc-schema/errors.ts';

/**
 * `conflict`: rolled back, because of another transaction; `lost`: the connection is of no more use, and if a COMMIT was on its way nobody knows what became
 * of it; `busy`: rolled back, too much is going on; `refused`: rolled back, and repeating it would not help.
 */
export type FaultKind = 'conflict' | 'lost' | 'busy' | 'refused';

/** Where it happened: `connecting`: nothing was asked yet; `working`: nothing was to be committed yet; `committing`: it may be committed. */
export type Stage = 'connecting' | 'working' | 'committing';

export const maxTries = 5;
/** Before the 2nd, 3rd, ... try: a server that starts again takes some seconds. */
const repeatWaitsMs = [20, 300, 1_500, 3_000] as const;
const retryAfterMs = 1_000;
const reachAction = 'Start PostgreSQL, or correct its URL (--database; it is kept in the folder as database-url).';

const sqlStatePattern = /^[0-9A-Z]{5}$/;
// PostgreSQL, appendix A.
const conflicts = new Set(['40001', '40P01']);
const losses = new Set(['57P01', '57P02', '57P03', '57P04', '57P05', '25P03', '25006']); // 25006: it has become a standby
const tooMuch = new Set(['57014', '55P03', '53200', '53300']);

/** SQLSTATE of an error that PostgreSQL sent; null: it came from somewhere else, as from the socket. */
export function sqlStateOf(thrown: unknown): string | null {
  const { code, severity } = (thrown ?? {}) as { readonly code?: unknown; readonly severity?: unknown };
  return typeof code === 'string' && typeof severity === 'string' && sqlStatePattern.test(code) ? code : null;
}

export function faultKindOf(thrown: unknown): FaultKind {
  if (thrown instanceof UkeyError) return 'refused';
  const state = sqlStateOf(thrown);
  if (state === null) return 'lost';
  if (conflicts.has(state)) return 'conflict';
  if (losses.has(state) || state.startsWith('08')) return 'lost';
  return tooMuch.has(state) ? 'busy' : 'refused';
}

/** How long to wait before the next try; null: no more. `isInDoubt`: an earlier try may be committed, so that finding out is worth a wait. */
export function repeatWaitMs(kind: FaultKind, stage: Stage, tryCount: number, isInDoubt: boolean): number | null {
  const waitMs = repeatWaitsMs[tryCount - 1] ?? null;
  switch (kind) {
    case 'conflict':
      return waitMs;
    case 'lost': // with no server there, whoever asked does better to come again
      return isInDoubt || stage === 'working' ? waitMs : null;
    case 'busy':
    case 'refused':
      return null;
  }
}

/** What the caller is told in the end. `busy`: nothing was changed, and the same request may come again; `internal` says the latter only. */
export function errorFor(thrown: unknown, kind: FaultKind, isInDoubt: boolean): UkeyError {
  if (isInDoubt) return new UkeyError('internal', 'the database was lost while it committed', { cause: thrown });
  if (thrown instanceof UkeyError) return thrown;
  if (kind === 'refused') return new UkeyError('internal', 'the database refused', { cause: thrown });
  const why = kind === 'lost' ? 'the database is out of reach' : 'the database has too much to do';
  return new UkeyError('busy', why, { retryAfterMs, cause: thrown, ...(kind === 'lost' ? { action: reachAction } : {}) });
}
