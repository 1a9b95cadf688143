// Owns: the one decision whether a document may be issued under the charter, and the budget that every reply shows. Pure.
// Invariants: exactly one place compares with a limit; nothing here unlocks anything: only an acknowledgement makes `pending` smaller.
// Hours are measured by age (by a clock that only goes forward, passed in), never by comparing wall clocks, so that a clock that jumps neither locks nor unlocks.
import type { CharterLimits, Mode } from '#ipc-schema/charter.ts';
import type { ErrorCode } from '#ipc-schema/errors.ts';
import { type Money, money, sumTextOf, usualDecimals, zero } from '#ipc-schema/money.ts';
import { sumUnits } from '#ipc-schema/scaled.ts';
import type { Budget, Link } from '#ipc-schema/status.ts';

const msPerHour = 3_600_000;
/** A wall clock this far from what is proven or recorded is still trusted: a wrong time zone or day is not an attack on anybody's numbers. */
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
  /** What time it is by the server's signature, carried on since; null: nothing was proven while this process runs. */
  readonly provenNowMs: number | null;
  /** issuedAtMs of the newest entry: what our own clock said then. */
  readonly newestEntryMs: number;
  /** The newest time in an acknowledgement that the ledger holds; 0: none. */
  readonly ackedServerMs: number;
}

export type ClockFacts = Pick<LimitFacts, 'wallMs' | 'provenNowMs' | 'newestEntryMs' | 'ackedServerMs'>;

export type Verdict =
  | { readonly kind: 'allow' }
  | { readonly kind: 'refuse'; readonly code: ErrorCode; readonly why: string; readonly action?: string };

const allow: Verdict = { kind: 'allow' };

/** Whether a document of `total` (no sign) may be issued now. Order of the checks = order of what a person should mend first. */
export function judge(facts: LimitFacts, total: string): Verdict {
  const { limits } = facts;
  const amount = sumUnits(total);
  if (limits.single !== null && amount > sumUnits(limits.single)) return refuse('limit-single', `the total is above ${limits.single}`);
  const standing = judgeStanding(facts);
  if (standing.kind === 'refuse') return standing;
  if (limits.amount !== null && sumUnits(facts.pendingAmount) + amount > sumUnits(limits.amount)) {
    return refuse(
      'limit-amount',
      `${sumTextOf(money(facts.pendingAmount))} of ${sumTextOf(money(limits.amount))} wait for acknowledgement`,
    );
  }
  return allow;
}

/** The part of the verdict that does not depend on the document: what makes the service's standing. */
export function judgeStanding(facts: LimitFacts): Verdict {
  const { limits } = facts;
  const clock = judgeClock(facts);
  if (clock.kind === 'refuse') return clock;
  if (facts.wallMs < facts.validFromMs)
    return refuse('limit-deadline', `the charter is valid from ${new Date(facts.validFromMs).toISOString()}`);
  if (facts.wallMs >= facts.validUntilMs)
    return refuse('limit-deadline', `the charter was valid until ${new Date(facts.validUntilMs).toISOString()}`);
  if (limits.hours !== null && facts.oldestAgeMs !== null && facts.oldestAgeMs >= limits.hours * msPerHour) {
    return refuse('limit-hours', `the oldest unacknowledged document is older than ${limits.hours} h`);
  }
  if (limits.count !== null && facts.pendingCount >= limits.count)
    return refuse('limit-count', `${facts.pendingCount} documents wait for acknowledgement`);
  if (limits.amount !== null && sumUnits(facts.pendingAmount) >= sumUnits(limits.amount)) {
    return refuse(
      'limit-amount',
      `${sumTextOf(money(facts.pendingAmount))} of ${sumTextOf(money(limits.amount))} wait for acknowledgement`,
    );
  }
  if (facts.mode === 'online' && facts.link !== 'up')
    return refuse('offline', 'the charter allows issuing only while the ticket server answers');
  return allow;
}

/**
 * Whether the wall clock may be printed on documents. The server's proof alone counts where there is one: entries that were made while the clock
 * ran ahead then stop nobody once it is corrected. Without it a clock must not be behind what is recorded.
 */
export function judgeClock({ wallMs, provenNowMs, newestEntryMs, ackedServerMs }: ClockFacts): Verdict {
  if (provenNowMs !== null) {
    const isNear = Math.abs(wallMs - provenNowMs) <= clockToleranceMs;
    return isNear ? allow : distrust(wallMs, `${instant(provenNowMs)} is proven by the ticket server`);
  }
  if (wallMs >= Math.max(newestEntryMs, ackedServerMs) - clockToleranceMs) return allow;
  return ackedServerMs >= newestEntryMs
    ? distrust(wallMs, `${instant(ackedServerMs)} was proven by the ticket server before`)
    : distrust(wallMs, `the newest entry says ${instant(newestEntryMs)}`);
}

function distrust(wallMs: number, why: string): Verdict {
  return refuse('clock-untrusted', `the clock says ${instant(wallMs)}, but ${why}`);
}

/** The time for entries that are written whatever the clock says (acknowledgements): a clock that is known to be wrong does not get into the ledger. */
export function stampMs(facts: ClockFacts): number {
  return facts.provenNowMs !== null && judgeClock(facts).kind === 'refuse' ? Math.floor(facts.provenNowMs) : facts.wallMs;
}

function instant(ms: number): string {
  return new Date(ms).toISOString();
}

function refuse(code: ErrorCode, why: string): Verdict {
  return { kind: 'refuse', code, why };
}

/** What is left; never negative. `decimals`: what the currency's amounts are printed with. */
export function budgetOf(facts: LimitFacts, decimals: number = usualDecimals): Budget {
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
    amountLeft: limits.amount === null ? null : sumTextOf(atLeastZero(money(limits.amount).minus(pendingAmount)), decimals),
    single: limits.single,
    usedPercent: Math.min(100, Math.max(...percents)),
  };
}

function atLeastZero(value: Money): Money {
  return value.isNegative() ? zero : value;
}
