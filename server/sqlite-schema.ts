// Owns: the tables of the ticket server's SQLite database and their version, and the statements over them as text.
// Invariants: STRICT tables; blobs that are large stand last in their row, so that reading the rest does not walk their pages; an id of a token
// inside is a small integer. An older version is brought up in one transaction; a newer one than this is refused.

export const schemaVersion = 4;

const recoverySql = `
CREATE TABLE successions (
  token INTEGER NOT NULL REFERENCES tokens (id),
  serial INTEGER NOT NULL,
  key_id TEXT NOT NULL UNIQUE,
  from_batch INTEGER NOT NULL,
  made_at INTEGER NOT NULL,
  previous_seal_hash BLOB NOT NULL,
  signed BLOB NOT NULL,
  PRIMARY KEY (token, serial)
) STRICT;
CREATE TABLE recoveries (
  code_hash TEXT PRIMARY KEY,
  token INTEGER NOT NULL REFERENCES tokens (id),
  made_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  supersedes INTEGER NOT NULL,
  used_by TEXT,
  serial INTEGER,
  slot BLOB,
  reply_key BLOB,
  reply BLOB
) STRICT;`;

const renewalsSql = `
CREATE TABLE renewals (
  token INTEGER NOT NULL REFERENCES tokens (id),
  serial INTEGER NOT NULL,
  key_id TEXT NOT NULL,
  made_at INTEGER NOT NULL,
  renewed_hash BLOB NOT NULL,
  certificate BLOB NOT NULL,
  PRIMARY KEY (token, serial),
  UNIQUE (token, renewed_hash)
) STRICT;`;

export const schemaSql = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE codes (
  code_hash TEXT PRIMARY KEY,
  made_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  used_by TEXT,
  granted TEXT NOT NULL,
  answer TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
  id INTEGER PRIMARY KEY,
  token_id TEXT NOT NULL UNIQUE,
  serial TEXT NOT NULL,
  issuer_tax_id TEXT NOT NULL,
  issuer_name TEXT NOT NULL,
  enrolled_at INTEGER NOT NULL,
  head_batch INTEGER NOT NULL,
  next_sequence INTEGER NOT NULL,
  head_seal_hash BLOB NOT NULL,
  documents INTEGER NOT NULL,
  last_contact INTEGER,
  spki BLOB NOT NULL,
  certificate BLOB NOT NULL
) STRICT;
CREATE TABLE batches (
  token INTEGER NOT NULL REFERENCES tokens (id),
  batch_index INTEGER NOT NULL,
  first_sequence INTEGER NOT NULL,
  entry_count INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  bytes_hash BLOB NOT NULL,
  seal_hash BLOB NOT NULL,
  bytes BLOB NOT NULL,
  UNIQUE (token, batch_index)
) STRICT;
CREATE TABLE entries (
  token INTEGER NOT NULL REFERENCES tokens (id),
  sequence INTEGER NOT NULL,
  batch_index INTEGER NOT NULL,
  kind TEXT NOT NULL,
  number TEXT,
  issued_at INTEGER NOT NULL,
  currency TEXT,
  total TEXT,
  tax_total TEXT,
  flaw TEXT,
  PRIMARY KEY (token, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX entries_number ON entries (token, number) WHERE number IS NOT NULL;
CREATE INDEX entries_parked ON entries (token, sequence) WHERE flaw IS NOT NULL;
CREATE TABLE alarms (
  id INTEGER PRIMARY KEY,
  token INTEGER NOT NULL REFERENCES tokens (id),
  kind TEXT NOT NULL,
  batch_index INTEGER NOT NULL,
  detail TEXT NOT NULL,
  raised_at INTEGER NOT NULL,
  proof BLOB NOT NULL,
  settled_at INTEGER,
  settled_note TEXT,
  UNIQUE (token, kind, batch_index, proof)
) STRICT;
${recoverySql}
${renewalsSql}
PRAGMA user_version = ${schemaVersion};
`;

/** From the version that is the key to the next one. */
export const migrations: Readonly<Record<number, string>> = {
  1: 'ALTER TABLE alarms ADD COLUMN settled_at INTEGER; ALTER TABLE alarms ADD COLUMN settled_note TEXT; PRAGMA user_version = 2;',
  2: `${recoverySql} PRAGMA user_version = 3;`,
  3: `${renewalsSql} PRAGMA user_version = 4;`,
};

const tokenColumns = `token_id, serial, issuer_tax_id, issuer_name, enrolled_at, head_batch, next_sequence, head_seal_hash, documents,
  last_contact, spki, certificate, kind, batch_index, detail, raised_at, proof`;
const tokenTables = `tokens LEFT JOIN alarms ON alarms.id = (SELECT max(id) FROM alarms WHERE token = tokens.id AND settled_at IS NULL)`;

export const statementSql = {
  readMeta: 'SELECT value FROM meta WHERE key = ?',
  addMeta: 'INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING',
  writeMeta: 'INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
  addCode: 'INSERT INTO codes (code_hash, made_at, expires_at, granted) VALUES (?, ?, ?, ?)',
  findCode: 'SELECT code_hash, made_at, expires_at, granted, used_by, answer FROM codes WHERE code_hash = ?',
  useCode: 'UPDATE codes SET used_by = ?, answer = ? WHERE code_hash = ? AND used_by IS NULL',
  addToken: `INSERT INTO tokens (token_id, serial, issuer_tax_id, issuer_name, enrolled_at, head_batch, next_sequence, head_seal_hash,
    documents, spki, certificate) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (token_id) DO NOTHING`,
  findToken: `SELECT ${tokenColumns} FROM ${tokenTables} WHERE token_id = ?`,
  listTokens: `SELECT ${tokenColumns} FROM ${tokenTables} WHERE token_id > ? ORDER BY token_id LIMIT ?`,
  tokenRow: 'SELECT id FROM tokens WHERE token_id = ?',
  moveHead: `UPDATE tokens SET head_batch = ?, next_sequence = ?, head_seal_hash = ?, documents = documents + ?, last_contact = ?
    WHERE id = ? AND head_batch = ? AND head_seal_hash = ?`,
  respellHead: 'UPDATE tokens SET head_seal_hash = ? WHERE token_id = ? AND head_batch = ? AND head_seal_hash = ? RETURNING id',
  respellBatch: 'UPDATE batches SET bytes_hash = ?, seal_hash = ?, bytes = ? WHERE token = ? AND batch_index = ?',
  addBatch: `INSERT INTO batches (token, batch_index, first_sequence, entry_count, received_at, bytes_hash, seal_hash, bytes)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
  addEntry: `INSERT INTO entries (token, sequence, batch_index, kind, number, issued_at, currency, total, tax_total, flaw)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  marks: 'SELECT batch_index, bytes_hash, seal_hash FROM batches WHERE token = ? AND batch_index >= ? ORDER BY batch_index LIMIT ?',
  numberTaken: 'SELECT 1 AS one FROM entries WHERE token = ? AND number = ? LIMIT 1',
  countAlarms: 'SELECT count(*) AS kept FROM alarms WHERE token = ? AND settled_at IS NULL',
  addAlarm: `INSERT INTO alarms (token, kind, batch_index, detail, raised_at, proof) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
  alarms: 'SELECT kind, batch_index, detail, raised_at, proof FROM alarms WHERE token = ? AND settled_at IS NULL ORDER BY id',
  settleAlarms: 'UPDATE alarms SET settled_at = ?, settled_note = ? WHERE token = ? AND settled_at IS NULL',
  successions: 'SELECT serial, key_id, from_batch, made_at, previous_seal_hash, signed FROM successions WHERE token = ? ORDER BY serial',
  successor: 'SELECT 1 AS one FROM successions WHERE key_id = ?',
  successionsSince: 'SELECT 1 AS one FROM successions WHERE token = ? AND serial > ? LIMIT 1',
  addSuccession: `INSERT INTO successions (token, serial, key_id, from_batch, made_at, previous_seal_hash, signed) VALUES (?, ?, ?, ?, ?, ?, ?)`,
  renewals: 'SELECT serial, key_id, made_at, renewed_hash, certificate FROM renewals WHERE token = ? ORDER BY serial',
  addRenewal: `INSERT INTO renewals (token, serial, key_id, made_at, renewed_hash, certificate)
    SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?2 = 1 + (SELECT count(*) FROM renewals WHERE token = ?1) ON CONFLICT DO NOTHING`,
  headIs: 'SELECT 1 AS one FROM tokens WHERE id = ? AND head_batch = ? AND head_seal_hash = ?',
  addRecovery: 'INSERT INTO recoveries (code_hash, token, made_at, expires_at, supersedes) VALUES (?, ?, ?, ?, ?)',
  findRecovery: `SELECT code_hash, token_id, expires_at, supersedes, used_by, recoveries.serial, slot, reply_key, reply
    FROM recoveries JOIN tokens ON tokens.id = token WHERE code_hash = ?`,
  openRecoveries: `SELECT code_hash, token_id, expires_at, supersedes, used_by, recoveries.serial, slot, reply_key, reply
    FROM recoveries JOIN tokens ON tokens.id = token WHERE token = ? AND slot IS NOT NULL AND reply IS NULL`,
  bindRecovery: `UPDATE recoveries SET used_by = ?, slot = ?, reply_key = ?, reply = NULL
    WHERE code_hash = ? AND (used_by IS NULL OR used_by = ?)`,
  replyRecovery: 'UPDATE recoveries SET reply = ? WHERE code_hash = ? AND reply_key = ?',
  settleRecovery: 'UPDATE recoveries SET serial = ? WHERE code_hash = ? AND used_by = ? AND serial IS NULL',
  parked: 'SELECT sequence FROM entries WHERE token = ? AND flaw IS NOT NULL ORDER BY sequence DESC LIMIT ?',
  findBatch: 'SELECT bytes FROM batches WHERE token = ? AND batch_index = ?',
  entriesByNumber: 'SELECT sequence, batch_index FROM entries WHERE token = ? AND number = ? ORDER BY sequence LIMIT ?',
  entriesFrom: 'SELECT sequence, batch_index FROM entries WHERE token = ? AND sequence >= ? ORDER BY sequence LIMIT ?',
} as const;
