// Owns: the index from key, number and sequence to a place in the log. The only door to sqlite3.
// Invariants: a cache: whatever it holds can be deleted and is rebuilt from the log (where it reaches further it is a witness: index-witness.ts); it names the batch and seal that it reaches, in the same transaction
// as the rows, so that it can be behind but never silently lack a row; no amounts, no documents, no plain keys (a key is stored as a hash).
// WAL with synchronous=NORMAL: a power cut may lose the newest transactions, never tear one. One serial queue; integers stay below 2^53; no BigInt.
import { hash } from 'node:crypto';
import { chmodSync, closeSync, existsSync, openSync, rmSync } from 'node:fs';
import sqlite3 from 'sqlite3';
import { entryKinds } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

/** One entry as the index knows it. */
export interface IndexRow {
  readonly sequence: number;
  readonly batch: number;
  /** Place in the batch, from 0. */
  readonly place: number;
  /** entryKinds number. */
  readonly kind: number;
  readonly number: string | null;
  readonly terminal: string | null;
  readonly keyHash: string | null;
  /** Digest of the request's content, as the document carries it. */
  readonly digest: string | null;
  /** Sequence of the document that this credit note takes back from. */
  readonly corrects: number | null;
}

export interface IndexHead {
  readonly tokenId: string;
  readonly batch: number;
  readonly sealHash: string;
}

const schemaVersion = 1;
const busyWaitMs = 5_000;

/** What a filling needs, and what grows at its end. */
const orderedIndexes = `
  CREATE UNIQUE INDEX IF NOT EXISTS entry_number ON entry (number) WHERE number IS NOT NULL;
  CREATE INDEX IF NOT EXISTS entry_corrects ON entry (corrects) WHERE corrects IS NOT NULL;
  CREATE INDEX IF NOT EXISTS entry_admin ON entry (sequence) WHERE kind = ${entryKinds.admin};`;
/** A row of these lands anywhere: made at once over all rows they cost a fraction of what row by row costs. */
const scatteredIndexes = `
  CREATE UNIQUE INDEX IF NOT EXISTS entry_key ON entry (key_hash) WHERE key_hash IS NOT NULL;
  CREATE INDEX IF NOT EXISTS entry_terminal ON entry (terminal, sequence) WHERE terminal IS NOT NULL;`;
/** As INSERT OR REPLACE has it where the index stands already: the newest row of a key is the one. */
const dropOlderKeys = `
  DELETE FROM entry WHERE key_hash IS NOT NULL
    AND sequence NOT IN (SELECT max(sequence) FROM entry WHERE key_hash IS NOT NULL GROUP BY key_hash)`;

const tables = `
  PRAGMA journal_mode = WAL;
  CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1), token_id TEXT NOT NULL, batch INTEGER NOT NULL, seal_hash TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS entry (
    sequence INTEGER PRIMARY KEY, batch INTEGER NOT NULL, place INTEGER NOT NULL, kind INTEGER NOT NULL,
    number TEXT, terminal TEXT, key_hash TEXT, digest TEXT, corrects INTEGER);
  ${orderedIndexes}
  ${scatteredIndexes}
  PRAGMA user_version = ${schemaVersion};
  PRAGMA synchronous = NORMAL;
`;

const columns = 'sequence, batch, place, kind, number, terminal, key_hash AS keyHash, digest, corrects';
const insertRows = `
  INSERT OR REPLACE INTO entry (sequence, batch, place, kind, number, terminal, key_hash, digest, corrects)
  SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8 FROM json_each(?)`;
const setHead = 'INSERT OR REPLACE INTO head (id, token_id, batch, seal_hash) VALUES (1, ?, ?, ?)';

/** Of the 32 of SHA-256: enough to tell keys apart, and the index stays smaller. */
const keyHashBytes = 20;

export function keyHashOf(terminal: string, key: string): string {
  return Buffer.from(hash('sha256', `${terminal}\n${key}`, 'hex'), 'hex').toString('base64url', 0, keyHashBytes);
}

const suffixes = ['', '-wal', '-shm', '-journal'];
const ownerOnly = 0o600;

/** SQLite gives the files beside the index the mode of the index. Never opens one that is there: closing it would drop another connection's locks. */
function keepToOwner(path: string): void {
  if (!existsSync(path)) closeSync(openSync(path, 'wx', ownerOnly));
  for (const suffix of suffixes) if (existsSync(path + suffix)) chmodSync(path + suffix, ownerOnly);
}

/** Whether the file itself is spoilt: no full disk, no lock, nothing that passes. */
export function isDamage(error: unknown): boolean {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
  return code === 'SQLITE_CORRUPT' || code === 'SQLITE_NOTADB';
}

type Parameter = string | number;

export class Lookup {
  readonly #database: sqlite3.Database;
  #queue: Promise<unknown> = Promise.resolve();

  /** Outlives the process. */
  readonly isKept: boolean;

  private constructor(database: sqlite3.Database, isKept: boolean) {
    this.#database = database;
    this.isKept = isKept;
  }

  static remove(path: string): void {
    for (const suffix of suffixes) rmSync(path + suffix, { force: true });
  }

  /** Opens or creates the index; `:memory:` keeps it in memory. Rejects when it cannot be read or made. */
  static async open(path: string): Promise<Lookup> {
    if (path !== ':memory:') keepToOwner(path);
    const database = await new Promise<sqlite3.Database>((resolve, reject) => {
      const opened = new sqlite3.Database(path, (error) => (error === null ? resolve(opened) : reject(error)));
    });
    // sqlite3 kills the process by an error that nobody takes; every statement has its own callback, this is for the rest.
    database.on('error', () => undefined);
    database.configure('busyTimeout', busyWaitMs);
    const lookup = new Lookup(database, path !== ':memory:');
    try {
      const version = await lookup.#checkVersion();
      // A new file holds nothing that could be lost: what a crash leaves of it is found damaged, or empty, and is made anew.
      await lookup.#exec(`PRAGMA synchronous = ${version === 0 ? 'OFF' : 'NORMAL'}; ${tables}`);
      await lookup.#all('SELECT sequence FROM entry LIMIT 1', []);
      return lookup;
    } catch (error) {
      await lookup.close();
      throw error;
    }
  }

  /** One that is there and cannot, or must not, be written to. Rejects where it cannot be read, or is of another version. */
  static async openToRead(path: string): Promise<Lookup> {
    const database = await new Promise<sqlite3.Database>((resolve, reject) => {
      const opened = new sqlite3.Database(path, sqlite3.OPEN_READONLY, (error) => (error === null ? resolve(opened) : reject(error)));
    });
    database.on('error', () => undefined); // as above
    database.configure('busyTimeout', busyWaitMs);
    const lookup = new Lookup(database, true);
    try {
      await lookup.#checkVersion();
      return lookup;
    } catch (error) {
      await lookup.close();
      throw error;
    }
  }

  /** 0: it has just been made. Rejects with internal for another version than ours. */
  async #checkVersion(): Promise<number> {
    const [row] = await this.#all<{ user_version: number }>('PRAGMA user_version', []);
    const version = row?.user_version ?? 0;
    if (version !== 0 && version !== schemaVersion) throw new UkeyError('internal', 'the index is of another version');
    return version;
  }

  /** Newest batch with an entry that is of another kind than `beside`, where that is given; 0: there is none. */
  async newestBatch({ beside }: { readonly beside?: number } = {}): Promise<number> {
    const [where, values] = beside === undefined ? ['', []] : [' WHERE kind <> ?', [beside]];
    const [row] = await this.#all<{ batch: number | null }>(`SELECT max(batch) AS batch FROM entry${where}`, values);
    return row?.batch ?? 0;
  }

  /** Rows of batches before this one, behind sequence `behind`, in order. */
  rowsBefore(batch: number, behind: number, limit: number): Promise<IndexRow[]> {
    return this.#all(`SELECT ${columns} FROM entry WHERE sequence > ? AND batch < ? ORDER BY sequence LIMIT ?`, [behind, batch, limit]);
  }

  /** What the index reaches, or null when it is empty. */
  async head(): Promise<IndexHead | null> {
    const [row] = await this.#all<IndexHead>('SELECT token_id AS tokenId, batch, seal_hash AS sealHash FROM head', []);
    return row ?? null;
  }

  /** Rows and the head that they lead to, in one transaction. */
  write(rows: readonly IndexRow[], head: IndexHead): Promise<void> {
    const packed = JSON.stringify(
      rows.map((row) => [row.sequence, row.batch, row.place, row.kind, row.number, row.terminal, row.keyHash, row.digest, row.corrects]),
    );
    return this.#serial(async () => {
      await this.#exec('BEGIN IMMEDIATE');
      try {
        await this.#run(insertRows, [packed]);
        await this.#run(setHead, [head.tokenId, head.batch, head.sealHash]);
        await this.#exec('COMMIT');
      } catch (error) {
        await this.#exec('ROLLBACK').catch(() => undefined); // the first error is the one to tell
        throw error;
      }
    });
  }

  /** Back to `head`: what stands behind it was given up. */
  rewind(head: IndexHead): Promise<void> {
    return this.#serial(async () => {
      await this.#exec('BEGIN IMMEDIATE');
      try {
        await this.#run('DELETE FROM entry WHERE batch > ?', [head.batch]);
        await this.#run(setHead, [head.tokenId, head.batch, head.sealHash]);
        await this.#exec('COMMIT');
      } catch (error) {
        await this.#exec('ROLLBACK').catch(() => undefined); // the first error is the one to tell
        throw error;
      }
    });
  }

  clear(): Promise<void> {
    return this.#serial(() => this.#exec('DELETE FROM entry; DELETE FROM head;'));
  }

  /**
   * Many rows will be written in one go, in order: what is found by key or terminal is found again after `endFilling`. A crash in between leaves
   * an index that is behind, as any other; opening it makes the indexes.
   */
  beginFilling(): Promise<void> {
    return this.#serial(() => this.#exec('DROP INDEX entry_key; DROP INDEX entry_terminal;'));
  }

  endFilling(): Promise<void> {
    return this.#serial(async () => {
      try {
        await this.#exec(scatteredIndexes);
      } catch {
        // Two rows of one key. If it was something else, it fails again.
        await this.#exec(`${dropOlderKeys}; ${scatteredIndexes}`);
      }
      // The log of so many writes is not kept at its full size.
      await this.#exec('PRAGMA wal_checkpoint(TRUNCATE)');
    });
  }

  byKey(keyHash: string): Promise<IndexRow | null> {
    return this.#one(`SELECT ${columns} FROM entry WHERE key_hash = ?`, [keyHash]);
  }

  byNumber(number: string): Promise<IndexRow | null> {
    return this.#one(`SELECT ${columns} FROM entry WHERE number = ?`, [number]);
  }

  bySequence(sequence: number): Promise<IndexRow | null> {
    return this.#one(`SELECT ${columns} FROM entry WHERE sequence = ?`, [sequence]);
  }

  /** Newest document of one terminal, or of all when null. */
  newest(terminal: string | null): Promise<IndexRow | null> {
    return terminal === null
      ? this.#one(`SELECT ${columns} FROM entry WHERE number IS NOT NULL ORDER BY sequence DESC LIMIT 1`, [])
      : this.#one(`SELECT ${columns} FROM entry WHERE terminal = ? ORDER BY sequence DESC LIMIT 1`, [terminal]);
  }

  /** Credit notes that take back from this document. */
  correctionsOf(sequence: number): Promise<IndexRow[]> {
    return this.#serial(() => this.#all<IndexRow>(`SELECT ${columns} FROM entry WHERE corrects = ? ORDER BY sequence`, [sequence]));
  }

  /** Admin entries before `sequence`, the newest first. */
  adminBefore(sequence: number, limit: number): Promise<IndexRow[]> {
    const sql = `SELECT ${columns} FROM entry WHERE kind = ${entryKinds.admin} AND sequence < ? ORDER BY sequence DESC LIMIT ?`;
    return this.#serial(() => this.#all<IndexRow>(sql, [sequence, limit]));
  }

  /** Keys of the next so many entries behind `sequence`, in order. */
  keysBehind(sequence: number, limit: number): Promise<{ readonly sequence: number; readonly keyHash: string }[]> {
    const sql = 'SELECT sequence, key_hash AS keyHash FROM entry WHERE sequence > ? AND key_hash IS NOT NULL ORDER BY sequence LIMIT ?';
    return this.#serial(() => this.#all(sql, [sequence, limit]));
  }

  async close(): Promise<void> {
    await this.#queue.catch(() => undefined); // each caller has had its own error
    await new Promise<void>((resolve) => this.#database.close(() => resolve()));
  }

  async #one(sql: string, parameters: readonly Parameter[]): Promise<IndexRow | null> {
    const rows = await this.#serial(() => this.#all<IndexRow>(sql, parameters));
    return rows[0] ?? null;
  }

  /** sqlite3 mixes transactions of one handle: everything goes one after the other. */
  #serial<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work, work);
    this.#queue = result.catch(() => undefined);
    return result;
  }

  #all<T>(sql: string, parameters: readonly Parameter[]): Promise<T[]> {
    return new Promise((resolve, reject) => {
      this.#database.all<T>(sql, parameters, (error, rows) => (error === null ? resolve(rows) : reject(error)));
    });
  }

  #run(sql: string, parameters: readonly Parameter[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#database.run(sql, parameters, (error: Error | null) => (error === null ? resolve() : reject(error)));
    });
  }

  #exec(sql: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#database.exec(sql, (error) => (error === null ? resolve() : reject(error)));
    });
  }
}
