// Owns: rows of the ticket server's databases (sqlite-schema.ts, postgres-schema.ts name the same columns) as the values of database.ts.
// Invariants: a column of another type than its table says is a fault of the database (`internal`), never guessed at.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Alarm, RecoveryState, RenewalRecord, SuccessionRecord, TokenState, UsedCode } from './database.ts';

export type Row = Readonly<Record<string, unknown>>;

export function alarmOf(row: Row): Alarm {
  return {
    kind: 'fork',
    batchIndex: countOf(row, 'batch_index'),
    detail: textOf(row, 'detail'),
    proof: bytesOf(row, 'proof'),
    raisedAtMs: countOf(row, 'raised_at'),
  };
}

export function recoveryOf(row: Row): RecoveryState {
  return {
    codeHash: textOf(row, 'code_hash'),
    tokenId: textOf(row, 'token_id'),
    expiresAtMs: countOf(row, 'expires_at'),
    supersedes: countOf(row, 'supersedes') === 1,
    usedBy: textOrNull(row, 'used_by'),
    serial: row['serial'] === null ? null : countOf(row, 'serial'),
    asked:
      row['slot'] === null
        ? null
        : {
            slot: bytesOf(row, 'slot'),
            replyKey: bytesOf(row, 'reply_key'),
            reply: row['reply'] === null ? null : bytesOf(row, 'reply'),
          },
  };
}

export function usedCodeOf(row: Row): UsedCode {
  const tokenId = textOrNull(row, 'used_by');
  return {
    codeHash: textOf(row, 'code_hash'),
    grant: textOf(row, 'granted'),
    madeAtMs: countOf(row, 'made_at'),
    expiresAtMs: countOf(row, 'expires_at'),
    used: tokenId === null ? null : { tokenId, answer: textOf(row, 'answer') },
  };
}

export function successionOf(row: Row): SuccessionRecord {
  return {
    serial: countOf(row, 'serial'),
    keyId: textOf(row, 'key_id'),
    fromBatch: countOf(row, 'from_batch'),
    previousSealHash: bytesOf(row, 'previous_seal_hash'),
    signed: bytesOf(row, 'signed'),
    madeAtMs: countOf(row, 'made_at'),
  };
}

export function renewalOf(row: Row): RenewalRecord {
  return {
    serial: countOf(row, 'serial'),
    keyId: textOf(row, 'key_id'),
    renewedHash: bytesOf(row, 'renewed_hash'),
    certificate: bytesOf(row, 'certificate'),
    madeAtMs: countOf(row, 'made_at'),
  };
}

export function tokenStateOf(row: Row): TokenState {
  return {
    tokenId: textOf(row, 'token_id'),
    serial: textOf(row, 'serial'),
    issuerTaxId: textOf(row, 'issuer_tax_id'),
    issuerName: textOf(row, 'issuer_name'),
    spki: bytesOf(row, 'spki'),
    certificate: bytesOf(row, 'certificate'),
    enrolledAtMs: countOf(row, 'enrolled_at'),
    head: {
      batchIndex: countOf(row, 'head_batch'),
      nextSequence: countOf(row, 'next_sequence'),
      sealHash: bytesOf(row, 'head_seal_hash'),
    },
    documents: countOf(row, 'documents'),
    lastContactMs: row['last_contact'] === null ? null : countOf(row, 'last_contact'),
    alarm: row['kind'] === null ? null : alarmOf(row),
  };
}

const wrongType = (column: string): UkeyError => new UkeyError('internal', `the database holds something else than expected in ${column}`);

export function textOf(row: Row, column: string): string {
  const value = row[column];
  if (typeof value !== 'string') throw wrongType(column);
  return value;
}

export function textOrNull(row: Row, column: string): string | null {
  return row[column] === null ? null : textOf(row, column);
}

export function countOf(row: Row, column: string): number {
  const value = row[column];
  if (typeof value !== 'number') throw wrongType(column);
  return value;
}

export function bytesOf(row: Row, column: string): Uint8Array {
  const value = row[column];
  if (!(value instanceof Uint8Array)) throw wrongType(column);
  return value;
}
