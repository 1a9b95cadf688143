// Owns: `ticket-server move`: what a data directory keeps in its file (SQLite) goes into a PostgreSQL database, whole, and is used there from then on.
// Invariants: nobody else has the file open meanwhile; everything arrives in one transaction or nothing does, and every row is compared there before
// it is committed; only then the directory names the new database, and the file is put aside, so that no server goes on with it by mistake.
// A move that was interrupted is repeated: what has arrived already is known by the digests of its rows; where file and database differ it is refused,
// because either may hold what the other does not.
import { createHash } from 'node:crypto';
import { existsSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import { keepDatabaseUrl } from './database-choice.ts';
import { movePostgresWaits, openPostgresTransactions } from './database-postgres.ts';
import { bytesOf, type Row, textOf } from './database-rows.ts';
import type { Log } from './log.ts';
import { textValue } from './postgres-arrays.ts';
import { type MovedTable, movedOrder, movedTables, type StatementName, schemaName } from './postgres-schema.ts';
import type { Ask } from './postgres-tables.ts';
import { type LockedFile, lockSqliteFile } from './sqlite-locks.ts';

export interface Moved {
  readonly tokens: number;
  readonly batches: number;
  readonly entries: number;
  readonly bytes: number;
}

/** In this order: no row before what it refers to. */
const moves = {
  meta: 'moveMeta',
  codes: 'moveCodes',
  tokens: 'moveTokens',
  batches: 'moveBatches',
  entries: 'moveEntries',
  alarms: 'moveAlarms',
  successions: 'moveSuccessions',
  recoveries: 'moveRecoveries',
  renewals: 'moveRenewals',
} as const satisfies Record<MovedTable, StatementName>;
const tables = Object.keys(moves) as MovedTable[];

/** Text of one statement, about. */
const pageMaxBytes = 4 * 1024 * 1024;

/** What the file holds; it does not change while it is locked. */
interface Wanted {
  readonly authority: string;
  readonly moved: Moved;
  readonly digests: Readonly<Record<MovedTable, string>>;
}

/** Throws invalid-request where there is nothing to move, or the database holds something else; busy while the file is in use. */
export async function moveDatabase(directory: string, url: string, log: Log): Promise<Moved> {
  const path = join(directory, 'tickets.db');
  if (!existsSync(path)) throw wrong(`there is no ${path} to move`);
  const file = lockSqliteFile(path);
  let moved: Moved;
  try {
    const wanted = readAll(file); // before a transaction begins: PostgreSQL does not wait for a long reading
    const transactions = await openPostgresTransactions(url, log, movePostgresWaits);
    try {
      await transactions.transaction((ask) => moveAll(file, wanted, ask));
    } finally {
      await transactions.close();
    }
    moved = wanted.moved;
    keepDatabaseUrl(directory, url); // a crash from here on leaves the file where nobody looks at it any more
  } finally {
    file.close();
  }
  for (const ending of ['', '-wal', '-shm']) if (existsSync(path + ending)) renameSync(path + ending, `${path}.moved${ending}`);
  return moved;
}

async function moveAll(file: LockedFile, wanted: Wanted, ask: Ask): Promise<void> {
  const [bound] = await ask('readMeta', 'authority');
  if (bound !== undefined && textOf(bound, 'value') !== wanted.authority) throw wrong('the database holds something already');
  if (bound === undefined) {
    for (const table of tables) for (const page of pagesOf(rowsOf(file, table))) await ask(moves[table], page);
    await ask('movedSuccessions');
    await ask('movedIds');
  }
  for (const table of tables) {
    if ((await digestThere(ask, table)) === wanted.digests[table]) continue;
    if (bound === undefined) throw new UkeyError('internal', 'not everything has arrived');
    // Which of the two went on cannot be told, so neither is overwritten.
    throw wrong(
      `the database and the file hold the same authority and other ${table}: a server has run on one of them since they were the same. If none has ever run on the database, empty it (DROP SCHEMA ${schemaName} CASCADE) and repeat`,
    );
  }
}

function readAll(file: LockedFile): Wanted {
  let authority: string | null = null;
  const moved = { tokens: 0, batches: 0, entries: 0, bytes: 0 };
  const digests: Partial<Record<MovedTable, string>> = {};
  for (const table of tables) {
    const hash = createHash('sha256');
    for (const row of rowsOf(file, table)) {
      if (table === 'meta' && row['key'] === 'authority') authority = textOf(row, 'value');
      if (table === 'tokens' || table === 'batches' || table === 'entries') moved[table] += 1;
      if (table === 'batches') moved.bytes += bytesOf(row, 'bytes').length;
      hash.update(lineOf(table === 'batches' ? { ...row, bytes: createHash('sha256').update(bytesOf(row, 'bytes')).digest() } : row));
    }
    digests[table] = hash.digest('hex');
  }
  if (authority === null) throw wrong('no server has ever run on the file');
  return { authority, moved, digests: digests as Wanted['digests'] };
}

async function digestThere(ask: Ask, table: MovedTable): Promise<string> {
  const hash = createHash('sha256');
  await ask(`walk-${table}`);
  for (;;) {
    const rows = await ask(`next-${table}`);
    if (rows.length === 0) return hash.digest('hex');
    for (const row of rows) hash.update(lineOf(row));
  }
}

const rowsOf = (file: LockedFile, table: MovedTable): Iterable<Row> => file.rows(table, movedTables[table], movedOrder[table]);

/** Of a row, for its digest: the same from both databases, which give the columns in the same order. */
const lineOf = (row: Row): string => `${JSON.stringify(Object.values(row).map(plain))}\n`;

/** Rows as JSON arrays, a few MB each. */
function* pagesOf(rows: Iterable<Row>): Generator<string> {
  let page: string[] = [];
  let bytes = 0;
  for (const row of rows) {
    const text = JSON.stringify(Object.fromEntries(Object.entries(row).map(([column, value]) => [column, plain(value)])));
    page.push(text);
    bytes += text.length;
    if (bytes < pageMaxBytes) continue;
    yield `[${page.join(',')}]`;
    page = [];
    bytes = 0;
  }
  if (page.length > 0) yield `[${page.join(',')}]`;
}

function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return `\\x${Buffer.from(value.buffer, value.byteOffset, value.length).toString('hex')}`;
  return typeof value === 'string' ? textValue(value) : value;
}

const wrong = (why: string): UkeyError => new UkeyError('invalid-request', why, { field: 'database' });
