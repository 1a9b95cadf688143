// Owns: one opened ledger as desk and upload use it: issuing once per key, finding, what is behind the last acknowledgement.
// Invariants: fiscal state changes through the sequencer alone; a key returns the same invoice whether it is in flight, waits to be indexed, or is indexed;
// what can be found is durable. After a failed write or a close it is never used again: the log is read anew into another one.
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, Mount } from '#holder/holder.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { entryKinds, isFiscal } from '#ipc-schema/entry.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { usualDecimals } from '#ipc-schema/money.ts';
import type { Template } from '#ipc-schema/template.ts';
import { type BatchSummary, summaryOf } from './batches.ts';
import { type CertificateTerm, termOf } from './certificate-term.ts';
import { CreditBook, type CreditHistory } from './credits.ts';
import { type LedgerIndex, rowOf } from './ledger-index.ts';
import type { LimitFacts } from './limits.ts';
import type { IndexRow } from './lookup.ts';
import { type Circumstance, type DocumentDraft, giveBackCredits, type OwnDraft, type PlannedEntry, planBatch } from './numbering.ts';
import type { Kept } from './reclaiming.ts';
import { type SealedBatch, Sequencer, type WhenDurable } from './sequencer.ts';
import { type Committed, committedAt, type Reads, readBatch, released } from './stored.ts';
import { Summaries } from './summaries.ts';
import { encodeTip, type Tip } from './tip.ts';

const busyRetryMs = 50;

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
  /** Of the KEY in force (DER): its newest. */
  readonly certificate: Uint8Array;
}

export interface LedgerParts {
  readonly holder: Holder;
  readonly index: LedgerIndex;
  readonly clock: Clock;
  readonly log: Log;
  readonly open: OpenLedger;
  limitFacts(tip: Tip, charter: Charter): LimitFacts;
  /** Told after each batch is durable, before the callers are answered. */
  onCommitted(entries: readonly PlannedEntry[], batchIndex: number, commitMs: number): void;
  /** Told once when the ledger must be mounted again. */
  onFailed(error: UkeyError): void;
}

interface KeyInUse {
  readonly digest: string;
  readonly committed: Promise<Committed>;
}

export type Which =
  | { readonly keyHash: string }
  | { readonly number: string }
  | { readonly sequence: number }
  | { readonly newestOf: string | null };

export class Ledger {
  readonly reads: Reads;
  readonly #parts: LedgerParts;
  readonly #tokenIdHex: string;
  readonly #sequencer: Sequencer;
  readonly #credits = new CreditBook();
  readonly #keys = new Map<string, KeyInUse>();
  readonly #summaries = new Summaries();
  #charter: Charter | null;
  #templates: readonly Template[];
  #kept: Kept;
  #certificate: Uint8Array;
  #certificateTerm: CertificateTerm | null = null;

  constructor(parts: LedgerParts) {
    const { holder, open } = parts;
    this.reads = holder;
    this.#parts = parts;
    this.#charter = open.charter;
    this.#templates = open.templates;
    this.#kept = open.mount;
    this.#certificate = open.certificate;
    this.#tokenIdHex = Buffer.from(open.mount.tokenId).toString('hex');
    this.#sequencer = new Sequencer({
      holder,
      tip: open.tip,
      clock: parts.clock,
      circumstance: () => this.#circumstance(),
      onSealed: (batch) => this.#sealed(batch),
      onFailed: (error) => {
        parts.log.error('the ledger stops and will be mounted again', { code: error.code, why: whyOf(error) });
        parts.onFailed(error);
      },
    });
  }

  /** State after everything that is durable. */
  get tip(): Tip {
    return this.#sequencer.durableTip;
  }

  /** The FLASH refused documents for want of room, and none was taken since. */
  get full(): boolean {
    return this.#sequencer.full;
  }

  get charter(): Charter | null {
    return this.#charter;
  }

  get templates(): readonly Template[] {
    return this.#templates;
  }

  /** Decimals of the amounts on this token: as its templates say, else the usual ones. */
  get decimals(): number {
    return this.#templates.length === 0 ? usualDecimals : Math.max(...this.#templates.map(({ decimals }) => decimals));
  }

  /** What the FLASH keeps of the past. */
  get kept(): Kept {
    return this.#kept;
  }

  /** Something was carried or released. */
  keep(kept: Kept): void {
    if (kept.oldestBatch > this.#kept.oldestBatch) this.#sequencer.roomMade();
    this.#kept = { oldestBatch: kept.oldestBatch, carried: kept.carried };
  }

  /** As the token was opened: its identity; `tip` says where the ledger stands now. */
  get mount(): Mount {
    return this.#parts.open.mount;
  }

  /** The newest certificate of the KEY in force (DER). */
  get certificate(): Uint8Array {
    return this.#certificate;
  }

  get certificateTerm(): CertificateTerm {
    this.#certificateTerm ??= termOf(this.#certificate);
    return this.#certificateTerm;
  }

  /** What is in memory now, for tests and figures. */
  get sizes(): { readonly keys: number; readonly summaries: number; readonly credits: number } {
    return { keys: this.#keys.size, summaries: this.#summaries.size, credits: this.#credits.size };
  }

  /** The mount as it would be found now, once nothing is on its way: for reading the same log again without opening the token. */
  mountNow(): Mount {
    const { nextBatch, nextSequence } = this.tip;
    return { ...this.mount, ...this.#kept, checkpoint: encodeTip(this.tip), checkpointBatch: nextBatch, nextBatch, nextSequence };
  }

  /** What has just become durable takes effect. */
  adopt(documents: { readonly charter?: Charter; readonly template?: Template; readonly certificate?: Uint8Array }): void {
    const { charter, template, certificate } = documents;
    if (certificate !== undefined) {
      this.#certificate = certificate;
      this.#certificateTerm = null;
    }
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
    if (inUse !== undefined) return await this.#awaitKey(inUse, draft.digest);
    let repeated = false;
    const committed = this.#findOrCommit(draft, () => {
      repeated = true;
    });
    this.#keys.set(draft.keyHash, { digest: draft.digest, committed });
    try {
      return { ...(await committed), repeated };
    } finally {
      this.#keys.delete(draft.keyHash); // by now the row is in the index or the request is known to have failed
    }
  }

  /** An earlier request with this key: null when there is none. Throws key-reused when its content differs. */
  async repeat(keyHash: string, digest: string): Promise<Issued | null> {
    const inUse = this.#keys.get(keyHash);
    if (inUse !== undefined) return await this.#awaitKey(inUse, digest);
    const known = await this.#known(keyHash, digest);
    return known === null ? null : { ...known, repeated: true };
  }

  async #awaitKey(inUse: KeyInUse, digest: string): Promise<Issued> {
    if (inUse.digest !== digest) throw keyReused();
    return { ...(await inUse.committed), repeated: true };
  }

  async #known(keyHash: string, digest: string): Promise<Committed | null> {
    const row = await this.#asking(() => this.#parts.index.byKey(keyHash));
    if (row === null) return null;
    if (row.digest !== digest) throw keyReused();
    return await this.#committed(row);
  }

  async #findOrCommit(draft: DocumentDraft, onRepeat: () => void): Promise<Committed> {
    const known = this.#parts.index.isNew(draft.keyHash) ? null : await this.#known(draft.keyHash, draft.digest);
    if (known !== null) {
      onRepeat();
      return known;
    }
    if (this.#parts.index.full) throw new UkeyError('busy', 'the index lags behind', { retryAfterMs: busyRetryMs });
    if (draft.corrects === null) return await this.#sequencer.commit(draft);
    return await this.#holdingCredit(draft.corrects, () => this.#sequencer.commit(draft));
  }

  /** The same decisions as `add`, on the durable state; nothing is committed. Throws what refuses. */
  async check(draft: DocumentDraft): Promise<void> {
    await this.#holdingCredit(draft.corrects, async () => {
      const now = this.#circumstance();
      const { outcomes, entries } = planBatch(this.tip, [draft], now);
      giveBackCredits(entries, now.credits);
      for (const outcome of outcomes) if (outcome.kind === 'refused') throw outcome.error;
    });
  }

  /** Commits an entry of the service's own: charter, template, acknowledgement, admin event. */
  addOwn(draft: OwnDraft): Promise<Committed> {
    return this.#sequencer.commit(draft);
  }

  /**
   * Commits this ledger's last entry, alone in its batch: what was taken before goes its way, and nothing new is taken (callers get `error`).
   * Where nothing was written, it goes on. Errors: busy, and the holder's.
   */
  async addLast(draft: OwnDraft, error: UkeyError): Promise<Committed> {
    if (this.#sequencer.ended !== null) throw this.#sequencer.ended;
    this.#sequencer.stop(error);
    try {
      await this.#sequencer.drained();
      this.#sequencer.stop(null);
      const committed = this.#sequencer.commit(draft);
      this.#sequencer.stop(error); // in the same turn: nothing else got in
      return await committed;
    } catch (thrown) {
      this.#sequencer.stop(null);
      throw thrown;
    }
  }

  async find(which: Which): Promise<Committed> {
    const { index } = this.#parts;
    const row = await this.#asking(() =>
      'keyHash' in which
        ? index.byKey(which.keyHash)
        : 'number' in which
          ? index.byNumber(which.number)
          : 'sequence' in which
            ? index.bySequence(which.sequence)
            : index.newest(which.newestOf),
    );
    if (row === null) throw new UkeyError('not-found', 'there is no such entry');
    return await this.#committed(row);
  }

  /** Rows of the admin entries before `sequence` (null: of all), the newest first; what was released included. */
  async adminRows(sequence: number | null, limit: number): Promise<IndexRow[]> {
    return await this.#asking(() => this.#parts.index.adminBefore(sequence ?? this.tip.nextSequence, limit));
  }

  /** The batch that holds this sequence, released ones included; null: there is none yet. 0: older than what this machine knows of. */
  async batchOf(sequence: number): Promise<number | null> {
    if (sequence >= this.tip.nextSequence) return null;
    return (await this.#asking(() => this.#parts.index.bySequence(sequence)))?.batch ?? 0;
  }

  /** What batch `batchIndex` adds to the backlog: from memory, or read. */
  async summary(batchIndex: number): Promise<BatchSummary> {
    const known = this.#summaries.get(batchIndex);
    if (known !== null) return known;
    const batch = await readBatch(this.#parts.holder, batchIndex);
    const summary = summaryOf(batch.leaves, batch.sealBytes);
    this.noteSummary(batchIndex, summary);
    return summary;
  }

  /** issuedAtMs of the first document from batch `fromBatch` on, on its way ones included. Only for batches that were the newest a moment ago. */
  oldestFrom(fromBatch: number): number | null {
    for (let at = fromBatch; at < this.tip.nextBatch; at += 1) {
      const oldestMs = this.#summaries.get(at)?.oldestMs ?? null;
      if (oldestMs !== null) return oldestMs;
    }
    for (const { leaf } of this.#sequencer.onTheirWay()) if (isFiscal(leaf.kind)) return leaf.issuedAtMs;
    return null;
  }

  /** Keeps what a reader of batches has decoded anyway. */
  noteSummary(batchIndex: number, summary: BatchSummary): void {
    if (batchIndex > this.tip.ackedBatch) this.#summaries.note(batchIndex, summary);
  }

  /** Takes nothing new from now on (callers get `error`); what was taken goes its way. null: takes again. */
  stop(error: UkeyError | null): void {
    this.#sequencer.stop(error);
  }

  /** Resolves when pool and flights are empty. */
  drained(): Promise<void> {
    return this.#sequencer.drained();
  }

  /** Ends it: who waits gets `error`, who is on the way unknown-outcome. */
  close(error: UkeyError): void {
    this.#sequencer.close(error);
  }

  /** Questions to the index: a ledger that has ended says why rather than what its closed index says. */
  async #asking<T>(question: () => Promise<T>): Promise<T> {
    const before = this.#sequencer.ended;
    if (before !== null) throw before;
    try {
      return await question();
    } catch (error) {
      throw this.#sequencer.ended ?? error;
    }
  }

  async #committed(row: IndexRow): Promise<Committed> {
    if (row.batch < this.#kept.oldestBatch) throw released(row);
    try {
      return committedAt(await readBatch(this.#parts.holder, row.batch), row.place);
    } catch (error) {
      // Released between the look and the read.
      throw asUkeyError(error).code === 'not-found' ? released(row) : error;
    }
  }

  async #holdingCredit<T>(original: number | null, act: () => Promise<T>): Promise<T> {
    if (original === null) return await act();
    await this.#credits.hold(original, () => this.#creditHistory(original));
    try {
      return await act();
    } finally {
      this.#credits.letGo(original);
    }
  }

  async #creditHistory(original: number): Promise<CreditHistory> {
    const { index } = this.#parts;
    const row = await this.#asking(() => index.bySequence(original));
    if (row === null || row.kind !== entryKinds.invoice)
      throw new UkeyError('not-found', 'there is no such invoice to correct', { field: 'corrects' });
    const { leaf } = await this.#committed(row);
    const credited: string[] = [];
    for (const correction of await this.#asking(() => index.correctionsOf(original)))
      credited.push((await this.#committed(correction)).leaf.total ?? '0');
    return { total: leaf.total ?? '0', credited };
  }

  #circumstance(): Circumstance {
    return {
      charter: this.#charter,
      wallMs: this.#parts.clock.wallMs(),
      limitFacts: (tip, charter) => this.#parts.limitFacts(tip, charter),
      credits: this.#credits,
    };
  }

  #sealed({ batchIndex, entries, sealBytes }: SealedBatch): WhenDurable {
    const summary = summaryOf(
      entries.map((entry) => entry.leaf),
      sealBytes,
    );
    const rows = entries.map((entry, place) => rowOf(entry, batchIndex, place));
    const head = { tokenId: this.#tokenIdHex, batch: batchIndex, sealHash: Buffer.from(summary.sealHash).toString('hex') };
    const acknowledges = entries.some((entry) => entry.leaf.kind === 'acknowledgement');
    return (commitMs) => {
      this.#summaries.note(batchIndex, summary);
      if (acknowledges) this.#summaries.forgetUpTo(this.tip.ackedBatch);
      this.#parts.index.add(rows, head);
      try {
        this.#parts.onCommitted(entries, batchIndex, commitMs);
      } catch (error) {
        // Whoever listens, what is durable is answered.
        this.#parts.log.error('a listener failed', { why: whyOf(error) });
      }
    };
  }
}

function keyReused(): UkeyError {
  return new UkeyError('key-reused', 'this key was used with another content', { field: 'key' });
}
