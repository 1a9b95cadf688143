// Owns: the caller's half of "exactly once": what may be concluded about an invoice from an error, and the loop that repeats
// the same request with the same key until the outcome is known.
// Invariants: an attempt whose outcome is unknown stays in doubt until the service, having looked the key up, answers about the
// content; an error that only says "not now" settles nothing, and doubt is never reported as a definite "no".
// Must not: open a socket or read a clock; attempt, time and pause are handed in.
import { asUkeyError, errorTable, UkeyError } from './errors.ts';
import type { Issued } from './issued.ts';

/** `definite`: it was not issued, and repeating does not help. `repeat`: ask again. `end`: this client cannot find out. */
export type IssueVerdict = 'definite' | 'repeat' | 'end';

/** `inDoubt`: an earlier attempt with this key left it open whether it was issued. */
export function judgeIssueError(error: UkeyError, inDoubt: boolean): IssueVerdict {
  if (error.code === 'unauthenticated' || error.code === 'forbidden') return inDoubt ? 'end' : 'definite';
  if (error.retry === 'same-key' || error.retry === 'after-ms') return 'repeat';
  const { fault } = errorTable[error.code];
  // A service that is locked or halted cannot say whether the earlier attempt went through; one that judged the content has looked.
  return inDoubt && fault !== 'caller' && fault !== 'limit' ? 'repeat' : 'definite';
}

/** A fault of the service may have come behind the issuing. */
function leavesOpen({ code }: UkeyError): boolean {
  return code === 'unknown-outcome' || code === 'internal';
}

export interface IssueLoop {
  /** One request with the key. */
  readonly attempt: (timeoutMs: number) => Promise<Issued>;
  readonly attemptMs: number;
  readonly deadlineMs: number;
  readonly nowMs: () => number;
  readonly sleep: (waitMs: number) => Promise<void>;
  /** No further attempt can succeed: the client was closed. */
  readonly isOver: () => boolean;
  /** 0 up to 1. */
  readonly random: () => number;
}

const repeatMinMs = 20;
const repeatMaxMs = 1_000;

/** Throws the definite error, or the last one when the time is over: unknown-outcome if any attempt is still in doubt. */
export async function issueUntilKnown({ attempt, attemptMs, deadlineMs, nowMs, sleep, isOver, random }: IssueLoop): Promise<Issued> {
  const endMs = nowMs() + deadlineMs;
  let doubt: UkeyError | null = null;
  for (let waitMs = repeatMinMs; ; waitMs = Math.min(waitMs * 2, repeatMaxMs)) {
    let error: UkeyError;
    try {
      return await attempt(Math.max(1, Math.min(attemptMs, endMs - nowMs())));
    } catch (thrown) {
      error = asUkeyError(thrown);
    }
    const verdict = isOver() ? 'end' : judgeIssueError(error, doubt !== null);
    if (verdict === 'definite') throw error;
    if (leavesOpen(error)) doubt = error;
    const pauseMs = Math.max(error.retryAfterMs ?? 0, waitMs * (0.5 + random() / 2));
    if (verdict === 'end' || nowMs() + pauseMs >= endMs)
      throw doubt === null || error.code === 'unknown-outcome' ? error : new UkeyError('unknown-outcome', doubt.message, { cause: error });
    await sleep(pauseMs);
  }
}
