// Owns: the order of things: drafts gather in a pool, the pool becomes a batch, one holder.commit makes it durable.
// Invariants: at most one batch is unsealed, at most inFlightMaxBatches are not yet durable; nobody is answered before the batch and all before
// it are durable, in whatever order the holder tells; the tip that others see is the durable one.
// A batch of own entries alone may use the store's reserve: a full store still takes the acknowledgement that frees it.
// Failures: a refused seal means "nothing was written": the tip steps back, reservations go back, and the callers get a definite error. A failed
// write means "unknown": everybody on the way gets unknown-outcome, the pool a plain error, and this sequencer is never used again.
// Must not: know keys, indexes or what an upload is.
import { apart } from '#ground/asking.ts';
import type { Clock } from '#ground/clock.ts';
import { whyOf } from '#ground/log.ts';
import type { BatchDraft, Holder } from '#holder/holder.ts';
import { batchMaxBytes, batchMaxEntries, joinEntries } from '#ipc-schema/batch.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { buildTree, inclusionPath, leafHash, rootOf } from '#ipc-schema/merkle.ts';
import { Gathering } from './gathering.ts';
import {
  type Circumstance,
  type DocumentDraft,
  type Draft,
  giveBackCredits,
  type Plan,
  type PlannedEntry,
  planBatch,
} from './numbering.ts';
import { signatureMeanMs } from './rhythm.ts';
import type { Committed } from './stored.ts';
import { encodeTip, type Tip } from './tip.ts';

export const poolMaxDrafts = 4_096;
export const inFlightMaxBatches = 4;
const busyRetryMs = 50;

/** A batch on its way to FLASH (and mirror). */
export interface SealedBatch {
  readonly batchIndex: number;
  readonly entries: readonly PlannedEntry[];
  readonly sealBytes: Uint8Array;
}

/** Called once the batch is durable with all before it, before the callers are answered; must not throw. `commitMs`: since its seal was asked for. */
export type WhenDurable = (commitMs: number) => void;

export interface SequencerParts {
  readonly holder: Holder;
  readonly tip: Tip;
  readonly clock: Clock;
  circumstance(): Circumstance;
  /** Makes ready, while the devices sync, what is to be done once they have; must not throw. */
  onSealed(batch: SealedBatch): WhenDurable;
  /** Told once: the ledger must be mounted again. */
  onFailed(error: UkeyError): void;
}

interface Waiter {
  readonly draft: Draft;
  resolve(committed: Committed): void;
  reject(error: UkeyError): void;
}

/** What is done when a batch is durable, made ready before. */
interface Ready {
  readonly whenDurable: WhenDurable;
  readonly committed: readonly Committed[];
}

interface Flight extends Omit<SealedBatch, 'sealBytes'> {
  readonly plan: Plan;
  readonly waiters: readonly Waiter[];
  readonly before: Tip;
  readonly tree: ReturnType<typeof buildTree>;
  readonly sentMs: number;
  /** Null: not sealed yet. */
  ready: Ready | null;
  isDurable: boolean;
}

export class Sequencer {
  readonly #parts: SequencerParts;
  /** After everything that is numbered. */
  #tip: Tip;
  #durableTip: Tip;
  #pool: Waiter[] = [];
  #flights: Flight[] = [];
  #sealing = false;
  #stopped: UkeyError | null = null;
  #closed: UkeyError | null = null;
  #pumpQueued = false;
  #signatureMs: number | null = null;
  readonly #gathering: Gathering;
  #full = false;
  #whenIdle: (() => void)[] = [];

  constructor(parts: SequencerParts) {
    this.#parts = parts;
    this.#tip = parts.tip;
    this.#durableTip = parts.tip;
    this.#gathering = new Gathering(parts.clock, () => this.#pump());
  }

  get durableTip(): Tip {
    return this.#durableTip;
  }

  /** The FLASH refused documents for want of room; the next durable document clears it, or `roomMade`. */
  get full(): boolean {
    return this.#full;
  }

  /** Segments were freed. Whether they are enough the next document will tell. */
  roomMade(): void {
    this.#full = false;
  }

  /** Why nothing is taken any more, or null. */
  get ended(): UkeyError | null {
    return this.#closed ?? this.#stopped;
  }

  /** Entries that are numbered but not durable, in order. */
  *onTheirWay(): Generator<PlannedEntry> {
    for (const flight of this.#flights) yield* flight.entries;
  }

  /** Rejects with busy when the pool is full, with what refuses the draft, or with the holder's error. */
  commit(draft: Draft): Promise<Committed> {
    return new Promise((resolve, reject) => {
      const ended = this.ended;
      if (ended !== null) reject(ended);
      else if (this.#pool.length >= poolMaxDrafts) reject(new UkeyError('busy', 'the pool is full', { retryAfterMs: busyRetryMs }));
      else {
        this.#pool.push({ draft, resolve, reject });
        this.#gathering.news();
        this.#wake();
      }
    });
  }

  /** Takes nothing new from now on; what was taken goes its way. null: takes again. */
  stop(error: UkeyError | null): void {
    this.#stopped = error;
  }

  /** Resolves when pool and flights are empty. */
  async drained(): Promise<void> {
    while (!this.#isIdle()) await new Promise<void>((resolve) => this.#whenIdle.push(resolve));
  }

  /** Ends it: the pool gets `error`, who is on the way unknown-outcome. */
  close(error: UkeyError): void {
    if (this.#closed !== null) return;
    this.#closed = error;
    this.#gathering.end();
    const unknown = new UkeyError('unknown-outcome', 'the ledger closed before the outcome was known', { cause: error });
    const [pool, flights] = [this.#pool, this.#flights];
    this.#pool = [];
    this.#flights = [];
    for (const waiter of pool) waiter.reject(error);
    for (const flight of flights) for (const waiter of flight.waiters) waiter.reject(unknown);
    this.#tellIdle();
  }

  #isIdle(): boolean {
    return this.#pool.length === 0 && this.#flights.length === 0;
  }

  #tellIdle(): void {
    if (!this.#isIdle()) return;
    const told = this.#whenIdle;
    this.#whenIdle = [];
    for (const tell of told) tell();
  }

  /** One turn later, so that requests of the same tick share a batch. */
  #wake(): void {
    if (this.#pumpQueued) return;
    this.#pumpQueued = true;
    // A batch is nobody's alone: what comes of it bears no request's name.
    apart(() =>
      setImmediate(() => {
        this.#pumpQueued = false;
        this.#pump();
      }),
    );
  }

  #pump(): void {
    const mayTake = this.#closed === null && !this.#sealing && (!this.#gathering.isOn || this.#pool.length >= batchMaxEntries);
    if (mayTake && this.#pool.length > 0 && this.#flights.length < inFlightMaxBatches) {
      this.#sendNext(this.#takePool());
      if (this.#pool.length > 0) this.#wake();
    }
    this.#tellIdle();
  }

  /** Own entries first (an acknowledgement makes room), then documents in their order: about as many as fill a batch, `planBatch` knows exactly. */
  #takePool(): Waiter[] {
    const own = this.#pool.filter((waiter) => waiter.draft.kind === 'own');
    const documents = this.#pool.filter((waiter) => waiter.draft.kind !== 'own');
    // With documents a batch may not use the reserve.
    const ordered = this.#full && own.length > 0 ? own : [...own, ...documents];
    let bytes = 0;
    let count = 0;
    for (const { draft } of ordered) {
      bytes += draft.kind === 'document' ? draft.bodyBytes : draft.bodyMaxBytes;
      if (count > 0 && (count >= batchMaxEntries || bytes > batchMaxBytes)) break;
      count += 1;
    }
    this.#pool = ordered === own ? [...own.slice(count), ...documents] : ordered.slice(count);
    return ordered.slice(0, count);
  }

  #sendNext(waiters: readonly Waiter[]): void {
    const before = this.#tip;
    const drafts = waiters.map((waiter) => waiter.draft);
    const plan = planBatch(before, drafts, this.#parts.circumstance());
    if (plan.outcomes.length < waiters.length) this.#pool = [...waiters.slice(plan.outcomes.length), ...this.#pool];
    const taken = waiters.filter((waiter, at) => {
      const outcome = plan.outcomes[at];
      if (outcome?.kind === 'refused') waiter.reject(outcome.error);
      return outcome?.kind === 'planned';
    });
    if (plan.entries.length > 0) this.#send(before, plan, taken);
  }

  #send(before: Tip, plan: Plan, waiters: readonly Waiter[]): void {
    const { entries } = plan;
    const tree = buildTree(entries.map((entry) => leafHash(entry.leafBytes)));
    const draft: BatchDraft = {
      batchIndex: before.nextBatch,
      firstSequence: before.nextSequence,
      count: entries.length,
      root: rootOf(tree),
      sealedAtMs: plan.tip.lastIssuedAtMs,
      joinedEntries: joinEntries(entries.map((entry) => entry.encoded)),
      reserved: entries.every((entry) => entry.draft.kind === 'own'),
      checkpoint: encodeTip(before),
    };
    const flight: Flight = {
      batchIndex: before.nextBatch,
      entries,
      plan,
      waiters,
      before,
      tree,
      sentMs: this.#parts.clock.monotonicMs(),
      ready: null,
      isDurable: false,
    };
    this.#tip = plan.tip;
    this.#sealing = true;
    this.#flights.push(flight);
    const { sealed, durable } = this.#parts.holder.commit(draft);
    // Sealed: nothing is durable yet; the signer is free, so the next batch may be numbered. A crash here loses the batch whole: nobody was answered.
    sealed.then(
      (sealBytes) => this.#sealed(flight, sealBytes),
      (error: unknown) => this.#refused(flight, asUkeyError(error)),
    );
    // Durable: FLASH (and mirror) hold the batch and all before it. A crash from here on loses nothing: the same key finds it again.
    durable.then(
      () => {
        flight.isDurable = true;
        this.#answer();
      },
      // A batch that was not sealed is refused, above, with the same error.
      (error: unknown) =>
        void sealed.then(
          () => this.#fail(asUkeyError(error)),
          () => undefined,
        ),
    );
  }

  #sealed(flight: Flight, sealBytes: Uint8Array): void {
    if (this.#closed !== null) return;
    this.#sealing = false;
    this.#signatureMs = signatureMeanMs(this.#signatureMs, this.#parts.clock.monotonicMs() - flight.sentMs);
    this.#gathering.begin(this.#signatureMs);
    // Before the next batch is sent, so that the time until its seal is the signer's.
    flight.ready = this.#makeReady(flight, sealBytes);
    this.#answer();
    this.#pump();
  }

  /** The answers of a batch that is on its way to the devices. Nobody is told anything yet. */
  #makeReady({ batchIndex, entries, waiters, tree }: Flight, sealBytes: Uint8Array): Ready {
    const whenDurable = this.#parts.onSealed({ batchIndex, entries, sealBytes });
    const committed = waiters.map(({ draft }, place): Committed => {
      const entry = entries[place] as PlannedEntry;
      const evidence = { leaf: entry.leafBytes, index: place, count: entries.length, path: inclusionPath(tree, place), sealBytes };
      const one = { leaf: entry.leaf, body: entry.body, batchIndex, evidence };
      if (draft.kind === 'document') tellSealed(draft, one);
      return one;
    });
    return { whenDurable, committed };
  }

  /** The holder would not seal: nothing of this batch was written, and it is the newest, so the tip steps back. */
  #refused(flight: Flight, error: UkeyError): void {
    if (error.code === 'unknown-outcome') {
      this.#fail(error);
      return;
    }
    if (this.#closed !== null) return;
    this.#sealing = false;
    this.#flights = this.#flights.filter((each) => each !== flight);
    this.#tip = flight.before;
    giveBackCredits(flight.entries, this.#parts.circumstance().credits);
    let rejected = flight.waiters;
    if (error.code === 'store-full') {
      this.#full = true;
      // It shared its batch with documents: alone it may use the reserve.
      const own = flight.waiters.filter((waiter) => waiter.draft.kind === 'own');
      if (own.length < flight.waiters.length) {
        rejected = flight.waiters.filter((waiter) => waiter.draft.kind !== 'own');
        this.#pool = [...own, ...this.#pool];
      }
    }
    for (const waiter of rejected) waiter.reject(error);
    this.#pump();
  }

  /** Answers in order: a batch that is durable waits until all before it are. */
  #answer(): void {
    if (this.#closed !== null) return;
    for (let first = this.#flights[0]; first?.isDurable === true && first.ready !== null; first = this.#flights[0]) {
      const { entries, plan, ready, waiters } = first;
      this.#flights.shift();
      this.#gathering.news();
      this.#durableTip = plan.tip;
      if (entries.some((entry) => entry.draft.kind === 'document')) this.#full = false;
      ready.whenDurable(this.#parts.clock.monotonicMs() - first.sentMs);
      for (const [place, waiter] of waiters.entries()) waiter.resolve(ready.committed[place] as Committed);
    }
    this.#pump();
  }

  /** A write whose outcome nobody knows: nothing in memory is trusted any more. */
  #fail(error: UkeyError): void {
    if (this.#closed !== null) return;
    const isUnknown = error.code === 'unknown-outcome';
    this.close(
      isUnknown ? new UkeyError('busy', `the ledger is being recovered: ${whyOf(error)}`, { retryAfterMs: 500, cause: error }) : error,
    );
    this.#parts.onFailed(error);
  }
}

/** One answer that cannot be made is its caller's trouble, who makes it again and hears why; the others' batch goes on. */
function tellSealed(draft: DocumentDraft, committed: Committed): void {
  try {
    draft.onSealed?.(committed);
  } catch {
    // told as said above
  }
}
