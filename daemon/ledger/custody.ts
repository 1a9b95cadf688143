// Owns: the ledger of one token as the token comes and goes: mounts it when the holder opens, closes it when the token leaves, says the standing.
// Invariants: states of the holder are followed one after the other; at most one Ledger is open; a ledger whose write failed is never used again:
// the holder reopens the log, and a new Ledger is read from it. While that lasts only a moment, callers wait (graceMs) instead of failing.
import path from 'node:path';
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, HolderState, Mount } from '#holder/holder.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { asUkeyError, UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { Budget, Link } from '#ipc-schema/methods.ts';
import { catchUp } from './catch-up.ts';
import { IndexWriter } from './index-writer.ts';
import { Ledger } from './ledger.ts';
import { budgetOf, judgeStanding, type LimitFacts } from './limits.ts';
import { Lookup } from './lookup.ts';
import { readLedger } from './mounting.ts';
import type { PlannedEntry } from './numbering.ts';
import { type HoldingFact, type StandingReport, standingOf } from './standing.ts';
import type { Tip } from './tip.ts';

/** How long a caller waits while the token is being opened again, before it is told. */
export const graceMs = 4_000;

export interface CustodyParts {
  readonly holder: Holder;
  readonly clock: Clock;
  readonly log: Log;
  /** Folder of the indexes, one file per token. */
  readonly stateDirectory: string;
  link(): Link;
  onCommitted(entries: readonly PlannedEntry[], batchIndex: number): void;
  onChange(): void;
  /** Told when a ledger is open, before anybody may use it. */
  onOpened(ledger: Ledger): Promise<void>;
}

interface Opened {
  readonly ledger: Ledger;
  readonly lookup: Lookup;
  readonly indexWriter: IndexWriter;
}

export class Custody {
  readonly #parts: CustodyParts;
  #state: HolderState = { kind: 'starting' };
  #opened: Opened | null = null;
  #mounting = false;
  /** Proof of a rollback or clone: stays until the service starts anew. */
  #halted: string | null = null;
  /** Why the opened token's ledger could not be read; goes with the state. */
  #mountFailure: string | null = null;
  #work: Promise<void> = Promise.resolve();
  #waiting: (() => void)[] = [];
  #oldest: { readonly oldestMs: number; readonly bornMonotonicMs: number } | null = null;

  constructor(parts: CustodyParts) {
    this.#parts = parts;
  }

  /** The holder's callback: states are followed in order. */
  follow(state: HolderState): void {
    const before = this.#state;
    this.#state = state;
    if (before.kind === 'open' && state.kind === 'open') return; // new facts of the same opening: a ledger is reopened only through another state
    this.#mounting = state.kind === 'open';
    this.#mountFailure = null;
    if (state.kind !== 'open') this.#opened?.ledger.close(this.#unavailable());
    this.#parts.onChange();
    this.#work = this.#work.then(async () => {
      await this.#close();
      if (state.kind === 'open' && this.#state.kind === 'open') await this.#open(state.mount);
    });
  }

  get state(): HolderState {
    return this.#state;
  }

  /** The open ledger, or null. */
  get ledger(): Ledger | null {
    return this.#opened?.ledger ?? null;
  }

  /** The open ledger; waits graceMs while it is on its way. Errors: no-token, locked, halted, busy. */
  async use(): Promise<Ledger> {
    if (this.#opened !== null) return this.#opened.ledger;
    if (!this.#transient()) throw this.#unavailable();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, graceMs);
      this.#waiting.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
    if (this.#opened === null) throw this.#unavailable();
    return (this.#opened as Opened).ledger;
  }

  /** Resolves when nothing that was taken before is on its way. */
  async drained(): Promise<void> {
    await this.ledger?.drained();
  }

  /** Stops issuing until a person acts: a rollback or a clone was proven. */
  halt(reason: string): void {
    this.#parts.log.error('issuing stops', { reason });
    this.#halted = reason;
    this.#opened?.ledger.close(this.#unavailable());
    this.#work = this.#work.then(() => this.#close());
    this.#parts.onChange();
  }

  standing(): StandingReport {
    return standingOf(this.#holdingFact());
  }

  budget(): Budget | null {
    const ledger = this.ledger;
    if (ledger?.charter === null || ledger?.charter === undefined) return null;
    return budgetOf(this.limitFacts(ledger.tip, ledger.charter));
  }

  limitFacts(tip: Tip, charter: Charter): LimitFacts {
    return {
      mode: charter.mode,
      limits: charter.limits,
      validFromMs: Date.parse(charter.validFrom),
      validUntilMs: Date.parse(charter.validUntil),
      pendingCount: tip.pending.count,
      pendingAmount: tip.pending.amount,
      oldestAgeMs: this.#oldestAgeMs(tip.pending.oldestMs),
      link: this.#parts.link(),
      wallMs: this.#parts.clock.wallMs(),
      floorMs: floorOf(tip),
    };
  }

  async close(): Promise<void> {
    await this.#work;
    await this.#close();
  }

  #oldestAgeMs(oldestMs: number | null): number | null {
    if (oldestMs === null) {
      this.#oldest = null;
      return null;
    }
    const { clock } = this.#parts;
    if (this.#oldest?.oldestMs !== oldestMs) {
      this.#oldest = { oldestMs, bornMonotonicMs: clock.monotonicMs() - Math.max(0, clock.wallMs() - oldestMs) };
    }
    return clock.monotonicMs() - this.#oldest.bornMonotonicMs;
  }

  async #open(mount: Mount): Promise<void> {
    const { holder, log, stateDirectory } = this.#parts;
    let lookup: Lookup | null = null;
    try {
      const open = await readLedger(holder, mount);
      lookup = await Lookup.open(path.join(stateDirectory, `index-${Buffer.from(mount.tokenId).toString('hex')}.sqlite`));
      const readAnew = await catchUp(lookup, holder, mount, (batch, lastBatch) => log.debug('index', { batch, lastBatch }));
      const indexWriter = new IndexWriter({ lookup, log });
      const parts = { holder, lookup, indexWriter, clock: this.#parts.clock, log, open, limitFacts: this.limitFacts.bind(this) };
      const ledger = new Ledger({ ...parts, onCommitted: this.#parts.onCommitted, onFailed: () => this.#failed() });
      await this.#parts.onOpened(ledger);
      this.#opened = { ledger, lookup, indexWriter };
      log.info('the ledger is open', {
        entries: open.tip.nextSequence - 1,
        batches: open.tip.nextBatch - 1,
        indexed: readAnew,
        tornBytes: mount.tornBytes,
      });
    } catch (error) {
      const known = asUkeyError(error);
      await lookup?.close();
      if (this.#state.kind === 'open') this.#mountFailure = known.message;
      log.error('the ledger cannot be opened', { code: known.code, why: whyOf(error) });
    }
    this.#mounting = false;
    this.#settled();
  }

  /** A write's outcome is unknown: the holder opens the log again by itself. */
  #failed(): void {
    this.#mounting = true; // until follow() hears of the holder's next state
    const failed = this.#opened;
    this.#work = this.#work.then(() => (this.#opened === failed ? this.#close() : undefined));
    this.#parts.onChange();
  }

  async #close(): Promise<void> {
    const opened = this.#opened;
    this.#opened = null;
    if (opened === null) return;
    opened.ledger.close(this.#unavailable());
    await opened.indexWriter.close();
    await opened.lookup.close();
    this.#settled();
  }

  #settled(): void {
    if (this.#opened !== null || !this.#transient()) {
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const wake of waiting) wake();
    }
    this.#parts.onChange();
  }

  /** Whether waiting a moment may help. */
  #transient(): boolean {
    return this.#halted === null && (this.#mounting || this.#state.kind === 'starting');
  }

  #unavailable(): UkeyError {
    const report = this.standing();
    const code = this.#halted !== null ? 'halted' : unavailableCode(this.#state, this.#mounting);
    return new UkeyError(code, report.reason, {
      action: report.action === '' ? undefined : report.action,
      ...(code === 'busy' ? { retryAfterMs: 500 } : {}),
    });
  }

  #holdingFact(): HoldingFact {
    const stopped = this.#halted ?? this.#mountFailure;
    if (stopped !== null) return { kind: 'halted', reason: stopped };
    const state = this.#state;
    switch (state.kind) {
      case 'starting':
      case 'blank':
        return { kind: state.kind };
      case 'absent':
      case 'halted':
        return state;
      case 'locked':
        return { kind: 'locked', pinLocked: state.facts.pinState === 'locked' };
      case 'open':
        return this.#openFact();
      default:
        return unreachable(state);
    }
  }

  #openFact(): HoldingFact {
    const ledger = this.ledger;
    if (ledger === null) return { kind: 'mounting' };
    const verdict = ledger.charter === null ? ({ kind: 'allow' } as const) : judgeStanding(this.limitFacts(ledger.tip, ledger.charter));
    return { kind: 'open', verdict, roomLeft: !ledger.full, link: this.#parts.link() };
  }
}

function unavailableCode(state: HolderState, mounting: boolean): 'busy' | 'no-token' | 'locked' | 'halted' {
  switch (state.kind) {
    case 'starting':
      return 'busy';
    case 'absent':
    case 'blank':
      return 'no-token';
    case 'locked':
      return 'locked';
    case 'halted':
      return 'halted';
    case 'open':
      return mounting ? 'busy' : 'halted';
    default:
      return unreachable(state);
  }
}

/** Newest time that is proven: own entries and the server's signatures. */
export function floorOf(tip: Tip): number {
  return Math.max(tip.lastIssuedAtMs, tip.serverTimeMs);
}
