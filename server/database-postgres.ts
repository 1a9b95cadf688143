// Owns: the only door to pg: the connections to PostgreSQL, transactions over them, and what is tried again.
// Invariants: a transaction that returned is durable: synchronous_commit is on for every connection, and a server with fsync off is refused. Where a connection is
// lost on the way of a COMMIT its outcome is not known: the work is repeated (it compares before it changes) and settled by what is found; only
// when the server does not come back in time the caller is told `internal`. Before that, nothing is committed and the caller is told `busy`.
// Connections, waits and tries have a maximum; every connection is opened anew after a while, so that its checks are made again.
// Must not: be given a password by anything but the password file; log what is stored.
import { readFileSync, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import pg from 'pg';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Database } from './database.ts';
import { countOf, type Row, textOf } from './database-rows.ts';
import { faultText, type Log } from './log.ts';
import { textValue } from './postgres-arrays.ts';
import { errorFor, type FaultKind, faultKindOf, maxTries, repeatWaitMs, type Stage, sqlStateOf } from './postgres-faults.ts';
import { openingLock, schemaName, schemaSql, schemaVersion, sessionSql, statementSql } from './postgres-schema.ts';
import { type Ask, PostgresTables, type Transactions, type Value } from './postgres-tables.ts';
import { type PostgresPlace, parsePostgresUrl, passwordIn } from './postgres-url.ts';

/** Of one server process. Uploads are few at a time (http.ts), everything else is short. */
const maxConnections = 12;
const oldestVersion = 130_000;

export interface PostgresWaits {
  /** For a connection, of the pool or a new one. */
  readonly connectMs: number;
  /** The server ends a statement, and waiting for a lock, by itself. */
  readonly statementMs: number;
  readonly lockMs: number;
  /** Longer than a statement may take: the line is dead. */
  readonly replyMs: number;
  readonly idleMs: number;
  readonly lifetimeMs: number;
}

export const defaultPostgresWaits: PostgresWaits = {
  connectMs: 5_000,
  statementMs: 30_000,
  lockMs: 10_000,
  replyMs: 40_000,
  idleMs: 60_000,
  lifetimeMs: 600_000,
};

/** Of a move, which nobody else waits for: each of its statements is bounded, but a slow disk may take its time over one. */
export const movePostgresWaits: PostgresWaits = { ...defaultPostgresWaits, statementMs: 1_800_000, replyMs: 1_860_000 };

/** Opens the database, and makes its tables where there are none. Throws invalid-request for the URL, busy where nothing answers, halted for a server that does not keep what it commits. */
export async function openPostgresDatabase(url: string, log: Log, waits: PostgresWaits = defaultPostgresWaits): Promise<Database> {
  return new PostgresTables(await openPostgresTransactions(url, log, waits));
}

export async function openPostgresTransactions(url: string, log: Log, waits: PostgresWaits = defaultPostgresWaits): Promise<Transactions> {
  const connections = new Connections(parsePostgresUrl(url), log, waits);
  try {
    await connections.transaction(prepareSchema);
    return connections;
  } catch (thrown) {
    await connections.close();
    throw thrown;
  }
}

async function prepareSchema(ask: Ask, raw: Raw): Promise<void> {
  await ask('turn', openingLock);
  if ((await ask('schemaThere')).length === 0) await raw(schemaSql);
  const [row] = await ask('readMeta', 'schema-version');
  const version = textOf(row ?? {}, 'value');
  if (version !== String(schemaVersion))
    throw new UkeyError('internal', `the database has version ${version}, this server knows ${schemaVersion}`);
}

/** Several statements at once, without values. */
type Raw = (sql: string) => Promise<void>;
type Work<T> = (ask: Ask, raw: Raw) => Promise<T>;
type Settle<T> = (ask: Ask, outcome: T) => Promise<T>;
/** `read`: nothing to commit; `statement`: one, which commits itself. */
type Form = 'read' | 'statement' | 'transaction';

interface Failed {
  readonly kind: FaultKind;
  readonly stage: Stage;
  readonly thrown: unknown;
}
type Tried<T> = { readonly kind: 'done'; readonly value: T } | Failed;

class Connections implements Transactions {
  readonly #pool: pg.Pool;
  readonly #log: Log;
  /** Null: not yet, which whoever opens it is told by the error. */
  #isReached: boolean | null = null;
  #closing: Promise<void> | null = null;

  constructor(place: PostgresPlace, log: Log, waits: PostgresWaits) {
    this.#log = log;
    this.#pool = new pg.Pool(poolConfigOf(place, waits));
    this.#pool.on('error', (fault) => this.#noteLoss(fault)); // of a connection at rest; it leaves the pool
  }

  async read(...[statement, ...values]: Parameters<Ask>): Promise<readonly Row[]> {
    return await this.#run('read', (ask) => ask(statement, ...values));
  }

  async statement<T>(work: Work<T>, settle?: Settle<T>): Promise<T> {
    return await this.#run('statement', work, settle);
  }

  async transaction<T>(work: Work<T>, settle?: Settle<T>): Promise<T> {
    return await this.#run('transaction', work, settle);
  }

  async close(): Promise<void> {
    this.#closing ??= this.#pool.end();
    await this.#closing;
  }

  async #run<T>(form: Form, work: Work<T>, settle?: Settle<T>): Promise<T> {
    let isInDoubt: boolean = false;
    for (let tryCount = 1; tryCount <= maxTries; tryCount += 1) {
      if (this.#closing !== null) throw new UkeyError('internal', 'the database is closed');
      const tried: Tried<T> = await this.#try(form, work, isInDoubt ? settle : undefined);
      if (tried.kind === 'done') return tried.value;
      const { kind, stage, thrown }: Failed = tried;
      isInDoubt ||= kind === 'lost' && stage === 'committing';
      const waitMs = repeatWaitMs(kind, stage, tryCount, isInDoubt);
      if (waitMs === null) throw errorFor(thrown, kind, isInDoubt);
      await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
    throw new UkeyError('internal', 'a bounded number of tries has no end'); // repeatWaitMs ends them
  }

  async #try<T>(form: Form, work: Work<T>, settle: Settle<T> | undefined): Promise<Tried<T>> {
    let stage: Stage = 'connecting';
    let client: pg.PoolClient | null = null;
    try {
      client = await this.#pool.connect();
      const { ask, raw } = questionsTo(client);
      stage = form === 'statement' ? 'committing' : 'working';
      if (form === 'transaction') await client.query('BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE');
      const outcome = await work(ask, raw);
      const value = settle === undefined ? outcome : await settle(ask, outcome);
      if (form === 'transaction') {
        stage = 'committing';
        // Durable from its answer on; a connection lost before that leaves it open what became of it. A transaction that had failed would be
        // rolled back by it without an error.
        const { command } = await client.query('COMMIT');
        if (command !== 'COMMIT') throw new UkeyError('internal', `the database answers COMMIT with ${command}`);
      }
      client.release();
      this.#noteReach();
      return { kind: 'done', value };
    } catch (thrown) {
      const kind = faultKindOf(thrown);
      if (client !== null) await giveBack(client, form, kind);
      if (kind === 'lost' || stage === 'connecting') this.#noteLoss(thrown);
      return { kind, stage, thrown };
    }
  }

  #noteLoss(thrown: unknown): void {
    if (this.#isReached !== true || this.#closing !== null) return;
    this.#isReached = false;
    this.#log('error', 'database-lost', { state: sqlStateOf(thrown), why: faultText(thrown) });
  }

  #noteReach(): void {
    const isBack = this.#isReached === false;
    this.#isReached = true;
    if (isBack) this.#log('info', 'database-back');
  }
}

/** A connection that cannot even roll back is closed; the server then rolls back by itself. */
async function giveBack(client: pg.PoolClient, form: Form, kind: FaultKind): Promise<void> {
  let isOfUse = kind !== 'lost';
  if (isOfUse && form === 'transaction') {
    isOfUse = await client.query('ROLLBACK').then(
      () => true,
      () => false,
    );
  }
  client.release(!isOfUse);
}

function questionsTo(client: pg.ClientBase): { readonly ask: Ask; readonly raw: Raw } {
  return {
    // Named: the server parses and plans each once per connection.
    ask: async (statement, ...values) =>
      (await client.query<Row>({ name: statement, text: statementSql[statement], values: values.map(sendable) })).rows,
    raw: async (sql) => {
      await client.query(sql);
    },
  };
}

const sendable = (value: Value): Value => (typeof value === 'string' ? textValue(value) : value);

function poolConfigOf(place: PostgresPlace, waits: PostgresWaits): pg.PoolConfig {
  const { host, port, database, tls, rootCertFile } = place;
  const user = place.user ?? userInfo().username;
  return {
    host,
    port,
    database,
    user,
    password: () => passwordFor({ ...place, user }),
    ssl:
      tls === 'none' ? false : { rejectUnauthorized: true, ...(rootCertFile === null ? {} : { ca: readFileSync(rootCertFile, 'utf8') }) },
    application_name: 'ukeyd-server',
    // Every question here has an index. A table that was filled a moment ago has no statistics yet and shall not be walked for that; the price that
    // PostgreSQL then puts on what it cannot avoid must not make it compile the plan.
    options: `-c search_path=${schemaName} -c client_encoding=UTF8 -c enable_seqscan=off -c jit=off`,
    statement_timeout: waits.statementMs,
    lock_timeout: waits.lockMs,
    idle_in_transaction_session_timeout: waits.statementMs,
    query_timeout: waits.replyMs,
    connectionTimeoutMillis: waits.connectMs,
    idleTimeoutMillis: waits.idleMs,
    maxLifetimeSeconds: Math.ceil(waits.lifetimeMs / 1_000),
    keepAlive: true,
    max: maxConnections,
    types: { getTypeParser: parserOf as typeof pg.types.getTypeParser },
    onConnect: checkSession,
  };
}

/** Waited for before the connection is used for the first time. */
async function checkSession(client: pg.ClientBase): Promise<void> {
  client.on('error', () => undefined); // whoever uses it then gets the error from its question
  const [row = {}] = (await client.query<Row>(sessionSql)).rows;
  if (countOf(row, 'standby') === 1) throw new UkeyError('busy', 'the database is a standby, on which nothing can be stored');
  if (textOf(row, 'fsync') !== 'on')
    throw new UkeyError('halted', 'the database runs with fsync off: a power cut would take what was acknowledged', {
      action: 'Set fsync = on in postgresql.conf.',
    });
  if (textOf(row, 'encoding') !== 'UTF8') throw new UkeyError('halted', 'the database is not of encoding UTF8');
  if (countOf(row, 'version') < oldestVersion) throw new UkeyError('halted', 'PostgreSQL 13 or later is needed');
}

/** Called when the server asks for one. */
async function passwordFor(place: PostgresPlace & { readonly user: string }): Promise<string> {
  const file = place.passFile ?? process.env['PGPASSFILE'];
  if (file === undefined)
    throw new UkeyError('forbidden', 'the database asks for a password: name a password file (passfile=FILE in its URL, or PGPASSFILE)');
  const password = passwordIn(readPrivate(file), place);
  if (password === null) throw new UkeyError('forbidden', `the password file ${file} has no line for this database`);
  return password;
}

function readPrivate(file: string): string {
  let text: string;
  let mode: number;
  try {
    ({ mode } = statSync(file));
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new UkeyError('forbidden', `the password file ${file} cannot be read: ${String((cause as NodeJS.ErrnoException).code)}`, {
      cause,
    });
  }
  if (process.platform !== 'win32' && (mode & 0o077) !== 0)
    throw new UkeyError('forbidden', `others may read the password file ${file}: its mode must be 0600`);
  return text;
}

/** PostgreSQL's own numbers of its types (pg_type.dat). Everything else stays text. */
const typeOids = { bytea: 17, int8: 20, int2: 21, int4: 23 } as const;

function parserOf(oid: number): (text: string) => unknown {
  switch (oid) {
    case typeOids.bytea:
      return (text) => {
        const bytes = Buffer.from(text.slice('\\x'.length), 'hex');
        return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
      };
    case typeOids.int8:
    case typeOids.int2:
    case typeOids.int4:
      return wholeNumber;
    default:
      return (text) => text;
  }
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new UkeyError('internal', 'the database holds a number that is too large');
  return value;
}
