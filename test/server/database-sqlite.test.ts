// The SQLite implementation: the suite of every database, and what is SQLite's own.
import { chmodSync, chownSync, existsSync } from 'node:fs';
import { mkdtemp, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openSqliteDatabase } from '#server/database-sqlite.ts';
import { schemaSql, schemaVersion } from '#server/sqlite-schema.ts';
import { databaseSuite } from '#test/suites/database-suite.ts';

databaseSuite('SQLite', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'ukey-database-'));
  return {
    open: async () => openSqliteDatabase(join(directory, 'tickets.db')),
    remove: async () => await rm(directory, { recursive: true, force: true }),
  };
});

describe('the SQLite file', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'ukey-database-'));
  });
  afterEach(async () => await rm(directory, { recursive: true, force: true }));

  test('is readable by its owner alone, with its log', async () => {
    const path = join(directory, 'tickets.db');
    const database = openSqliteDatabase(path);
    await database.setPublicUrl('https://x');
    for (const name of [path, `${path}-wal`, `${path}-shm`]) expect((await stat(name)).mode & 0o777).toBe(0o600);
    await database.close();
  });

  test('of a newer version is refused', () => {
    const path = join(directory, 'tickets.db');
    const raw = new DatabaseSync(path);
    raw.exec(`PRAGMA user_version = ${schemaVersion + 1}`);
    raw.close();
    expect(() => openSqliteDatabase(path)).toThrow(expect.objectContaining({ code: 'internal' }));
  });

  test('of the version before is brought up, with its alarms', async () => {
    const path = join(directory, 'tickets.db');
    const raw = new DatabaseSync(path);
    raw.exec(
      `${schemaSql.replace('  settled_at INTEGER,\n  settled_note TEXT,\n', '').replace(`user_version = ${schemaVersion}`, 'user_version = 1')}
      DROP TABLE successions; DROP TABLE recoveries; DROP TABLE renewals;`,
    );
    const tokenId = 'ab'.repeat(16);
    raw.exec(`INSERT INTO tokens VALUES (1, '${tokenId}', 's', 't', 'n', 1, 0, 1, x'00', 0, NULL, x'00', x'00')`);
    raw.exec("INSERT INTO alarms VALUES (1, 1, 'fork', 7, 'two batches 7', 5, x'01')");
    raw.close();
    const database = openSqliteDatabase(path);
    expect(await database.findToken(tokenId)).toMatchObject({ alarm: { batchIndex: 7, detail: 'two batches 7', raisedAtMs: 5 } });
    expect(await database.settleAlarms(tokenId, 'found', 9)).toBe(1);
    expect(await database.alarms(tokenId)).toEqual([]);
    expect(await database.successions(tokenId)).toEqual([]);
    expect(await database.renewals(tokenId)).toEqual([]);
    await database.close();
  });

  test('serves two connections: what one commits the other sees', async () => {
    const path = join(directory, 'tickets.db');
    const one = openSqliteDatabase(path);
    const two = openSqliteDatabase(path);
    await one.setPublicUrl('https://one');
    expect(await two.publicUrl()).toBe('https://one');
    await two.setPublicUrl('https://two');
    expect(await one.publicUrl()).toBe('https://two');
    await one.close();
    await two.close();
  });

  test('refuses every call once it is closed', async () => {
    const database = openSqliteDatabase(join(directory, 'tickets.db'));
    await database.close();
    await database.close();
    await expect(database.publicUrl()).rejects.toMatchObject({ code: 'internal' });
  });
});

describe('a disk that fails for a while', () => {
  const nobody = 65_534;
  let directory: string;
  let path: string;
  let log: Buffer;
  let database: ReturnType<typeof openSqliteDatabase>;

  /** The log is cut short under a connection that has not read it yet: SQLITE_IOERR_SHORT_READ. */
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'ukey-database-'));
    path = join(directory, 'tickets.db');
    const writer = openSqliteDatabase(path);
    database = openSqliteDatabase(path);
    await writer.setPublicUrl('https://before');
    log = await readFile(`${path}-wal`);
    await truncate(`${path}-wal`);
    await expect(database.publicUrl()).rejects.toMatchObject({ code: 'internal' });
    await writeFile(`${path}-wal`, log); // so that the writer finds all as it left it
    await writer.close();
  });
  afterEach(async () => {
    await database.close();
    await rm(directory, { recursive: true, force: true });
  });

  const works = async (): Promise<void> => {
    expect(await database.publicUrl()).toBe('https://before');
    await database.setPublicUrl('https://after');
    expect(await database.publicUrl()).toBe('https://after');
  };

  test('is forgotten when it works again', works);

  test('is tried at every call, and no new file is made in place of one that has gone', async () => {
    await rename(path, `${path}.away`);
    for (let call = 0; call < 3; call++) await expect(database.publicUrl()).rejects.toMatchObject({ code: 'internal' });
    await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });
    await writeFile(path, '');
    await expect(database.publicUrl()).rejects.toMatchObject({ code: 'internal' });
    await rm(path);
    await rename(`${path}.away`, path);
    await works();
  });

  test('is not taken for well while it can only be read', async () => {
    const isRoot = process.geteuid?.() === 0; // whom no mode keeps from writing
    if (isRoot) for (const file of [directory, path]) chownSync(file, nobody, nobody);
    chmodSync(path, 0o400);
    if (isRoot) process.seteuid?.(nobody);
    try {
      await expect(database.publicUrl()).rejects.toMatchObject({ code: 'internal' });
      await expect(database.setPublicUrl('https://after')).rejects.toMatchObject({ code: 'internal' });
      for (const file of [path, `${path}-wal`, `${path}-shm`]) if (existsSync(file)) chmodSync(file, 0o600); // those take the mode of the first
      await works();
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
  });

  test('does not open what was closed meanwhile', async () => {
    await database.close();
    await expect(database.publicUrl()).rejects.toMatchObject({ code: 'internal', message: 'the database is closed' });
  });
});
