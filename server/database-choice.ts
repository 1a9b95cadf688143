// Owns: which database a data directory uses: its own file (SQLite), or a PostgreSQL database whose URL stands in the directory's file `database-url`.
// Invariants: the URL is kept once the database has been bound to this directory's authority, so that a command beside the server finds the same one without
// being told; tokens, and codes that a ticket carries to one, are never left behind by a change that only names another database.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Database } from './database.ts';
import { holdsTokensOrCodes, openSqliteDatabase } from './database-sqlite.ts';
import { readIfThere, replaceFile } from './key-file.ts';
import type { Log } from './log.ts';
import { parsePostgresUrl } from './postgres-url.ts';

export interface ChosenDatabase {
  readonly database: Database;
  /** To be called when the database is bound. */
  keep(): void;
}

const urlName = 'database-url';

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
