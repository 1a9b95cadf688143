// Owns: filling the index behind the replies. Rows wait in memory until they are written; a key is looked for there first.
// Invariants: rows are written in batch order, each with the head that it leads to; a failed write loses nothing: the rows stay and are tried again;
// no more than unwrittenMaxRows wait: past that the ledger takes nothing new (`full`).
import { type Log, whyOf } from '#ground/log.ts';
import type { IndexHead, IndexRow, Lookup } from './lookup.ts';

const unwrittenMaxRows = 50_000;
const rowsPerWrite = 1_024;
const lingerMs = 25;
const retryMs = 1_000;

export class IndexWriter {
  readonly #lookup: Lookup;
  readonly #log: Log;
  readonly #byKey = new Map<string, IndexRow>();
  #rows: { readonly rows: readonly IndexRow[]; readonly head: IndexHead }[] = [];
  #rowCount = 0;
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> | null = null;
  #closed = false;

  constructor(parts: { readonly lookup: Lookup; readonly log: Log }) {
    this.#lookup = parts.lookup;
    this.#log = parts.log;
  }

  get full(): boolean {
    return this.#rowCount >= unwrittenMaxRows;
  }

  add(rows: readonly IndexRow[], head: IndexHead): void {
    this.#rows.push({ rows, head });
    this.#rowCount += rows.length;
    for (const row of rows) if (row.keyHash !== null) this.#byKey.set(row.keyHash, row);
    if (this.#rowCount >= rowsPerWrite) this.#begin();
    else this.#timer ??= setTimeout(() => this.#begin(), lingerMs);
  }

  /** A committed row that the index may not have yet. */
  unwritten(keyHash: string): IndexRow | null {
    return this.#byKey.get(keyHash) ?? null;
  }

  /** Resolves when everything added before is in the index. Rejects when it cannot be written. */
  async settle(): Promise<void> {
    while (this.#rows.length > 0) {
      if (this.#writing !== null) await this.#writing;
      else await this.#write();
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    await this.settle().catch((error: unknown) =>
      this.#log.warn('the index was left behind the log; it will catch up', { why: whyOf(error) }),
    );
  }

  #begin(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#writing !== null) return;
    this.#write().catch((error: unknown) => {
      this.#log.warn('the index cannot be written; rows wait in memory', { why: whyOf(error), rows: this.#rowCount });
      if (!this.#closed) this.#timer ??= setTimeout(() => this.#begin(), retryMs);
    });
  }

  #write(): Promise<void> {
    const taken = this.#rows;
    const last = taken.at(-1);
    if (last === undefined) return Promise.resolve();
    const rows = taken.flatMap((part) => part.rows);
    const writing = this.#lookup.write(rows, last.head).then(
      () => this.#written(taken.length, rows),
      (error: unknown) => {
        this.#writing = null;
        throw error;
      },
    );
    this.#writing = writing;
    return writing;
  }

  #written(parts: number, rows: readonly IndexRow[]): void {
    this.#writing = null;
    this.#rows = this.#rows.slice(parts);
    this.#rowCount -= rows.length;
    for (const row of rows) if (row.keyHash !== null && this.#byKey.get(row.keyHash) === row) this.#byKey.delete(row.keyHash);
    if (this.#rows.length > 0 && !this.#closed) this.#timer ??= setTimeout(() => this.#begin(), lingerMs);
  }
}
