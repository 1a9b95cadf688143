// Owns: the ticket server's database over PostgreSQL's tables: each method as one transaction of statements (postgres-schema.ts).
// Invariants: what may have been committed by a try whose answer was lost is looked for before "it was another" is said (`settle`): by then a row lock or a
// unique key has waited for that try's end, so that what is not there will not come.
// Must not: know connections, or that work is repeated (database-postgres.ts): work has no effect but its statements.
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
import { bytesArray, countArray, textArray, textValue } from './postgres-arrays.ts';
import { admissionLock, type StatementName } from './postgres-schema.ts';

export type Value = string | number | Uint8Array | null;
export type Ask = (statement: StatementName, ...values: readonly Value[]) => Promise<readonly Row[]>;
type Work<T> = (ask: Ask) => Promise<T>;
/** What the outcome is, where an earlier try may have been committed already. */
type Settle<T> = (ask: Ask, outcome: T) => Promise<T>;

export interface Transactions {
  /** One statement that changes nothing. */
  read(statement: StatementName, ...values: readonly Value[]): Promise<readonly Row[]>;
  /** Work of one statement, which is a transaction of its own. Durable when it returns. */
  statement<T>(work: Work<T>, settle?: Settle<T>): Promise<T>;
  /** All or nothing, durable when it returns. */
  transaction<T>(work: Work<T>, settle?: Settle<T>): Promise<T>;
  close(): Promise<void>;
}

export class PostgresTables implements Database {
  readonly #transactions: Transactions;

  constructor(transactions: Transactions) {
    this.#transactions = transactions;
  }

  async bindAuthority(fingerprint: string): Promise<void> {
    const bound = await this.#transactions.transaction(async (ask) => {
      await ask('addMeta', 'authority', fingerprint);
      return textOf((await ask('readMeta', 'authority'))[0] ?? {}, 'value');
    });
    if (bound !== fingerprint) throw new UkeyError('halted', 'the database belongs to another authority than authority.json');
  }

  async setPublicUrl(url: string): Promise<void> {
    await this.#transactions.statement((ask) => ask('writeMeta', 'public-url', url));
  }

  async publicUrl(): Promise<string | null> {
    const [row] = await this.#transactions.read('readMeta', 'public-url');
    return row === undefined ? null : textOf(row, 'value');
  }

  async addCode({ codeHash, madeAtMs, expiresAtMs, grant }: CodeRecord): Promise<void> {
    const isAdded = await this.#transactions.statement<boolean>(
      async (ask) => (await ask('addCode', codeHash, madeAtMs, expiresAtMs, grant)).length === 1,
      async () => true, // a code is drawn at random: what stands there is ours
    );
    if (!isAdded) throw new UkeyError('internal', 'the code is there already');
  }

  async findCode(codeHash: string): Promise<UsedCode | null> {
    const [row] = await this.#transactions.read('findCode', codeHash);
    return row === undefined ? null : usedCodeOf(row);
  }

  async enrol(codeHash: string, token: TokenRecord, answer: string): Promise<'enrolled' | 'code-used' | 'token-known'> {
    const { tokenId, serial, issuerTaxId, issuerName, enrolledAtMs, spki, certificate } = token;
    const { batchIndex, nextSequence, sealHash } = chainStart(certificate);
    return await this.#transactions.transaction<'enrolled' | 'code-used' | 'token-known'>(
      async (ask) => {
        await ask('turn', admissionLock);
        if ((await ask('keyKnown', tokenId)).length > 0) return 'token-known';
        if ((await ask('useCode', codeHash, tokenId, answer)).length !== 1) return 'code-used';
        const names = [tokenId, serial, issuerTaxId, issuerName] as const;
        await ask('addToken', ...names, enrolledAtMs, batchIndex, nextSequence, sealHash, spki, certificate);
        return 'enrolled';
      },
      async (ask, outcome) => {
        const [row] = await ask('findCode', codeHash);
        const used = row === undefined ? null : usedCodeOf(row).used;
        return used?.tokenId === tokenId && used.answer === textValue(answer) ? 'enrolled' : outcome;
      },
    );
  }

  async findToken(tokenId: string): Promise<TokenState | null> {
    const [row] = await this.#transactions.read('findToken', tokenId);
    return row === undefined ? null : tokenStateOf(row);
  }

  async listTokens(afterTokenId: string, limit: number): Promise<readonly TokenState[]> {
    return (await this.#transactions.read('listTokens', afterTokenId, limit)).map(tokenStateOf);
  }

  async marks(tokenId: string, fromBatch: number, count: number): Promise<readonly BatchMark[]> {
    return (await this.#transactions.read('marks', tokenId, fromBatch, count)).map(markOf);
  }

  async takenNumbers(tokenId: string, numbers: readonly string[]): Promise<ReadonlySet<string>> {
    if (numbers.length === 0) return new Set();
    const rows = await this.#transactions.read('takenNumbers', tokenId, textArray(numbers));
    if (rows.length === 0) return new Set();
    const taken = new Set(rows.map((row) => textOf(row, 'number')));
    return new Set(numbers.filter((number) => taken.has(textValue(number))));
  }

  async store(tokenId: string, expected: Judged, batches: readonly NewBatch[], next: ChainHead, atMs: number): Promise<'stored' | 'moved'> {
    const judged = [expected.batchIndex, expected.sealHash, expected.succession ?? 0] as const;
    const last = batches.at(-1);
    if (last === undefined) {
      return await this.#transactions.statement(async (ask) => {
        const rows = await ask('contact', tokenId, atMs, ...judged);
        return rows.length === 1 ? 'stored' : 'moved';
      });
    }
    const { batchIndex, nextSequence, sealHash } = next;
    const columns = columnsOf(batches);
    const documents = batches.reduce((sum, batch) => sum + batch.entries.filter((entry) => entry.number !== null).length, 0);
    return await this.#transactions.statement<'stored' | 'moved'>(
      async (ask) => {
        const rows = await ask('store', tokenId, batchIndex, nextSequence, sealHash, documents, atMs, ...judged, ...columns);
        return rows.length === 1 ? 'stored' : 'moved';
      },
      async (ask, outcome) => {
        const [row] = outcome === 'stored' ? [] : await ask('marks', tokenId, last.batchIndex, 1);
        if (row === undefined) return outcome;
        const mark = markOf(row);
        return mark.batchIndex === last.batchIndex && Buffer.compare(mark.bytesHash, last.bytesHash) === 0 ? 'stored' : outcome;
      },
    );
  }

  async respell(tokenId: string, expected: ChainHead, { bytesHash, sealHash, bytes }: Respelling): Promise<void> {
    // Once more after it was committed finds another head, and does nothing.
    await this.#transactions.statement((ask) =>
      ask('respell', tokenId, expected.batchIndex, expected.sealHash, bytesHash, sealHash, bytes),
    );
  }

  async raiseAlarm(tokenId: string, { kind, batchIndex, detail, raisedAtMs, proof }: Alarm): Promise<void> {
    await this.#transactions.transaction(async (ask) => {
      const id = await lockedId(ask, tokenId);
      if (id === null) throw new UkeyError('internal', 'an alarm for a token that is not there');
      if (countOf((await ask('countAlarms', id))[0] ?? {}, 'kept') >= tokenMaxAlarms) return;
      await ask('addAlarm', id, kind, batchIndex, detail, raisedAtMs, proof);
    });
  }

  async alarms(tokenId: string): Promise<readonly Alarm[]> {
    return (await this.#transactions.read('alarms', tokenId)).map(alarmOf);
  }

  async settleAlarms(tokenId: string, note: string, atMs: number): Promise<number> {
    return await this.#transactions.transaction(
      async (ask) => {
        const id = await lockedId(ask, tokenId);
        return id === null ? 0 : (await ask('settleAlarms', id, atMs, note)).length;
      },
      async (ask, outcome) => {
        const id = await lockedId(ask, tokenId);
        return id === null ? outcome : countOf((await ask('settledAlarms', id, atMs, note))[0] ?? {}, 'settled');
      },
    );
  }

  async parked(tokenId: string, limit: number): Promise<readonly number[]> {
    return (await this.#transactions.read('parked', tokenId, limit)).map((row) => countOf(row, 'sequence')).reverse();
  }

  async addRecovery({ codeHash, tokenId, madeAtMs, expiresAtMs, supersedes }: RecoveryCode): Promise<void> {
    const isAdded = await this.#transactions.transaction<boolean>(
      async (ask) => {
        const id = await lockedId(ask, tokenId);
        if (id === null) throw new UkeyError('internal', 'a recovery of a token that is not there');
        return (await ask('addRecovery', codeHash, id, madeAtMs, expiresAtMs, supersedes ? 1 : 0)).length === 1;
      },
      async () => true, // as a code of enrolment
    );
    if (!isAdded) throw new UkeyError('internal', 'the code is there already');
  }

  async findRecovery(codeHash: string): Promise<RecoveryState | null> {
    const [row] = await this.#transactions.read('findRecovery', codeHash);
    return row === undefined ? null : recoveryOf(row);
  }

  async waitingRecoveries(tokenId: string): Promise<readonly RecoveryState[]> {
    return (await this.#transactions.read('openRecoveries', tokenId)).map(recoveryOf);
  }

  async bindRecovery(codeHash: string, keyId: string, slot: Uint8Array, replyKey: Uint8Array): Promise<boolean> {
    return await this.#transactions.statement(async (ask) => (await ask('bindRecovery', codeHash, keyId, slot, replyKey)).length === 1);
  }

  async replyRecovery(codeHash: string, replyKey: Uint8Array, reply: Uint8Array): Promise<void> {
    await this.#transactions.statement((ask) => ask('replyRecovery', codeHash, replyKey, reply));
  }

  async successions(tokenId: string): Promise<readonly SuccessionRecord[]> {
    return (await this.#transactions.read('successions', tokenId)).map(successionOf);
  }

  async succeed(
    codeHash: string,
    tokenId: string,
    expected: ChainHead,
    { serial, keyId, fromBatch, madeAtMs, previousSealHash, signed }: SuccessionRecord,
  ): Promise<'succeeded' | 'moved' | 'key-known'> {
    return await this.#transactions.transaction<'succeeded' | 'moved' | 'key-known'>(
      async (ask) => {
        await ask('turn', admissionLock);
        if ((await ask('keyKnown', keyId)).length > 0) return 'key-known';
        const [row] = await ask('lockToken', tokenId);
        if (row === undefined || countOf(row, 'newest_succession') !== serial - 1) return 'moved';
        const isHead =
          countOf(row, 'head_batch') === expected.batchIndex && Buffer.compare(bytesOf(row, 'head_seal_hash'), expected.sealHash) === 0;
        if (!isHead || (await ask('settleRecovery', codeHash, serial, keyId)).length !== 1) return 'moved';
        await ask('addSuccession', countOf(row, 'id'), serial, keyId, fromBatch, madeAtMs, previousSealHash, signed);
        return 'succeeded';
      },
      async (ask, outcome) => {
        const id = await lockedId(ask, tokenId);
        return id !== null && (await ask('findSuccession', id, serial, keyId, signed)).length === 1 ? 'succeeded' : outcome;
      },
    );
  }

  async renewals(tokenId: string): Promise<readonly RenewalRecord[]> {
    return (await this.#transactions.read('renewals', tokenId)).map(renewalOf);
  }

  async renew(tokenId: string, renewal: RenewalRecord, succession: number): Promise<'renewed' | 'moved'> {
    const { serial, keyId, madeAtMs, renewedHash, certificate } = renewal;
    return await this.#transactions.transaction<'renewed' | 'moved'>(
      async (ask) => {
        const [row] = await ask('lockToken', tokenId);
        if (row === undefined || countOf(row, 'newest_succession') > succession) return 'moved';
        const added = await ask('addRenewal', countOf(row, 'id'), serial, keyId, madeAtMs, renewedHash, certificate);
        return added.length === 1 ? 'renewed' : 'moved';
      },
      async (ask, outcome) => {
        const id = await lockedId(ask, tokenId);
        return id !== null && (await ask('findRenewal', id, serial, keyId, certificate)).length === 1 ? 'renewed' : outcome;
      },
    );
  }

  async findBatch(tokenId: string, batchIndex: number): Promise<StoredBatch | null> {
    const [row] = await this.#transactions.read('findBatch', tokenId, batchIndex);
    return row === undefined ? null : { batchIndex, bytes: bytesOf(row, 'bytes') };
  }

  async findEntries(tokenId: string, query: EntryQuery, limit: number): Promise<readonly EntryPlace[]> {
    const rows =
      query.kind === 'number'
        ? await this.#transactions.read('entriesByNumber', tokenId, query.number, limit)
        : await this.#transactions.read('entriesFrom', tokenId, query.fromSequence, limit);
    return rows.map((row) => ({ sequence: countOf(row, 'sequence'), batchIndex: countOf(row, 'batch_index') }));
  }

  async close(): Promise<void> {
    await this.#transactions.close();
  }
}

/** Locks the token's row until the transaction ends. Null: it is not there. */
async function lockedId(ask: Ask, tokenId: string): Promise<number | null> {
  const [row] = await ask('lockToken', tokenId);
  return row === undefined ? null : countOf(row, 'id');
}

function markOf(row: Row): BatchMark {
  return { batchIndex: countOf(row, 'batch_index'), bytesHash: bytesOf(row, 'bytes_hash'), sealHash: bytesOf(row, 'seal_hash') };
}

/** $10 to $26 of `store`. */
function columnsOf(batches: readonly NewBatch[]): readonly Value[] {
  const entries = batches.flatMap((batch) => batch.entries);
  const lengths = batches.map(({ bytes }) => bytes.length);
  const begins: number[] = [];
  let at = 1; // as SQL counts
  for (const length of lengths) {
    begins.push(at);
    at += length;
  }
  return [
    countArray(batches.map(({ batchIndex }) => batchIndex)),
    countArray(batches.map(({ firstSequence }) => firstSequence)),
    countArray(batches.map((batch) => batch.entries.length)),
    bytesArray(batches.map(({ bytesHash }) => bytesHash)),
    bytesArray(batches.map(({ sealHash }) => sealHash)),
    countArray(begins),
    countArray(lengths),
    Buffer.concat(batches.map(({ bytes }) => bytes)),
    countArray(entries.map(({ sequence }) => sequence)),
    countArray(batches.flatMap(({ batchIndex, entries: { length } }) => new Array<number>(length).fill(batchIndex))),
    countArray(entries.map(({ issuedAtMs }) => issuedAtMs)),
    textArray(entries.map(({ kind }) => kind)),
    textArray(entries.map(({ number }) => number)),
    textArray(entries.map(({ currency }) => currency)),
    textArray(entries.map(({ total }) => total)),
    textArray(entries.map(({ taxTotal }) => taxTotal)),
    textArray(entries.map(({ flaw }) => flaw)),
  ];
}
