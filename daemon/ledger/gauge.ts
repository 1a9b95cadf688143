// Owns: the facts by which the limits and the clock are judged, gathered from the clock, the link and the tip.
// Invariants: ages are measured by a clock that only goes forward, sleep of the machine included (ages.ts); nothing is judged here (limits.ts does).
import type { Clock } from '#ground/clock.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import type { Budget, Link } from '#ipc-schema/status.ts';
import { Ages } from './ages.ts';
import { budgetOf, type ClockFacts, type LimitFacts } from './limits.ts';
import type { Tip } from './tip.ts';

export interface GaugeParts {
  readonly clock: Clock;
  /** What time it is by the ticket server's signature; null: not proven. */
  provenNowMs(): number | null;
  link(): Link;
}

/** The answers of one batch show one budget: what time alone changes in it is coarser by far. */
const budgetKeptMs = 50;

interface KnownBudget {
  readonly tip: Tip;
  readonly charter: Charter;
  readonly decimals: number;
  readonly atMs: number;
  readonly budget: Budget;
}

export class Gauge {
  readonly #parts: GaugeParts;
  readonly #ages = new Ages();
  #known: KnownBudget | null = null;

  constructor(parts: GaugeParts) {
    this.#parts = parts;
  }

  limitFacts(tip: Tip, charter: Charter): LimitFacts {
    const { clock } = this.#parts;
    const wallMs = clock.wallMs();
    return {
      mode: charter.mode,
      limits: charter.limits,
      validFromMs: Date.parse(charter.validFrom),
      validUntilMs: Date.parse(charter.validUntil),
      pendingCount: tip.pending.count,
      pendingAmount: tip.pending.amount,
      oldestAgeMs: this.#oldestAgeMs(tip, wallMs, clock.elapsedMs()),
      link: this.#parts.link(),
      ...this.clockFacts(tip),
      wallMs,
    };
  }

  /** `decimals`: what the currency's amounts are printed with. */
  budget(tip: Tip, charter: Charter, decimals: number): Budget {
    const known = this.#known;
    const nowMs = this.#parts.clock.elapsedMs();
    const isKnown = known !== null && known.tip === tip && known.charter === charter && known.decimals === decimals;
    if (isKnown && nowMs - known.atMs < budgetKeptMs) return known.budget;
    const budget = budgetOf(this.limitFacts(tip, charter), decimals);
    this.#known = { tip, charter, decimals, atMs: nowMs, budget };
    return budget;
  }

  /** Without a ledger nothing speaks against the clock but the server. */
  clockFacts(tip: Tip | null): ClockFacts {
    const wallMs = this.#parts.clock.wallMs();
    const provenNowMs = this.#parts.provenNowMs();
    return { wallMs, provenNowMs, newestEntryMs: tip?.lastIssuedAtMs ?? 0, ackedServerMs: tip?.serverTimeMs ?? 0 };
  }

  #oldestAgeMs({ pending, lastIssuedAtMs }: Tip, wallMs: number, elapsedMs: number): number | null {
    if (pending.oldestMs === null) {
      this.#ages.clear();
      return null;
    }
    this.#ages.note(Math.max(wallMs, lastIssuedAtMs), elapsedMs);
    return this.#ages.ageMs(pending.oldestMs, elapsedMs);
  }
}
