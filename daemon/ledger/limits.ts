// Owns: the one decision whether a document may be issued under the charter, and the budget that every reply shows. Pure.
// Invariants: exactly one place compares with a limit; nothing here unlocks anything: only an acknowledgement makes `pending` smaller.
// Hours are measured by age (monotonic, passed in), never by comparing wall clocks, so that a clock that jumps neither locks nor unlocks.
import type { CharterLimits, Mode } from '#ipc-schema/charter.ts';
import type { ErrorCode } from '#ipc-schema/errors.ts';
import type { Budget, Link } from '#ipc-schema/methods.ts';
import { type Money, money, zero } from '#ipc-schema/money.ts';

const msPerHour = 3_600_000;
/** A wall clock behind the newest proven time by more than this is not trusted. */
export const clockToleranceMs = 26 * msPerHour;

export interface LimitFacts {
  readonly mode: Mode;
  readonly limits: CharterLimits;
  readonly validFromMs: number;
  readonly validUntilMs: number;
  readonly pendingCount: number;
  readonly pendingAmount: string;
  /** Age of the oldest unacknowledged document, null if none. */
  readonly oldestAgeMs: number | null;
  readonly link: Link;
  readonly wallMs: number;
  /** Newest time that an own entry or the server has proven. */
  readonly floorMs: number;
}

export type Verdict =
  | { readonly kind: 'allow' }
  | { readonly kind: 'refuse'; readonly code: ErrorCode; readonly why: string; readonly action?: string };

const allow: Verdict = { kind: 'allow' };

/** Whether a document of `total` (no sign) may be issued now. Order of the checks = order of what a person should mend first. */
export function judge(facts: LimitFacts, total: string): Verdict {
  const { limits } = facts;
  const amount = money(total);
  if (limits.single !== null && amount.greaterThan(limits.single)) return refuse('limit-single', `the total is above ${limits.single}`);
  const standing = judgeStanding(facts);
  if (standing.kind === 'refuse') return standing;
  if (limits.amount !== null && money(facts.pendingAmount).plus(amount).greaterThan(limits.amount)) {
    return refuse('limit-amount', `${facts.pendingAmount} of ${limits.amount} wait for acknowledgement`);
  }
  return allow;
}

/** The part of the verdict that does not depend on the document: what makes the service's standing. */
export function judgeStanding(facts: LimitFacts): Verdict {
  const { limits } = facts;
  if (facts.wallMs < facts.floorMs - clockToleranceMs) {
    return refuse(
      'clock-untrusted',
      `the clock says ${new Date(facts.wallMs).toISOString()}, but ${new Date(facts.floorMs).toISOString()} is proven`,
    );
  }
  if (facts.wallMs < facts.validFromMs)
    return refuse('limit-deadline', `the charter is valid from ${new Date(facts.validFromMs).toISOString()}`);
  if (facts.wallMs >= facts.validUntilMs)
    return refuse('limit-deadline', `the charter was valid until ${new Date(facts.validUntilMs).toISOString()}`);
  if (limits.hours !== null && facts.oldestAgeMs !== null && facts.oldestAgeMs >= limits.hours * msPerHour) {
    return refuse('limit-hours', `the oldest unacknowledged document is older than ${limits.hours} h`);
  }
  if (limits.count !== null && facts.pendingCount >= limits.count)
    return refuse('limit-count', `${facts.pendingCount} documents wait for acknowledgement`);
  if (limits.amount !== null && money(facts.pendingAmount).greaterThanOrEqualTo(limits.amount)) {
    return refuse('limit-amount', `${facts.pendingAmount} of ${limits.amount} wait for acknowledgement`);
  }
  if (facts.mode === 'online' && facts.link !== 'up')
    return refuse('offline', 'the charter allows issuing only while the ticket server answers');
  return allow;
}

function refuse(code: ErrorCode, why: string): Verdict {
  return { kind: 'refuse', code, why };
}

/** What is left; never negative. */
export function budgetOf(facts: LimitFacts): Budget {
  const { limits } = facts;
  const ageMs = facts.oldestAgeMs ?? 0;
  const pendingAmount = money(facts.pendingAmount);
  const percents = [
    limits.hours === null ? 0 : Math.floor((ageMs * 100) / (limits.hours * msPerHour)),
    limits.count === null ? 0 : Math.floor((facts.pendingCount * 100) / limits.count),
    limits.amount === null ? 0 : pendingAmount.times(100).div(limits.amount).floor().toNumber(),
  ];
  return {
    hoursLeft: limits.hours === null ? null : Math.max(0, Math.floor((limits.hours - ageMs / msPerHour) * 100) / 100),
    countLeft: limits.count === null ? null : Math.max(0, limits.count - facts.pendingCount),
    amountLeft: limits.amount === null ? null : atLeastZero(money(limits.amount).minus(pendingAmount)).toFixed(),
    single: limits.single,
    usedPercent: Math.min(100, Math.max(...percents)),
  };
}

function atLeastZero(value: Money): Money {
  return value.isNegative() ? zero : value;
}
