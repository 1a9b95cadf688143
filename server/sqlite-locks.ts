// Owns: SQLite files that one process has to itself: the folder of a running server, and a database that is being moved elsewhere.
// Invariants: the lock is the system's, so that it ends with the process, however that ends.
import { DatabaseSync } from 'node:sqlite';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Row } from './database-rows.ts';
import { bringUp } from './database-sqlite.ts';

/** An empty file, held until what is returned is called or this process ends, however. Throws what SQLite says where another holds it. */
export function holdAlone(path: string): () => void {
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    database.exec('BEGIN EXCLUSIVE');
  } catch (thrown) {
    database.close();
    throw thrown;
  }
  let isHeld = true;
  return () => {
    if (isHeld) database.close();
    isHeld = false;
  };
}

/** A database that nobody else has open, nor will until it is closed: for moving it elsewhere. */
export interface LockedFile {
  rows(table: string, columns: string, order: string): Iterable<Row>;
  close(): void;
}

/** Throws busy while a server or a command has it open. */
export function lockSqliteFile(path: string): LockedFile {
  bringUp(path);
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    // In this mode the log is not shared, which is refused while anybody else holds the file open.
    database.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (cause) {
    database.close();
    throw new UkeyError('busy', `${path} is in use: stop the server first`, { cause });
  }
  return {
    rows: (table, columns, order) => database.prepare(`SELECT ${columns} FROM ${table} ORDER BY ${order}`).iterate() as Iterable<Row>,
    close: () => {
      database.exec('ROLLBACK');
      database.close();
    },
  };
}
