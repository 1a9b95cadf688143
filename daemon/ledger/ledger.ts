// Owns: the sequencer: the only place that changes fiscal state. Requests gather in a pool; the pool becomes a batch; one holder.commit makes it durable.
// Invariants: single flight: at most one batch is unsealed, at most inFlightMaxBatches are not yet durable, order is kept; nobody is answered before
// the batch and all before it are durable; a key in the pool, on its way, unwritten in the index or in the index gives the same invoice.
// Failures: a refused seal means "nothing was written": the tip steps back and the callers get a definite error. A failed write means "unknown":
// the callers get unknown-outcome, the ledger closes, and mounting it again (recovery) makes the same key find the truth.

import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, Mount } from '#holder/holder.ts';
import { batchMaxBytes, batchMaxEntries, joinEntries, sealHashOf } from '#ipc-schema/batch.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { entryKinds, isFiscal } from '#ipc-schema/entry.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { buildTree, inclusionPath, leafHash, rootOf } from '#ipc-schema/merkle.ts';
import type { Template } from '#ipc-schema/template.ts';
import { CreditBook } from './credits.ts';
import type { IndexWriter } from './index-writer.ts';
import type { LimitFacts } from './limits.ts';
import type { IndexRow, Lookup } from './lookup.ts';
import { type Circumstance, type DocumentDraft, type Draft, type Plan, type PlannedEntry, planBatch } from './numbering.ts';
import { type BatchSummary, type Committed, committedAt, readBatch, summaryOf } from './stored.ts';
import { encodeTip, type Tip } from './tip.ts';

export const poolMaxDrafts = 4_096;
const inFlightMaxBatches = 4;
const busyRetryMs = 50;
/** Entry framing and leaf around a body, when a batch's size is judged before numbering. */
const entryOverheadBytes = 1_024;

export interface Issued extends Committed {
  /** An earlier request with this key issued it. */
  readonly repeated: boolean;
}

/** What mounting read: everything that the sequencer starts from. */
export interface OpenLedger {
  readonly mount: Mount;
  readonly tip: Tip;
  readonly charter: Charter | null;
  readonly templates: readonly Template[];
}

export interface LedgerParts {
  readonly holder: Holder;
  readonly lookup: Lookup;
  readonly indexWriter: IndexWriter;
  readonly clock: Clock;
  readonly log: Log;
  readonly open: OpenLedger;
  limitFacts(tip: Tip, charter: Charter): LimitFacts;
  /** Told after each batch is durable, before the callers are answered. */
  onCommitted(entries: readonly PlannedEntry[], batchIndex: number): void;
  /** Told once when the ledger must be mounted again. */
  onFailed(error: UkeyError): void;
}

interface Waiter {
  readonly draft: Draft;
  readonly bytes: number;
  resolve(committed: Committed): void;
  reject(error: UkeyError): void;
}

interface Flight {
  readonly batchIndex: number;
  readonly plan: Plan;
  readonly waiters: readonly Waiter[];
  readonly before: Tip;
  readonly tree: ReturnType<typeof buildTree>;
  sealBytes: Uint8Array | null;
}

interface KeyInUse {
  readonly digest: string;
  readonly committed: Promise<Committed>;
}

export class Ledger {
  readonly #parts: LedgerParts;
  readonly #tokenIdHex: string;
  readonly #credits = new CreditBook();
  readonly #keys = new Map<string, KeyInUse>();
  readonly #summaries = new Map<number, BatchSummary>();
  #tip: Tip;
  #durableTip: Tip;
  #charter: Charter | null;
  #templates: readonly Template[];
  #pool: Waiter[] = [];
  #flights: Flight[] = [];
  #sealing = false;
  #closed: UkeyError | null = null;
  #pumpQueued = false;
  #full = false;
  #whenIdle: (() => void)[] = [];

  constructor(parts: LedgerParts) {
    this.#parts = parts;
    this.#tip = parts.open.tip;
    this.#durableTip = parts.open.tip;
    this.#charter = parts.open.charter;
    this.#templates = parts.open.templates;
    this.#tokenIdHex = Buffer.from(parts.open.mount.tokenId).toString('hex');
  }

  /** State after everything that is durable. */
  get tip(): Tip {
    return this.#durableTip;
  }

  /** The FLASH refused the newest batch for want of room; the next durable batch clears it. */
  get full(): boolean {
    return this.#full;
  }

  get charter(): Charter | null {
    return this.#charter;
  }

  get templates(): readonly Template[] {
    return this.#templates;
  }

  get mount(): Mount {
    return this.#parts.open.mount;
  }

  /** A charter or template that has just become durable takes effect. */
  adopt(documents: { readonly charter?: Charter; readonly template?: Template }): void {
    const { charter, template } = documents;
    if (charter !== undefined) this.#charter = charter;
    if (template !== undefined)
      this.#templates = [...this.#templates.filter((each) => each.id !== template.id || each.version !== template.version), template];
  }

  /**
   * Issues once per key. Errors: key-reused, busy, what `judge` refuses, range-exhausted, credit-exceeds, too-large, and the holder's:
   * definite ones (nothing was written) or unknown-outcome.
   */
  async add(draft: DocumentDraft): Promise<Issued> {
    const inUse = this.#keys.get(draft.keyHash);
    if (inUse !== undefined) {
      if (inUse.digest !== draft.digest) throw keyReused();
      return { ...(await inUse.committed), repeated: true };
    }
    let repeated = false;
    const committed = this.#findOrCommit(draft, () => {
      repeated = true;
    });
    this.#keys.set(draft.keyHash, { digest: draft.digest, committed });
    try {
      return { ...(await committed), repeated };
    } finally {
      this.#keys.delete(draft.keyHash); // by now the row is in the index writer or the request is known to have failed
    }
  }

  async #findOrCommit(draft: DocumentDraft, onRepeat: () => void): Promise<Committed> {
    this.#checkOpen();
    const known = this.#parts.indexWriter.unwritten(draft.keyHash) ?? (await this.#parts.lookup.byKey(draft.keyHash));
    if (known !== null) {
      if (known.digest !== draft.digest) throw keyReused();
      onRepeat();
      return this.#committed(known);
    }
    if (draft.corrects === null) return this.#commit(draft);
    await this.#openCredit(draft.corrects);
    try {
      return await this.#commit(draft);
    } finally {
      this.#credits.letGo(draft.corrects);
    }
  }

  /** An earlier request with this key: null when there is none. Throws key-reused when its content differs. */
  async repeat(keyHash: string, digest: string): Promise<Issued | null> {
    const inUse = this.#keys.get(keyHash);
    if (inUse !== undefined && inUse.digest !== digest) throw keyReused();
    if (inUse !== undefined) return { ...(await inUse.committed), repeated: true };
    const known = this.#parts.indexWriter.unwritten(keyHash) ?? (await this.#parts.lookup.byKey(keyHash));
    if (known === null) return null;
    if (known.digest !== digest) throw keyReused();
    return { ...(await this.#committed(known)), repeated: true };
  }

  /** Commits an entry of the service's own: charter, template, acknowledgement, admin event. */
  addOwn(draft: Extract<Draft, { kind: 'own' }>): Promise<Committed> {
    return this.#commit(draft);
  }

  async find(
    which:
      | { readonly keyHash: string }
      | { readonly number: string }
      | { readonly sequence: number }
      | { readonly newestOf: string | null },
  ): Promise<Committed> {
    this.#checkOpen();
    await this.#parts.indexWriter.settle();
    const { lookup } = this.#parts;
    const row = await ('keyHash' in which
      ? lookup.byKey(which.keyHash)
      : 'number' in which
        ? lookup.byNumber(which.number)
        : 'sequence' in which
          ? lookup.bySequence(which.sequence)
          : lookup.newest(which.newestOf));
    if (row === null) throw new UkeyError('not-found', 'there is no such entry');
    return this.#committed(row);
  }

  /** What batch `batchIndex` adds to the backlog: from memory, or read once. */
  async summary(batchIndex: number): Promise<BatchSummary> {
    const known = this.#summaries.get(batchIndex);
    if (known !== undefined) return known;
    const batch = await readBatch(this.#parts.holder, batchIndex);
    const summary = summaryOf(batch.leaves, batch.sealBytes);
    this.#summaries.set(batchIndex, summary);
    return summary;
  }

  /** issuedAtMs of the oldest document behind batch `batchIndex`, on its way ones included; batches up to the first such must be known (`summary`). */
  oldestAfter(batchIndex: number): number | null {
    for (let at = batchIndex + 1; at < this.#durableTip.nextBatch; at += 1) {
      const summary = this.#summaries.get(at);
      if (summary !== undefined && summary.oldestMs !== null) return summary.oldestMs;
    }
    for (const flight of this.#flights) {
      const first = flight.plan.entries.find((entry) => isFiscal(entry.leaf.kind));
      if (first !== undefined) return first.leaf.issuedAtMs;
    }
    return null;
  }

  /** Keeps what a reader of batches has decoded anyway. */
  noteSummary(batchIndex: number, summary: BatchSummary): void {
    if (batchIndex > this.#tip.ackedBatch) this.#summaries.set(batchIndex, summary);
  }

  /** Resolves when pool and flights are empty, or the ledger is closed. */
  async drained(): Promise<void> {
    while (this.#closed === null && (this.#pool.length > 0 || this.#flights.length > 0)) {
      await new Promise<void>((resolve) => this.#whenIdle.push(resolve));
    }
  }

  /** Stops taking requests; callers on their way get `unknown-outcome` unless their batch is refused or durable first. */
  close(error: UkeyError): void {
    if (this.#closed !== null) return;
    this.#closed = error;
    const waiting = this.#pool;
    const unknown = new UkeyError('unknown-outcome', 'the ledger closed before the outcome was known', { cause: error });
    this.#pool = [];
    for (const waiter of waiting) waiter.reject(error);
    for (const flight of this.#flights) for (const waiter of flight.waiters) waiter.reject(unknown);
    this.#flights = [];
    this.#tellIdle();
  }

  #checkOpen(): void {
    if (this.#closed !== null) throw this.#closed;
  }

  async #committed(row: IndexRow): Promise<Committed> {
    return committedAt(await readBatch(this.#parts.holder, row.batch), row.place);
  }

  async #openCredit(original: number): Promise<void> {
    if (!this.#credits.has(original)) {
      const { lookup, indexWriter } = this.#parts;
      await indexWriter.settle();
      const row = await lookup.bySequence(original);
      if (row === null || row.kind !== entryKinds.invoice)
        throw new UkeyError('not-found', 'there is no such invoice to correct', { field: 'corrects' });
      const { leaf } = await this.#committed(row);
      const credited: string[] = [];
      for (const correction of await lookup.correctionsOf(original)) credited.push((await this.#committed(correction)).leaf.total ?? '0');
      this.#credits.load(original, leaf.total ?? '0', credited); // keeps a book that another request loaded meanwhile: it is newer
    }
    this.#credits.hold(original);
  }

  #commit(draft: Draft): Promise<Committed> {
    this.#checkOpen();
    if (this.#pool.length >= poolMaxDrafts || this.#parts.indexWriter.full) {
      throw new UkeyError('busy', 'the pool is full', { retryAfterMs: busyRetryMs });
    }
    return new Promise((resolve, reject) => {
      const bytes = entryOverheadBytes + (draft.kind === 'document' ? draft.bodyBytes : draft.bodyMaxBytes);
      this.#pool.push({ draft, bytes, resolve, reject });
      this.#wake();
    });
  }

  /** One turn later, so that requests of the same tick share a batch. */
  #wake(): void {
    if (this.#pumpQueued) return;
    this.#pumpQueued = true;
    setImmediate(() => {
      this.#pumpQueued = false;
      this.#pump();
    });
  }

  #pump(): void {
    if (this.#closed !== null || (this.#pool.length === 0 && this.#flights.length === 0)) this.#tellIdle();
    if (this.#closed !== null || this.#sealing || this.#pool.length === 0 || this.#flights.length >= inFlightMaxBatches) return;
    const waiters = this.#takePool();
    const before = this.#tip;
    let plan: Plan;
    try {
      plan = planBatch(
        before,
        waiters.map((waiter) => waiter.draft),
        this.#circumstance(),
      );
    } catch (error) {
      for (const waiter of waiters) waiter.reject(asUkeyError(error)); // nothing was sent, the tip has not moved
      this.#wake();
      return;
    }
    const taken = waiters.filter((waiter, at) => {
      const outcome = plan.outcomes[at];
      if (outcome?.kind === 'refused') waiter.reject(outcome.error);
      return outcome?.kind === 'planned';
    });
    if (plan.entries.length > 0) this.#send(before, plan, taken);
    if (this.#pool.length > 0) this.#wake();
  }

  #tellIdle(): void {
    const told = this.#whenIdle;
    this.#whenIdle = [];
    for (const tell of told) tell();
  }

  /** Own entries first (an acknowledgement makes room), then documents in their order, up to a batch's bounds. */
  #takePool(): Waiter[] {
    const ordered = [
      ...this.#pool.filter((waiter) => waiter.draft.kind === 'own'),
      ...this.#pool.filter((waiter) => waiter.draft.kind !== 'own'),
    ];
    let bytes = 0;
    let count = 0;
    for (const waiter of ordered) {
      bytes += waiter.bytes;
      if (count > 0 && (count >= batchMaxEntries || bytes > batchMaxBytes)) break;
      count += 1;
    }
    this.#pool = ordered.slice(count);
    return ordered.slice(0, count);
  }

  #circumstance(): Circumstance {
    return {
      charter: this.#charter,
      wallMs: this.#parts.clock.wallMs(),
      limitFacts: (tip, charter) => this.#parts.limitFacts(tip, charter),
      credits: this.#credits,
    };
  }

  #send(before: Tip, plan: Plan, waiters: readonly Waiter[]): void {
    const tree = buildTree(plan.entries.map((entry) => leafHash(entry.leafBytes)));
    const flight: Flight = { batchIndex: before.nextBatch, plan, waiters, before, tree, sealBytes: null };
    this.#tip = plan.tip;
    this.#sealing = true;
    this.#flights.push(flight);
    const commit = this.#parts.holder.commit({
      batchIndex: before.nextBatch,
      firstSequence: before.nextSequence,
      count: plan.entries.length,
      root: rootOf(tree),
      sealedAtMs: plan.tip.lastIssuedAtMs,
      joinedEntries: joinEntries(plan.entries.map((entry) => entry.encoded)),
      checkpoint: encodeTip(before),
    });
    // Sealed: nothing is durable yet; the signer is free, so the next batch may be numbered. A crash here loses the batch whole: nobody was answered.
    commit.sealed.then(
      (sealBytes) => this.#sealed(flight, sealBytes),
      (error: unknown) => this.#refused(flight, asUkeyError(error)),
    );
    // Durable: FLASH (and mirror) hold the batch and all before it. A crash from here on loses nothing: the same key finds it again.
    commit.durable.then(
      () => this.#durable(flight),
      (error: unknown) => {
        if (flight.sealBytes !== null) this.#fail(asUkeyError(error));
      },
    );
  }

  #sealed(flight: Flight, sealBytes: Uint8Array): void {
    flight.sealBytes = sealBytes;
    this.#sealing = false;
    if (this.#closed === null) this.#pump();
  }

  /** The holder would not seal: nothing of this batch was written, and it is the newest, so the tip steps back. */
  #refused(flight: Flight, error: UkeyError): void {
    this.#sealing = false;
    if (error.code === 'unknown-outcome') {
      this.#fail(error);
      return;
    }
    if (this.#closed !== null || !this.#flights.includes(flight)) return;
    this.#flights = this.#flights.filter((each) => each !== flight);
    this.#tip = flight.before;
    this.#full = error.code === 'store-full';
    for (const { draft } of flight.plan.entries) {
      if (draft.kind === 'document' && draft.corrects !== null) this.#credits.giveBack(draft.corrects, draft.total);
    }
    for (const waiter of flight.waiters) waiter.reject(error);
    this.#wake();
  }

  #durable(flight: Flight): void {
    if (this.#closed !== null || flight !== this.#flights[0] || flight.sealBytes === null) return;
    const { sealBytes, plan, batchIndex } = flight;
    this.#flights.shift();
    this.#durableTip = plan.tip;
    this.#full = false;
    const leaves = plan.entries.map((entry) => entry.leaf);
    this.#summaries.set(batchIndex, summaryOf(leaves, sealBytes));
    const head = { tokenId: this.#tokenIdHex, batch: batchIndex, sealHash: Buffer.from(sealHashOf(sealBytes)).toString('hex') };
    this.#parts.indexWriter.add(
      plan.entries.map((entry, place) => rowOf(entry, batchIndex, place)),
      head,
    );
    this.#parts.onCommitted(plan.entries, batchIndex);
    for (const [place, waiter] of flight.waiters.entries()) {
      const entry = plan.entries[place] as PlannedEntry;
      const evidence = { leaf: entry.leafBytes, index: place, count: leaves.length, path: inclusionPath(flight.tree, place), sealBytes };
      waiter.resolve({ leaf: entry.leaf, body: entry.body, batchIndex, evidence });
    }
    for (const done of this.#summaries.keys()) {
      if (done > this.#durableTip.ackedBatch) break;
      this.#summaries.delete(done);
    }
    this.#pump();
  }

  /** A write whose outcome nobody knows: nothing in memory is trusted any more. */
  #fail(error: UkeyError): void {
    if (this.#closed !== null) return;
    this.#parts.log.error('the ledger stops and will be mounted again', { code: error.code, why: whyOf(error) });
    this.close(
      error.code === 'unknown-outcome'
        ? new UkeyError('busy', 'the ledger is being recovered', { retryAfterMs: 500, cause: error })
        : error,
    );
    this.#parts.onFailed(error);
  }
}

function keyReused(): UkeyError {
  return new UkeyError('key-reused', 'this key was used with another content', { field: 'key' });
}

function rowOf(entry: PlannedEntry, batch: number, place: number): IndexRow {
  const { draft, leaf } = entry;
  const base = { sequence: leaf.sequence, batch, place, kind: entryKinds[leaf.kind], number: leaf.number };
  return draft.kind === 'document'
    ? { ...base, terminal: draft.terminal, keyHash: draft.keyHash, digest: draft.digest, corrects: draft.corrects }
    : { ...base, terminal: null, keyHash: null, digest: null, corrects: null };
}
