// Owns: `ticket-server move`: what a data directory keeps in its file (SQLite) goes into a PostgreSQL database, whole, and is used there from then on.
// Invariants: nobody else has the file open meanwhile; everything arrives in one transaction or nothing does, and is counted there before it is
// committed; only then the directory names the new database, and the file is put aside, so that no server goes on with it by mistake.
// A move that was interrupted is repeated: what has arrived already is known by its counts.
import { existsSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import { keepDatabaseUrl } from './database-choice.ts';
import { openPostgresTransactions } from './database-postgres.ts';
import { countOf, type Row, textOf } from './database-rows.ts';
import { type LockedFile, lockSqliteFile } from './database-sqlite.ts';
import type { Log } from './log.ts';
import { textValue } from './postgres-arrays.ts';
import type { MovedTable, StatementName } from './postgres-schema.ts';
import type { Ask } from './postgres-tables.ts';

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

/** Text of one statement, about. */
const pageMaxBytes = 4 * 1024 * 1024;

/** Throws invalid-request where there is nothing to move, or the database holds something else; busy while the file is in use. */
export async function moveDatabase(directory: string, url: string, log: Log): Promise<Moved> {
  const path = join(directory, 'tickets.db');
  if (!existsSync(path)) throw wrong(`there is no ${path} to move`);
  const file = lockSqliteFile(path);
  let moved: Moved;
  try {
    const transactions = await openPostgresTransactions(url, log);
    try {
      moved = await transactions.transaction((ask) => moveAll(file, ask));
    } finally {
      await transactions.close();
    }
    keepDatabaseUrl(directory, url); // a crash from here on leaves the file where nobody looks at it any more
  } finally {
    file.close();
  }
  for (const ending of ['', '-wal', '-shm']) if (existsSync(path + ending)) renameSync(path + ending, `${path}.moved${ending}`);
  return moved;
}

async function moveAll(file: LockedFile, ask: Ask): Promise<Moved> {
  const wanted = countsOf(file);
  const authority = [...file.rows('meta')].find((row) => row['key'] === 'authority');
  if (authority === undefined) throw wrong('no server has ever run on the file');
  const [bound] = await ask('readMeta', 'authority');
  if (bound === undefined) {
    for (const table of Object.keys(moves) as MovedTable[]) for (const page of pagesOf(file.rows(table))) await ask(moves[table], page);
    await ask('movedSuccessions');
    await ask('movedIds');
  }
  const [row = {}] = await ask('movedCounts');
  const arrived = {
    tokens: countOf(row, 'tokens'),
    batches: countOf(row, 'batches'),
    entries: countOf(row, 'entries'),
    bytes: countOf(row, 'bytes'),
  };
  const isSame = (Object.keys(wanted) as (keyof Moved)[]).every((name) => wanted[name] === arrived[name]);
  const isOurs = bound === undefined || textOf(bound, 'value') === textOf(authority, 'value');
  if (isOurs && isSame) return arrived;
  throw bound === undefined ? new UkeyError('internal', 'not everything has arrived') : wrong('the database holds something already');
}

function countsOf(file: LockedFile): Moved {
  let [tokens, batches, entries, bytes] = [0, 0, 0, 0];
  for (const _ of file.rows('tokens')) tokens += 1;
  for (const _ of file.rows('entries')) entries += 1;
  for (const row of file.rows('batches')) {
    batches += 1;
    bytes += (row['bytes'] as Uint8Array).length;
  }
  return { tokens, batches, entries, bytes };
}

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
