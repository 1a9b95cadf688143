// Owns: finding what is committed, written to the index or not yet. Rows wait in memory and are written behind the replies.
// Invariants: a row is found from the moment it is added: in memory first, then in the lookup, so that nothing falls between; rows are written in
// batch order, each with the head that it leads to; a failed write loses nothing: the rows stay and are tried again; no more than unwrittenMaxRows
// wait: past that the ledger takes nothing new (`full`), and where the lookup still takes nothing it is told as one to be replaced,
// unless it alone knows keys of documents that the log has released: a second invoice would be worse than none. A new key asks the lookup only until the filter has learned all that were used before.
// A lookup that is damaged is told (`onBroken`), and told again at each question, because whoever heard it first may not have been able to act yet: it is
// a cache and is made anew.
import { type Log, whyOf } from '#ground/log.ts';
import { entryKinds } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { KeyFilter } from './key-filter.ts';
import { type IndexHead, type IndexRow, isDamage, type Lookup } from './lookup.ts';
import type { PlannedEntry } from './numbering.ts';

const unwrittenMaxRows = 50_000;
const rowsPerWrite = 1_024;
/** Under load a transaction costs more than its rows: few large ones. */
const lingerMs = 150;
const retryMs = 1_000;
const brokenRetryMs = 500;
const keysPerPage = 2_000;

export interface LedgerIndexParts {
  readonly lookup: Lookup;
  /** Entries that the lookup has. */
  readonly entries: number;
  /** Newest batch that it has. */
  readonly batch: number;
  /** Whether the log has released what the lookup alone still knows. */
  hasReleased(): boolean;
  readonly log: Log;
  /** `isSpoilt`: its file is of no use. Else the file takes nothing more, and what it has is right. */
  onBroken(isSpoilt: boolean): void;
}

export class LedgerIndex {
  readonly #parts: LedgerIndexParts;
  readonly #byKey = new Map<string, IndexRow>();
  #waiting: { readonly rows: readonly IndexRow[]; readonly head: IndexHead }[] = [];
  #rowCount = 0;
  #writtenBatch: number;
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> | null = null;
  readonly #keys: KeyFilter;
  /** All keys that were used before this was opened are in the filter. */
  #knowsAllKeys = false;
  #broken = false;
  #isSpoilt = true;
  #closed = false;

  constructor(parts: LedgerIndexParts) {
    this.#parts = parts;
    this.#keys = new KeyFilter(2 * parts.entries);
    this.#writtenBatch = parts.batch;
    void this.#learnKeys();
  }

  /** Newest batch that is found after a restart, too, whether or not the log has it. */
  get keptBatch(): number {
    return this.#parts.lookup.isKept ? this.#writtenBatch : 0;
  }

  get full(): boolean {
    return this.#rowCount >= unwrittenMaxRows;
  }

  add(rows: readonly IndexRow[], head: IndexHead): void {
    this.#waiting.push({ rows, head });
    this.#rowCount += rows.length;
    for (const row of rows) {
      if (row.keyHash === null) continue;
      this.#byKey.set(row.keyHash, row);
      this.#keys.add(row.keyHash);
    }
    if (this.#rowCount >= rowsPerWrite) this.#begin();
    else this.#arm(lingerMs);
  }

  /** Certainly never used: the usual case, answered at once. */
  isNew(keyHash: string): boolean {
    return this.#knowsAllKeys && !this.#keys.mayHave(keyHash);
  }

  async byKey(keyHash: string): Promise<IndexRow | null> {
    if (this.isNew(keyHash)) return null;
    return this.#byKey.get(keyHash) ?? (await this.#ask((lookup) => lookup.byKey(keyHash)));
  }

  async byNumber(number: string): Promise<IndexRow | null> {
    return this.#newestWaiting((row) => row.number === number) ?? (await this.#ask((lookup) => lookup.byNumber(number)));
  }

  async bySequence(sequence: number): Promise<IndexRow | null> {
    return this.#newestWaiting((row) => row.sequence === sequence) ?? (await this.#ask((lookup) => lookup.bySequence(sequence)));
  }

  /** Newest document of one terminal, or of all when null. */
  async newest(terminal: string | null): Promise<IndexRow | null> {
    const isNewest = (row: IndexRow): boolean => row.number !== null && (terminal === null || row.terminal === terminal);
    return this.#newestWaiting(isNewest) ?? (await this.#ask((lookup) => lookup.newest(terminal)));
  }

  /** Credit notes that take back from this document, in order. */
  async correctionsOf(sequence: number): Promise<IndexRow[]> {
    // Memory first: a row that is written meanwhile is found twice rather than never.
    const waiting = this.#waiting.flatMap((part) => part.rows).filter((row) => row.corrects === sequence);
    const written = await this.#ask((lookup) => lookup.correctionsOf(sequence));
    return [...new Map([...written, ...waiting].map((row) => [row.sequence, row])).values()].sort((a, b) => a.sequence - b.sequence);
  }

  /** Admin entries before `sequence`, the newest first. */
  async adminBefore(sequence: number, limit: number): Promise<IndexRow[]> {
    // Memory first, as above.
    const waiting = this.#waiting.flatMap((part) => part.rows).filter((row) => row.kind === entryKinds.admin && row.sequence < sequence);
    const written = await this.#ask((lookup) => lookup.adminBefore(sequence, limit));
    const all = [...new Map([...written, ...waiting].map((row) => [row.sequence, row])).values()];
    return all.sort((a, b) => b.sequence - a.sequence).slice(0, limit);
  }

  /** Writes what waits now, as far as the lookup takes it. */
  async flush(): Promise<void> {
    await this.#writing; // what has come since is not in it
    this.#begin();
    await this.#writing;
  }

  /** Writes what waits, and closes the lookup. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    await this.#writing;
    if (!this.#broken) await this.#write();
    if (this.#waiting.length > 0) this.#parts.log.warn('the index was left behind the log; it will catch up', { rows: this.#rowCount });
    await this.#parts.lookup.close();
  }

  /** Behind the opening, so that it waits for nothing. Never rejects: until it is done, or if it fails, the lookup is asked. */
  async #learnKeys(): Promise<void> {
    try {
      for (let last = 0; !this.#closed && !this.#broken; ) {
        const page = await this.#parts.lookup.keysBehind(last, keysPerPage);
        for (const { keyHash } of page) this.#keys.add(keyHash);
        last = page.at(-1)?.sequence ?? last;
        this.#knowsAllKeys = page.length < keysPerPage;
        if (this.#knowsAllKeys) return;
      }
    } catch (cause) {
      this.#break(cause);
    }
  }

  async #ask<T>(question: (lookup: Lookup) => Promise<T>): Promise<T> {
    try {
      if (this.#broken) throw new UkeyError('internal', 'the index is broken');
      return await question(this.#parts.lookup);
    } catch (cause) {
      this.#break(cause);
      throw new UkeyError('busy', 'the index is being made anew', { cause, retryAfterMs: brokenRetryMs });
    }
  }

  #break(cause: unknown): void {
    if (this.#closed) return;
    if (!this.#broken) this.#parts.log.error('the index is damaged and is made anew', { why: whyOf(cause) });
    this.#broken = true;
    this.#parts.onBroken(this.#isSpoilt);
  }

  /** As many rows wait as may: whoever makes the index anew finds a place that takes them. */
  #giveUp(cause: unknown): void {
    if (this.#closed || this.#broken) return;
    this.#parts.log.error('the index cannot be written and is read anew from the log', { why: whyOf(cause), rows: this.#rowCount });
    this.#broken = true;
    this.#isSpoilt = false;
    this.#parts.onBroken(this.#isSpoilt);
  }

  #newestWaiting(test: (row: IndexRow) => boolean): IndexRow | null {
    for (let at = this.#waiting.length - 1; at >= 0; at -= 1) {
      const row = this.#waiting[at]?.rows.findLast(test);
      if (row !== undefined) return row;
    }
    return null;
  }

  #arm(waitMs: number): void {
    if (!this.#closed && !this.#broken) this.#timer ??= setTimeout(() => this.#begin(), waitMs);
  }

  #begin(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#writing !== null || this.#broken) return; // the end of the write under way goes on with what is left
    this.#writing = this.#write().finally(() => {
      this.#writing = null;
    });
  }

  /** Never rejects. */
  async #write(): Promise<void> {
    const taken = [...this.#waiting]; // what is added while this is written belongs to the next write
    const last = taken.at(-1);
    if (last === undefined) return;
    const rows = taken.flatMap((part) => part.rows);
    try {
      await this.#parts.lookup.write(rows, last.head);
    } catch (error) {
      // What waiting does not mend would end with a ledger that takes nothing any more (`full`).
      if (isDamage(error)) return this.#break(error);
      if (this.full && !this.#parts.hasReleased()) return this.#giveUp(error);
      this.#parts.log.warn('the index cannot be written; rows wait in memory', { why: whyOf(error), rows: this.#rowCount });
      this.#arm(retryMs);
      return;
    }
    this.#waiting = this.#waiting.slice(taken.length);
    this.#rowCount -= rows.length;
    this.#writtenBatch = last.head.batch;
    for (const row of rows) if (row.keyHash !== null && this.#byKey.get(row.keyHash) === row) this.#byKey.delete(row.keyHash);
    if (this.#waiting.length > 0) this.#arm(lingerMs);
  }
}

/** What the index keeps of an entry, once it is committed. */
export function rowOf(entry: PlannedEntry, batch: number, place: number): IndexRow {
  const { draft, leaf } = entry;
  const base = { sequence: leaf.sequence, batch, place, kind: entryKinds[leaf.kind], number: leaf.number };
  return draft.kind === 'document'
    ? { ...base, terminal: draft.terminal, keyHash: draft.keyHash, digest: draft.digest, corrects: draft.corrects }
    : { ...base, terminal: null, keyHash: null, digest: null, corrects: null };
}
