// Owns: the ledger of one token as the token comes and goes: mounts it when the holder opens, closes it when the token leaves, says the standing.
// Invariants: at most one Ledger is open, and what `use` gives is open; openings and closings follow one another, and an opening that the token has
// left behind is dropped (`#generation`); a ledger whose write failed is never used again: the holder reopens the log, and a new Ledger is read
// from it. While that lasts only a moment, callers wait (graceMs) instead of failing. A proven rollback or clone outlives the process (contradiction.ts):
// it stays until a ledger is opened that the proof does not speak against.
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, HolderState, Mount } from '#holder/holder.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { asUkeyError, UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { Budget } from '#ipc-schema/status.ts';
import { daysToTell } from './certificate-term.ts';
import { type CloneAlarm, type Contradiction, Contradictions } from './contradiction.ts';
import { Gauge, type GaugeParts } from './gauge.ts';
import { handedOver } from './handover.ts';
import { indexFileOf } from './index-witness.ts';
import type { Ledger } from './ledger.ts';
import { judgeClock, judgeStanding, type LimitFacts } from './limits.ts';
import { Lookup } from './lookup.ts';
import type { PlannedEntry } from './numbering.ts';
import { type Opened, type OpeningParts, openAndJudge, shut } from './opened.ts';
import { Reclaimer } from './reclaiming.ts';
import { blankFact, codeWithoutLedger, type HoldingFact, type LockedWhy, type StandingReport, type Stop, standingOf } from './standing.ts';
import type { Tip } from './tip.ts';
import { graceMs, WaitingRoom } from './waiting-room.ts';

const busyRetryMs = 500;

export interface CustodyParts extends GaugeParts {
  readonly holder: Holder;
  readonly log: Log;
  /** Folder of the indexes, one file per token. */
  readonly stateDirectory: string;
  /** Why the ticket server refuses what is uploaded, again and again, and what keeps our own side from uploading; null: nothing does. */
  refusedFor(): string | null;
  heldUpBy?(): string | null;
  /** Another copy of the token, as the server has proven; left out: nobody asks. */
  alarm?(): CloneAlarm | null;
  /** What is plugged in while no token is there; left out: nobody looks. */
  usb?(): Extract<HoldingFact, { kind: 'absent' }>['usb'];
  /** Why a stored PIN does not unlock; left out: there is none. */
  whyLocked?(): LockedWhy | null;
  onCommitted(entries: readonly PlannedEntry[], batchIndex: number, commitMs: number): void;
  onChange(): void;
  /** Told when a ledger is open, before anybody may use it. */
  onOpened(ledger: Ledger): Promise<void>;
}

export class Custody {
  readonly #parts: CustodyParts;
  readonly #gauge: Gauge;
  readonly #reclaimer: Reclaimer;
  #state: HolderState = { kind: 'starting' };
  /** What callers may use. */
  #opened: Opened | null = null;
  /** A ledger is on its way: being read, or waiting for the holder to reopen the log. */
  #underWay = false;
  /** Logins on their way: `locked` is then a moment. */
  #logins = 0;
  /** Counts openings: work of an earlier one is dropped. */
  #generation = 0;
  /** What stops issuing until a ledger is opened that it does not speak against. */
  #halted: Stop | null = null;
  readonly #contradictions: Contradictions;
  /** Why the opened token's ledger could not be read; goes with the state. */
  #mountFailure: string | null = null;
  /** How far the ledger that is being opened was read; null: that has not begun. */
  #readPercent: number | null = null;
  /** Opening (`#generation`) whose mirror was tried to be taken into use. */
  #mirrorTried = 0;
  /** What is told while a ledger is set aside for a moment is what it says. */
  #aside: Ledger | null = null;
  #closed = false;
  #work: Promise<void> = Promise.resolve();
  readonly #waiting = new WaitingRoom();

  constructor(parts: CustodyParts) {
    this.#parts = parts;
    this.#gauge = new Gauge(parts);
    this.#reclaimer = new Reclaimer(parts);
    this.#contradictions = new Contradictions(parts.stateDirectory, parts.log);
  }

  /** The holder's callback: states are followed in order. */
  follow(state: HolderState): void {
    const before = this.#state;
    this.#state = state;
    if (before.kind === 'open' && state.kind === 'open') {
      this.#takeMirror(); // or new facts: a log is reopened only through another state
      this.#changed();
      return;
    }
    this.#generation += 1;
    this.#readPercent = null;
    this.#mountFailure = null;
    if (state.kind !== 'open' && state.kind !== 'starting') this.#aside = null;
    if (state.kind === 'open' && this.#halted?.kind === handedOver.kind) this.#halted = null; // the log that is opened now tells
    // Where the server's proof stops us, what is opened now may be the right one: it is judged, while callers are told `halted` at once.
    const mayOpen = state.kind === 'open' && !this.#closed;
    this.#underWay = mayOpen && this.#halted === null;
    this.#retire();
    if (mayOpen) this.#open(state.mount);
    this.#changed();
  }

  /** While this lasts, `locked` is a moment: callers wait. */
  async loggingIn<T>(login: Promise<T>): Promise<T> {
    this.#logins += 1;
    try {
      return await login;
    } finally {
      this.#logins -= 1;
      this.#changed();
    }
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
    if (this.#opened === null && this.#isTransient()) await this.#waiting.wait();
    if (this.#opened === null) throw this.#unavailable();
    return this.#opened.ledger;
  }

  /** Resolves when every opening that the holder has told of was judged: `ledger` or `standing` says how. */
  async settled(): Promise<void> {
    for (let work = this.#work; ; work = this.#work) {
      await work;
      if (work === this.#work) return;
    }
  }

  /** Acts while nothing is on its way and nothing is taken: for logging out. Callers meanwhile get `locked`. */
  async apart(act: () => Promise<void>): Promise<void> {
    const { ledger } = this;
    try {
      ledger?.stop(new UkeyError('locked', 'the token is being locked'));
      await ledger?.drained();
      await act();
    } catch (error) {
      ledger?.stop(null);
      throw error;
    }
  }

  /** The server has proven that this ledger cannot go on beside its own: kept durably, then issuing stops. */
  contradicted(ledger: Ledger, found: Contradiction): void {
    this.#contradictions.keep(ledger.mount.tokenId, found, this.#parts.clock.wallMs());
    if (this.ledger === ledger) this.#stop(found);
    else this.#then(() => this.#judgeAnew()); // it came late: what is open by now, of this token or another, is judged for itself
  }

  async #judgeAnew(): Promise<void> {
    const { ledger } = this;
    const against = ledger === null ? null : await this.#contradictions.against(ledger);
    if (against !== null && this.ledger === ledger) this.#stop(against);
  }

  /** This ledger ends with the entry that hands it over: its KEY issues nothing more. */
  handedOver(ledger: Ledger): void {
    const isOpen = this.ledger === ledger; // else the log tells, when it is opened
    ledger.close(new UkeyError('locked', handedOver.reason)); // nobody has proven anything against it
    if (isOpen) this.#stop(handedOver);
  }

  #stop(why: Stop): void {
    this.#parts.log.error('issuing stops', { reason: why.reason });
    this.#halted = { reason: why.reason, kind: why.kind };
    this.#underWay = false;
    this.#generation += 1;
    this.#retire();
    this.#changed();
  }

  /** Frees what the charter no longer asks to be kept: now and then, at once where the FLASH is full. Never rejects. */
  async reclaim(): Promise<void> {
    if (this.#opened !== null && (await this.#reclaimer.run(this.#opened))) this.#changed();
  }

  standing(): StandingReport {
    return standingOf(this.#holdingFact());
  }

  /** Another copy of the open ledger's token issues; null as well while none is open. */
  get alarm(): CloneAlarm | null {
    return this.ledger === null ? null : (this.#parts.alarm?.() ?? null);
  }

  budget(): Budget | null {
    const ledger = this.ledger ?? this.#aside;
    if (ledger?.charter === null || ledger?.charter === undefined) return null;
    return this.#gauge.budget(ledger.tip, ledger.charter, ledger.decimals);
  }

  limitFacts(tip: Tip, charter: Charter): LimitFacts {
    return this.#gauge.limitFacts(tip, charter);
  }

  /** Whether the wall clock may be printed; without a ledger nothing speaks against it but the server. */
  clockTrusted(): boolean {
    return judgeClock(this.#gauge.clockFacts(this.ledger?.tip ?? null)).kind === 'allow';
  }

  /** What was taken is answered first. */
  async close(): Promise<void> {
    await this.ledger?.drained();
    this.#closed = true;
    this.#aside = null;
    this.#underWay = false;
    this.#generation += 1;
    this.#retire();
    this.#changed();
    await this.#work;
  }

  // ---- Opening and closing, one after the other

  #then(step: () => Promise<void>): void {
    this.#work = this.#work.then(step).catch((error: unknown) => this.#parts.log.error('a fault in custody', { why: whyOf(error) }));
  }

  #open(mount: Mount): void {
    const generation = this.#generation;
    this.#then(async () => {
      const isStale = (): boolean => generation !== this.#generation;
      if (isStale()) return;
      try {
        const { opened, found } = await this.#openAndJudge(mount);
        if (isStale()) return await shut(opened, this.#unavailable());
        if (found !== null) {
          this.#stop(found);
          return await shut(opened, this.#unavailable());
        }
        this.#halted = null;
        this.#opened = opened;
      } catch (error) {
        if (isStale()) return;
        const known = asUkeyError(error);
        this.#mountFailure = known.message;
        this.#parts.log.error('the ledger cannot be opened', { code: known.code, why: whyOf(error) });
      }
      this.#underWay = false;
      this.#aside = null;
      this.#takeMirror(); // first: who waits goes on waiting then
      this.#changed();
    });
  }

  #openAndJudge(mount: Mount): ReturnType<typeof openAndJudge> {
    const { holder, clock, log, stateDirectory, onCommitted, onOpened } = this.#parts;
    const parts: OpeningParts = {
      holder,
      clock,
      log,
      stateDirectory,
      contradictions: this.#contradictions,
      limitFacts: (tip, charter) => this.limitFacts(tip, charter),
      onCommitted,
      onOpened,
      onProgress: (percent) => {
        this.#readPercent = percent;
      },
      onIndexBroken: (opened, isSpoilt) => this.#indexBroken(opened, isSpoilt),
      onFailed: (opened) => this.#failed(opened),
    };
    return openAndJudge(parts, mount);
  }

  /** From here on nobody is given this ledger; its callers hear why. */
  #retire(): void {
    const opened = this.#opened;
    this.#opened = null;
    if (opened === null) return;
    const why = this.#unavailable();
    opened.ledger.close(why);
    this.#then(() => shut(opened, why));
  }

  /** A write's outcome is unknown: the holder opens the log again by itself, and `follow` hears of it. */
  #failed(opened: Opened): void {
    if (this.#opened !== opened) return;
    this.#underWay = true;
    this.#retire();
    this.#changed();
  }

  /** The index is a cache: read anew from the log, while callers wait. One that only takes nothing more stays: what it knows may be asked once again. */
  #indexBroken(opened: Opened, isSpoilt: boolean): void {
    if (this.#opened !== opened) return;
    const generation = this.#generation;
    this.#setAside(opened, 'the index is being made anew');
    this.#then(async () => {
      if (isSpoilt) Lookup.remove(indexFileOf(this.#parts.stateDirectory, opened.ledger.mount.tokenId));
      if (generation === this.#generation) this.#open(opened.ledger.mountNow());
    });
  }

  /** A mirror that was made beside the tills is taken between two batches, once for an opening: callers wait, and nothing is on its way then. */
  #takeMirror(): void {
    const opened = this.#opened;
    const state = this.#state;
    if (opened === null || state.kind !== 'open' || state.mirrorWaits !== true || this.#mirrorTried === this.#generation) return;
    const generation = this.#generation;
    this.#mirrorTried = generation;
    this.#setAside(opened, 'the mirror is being taken into use');
    this.#then(async () => {
      if (generation !== this.#generation) return;
      const { holder, log } = this.#parts;
      await holder.openAgain().catch((error: unknown) => log.warn('the mirror was not taken into use', { why: whyOf(error) }));
      // Where it was, `follow` has heard of the new opening; else the old one goes on.
      if (generation === this.#generation) this.#open(opened.ledger.mountNow());
    });
  }

  /** Whoever comes waits for the ledger that follows; what is on its way ends first. */
  #setAside(opened: Opened, reason: string): void {
    const busy = new UkeyError('busy', reason, { retryAfterMs: busyRetryMs });
    this.#opened = null;
    this.#readPercent = null;
    this.#underWay = true;
    this.#aside = opened.ledger;
    setTimeout(() => {
      if (this.#aside !== opened.ledger) return;
      this.#aside = null; // it takes longer than callers wait
      this.#changed();
    }, graceMs).unref();
    opened.ledger.stop(busy);
    this.#then(async () => {
      await opened.ledger.drained();
      await shut(opened, busy);
    });
    this.#changed();
  }

  // ---- Waiting, and what callers are told

  #changed(): void {
    if (this.#opened !== null || !this.#isTransient()) this.#waiting.wake();
    this.#parts.onChange();
  }

  /** Whether waiting a moment may help. */
  #isTransient(): boolean {
    if (this.#halted !== null || this.#closed) return false;
    const { kind } = this.#state;
    return this.#underWay || kind === 'starting' || (kind === 'locked' && this.#logins > 0);
  }

  #unavailable(): UkeyError {
    const { reason, action } = this.standing();
    const waits = this.#isTransient();
    const code = this.#halted !== null ? 'halted' : waits ? 'busy' : codeWithoutLedger(this.#state.kind, this.#mountFailure !== null);
    return new UkeyError(code, reason, {
      action: action === '' ? undefined : action,
      ...(code === 'busy' ? { retryAfterMs: busyRetryMs } : {}),
    });
  }

  #holdingFact(): HoldingFact {
    if (this.#halted !== null) return { kind: 'halted', reason: this.#halted.reason, by: this.#halted.kind };
    if (this.#mountFailure !== null) return { kind: 'halted', reason: this.#mountFailure, by: null };
    if (this.#aside !== null) return this.#openFact(this.#aside);
    const state = this.#state;
    switch (state.kind) {
      case 'starting':
        return state;
      case 'blank':
        return blankFact(state.facts);
      case 'absent':
        return { ...state, usb: this.#parts.usb?.() ?? null };
      case 'halted':
        return { ...state, by: null };
      case 'locked':
        return { kind: 'locked', pinLocked: state.facts.pinState === 'locked', why: this.#parts.whyLocked?.() ?? null };
      case 'open':
        return this.#openFact(this.ledger);
      default:
        return unreachable(state);
    }
  }

  #openFact(ledger: Ledger | null): HoldingFact {
    if (ledger === null) return { kind: 'mounting', percent: this.#readPercent };
    const verdict = ledger.charter === null ? ({ kind: 'allow' } as const) : judgeStanding(this.limitFacts(ledger.tip, ledger.charter));
    return {
      kind: 'open',
      verdict,
      roomLeft: !ledger.full,
      ...{ link: this.#parts.link(), refusedFor: this.#parts.refusedFor(), heldUpBy: this.#parts.heldUpBy?.() ?? null, alarm: this.alarm },
      certificateDays: daysToTell(ledger.certificateTerm, this.#parts.clock.wallMs()),
    };
  }
}
