// Owns: the tables of the ticket server's PostgreSQL database, their version, and the statements over them as text.
// Invariants: everything stands in a schema of its own; each statement is one round trip, also where it stores thousands of entries. Whoever changes anything
// of a token locks that token's row first (`moveHead` inside `store` does so by changing it), so between servers each token has one writer at a time.
// What `store` compares stands in that row (`newest_succession` too): a statement that has waited for a lock looks again at the row that it waited for, and at no other.
// Entries have no foreign key: one statement writes them with their batch, and a look-up per entry would say nothing new.
// Batches are compressed by LZ4 where the server can (less to write, log and sync), and by nothing slower.

export const schemaVersion = 1;
export const schemaName = 'ukeyd';

/** Openings of one database take turns. Any number that nobody else uses. */
export const openingLock = 7_541_000_001;
/** Enrolments and successions take turns: no key may be admitted by both. */
export const admissionLock = 7_541_000_002;

export const schemaSql = `
CREATE SCHEMA ${schemaName};
CREATE TABLE meta (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE codes (
  code_hash text PRIMARY KEY,
  made_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  used_by text,
  granted text NOT NULL,
  answer text
);
CREATE TABLE tokens (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  token_id text COLLATE "C" NOT NULL UNIQUE,
  serial text NOT NULL,
  issuer_tax_id text NOT NULL,
  issuer_name text NOT NULL,
  enrolled_at bigint NOT NULL,
  head_batch bigint NOT NULL,
  next_sequence bigint NOT NULL,
  head_seal_hash bytea NOT NULL,
  newest_succession bigint NOT NULL DEFAULT 0,
  documents bigint NOT NULL,
  last_contact bigint,
  spki bytea NOT NULL,
  certificate bytea NOT NULL
);
CREATE TABLE batches (
  token bigint NOT NULL REFERENCES tokens (id),
  batch_index bigint NOT NULL,
  first_sequence bigint NOT NULL,
  entry_count integer NOT NULL,
  received_at bigint NOT NULL,
  bytes_hash bytea NOT NULL,
  seal_hash bytea NOT NULL,
  bytes bytea NOT NULL,
  PRIMARY KEY (token, batch_index)
);
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
    ALTER TABLE batches ALTER COLUMN bytes SET COMPRESSION lz4;
  ELSE
    ALTER TABLE batches ALTER COLUMN bytes SET STORAGE EXTERNAL;
  END IF;
END $$;
CREATE TABLE entries (
  token bigint NOT NULL,
  sequence bigint NOT NULL,
  batch_index bigint NOT NULL,
  issued_at bigint NOT NULL,
  kind text NOT NULL,
  number text,
  currency text,
  total text,
  tax_total text,
  flaw text,
  PRIMARY KEY (token, sequence)
);
CREATE INDEX entries_number ON entries (token, number) WHERE number IS NOT NULL;
CREATE INDEX entries_parked ON entries (token, sequence) WHERE flaw IS NOT NULL;
CREATE TABLE alarms (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  token bigint NOT NULL REFERENCES tokens (id),
  kind text NOT NULL,
  batch_index bigint NOT NULL,
  detail text NOT NULL,
  raised_at bigint NOT NULL,
  proof bytea NOT NULL,
  settled_at bigint,
  settled_note text
);
CREATE UNIQUE INDEX alarms_proof ON alarms (token, kind, batch_index, sha256(proof));
CREATE TABLE successions (
  token bigint NOT NULL REFERENCES tokens (id),
  serial bigint NOT NULL,
  key_id text NOT NULL UNIQUE,
  from_batch bigint NOT NULL,
  made_at bigint NOT NULL,
  previous_seal_hash bytea NOT NULL,
  signed bytea NOT NULL,
  PRIMARY KEY (token, serial)
);
CREATE TABLE recoveries (
  code_hash text PRIMARY KEY,
  token bigint NOT NULL REFERENCES tokens (id),
  made_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  supersedes integer NOT NULL,
  used_by text,
  serial bigint,
  slot bytea,
  reply_key bytea,
  reply bytea
);
CREATE INDEX recoveries_token ON recoveries (token);
CREATE TABLE renewals (
  token bigint NOT NULL REFERENCES tokens (id),
  serial bigint NOT NULL,
  key_id text NOT NULL,
  made_at bigint NOT NULL,
  renewed_hash bytea NOT NULL,
  certificate bytea NOT NULL,
  PRIMARY KEY (token, serial),
  UNIQUE (token, renewed_hash)
);
INSERT INTO meta (key, value) VALUES ('schema-version', '${schemaVersion}');
`;

/** Tables as a SQLite database has them too, in the order in which they refer to each other. */
export const movedTables = {
  meta: 'key, value',
  codes: 'code_hash, made_at, expires_at, used_by, granted, answer',
  tokens: `id, token_id, serial, issuer_tax_id, issuer_name, enrolled_at, head_batch, next_sequence, head_seal_hash, documents, last_contact, spki,
    certificate`,
  batches: 'token, batch_index, first_sequence, entry_count, received_at, bytes_hash, seal_hash, bytes',
  entries: 'token, sequence, batch_index, issued_at, kind, number, currency, total, tax_total, flaw',
  alarms: 'id, token, kind, batch_index, detail, raised_at, proof, settled_at, settled_note',
  successions: 'token, serial, key_id, from_batch, made_at, previous_seal_hash, signed',
  recoveries: 'code_hash, token, made_at, expires_at, supersedes, used_by, serial, slot, reply_key, reply',
  renewals: 'token, serial, key_id, made_at, renewed_hash, certificate',
} as const;

export type MovedTable = keyof typeof movedTables;

/** What identifies a row, in both databases. */
export const movedOrder = {
  meta: 'key',
  codes: 'code_hash',
  tokens: 'id',
  batches: 'token, batch_index',
  entries: 'token, sequence',
  alarms: 'id',
  successions: 'token, serial',
  recoveries: 'code_hash',
  renewals: 'token, serial',
} as const satisfies Record<MovedTable, string>;

/** Rows that come as one JSON text. */
const moveSql = (table: MovedTable): string =>
  `INSERT INTO ${table} (${movedTables[table]}) OVERRIDING SYSTEM VALUE
    SELECT ${movedTables[table]} FROM json_populate_recordset(NULL::${table}, $1::json)`;

const textKeys: readonly string[] = ['key', 'code_hash'] satisfies (typeof movedOrder)[MovedTable][];
/** So many batches are read, to be hashed, by one statement. */
const walkRows = 64;

/** All rows in order, a few at a time; of large bytes their hash. SQLite orders texts by their bytes. */
function walkSql(table: MovedTable): string {
  const columns = movedTables[table].replace(/\bbytes$/, 'sha256(bytes) AS bytes');
  const order = movedOrder[table];
  return `DECLARE walk_${table} NO SCROLL CURSOR FOR SELECT ${columns} FROM ${table}
    ${table === 'meta' ? "WHERE key <> 'schema-version'" : ''} ORDER BY ${order}${textKeys.includes(order) ? ' COLLATE "C"' : ''}`;
}

type WalkName = `walk-${MovedTable}` | `next-${MovedTable}`;
const walks = Object.fromEntries(
  (Object.keys(movedTables) as MovedTable[]).flatMap((table) => [
    [`walk-${table}`, walkSql(table)],
    [`next-${table}`, `FETCH FORWARD ${walkRows} FROM walk_${table}`],
  ]),
) as Record<WalkName, string>;

/** Of a new connection: what the promise "durable on resolve" rests on. */
export const sessionSql = `SELECT current_setting('fsync') AS fsync, current_setting('server_encoding') AS encoding,
  current_setting('server_version_num')::integer AS version, pg_is_in_recovery()::integer AS standby,
  set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
    AS commit`;

const tokenColumns = `token_id, tokens.serial, issuer_tax_id, issuer_name, enrolled_at, head_batch, next_sequence, head_seal_hash, documents,
  last_contact, spki, certificate, alarm.kind, alarm.batch_index, alarm.detail, alarm.raised_at, alarm.proof`;
const tokenTables = `tokens LEFT JOIN LATERAL (SELECT * FROM alarms WHERE token = tokens.id AND settled_at IS NULL ORDER BY id DESC LIMIT 1) AS alarm ON true`;
const recoveryColumns = 'code_hash, token_id, expires_at, supersedes, used_by, recoveries.serial, slot, reply_key, reply';
/** The id inside, of the token that is $1. */
const token = '(SELECT id FROM tokens WHERE token_id = $1)';

export const statementSql = {
  schemaThere: `SELECT 1 AS one FROM pg_namespace WHERE nspname = '${schemaName}'`,
  turn: 'SELECT 1 AS one FROM pg_advisory_xact_lock($1)',
  readMeta: 'SELECT value FROM meta WHERE key = $1',
  addMeta: 'INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING',
  writeMeta: 'INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
  addCode: `INSERT INTO codes (code_hash, made_at, expires_at, granted) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING 1 AS one`,
  findCode: 'SELECT code_hash, made_at, expires_at, granted, used_by, answer FROM codes WHERE code_hash = $1',
  useCode: 'UPDATE codes SET used_by = $2, answer = $3 WHERE code_hash = $1 AND used_by IS NULL RETURNING 1 AS one',
  keyKnown: 'SELECT 1 AS one FROM tokens WHERE token_id = $1 UNION ALL SELECT 1 FROM successions WHERE key_id = $1',
  addToken: `INSERT INTO tokens (token_id, serial, issuer_tax_id, issuer_name, enrolled_at, head_batch, next_sequence, head_seal_hash,
    newest_succession, documents, spki, certificate) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, 0, $9, $10)`,
  findToken: `SELECT ${tokenColumns} FROM ${tokenTables} WHERE token_id = $1`,
  listTokens: `SELECT ${tokenColumns} FROM ${tokenTables} WHERE token_id > $1 ORDER BY token_id LIMIT $2`,
  /** NO KEY: rows that refer to it may be added meanwhile. */
  lockToken: 'SELECT id, head_batch, head_seal_hash, newest_succession FROM tokens WHERE token_id = $1 FOR NO KEY UPDATE',
  /** The batches' bytes come as one value ($17), because an array of them would travel as text. */
  store: `WITH moved AS (
      UPDATE tokens SET head_batch = $2, next_sequence = $3, head_seal_hash = $4, documents = documents + $5, last_contact = $6
      WHERE token_id = $1 AND head_batch = $7 AND head_seal_hash = $8 AND newest_succession <= $9 RETURNING id
    ), added AS (
      INSERT INTO batches (token, batch_index, first_sequence, entry_count, received_at, bytes_hash, seal_hash, bytes)
      SELECT moved.id, one.batch_index, one.first_sequence, one.entry_count, $6, one.bytes_hash, one.seal_hash,
        substring($17::bytea FROM one.begins FOR one.length)
      FROM moved, unnest($10::bigint[], $11::bigint[], $12::integer[], $13::bytea[], $14::bytea[], $15::integer[], $16::integer[])
        AS one (batch_index, first_sequence, entry_count, bytes_hash, seal_hash, begins, length)
    ), noted AS (
      INSERT INTO entries (token, sequence, batch_index, issued_at, kind, number, currency, total, tax_total, flaw)
      SELECT moved.id, one.* FROM moved, unnest($18::bigint[], $19::bigint[], $20::bigint[], $21::text[], $22::text[], $23::text[], $24::text[],
        $25::text[], $26::text[]) AS one
    )
    SELECT 1 AS one FROM moved`,
  respell: `WITH head AS (
      UPDATE tokens SET head_seal_hash = $5 WHERE token_id = $1 AND head_batch = $2 AND head_seal_hash = $3 RETURNING id
    )
    UPDATE batches SET bytes_hash = $4, seal_hash = $5, bytes = $6 FROM head WHERE token = head.id AND batch_index = $2`,
  contact: `UPDATE tokens SET last_contact = $2
    WHERE token_id = $1 AND head_batch = $3 AND head_seal_hash = $4 AND newest_succession <= $5 RETURNING 1 AS one`,
  marks: `SELECT batch_index, bytes_hash, seal_hash FROM batches WHERE token = ${token} AND batch_index >= $2 ORDER BY batch_index LIMIT $3`,
  /** LIMIT inside keeps it a look-up per number, whatever is believed about the table's size. */
  takenNumbers: `SELECT asked.number FROM tokens, unnest($2::text[]) AS asked (number), LATERAL (
      SELECT 1 FROM entries WHERE token = tokens.id AND entries.number = asked.number AND entries.number IS NOT NULL LIMIT 1
    ) AS hit WHERE token_id = $1`,
  countAlarms: 'SELECT count(*) AS kept FROM alarms WHERE token = $1 AND settled_at IS NULL',
  addAlarm: `INSERT INTO alarms (token, kind, batch_index, detail, raised_at, proof) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
  alarms: `SELECT kind, batch_index, detail, raised_at, proof FROM alarms WHERE token = ${token} AND settled_at IS NULL ORDER BY id`,
  settleAlarms: `UPDATE alarms SET settled_at = $2, settled_note = $3 WHERE token = $1 AND settled_at IS NULL RETURNING 1 AS one`,
  settledAlarms: 'SELECT count(*) AS settled FROM alarms WHERE token = $1 AND settled_at = $2 AND settled_note = $3',
  parked: `SELECT sequence FROM entries WHERE token = ${token} AND flaw IS NOT NULL ORDER BY sequence DESC LIMIT $2`,
  successions: `SELECT serial, key_id, from_batch, made_at, previous_seal_hash, signed FROM successions WHERE token = ${token} ORDER BY serial`,
  addSuccession: `WITH noted AS (UPDATE tokens SET newest_succession = $2 WHERE id = $1)
    INSERT INTO successions (token, serial, key_id, from_batch, made_at, previous_seal_hash, signed) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
  findSuccession: 'SELECT 1 AS one FROM successions WHERE token = $1 AND serial = $2 AND key_id = $3 AND signed = $4',
  renewals: `SELECT serial, key_id, made_at, renewed_hash, certificate FROM renewals WHERE token = ${token} ORDER BY serial`,
  addRenewal: `INSERT INTO renewals (token, serial, key_id, made_at, renewed_hash, certificate)
    SELECT $1::bigint, $2::bigint, $3, $4::bigint, $5::bytea, $6::bytea WHERE $2 = 1 + (SELECT count(*) FROM renewals WHERE token = $1) ON CONFLICT DO NOTHING RETURNING 1 AS one`,
  findRenewal: 'SELECT 1 AS one FROM renewals WHERE token = $1 AND serial = $2 AND key_id = $3 AND certificate = $4',
  addRecovery: `INSERT INTO recoveries (code_hash, token, made_at, expires_at, supersedes) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT DO NOTHING RETURNING 1 AS one`,
  findRecovery: `SELECT ${recoveryColumns} FROM recoveries JOIN tokens ON tokens.id = token WHERE code_hash = $1`,
  openRecoveries: `SELECT ${recoveryColumns} FROM recoveries JOIN tokens ON tokens.id = token
    WHERE token_id = $1 AND slot IS NOT NULL AND reply IS NULL`,
  bindRecovery: `UPDATE recoveries SET used_by = $2, slot = $3, reply_key = $4, reply = NULL
    WHERE code_hash = $1 AND (used_by IS NULL OR used_by = $2) RETURNING 1 AS one`,
  replyRecovery: 'UPDATE recoveries SET reply = $3 WHERE code_hash = $1 AND reply_key = $2',
  settleRecovery: `UPDATE recoveries SET serial = $2 WHERE code_hash = $1 AND used_by = $3 AND serial IS NULL RETURNING 1 AS one`,
  findBatch: `SELECT bytes FROM batches WHERE token = ${token} AND batch_index = $2`,
  entriesByNumber: `SELECT sequence, batch_index FROM entries WHERE token = ${token} AND number = $2 AND number IS NOT NULL ORDER BY sequence LIMIT $3`,
  moveMeta: moveSql('meta'),
  moveCodes: moveSql('codes'),
  moveTokens: moveSql('tokens'),
  moveBatches: moveSql('batches'),
  moveEntries: moveSql('entries'),
  moveAlarms: moveSql('alarms'),
  moveSuccessions: moveSql('successions'),
  moveRecoveries: moveSql('recoveries'),
  moveRenewals: moveSql('renewals'),
  /** What PostgreSQL's tables have besides. */
  movedSuccessions: `UPDATE tokens SET newest_succession = (SELECT max(serial) FROM successions WHERE token = tokens.id)
    WHERE EXISTS (SELECT FROM successions WHERE token = tokens.id)`,
  movedIds: `SELECT setval(pg_get_serial_sequence('tokens', 'id'), 1 + coalesce((SELECT max(id) FROM tokens), 0)),
    setval(pg_get_serial_sequence('alarms', 'id'), 1 + coalesce((SELECT max(id) FROM alarms), 0))`,
  ...walks,
  entriesFrom: `SELECT sequence, batch_index FROM entries WHERE token = ${token} AND sequence >= $2 ORDER BY sequence LIMIT $3`,
} as const;

export type StatementName = keyof typeof statementSql;
