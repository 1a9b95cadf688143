// Owns: with sqlite-locks.ts the only door to node:sqlite: the ticket server's database in one file (with its write-ahead log beside it).
// Invariants: synchronous=FULL, so a COMMIT that returned is on the disk; each method is one transaction; statements are prepared once per open.
// Several processes may open the file at the same time (the server, a command that makes tickets): SQLite's locks keep them apart.
// After an error of the disk nothing that the connection believes may be trusted (a failed sync is not repeated): it is closed, the caller is told `internal`
// (what it asked for may or may not be durable), and the next call opens anew, until one can: the file that was there, for writing, which reads the log anew.
import { accessSync, closeSync, constants, openSync } from 'node:fs';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { UkeyError } from '#ipc-schema/errors.ts';
import { type ChainHead, chainStart } from '#ipc-schema/verify.ts';
import {
  type Alarm,
  type BatchMark,
  type CodeRecord,
  type Database,
  type EntryPlace,
  type EntryQuery,
  type Judged,
  type NewBatch,
  type RecoveryCode,
  type RecoveryState,
  type RenewalRecord,
  type Respelling,
  type StoredBatch,
  type SuccessionRecord,
  type TokenRecord,
  type TokenState,
  tokenMaxAlarms,
  type UsedCode,
} from './database.ts';
import {
  alarmOf,
  bytesOf,
  countOf,
  type Row,
  recoveryOf,
  renewalOf,
  successionOf,
  textOf,
  tokenStateOf,
  usedCodeOf,
} from './database-rows.ts';
import { migrations, schemaSql, schemaVersion, statementSql } from './sqlite-schema.ts';

/** How long one process waits for another's transaction. */
const lockWaitMs = 5_000;
/** Pages that the write-ahead log may grow to before they are moved into the file. */
const checkpointPages = 8_192;
const brokenCodes = new Set([8, 10, 11, 14, 15, 26]); // SQLITE_READONLY, IOERR, CORRUPT, CANTOPEN, PROTOCOL, NOTADB

type Statements = Record<keyof typeof statementSql, StatementSync>;

interface Connection {
  readonly database: DatabaseSync;
  readonly statements: Statements;
}

/** Opens or creates the database. Throws internal when it cannot be read, or was written by a newer version. */
export function openSqliteDatabase(path: string): Database {
  closeSync(openSync(path, 'a', 0o600)); // SQLite would create it readable for all; its log takes the mode of the file
  return new SqliteDatabase(path);
}

function reconnect(path: string): Connection {
  try {
    accessSync(path, constants.R_OK | constants.W_OK); // SQLite would make a file that is not there
    return connect(path, 'known');
  } catch (cause) {
    throw new UkeyError('internal', 'the database cannot be opened', { cause });
  }
}

function connect(path: string, expected: 'known' | 'any' = 'any'): Connection {
  const database = new DatabaseSync(path, { timeout: lockWaitMs, enableForeignKeyConstraints: true });
  try {
    database.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = ${checkpointPages}; BEGIN IMMEDIATE`);
    const version = Number(database.prepare('PRAGMA user_version').get()?.['user_version']);
    if (version === 0 && expected === 'known') throw new UkeyError('internal', 'the database has become empty');
    if (version === 0) database.exec(schemaSql);
    else migrate(database, version);
    // A file that can only be read opens and begins all the same: SQLite says so when something is to be written.
    database.exec('DELETE FROM meta WHERE 0; COMMIT');
    const statements = Object.fromEntries(Object.entries(statementSql).map(([name, sql]) => [name, database.prepare(sql)]));
    return { database, statements: statements as Statements };
  } catch (thrown) {
    database.close();
    throw thrown;
  }
}

/** Inside the transaction of the opening: all steps or none. */
function migrate(database: DatabaseSync, from: number): void {
  for (let version = from; version !== schemaVersion; version += 1) {
    const step = migrations[version];
    if (step === undefined) throw new UkeyError('internal', `the database has version ${from}, this server knows ${schemaVersion}`);
    database.exec(step);
  }
}

class SqliteDatabase implements Database {
  readonly #path: string;
  /** Null: to be opened by the next call. */
  #connection: Connection | 'closed' | null;

  constructor(path: string) {
    this.#path = path;
    this.#connection = connect(path);
  }

  /** Runs `work` in one transaction. IMMEDIATE takes the write lock first, so that a read inside cannot be outdated at COMMIT. */
  #transact<T>(begin: 'BEGIN' | 'BEGIN IMMEDIATE', work: (statements: Statements) => T): T {
    const { database, statements } = this.#open();
    try {
      database.exec(begin);
      const result = work(statements);
      database.exec('COMMIT'); // durable from here on; a crash before it leaves nothing of `work`
      return result;
    } catch (thrown) {
      this.#recover(database, thrown);
      throw thrown instanceof UkeyError ? thrown : new UkeyError('internal', 'the database refused', { cause: thrown });
    }
  }

  #open(): Connection {
    if (this.#connection === 'closed') throw new UkeyError('internal', 'the database is closed');
    this.#connection ??= reconnect(this.#path);
    return this.#connection;
  }

  #recover(database: DatabaseSync, thrown: unknown): void {
    let isBroken = brokenCodes.has(Number((thrown as { readonly errcode?: unknown }).errcode) & 0xff); // without what extends it
    try {
      if (!isBroken && database.isTransaction) database.exec('ROLLBACK');
    } catch {
      isBroken = true; // the caller is told of the first error
    }
    if (!isBroken) return;
    this.#connection = null;
    database.close();
  }

  async bindAuthority(fingerprint: string): Promise<void> {
    const bound = this.#transact('BEGIN IMMEDIATE', (sql) => {
      sql.addMeta.run('authority', fingerprint);
      return textOf(sql.readMeta.get('authority') ?? {}, 'value');
    });
    if (bound !== fingerprint) throw new UkeyError('halted', 'the database belongs to another authority than authority.json');
  }

  async setPublicUrl(url: string): Promise<void> {
    this.#transact('BEGIN IMMEDIATE', (sql) => sql.writeMeta.run('public-url', url));
  }

  async publicUrl(): Promise<string | null> {
    const row = this.#transact('BEGIN', (sql) => sql.readMeta.get('public-url'));
    return row === undefined ? null : textOf(row, 'value');
  }

  async addCode(code: CodeRecord): Promise<void> {
    this.#transact('BEGIN IMMEDIATE', (sql) => sql.addCode.run(code.codeHash, code.madeAtMs, code.expiresAtMs, code.grant));
  }

  async findCode(codeHash: string): Promise<UsedCode | null> {
    const row = this.#transact('BEGIN', (sql) => sql.findCode.get(codeHash));
    return row === undefined ? null : usedCodeOf(row);
  }

  async enrol(codeHash: string, token: TokenRecord, answer: string): Promise<'enrolled' | 'code-used' | 'token-known'> {
    return this.#transact('BEGIN IMMEDIATE', (sql) => {
      if (sql.tokenRow.get(token.tokenId) !== undefined || sql.successor.get(token.tokenId) !== undefined) return 'token-known';
      if (sql.useCode.run(token.tokenId, answer, codeHash).changes !== 1) return 'code-used';
      const start = chainStart(token.certificate);
      sql.addToken.run(
        token.tokenId,
        token.serial,
        token.issuerTaxId,
        token.issuerName,
        token.enrolledAtMs,
        start.batchIndex,
        start.nextSequence,
        start.sealHash,
        token.spki,
        token.certificate,
      );
      return 'enrolled';
    });
  }

  async findToken(tokenId: string): Promise<TokenState | null> {
    const row = this.#transact('BEGIN', (sql) => sql.findToken.get(tokenId));
    return row === undefined ? null : tokenStateOf(row);
  }

  async listTokens(afterTokenId: string, limit: number): Promise<readonly TokenState[]> {
    return this.#transact('BEGIN', (sql) => sql.listTokens.all(afterTokenId, limit)).map(tokenStateOf);
  }

  /** Rows of one token; none when the token is unknown. */
  #rowsOf(tokenId: string, statement: keyof Statements, ...values: SQLInputValue[]): Row[] {
    return this.#transact('BEGIN', (sql) => {
      const row = sql.tokenRow.get(tokenId);
      return row === undefined ? [] : sql[statement].all(countOf(row, 'id'), ...values);
    });
  }

  async marks(tokenId: string, fromBatch: number, count: number): Promise<readonly BatchMark[]> {
    return this.#rowsOf(tokenId, 'marks', fromBatch, count).map((row) => ({
      batchIndex: countOf(row, 'batch_index'),
      bytesHash: bytesOf(row, 'bytes_hash'),
      sealHash: bytesOf(row, 'seal_hash'),
    }));
  }

  async takenNumbers(tokenId: string, numbers: readonly string[]): Promise<ReadonlySet<string>> {
    return this.#transact('BEGIN', (sql) => {
      const token = sql.tokenRow.get(tokenId);
      if (token === undefined) return new Set<string>();
      const id = countOf(token, 'id');
      return new Set(numbers.filter((number) => sql.numberTaken.get(id, number) !== undefined));
    });
  }

  async store(tokenId: string, expected: Judged, batches: readonly NewBatch[], next: ChainHead, atMs: number): Promise<'stored' | 'moved'> {
    return this.#transact('BEGIN IMMEDIATE', (sql) => {
      const token = sql.tokenRow.get(tokenId);
      if (token === undefined) return 'moved';
      const id = countOf(token, 'id');
      // Batches of a key that another one was let take over from meanwhile would stand where that one's belong.
      if (sql.successionsSince.get(id, expected.succession ?? 0) !== undefined) return 'moved';
      const documents = batches.reduce((sum, batch) => sum + batch.entries.filter((entry) => entry.number !== null).length, 0);
      const { changes } = sql.moveHead.run(
        next.batchIndex,
        next.nextSequence,
        next.sealHash,
        documents,
        atMs,
        id,
        expected.batchIndex,
        expected.sealHash,
      );
      if (changes !== 1) return 'moved';
      for (const batch of batches) addBatch(sql, id, batch, atMs);
      return 'stored';
    });
  }

  async respell(tokenId: string, { batchIndex, sealHash }: ChainHead, respelling: Respelling): Promise<void> {
    this.#transact('BEGIN IMMEDIATE', (sql) => {
      const head = sql.respellHead.get(respelling.sealHash, tokenId, batchIndex, sealHash);
      if (head === undefined) return;
      sql.respellBatch.run(respelling.bytesHash, respelling.sealHash, respelling.bytes, countOf(head, 'id'), respelling.batchIndex);
    });
  }

  async raiseAlarm(tokenId: string, alarm: Alarm): Promise<void> {
    this.#transact('BEGIN IMMEDIATE', (sql) => {
      const token = sql.tokenRow.get(tokenId);
      if (token === undefined) throw new UkeyError('internal', 'an alarm for a token that is not there');
      const id = countOf(token, 'id');
      if (countOf(sql.countAlarms.get(id) ?? {}, 'kept') >= tokenMaxAlarms) return;
      sql.addAlarm.run(id, alarm.kind, alarm.batchIndex, alarm.detail, alarm.raisedAtMs, alarm.proof);
    });
  }

  async alarms(tokenId: string): Promise<readonly Alarm[]> {
    return this.#rowsOf(tokenId, 'alarms').map(alarmOf);
  }

  async settleAlarms(tokenId: string, note: string, atMs: number): Promise<number> {
    return this.#transact('BEGIN IMMEDIATE', (sql) => {
      const token = sql.tokenRow.get(tokenId);
      return token === undefined ? 0 : Number(sql.settleAlarms.run(atMs, note, countOf(token, 'id')).changes);
    });
  }

  async parked(tokenId: string, limit: number): Promise<readonly number[]> {
    return this.#rowsOf(tokenId, 'parked', limit)
      .map((row) => countOf(row, 'sequence'))
      .reverse();
  }

  async addRecovery(code: RecoveryCode): Promise<void> {
    this.#transact('BEGIN IMMEDIATE', (sql) => {
      const token = sql.tokenRow.get(code.tokenId);
      if (token === undefined) throw new UkeyError('internal', 'a recovery of a token that is not there');
      sql.addRecovery.run(code.codeHash, countOf(token, 'id'), code.madeAtMs, code.expiresAtMs, code.supersedes ? 1 : 0);
    });
  }

  async findRecovery(codeHash: string): Promise<RecoveryState | null> {
    const row = this.#transact('BEGIN', (sql) => sql.findRecovery.get(codeHash));
    return row === undefined ? null : recoveryOf(row);
  }

  async waitingRecoveries(tokenId: string): Promise<readonly RecoveryState[]> {
    return this.#rowsOf(tokenId, 'openRecoveries').map(recoveryOf);
  }

  async bindRecovery(codeHash: string, keyId: string, slot: Uint8Array, replyKey: Uint8Array): Promise<boolean> {
    return this.#transact('BEGIN IMMEDIATE', (sql) => sql.bindRecovery.run(keyId, slot, replyKey, codeHash, keyId).changes === 1);
  }

  async replyRecovery(codeHash: string, replyKey: Uint8Array, reply: Uint8Array): Promise<void> {
    this.#transact('BEGIN IMMEDIATE', (sql) => sql.replyRecovery.run(reply, codeHash, replyKey));
  }

  async successions(tokenId: string): Promise<readonly SuccessionRecord[]> {
    return this.#rowsOf(tokenId, 'successions').map(successionOf);
  }

  async succeed(
    codeHash: string,
    tokenId: string,
    expected: ChainHead,
    succession: SuccessionRecord,
  ): Promise<'succeeded' | 'moved' | 'key-known'> {
    const { serial, keyId, fromBatch, madeAtMs, previousSealHash, signed } = succession;
    return this.#transact('BEGIN IMMEDIATE', (sql) => {
      if (sql.tokenRow.get(keyId) !== undefined || sql.successor.get(keyId) !== undefined) return 'key-known';
      const row = sql.tokenRow.get(tokenId);
      if (row === undefined) return 'moved';
      const id = countOf(row, 'id');
      const newest = sql.successions.all(id).at(-1);
      if ((newest === undefined ? 0 : countOf(newest, 'serial')) !== serial - 1) return 'moved';
      if (sql.headIs.get(id, expected.batchIndex, expected.sealHash) === undefined) return 'moved';
      if (sql.settleRecovery.run(serial, codeHash, keyId).changes !== 1) return 'moved';
      sql.addSuccession.run(id, serial, keyId, fromBatch, madeAtMs, previousSealHash, signed);
      return 'succeeded';
    });
  }

  async renewals(tokenId: string): Promise<readonly RenewalRecord[]> {
    return this.#rowsOf(tokenId, 'renewals').map(renewalOf);
  }

  async renew(tokenId: string, renewal: RenewalRecord, succession: number): Promise<'renewed' | 'moved'> {
    const { serial, keyId, madeAtMs, renewedHash, certificate } = renewal;
    return this.#transact('BEGIN IMMEDIATE', (sql) => {
      const row = sql.tokenRow.get(tokenId);
      if (row === undefined) return 'moved';
      const id = countOf(row, 'id');
      if (sql.successionsSince.get(id, succession) !== undefined) return 'moved';
      return sql.addRenewal.run(id, serial, keyId, madeAtMs, renewedHash, certificate).changes === 1 ? 'renewed' : 'moved';
    });
  }

  async findBatch(tokenId: string, batchIndex: number): Promise<StoredBatch | null> {
    const [row] = this.#rowsOf(tokenId, 'findBatch', batchIndex);
    return row === undefined ? null : { batchIndex, bytes: bytesOf(row, 'bytes') };
  }

  async findEntries(tokenId: string, query: EntryQuery, limit: number): Promise<readonly EntryPlace[]> {
    const rows =
      query.kind === 'number'
        ? this.#rowsOf(tokenId, 'entriesByNumber', query.number, limit)
        : this.#rowsOf(tokenId, 'entriesFrom', query.fromSequence, limit);
    return rows.map((row) => ({ sequence: countOf(row, 'sequence'), batchIndex: countOf(row, 'batch_index') }));
  }

  async close(): Promise<void> {
    const connection = this.#connection;
    this.#connection = 'closed';
    if (connection !== 'closed') connection?.database.close();
  }
}

/** Brings an older version of the file up, and leaves it closed. */
export function bringUp(path: string): void {
  connect(path).database.close();
}

/** Whether another database in its place would leave something unknown: tokens, or codes on tickets that somebody may hold. */
export function holdsTokensOrCodes(path: string): boolean {
  const { database } = connect(path);
  try {
    return database.prepare('SELECT 1 AS one FROM tokens UNION ALL SELECT 1 FROM codes WHERE used_by IS NULL LIMIT 1').get() !== undefined;
  } finally {
    database.close();
  }
}

function addBatch(sql: Statements, token: number, batch: NewBatch, atMs: number): void {
  const { batchIndex, firstSequence, entries, bytes, bytesHash, sealHash } = batch;
  sql.addBatch.run(token, batchIndex, firstSequence, entries.length, atMs, bytesHash, sealHash, bytes);
  for (const entry of entries) {
    const { sequence, kind, number, issuedAtMs, currency, total, taxTotal, flaw } = entry;
    sql.addEntry.run(token, sequence, batchIndex, kind, number, issuedAtMs, currency, total, taxTotal, flaw);
  }
}
