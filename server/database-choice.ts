// Owns: which database a data directory uses: its own file (SQLite), or a PostgreSQL database whose URL stands in the directory's file `database-url`.
// Invariants: the URL is kept once the database has been bound to this directory's authority, so that a command beside the server finds the same one without
// being told; on the file one server runs at a time; tokens, and codes that a ticket carries to one, are never left behind by a change that only names another database.
import { closeSync, existsSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Database } from './database.ts';
import { holdsTokensOrCodes, openSqliteDatabase } from './database-sqlite.ts';
import { readIfThere, replaceFile } from './key-file.ts';
import type { Log } from './log.ts';
import { parsePostgresUrl } from './postgres-url.ts';
import { holdAlone } from './sqlite-locks.ts';

export interface ChosenDatabase {
  readonly database: Database;
  /** To be called when the database is bound. */
  keep(): void;
}

const urlName = 'database-url';
const sqliteBusy = 5; // SQLITE_BUSY

/** `url`: of PostgreSQL; undefined: as before. Throws invalid-request where that is not right, and what opening it throws. */
export async function chooseDatabase(directory: string, url: string | undefined, log: Log): Promise<ChosenDatabase> {
  const ownFile = join(directory, 'tickets.db');
  const urlFile = join(directory, urlName);
  const bytes = readIfThere(urlFile);
  const kept = bytes === null ? null : Buffer.from(bytes).toString('utf8').trim();
  const chosen = url ?? kept;
  if (chosen === null) return { database: openSqliteDatabase(ownFile), keep: () => undefined };
  parsePostgresUrl(chosen); // before anything is opened
  if (kept === null) refuseLeavingTokens(ownFile);
  const { openPostgresDatabase } = await import('./database-postgres.ts'); // a server on SQLite has no use for it
  const database = await openPostgresDatabase(chosen, log);
  try {
    if (kept !== null && chosen !== kept && (await database.publicUrl()) === null)
      throw wrong(
        `the database is another one than in ${urlFile}, and no server has ever run on it: move what the old one holds first (pg_dump)`,
      );
  } catch (thrown) {
    await database.close();
    throw thrown;
  }
  return { database, keep: () => (chosen === kept ? undefined : keepDatabaseUrl(directory, chosen)) };
}

/**
 * For a server, as long as it runs: no other one on the directory's own file. Gives what gives it back; where the directory uses PostgreSQL, which several
 * servers may share, there is nothing to claim. Throws busy.
 */
export function claimOwnFile(directory: string): () => void {
  if (existsSync(join(directory, urlName))) return () => undefined;
  const file = join(directory, 'server.lock');
  if (!existsSync(file)) closeSync(openSync(file, 'a', 0o600)); // never of one that this process holds: closing it would let it go
  try {
    return holdAlone(file);
  } catch (cause) {
    if ((cause as { errcode?: unknown }).errcode !== sqliteBusy) throw cause;
    throw new UkeyError('busy', `another ticket server runs on ${directory}`, {
      cause,
      action:
        'Stop the other one, or name another folder with --dir; several servers may share a PostgreSQL database (docs/postgresql.md).',
    });
  }
}

/** From now on the directory's database is this one. */
export function keepDatabaseUrl(directory: string, url: string): void {
  replaceFile(join(directory, urlName), Buffer.from(`${url}\n`, 'utf8'));
}

function refuseLeavingTokens(file: string): void {
  if (existsSync(file) && holdsTokensOrCodes(file))
    throw wrong(
      `${file} holds tokens, or codes of tickets, which would be unknown in another database: ticket-server move takes them there`,
    );
}

const wrong = (why: string): UkeyError => new UkeyError('invalid-request', why, { field: 'database' });
