// Owns: locking the token when nobody has worked with it for as long as the charter says (`lockAfterIdleMinutes`), as session.logout does.
// Invariants: by the machine's uptime, sleep included, never by the wall clock; every document, every request of a till that works with the ledger, and a person's login and check of the store
// begins the time anew, while asking how the service stands does not, or a program that watches would keep it open for ever. The charter counts where a PIN is
// stored too: the token is then locked like any other, and the stored PIN opens it again at the next such request, and not before.
// A person who locks it is obeyed: then no request opens it.
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { HolderState } from '#holder/holder.ts';
import { errorTable } from '#ipc-schema/errors.ts';
import type { LockedWhy } from '#ledger/standing.ts';
import { logout, type SessionParts } from './session.ts';

const minuteMs = 60_000;
const storedPinAction = 'Nothing is to be done: the next request of a till opens it with the stored PIN.';
/** Between two attempts, where locking failed. */
const retryMs = 10_000;

export interface IdleFacts {
  /** As the charter says; undefined: never. */
  readonly afterMinutes: number | undefined;
  /** Since the ledger was opened or last used. */
  readonly idleMs: number;
}

export function isLockDue({ afterMinutes, idleMs }: IdleFacts): boolean {
  return afterMinutes !== undefined && idleMs >= afterMinutes * minuteMs;
}

/** The methods by which tills and ERP programs work. */
const usedMethods = ['invoice.issue', 'invoice.preview', 'invoice.get', 'invoice.last', 'ledger.read'] as const;
type Handler = (...args: never[]) => Promise<unknown>;
type Used = Readonly<Record<(typeof usedMethods)[number], Handler>>;

export interface IdleLockParts extends SessionParts {
  readonly clock: Clock;
  readonly log: Log;
  /** Whether what waits is going up now: then the token works by itself. */
  isUploading(): boolean;
  /** Told each time when it has locked the token. */
  onLocked?(): void;
}

export class IdleLock {
  readonly #parts: IdleLockParts;
  #isOpen = false;
  /** Elapsed time: when it was last used, and before which no attempt is made. */
  #usedMs = 0;
  #notBeforeMs = 0;
  #locking: Promise<void> | null = null;
  /** After how many minutes the token was locked; null: it was not, or is open again. */
  #lockedAfter: number | null = null;

  constructor(parts: IdleLockParts) {
    this.#parts = parts;
  }

  /** Why the token is locked, if it is for this. */
  get why(): LockedWhy | null {
    if (this.#lockedAfter === null) return null;
    const reason = `locked because nothing was asked for ${this.#lockedAfter} min, as the charter says`;
    return { reason, action: this.#parts.unattended === null ? errorTable.locked.action : storedPinAction };
  }

  /** Somebody works with it: a document was committed, a person logged in, the ledger was opened. */
  used(): void {
    this.#usedMs = this.#parts.clock.elapsedMs();
  }

  /** What a person does to the token; it opens nothing. */
  working<T>(act: () => Promise<T>): Promise<T> {
    this.used();
    return act();
  }

  /** Each state of the holder. A token that is open, or was pulled, is locked for being idle no more; one whose process was replaced is. */
  follow({ kind }: HolderState): void {
    if (kind === 'open' || kind === 'absent') this.#lockedAfter = null;
    if (kind === 'open' && !this.#isOpen) this.used();
    this.#isOpen = kind === 'open';
  }

  /** A person locks the token: the reason is theirs, and no request opens it. */
  leaveToPerson<T>(lock: () => Promise<T>): Promise<T> {
    this.#lockedAfter = null;
    return lock();
  }

  /** Every second. */
  look(): void {
    const { custody, clock, log } = this.#parts;
    const nowMs = clock.elapsedMs();
    const afterMinutes = custody.ledger?.charter?.lockAfterIdleMinutes;
    const isDue = isLockDue({ afterMinutes, idleMs: nowMs - this.#usedMs }) && !this.#parts.isUploading();
    if (!isDue || afterMinutes === undefined || this.#locking !== null || nowMs < this.#notBeforeMs) return;
    this.#lockedAfter = afterMinutes; // before the state changes: whoever hears of it hears why
    log.warn('the token is locked: it was idle', { minutes: afterMinutes });
    this.#locking = this.#lock().finally(() => {
      this.#locking = null;
    });
  }

  /** Never rejects. */
  async #lock(): Promise<void> {
    try {
      await logout(this.#parts);
      this.#parts.onLocked?.();
    } catch (error) {
      if (this.#isOpen) this.#lockedAfter = null; // else its process was replaced on the way: it is locked all the same
      this.#notBeforeMs = this.#parts.clock.elapsedMs() + retryMs;
      this.#parts.log.error('an idle token could not be locked', { why: whyOf(error) });
    }
  }

  /** The same handlers; those by which a till works begin the time anew, or open what was locked for being idle. */
  watching<H extends Used>(handlers: H): H {
    const watched = usedMethods.map((name) => {
      const handler: Handler = handlers[name];
      const use: Handler = async (...args) => {
        this.used();
        if (this.#locking !== null || this.#lockedAfter !== null) await this.#open();
        return await handler(...args);
      };
      return [name, use] as const;
    });
    return { ...handlers, ...Object.fromEntries(watched) };
  }

  /** Whoever asks then waits for the ledger as while any other login is on its way. */
  async #open(): Promise<void> {
    await this.#locking; // it cannot be stopped any more
    const { custody, unattended } = this.#parts;
    if (this.#lockedAfter === null || unattended === null) return;
    this.#lockedAfter = null;
    unattended.resume();
    if (custody.state.kind === 'locked') void custody.loggingIn(unattended.attempt(custody.state)); // never rejects
  }
}
