// PostgreSQL under faults: answers that are lost, servers that stop, rivals, settings that would break the promise. Against a real server.
import { execFile } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { ChainHead } from '#ipc-schema/verify.ts';
import type { Database, NewBatch } from '#server/database.ts';
import { defaultPostgresWaits, openPostgresDatabase, type PostgresWaits } from '#server/database-postgres.ts';
import type { Log, LogFields } from '#server/log.ts';
import { errorFor, faultKindOf, maxTries, repeatWaitMs } from '#server/postgres-faults.ts';
import { schemaVersion, sessionSql } from '#server/postgres-schema.ts';
import { batch, entry, headAfter, record } from '#test/suites/database-suite.ts';
import { describePostgres, nameOf } from '#test/support/postgres.ts';
import { SocketLine } from '#test/support/socket-line.ts';

const tokenId = 'ab'.repeat(16);
const code = { codeHash: 'c0'.repeat(32), grant: '{}', madeAtMs: 1, expiresAtMs: 2 };
const succession = {
  ...{ serial: 1, keyId: 'key-1', fromBatch: 2, madeAtMs: 6 },
  ...{ previousSealHash: Uint8Array.of(4), signed: Uint8Array.of(5) },
};
const renewal = { serial: 1, keyId: tokenId, renewedHash: Uint8Array.of(1), certificate: Uint8Array.of(2), madeAtMs: 3 };
const alarm = { kind: 'fork', batchIndex: 1, detail: 'two', proof: Uint8Array.of(9), raisedAtMs: 3 } as const;

async function enrolled(database: Database, id = tokenId): Promise<ChainHead> {
  await database.addCode({ ...code, codeHash: id });
  expect(await database.enrol(id, record(id), '{}')).toBe('enrolled');
  const token = await database.findToken(id);
  if (token === null) throw new Error('no token');
  return token.head;
}

function run(from: ChainHead, count = 3): NewBatch {
  return batch(
    from.batchIndex + 1,
    Array.from({ length: count }, (_, at) => entry(from.nextSequence + at)),
  );
}

describe('an error', () => {
  const sent = (state: string) => Object.assign(new Error('x'), { code: state, severity: 'ERROR' });

  test.each([
    ['40001', 'conflict'],
    ['40P01', 'conflict'],
    ['57P01', 'lost'],
    ['57P03', 'lost'],
    ['08006', 'lost'],
    ['25006', 'lost'],
    ['57014', 'busy'],
    ['55P03', 'busy'],
    ['53300', 'busy'],
    ['53100', 'refused'],
    ['23505', 'refused'],
    ['42501', 'refused'],
  ])('that PostgreSQL sends as %s is %s', (state, kind) => expect(faultKindOf(sent(state))).toBe(kind));

  test('of the socket, or without a code, is a lost connection', () => {
    for (const thrown of [Object.assign(new Error('x'), { code: 'ECONNREFUSED' }), new Error('Connection terminated'), 'x', null])
      expect(faultKindOf(thrown)).toBe('lost');
  });

  test('is never an end without an answer: tries are few, and doubt is never told as certainty', () => {
    for (const kind of ['conflict', 'lost', 'busy', 'refused'] as const) {
      for (const stage of ['connecting', 'working', 'committing'] as const)
        for (const isInDoubt of [true, false]) expect(repeatWaitMs(kind, stage, maxTries, isInDoubt)).toBeNull();
      expect(errorFor(sent('x'), kind, true).code).toBe('internal');
      expect(errorFor(new UkeyError('busy', 'a standby'), kind, true).code).toBe('internal');
    }
    expect(['conflict', 'lost', 'busy', 'refused'].map((kind) => errorFor(sent('x'), kind as 'lost', false).code)).toEqual([
      'busy',
      'busy',
      'busy',
      'internal',
    ]);
    expect(repeatWaitMs('lost', 'connecting', 1, false)).toBeNull();
    expect(repeatWaitMs('lost', 'connecting', 1, true)).toBeGreaterThan(0);
  });
});

describePostgres('PostgreSQL under faults', (server) => {
  let database: Database;
  let url: string;
  let opened: Database[] = [];
  let logged: { event: string; fields: LogFields }[] = [];

  const log: Log = (_, event, fields = {}) => void logged.push({ event, fields });
  const open = async (at = url, waits: Partial<PostgresWaits> = {}): Promise<Database> => {
    const one = await openPostgresDatabase(at, log, { ...defaultPostgresWaits, ...waits });
    opened.push(one);
    return one;
  };
  const sql = (text: string): string => server().sql(nameOf(url), text.replaceAll('@', 'ukeyd.'));

  beforeEach(async () => {
    logged = [];
    opened = [];
    url = server().newDatabase();
    database = await open();
  });
  afterEach(async () => {
    for (const one of opened) await one.close();
  });

  // First: with every database that there is, stopping takes longer.
  describe('a server that stops', () => {
    test.each(['fast', 'immediate'] as const)(
      '(%s) is told as busy, and served again when it is back, without being opened anew',
      async (how) => {
        const head = await enrolled(database);
        const one = run(head);
        await server().stop(how);
        try {
          await expect(database.findToken(tokenId)).rejects.toMatchObject({ code: 'busy', retryAfterMs: 1_000 });
          await expect(database.store(tokenId, head, [one], headAfter(one), 1)).rejects.toMatchObject({ code: 'busy' });
          await expect(openPostgresDatabase(url, log)).rejects.toMatchObject({ code: 'busy' });
        } finally {
          await server().start();
        }
        expect(await database.store(tokenId, head, [one], headAfter(one), 1)).toBe('stored');
        expect(logged.map(({ event }) => event).filter((event, at, all) => event !== all[at - 1])).toEqual(
          expect.arrayContaining(['database-lost', 'database-back']),
        );
      },
    );

    test('and comes back as a standby is told as busy until it is promoted', async () => {
      const head = await enrolled(database);
      const one = run(head);
      await server().stop('fast');
      writeFileSync(server().file('standby.signal'), '');
      server().own(server().file('standby.signal'), 0o600);
      await server().start();
      expect(sql('SELECT pg_is_in_recovery()')).toBe('t');
      try {
        await expect(database.findToken(tokenId)).rejects.toMatchObject({ code: 'busy' });
        await expect(database.store(tokenId, head, [one], headAfter(one), 1)).rejects.toMatchObject({ code: 'busy' });
      } finally {
        sql('SELECT pg_promote()');
      }
      expect(await database.store(tokenId, head, [one], headAfter(one), 1)).toBe('stored');
      expect(logged.map(({ event }) => event)).toEqual(['database-lost', 'database-back']);
    });
  });

  describe('an answer that is lost', () => {
    let line: SocketLine;
    let cut: Database;

    beforeEach(async () => {
      const folder = join(server().folder, nameOf(url));
      mkdirSync(folder);
      line = await SocketLine.open(join(folder, '.s.PGSQL.5432'), join(server().folder, '.s.PGSQL.5432'));
      cut = await open(server().urlOf(nameOf(url), folder));
    });
    afterEach(async () => {
      await line.close();
    });

    interface Act {
      readonly name: string;
      /** What passes the line when it is cut. */
      readonly at: string;
      prepare(on: Database): Promise<void>;
      /** The same answer as without a fault. */
      act(on: Database): Promise<unknown>;
      readonly answer: unknown;
      /** Rows that must be there once: a query and its answer. */
      readonly rows: readonly [string, string];
    }

    const withToken = async (on: Database): Promise<void> => void (await enrolled(on));
    const withRecovery = async (on: Database): Promise<void> => {
      await enrolled(on);
      await on.addRecovery({ codeHash: 'r', tokenId, madeAtMs: 1, expiresAtMs: 9, supersedes: false });
    };
    const withKey = async (on: Database): Promise<void> => {
      await withRecovery(on);
      await on.bindRecovery('r', 'key-1', Uint8Array.of(1), Uint8Array.of(2));
    };
    const headOf = async (on: Database): Promise<ChainHead> => (await on.findToken(tokenId))?.head as ChainHead;
    const commit = 'COMMIT\0';
    const bound = (statement: string): string => `\0${statement}\0`;
    const nothing = async (): Promise<void> => undefined;

    const acts: readonly Act[] = [
      {
        ...{ name: 'bindAuthority', at: commit, prepare: nothing, answer: undefined },
        act: (on) => on.bindAuthority('aa'),
        rows: ["SELECT value FROM @meta WHERE key = 'authority'", 'aa'],
      },
      {
        ...{ name: 'setPublicUrl', at: bound('writeMeta'), prepare: nothing, answer: undefined },
        act: (on) => on.setPublicUrl('https://x'),
        rows: ["SELECT value FROM @meta WHERE key = 'public-url'", 'https://x'],
      },
      {
        ...{ name: 'addCode', at: bound('addCode'), prepare: nothing, answer: undefined },
        act: (on) => on.addCode(code),
        rows: ['SELECT count(*) FROM @codes', '1'],
      },
      {
        ...{ name: 'enrol', at: commit, prepare: (on) => on.addCode(code), answer: 'enrolled' },
        act: (on) => on.enrol(code.codeHash, record(tokenId), '{}'),
        rows: ['SELECT count(*), min(used_by) = min(token_id) FROM @tokens, @codes', '1|t'],
      },
      {
        ...{ name: 'store', at: bound('store'), prepare: withToken, answer: 'stored' },
        act: async (on) => {
          const head = await headOf(database);
          const one = run(head);
          const two = run(headAfter(one));
          return await on.store(tokenId, head, [one, two], headAfter(two), 7);
        },
        rows: ['SELECT head_batch, documents, (SELECT count(*) FROM @entries), (SELECT count(*) FROM @batches) FROM @tokens', '2|6|6|2'],
      },
      {
        ...{ name: 'store of nothing', at: bound('contact'), prepare: withToken, answer: 'stored' },
        act: async (on) => {
          const head = await headOf(database);
          return await on.store(tokenId, head, [], head, 77);
        },
        rows: ['SELECT last_contact FROM @tokens', '77'],
      },
      {
        ...{ name: 'raiseAlarm', at: commit, prepare: withToken, answer: undefined },
        act: (on) => on.raiseAlarm(tokenId, alarm),
        rows: ['SELECT count(*) FROM @alarms', '1'],
      },
      {
        ...{ name: 'settleAlarms', at: commit, answer: 1 },
        prepare: async (on) => {
          await withToken(on);
          await on.raiseAlarm(tokenId, alarm);
        },
        act: (on) => on.settleAlarms(tokenId, 'found', 8),
        rows: ['SELECT settled_at, settled_note FROM @alarms', '8|found'],
      },
      {
        ...{ name: 'addRecovery', at: commit, prepare: withToken, answer: undefined },
        act: (on) => on.addRecovery({ codeHash: 'r', tokenId, madeAtMs: 1, expiresAtMs: 9, supersedes: false }),
        rows: ['SELECT count(*) FROM @recoveries', '1'],
      },
      {
        ...{ name: 'bindRecovery', at: bound('bindRecovery'), prepare: withRecovery, answer: true },
        act: (on) => on.bindRecovery('r', 'key-1', Uint8Array.of(1), Uint8Array.of(2)),
        rows: ['SELECT used_by FROM @recoveries', 'key-1'],
      },
      {
        ...{ name: 'replyRecovery', at: bound('replyRecovery'), prepare: withKey, answer: undefined },
        act: (on) => on.replyRecovery('r', Uint8Array.of(2), Uint8Array.of(3)),
        rows: ["SELECT encode(reply, 'hex') FROM @recoveries", '03'],
      },
      {
        ...{ name: 'succeed', at: commit, prepare: withKey, answer: 'succeeded' },
        act: async (on) => on.succeed('r', tokenId, await headOf(database), succession),
        rows: ['SELECT count(*), min(newest_succession) FROM @successions, @tokens', '1|1'],
      },
      {
        ...{ name: 'renew', at: commit, prepare: withToken, answer: 'renewed' },
        act: (on) => on.renew(tokenId, renewal, 0),
        rows: ['SELECT count(*) FROM @renewals', '1'],
      },
    ];

    test.each(acts.flatMap((act) => (['before', 'after'] as const).map((when) => [act.name, when, act] as const)))(
      'of %s, %s it is committed, is found out: done once, and answered as if nothing had been',
      async (_, when, { at, prepare, act, answer, rows: [query, expected] }) => {
        await prepare(database);
        line.cutOnce = { when, at };
        expect(await act(cut)).toEqual(answer);
        expect(line.cuts).toBe(1);
        expect(sql(query)).toBe(expected);
      },
    );

    test('of a key that goes on, while what the one before has sealed waits for it, lets nothing of that in', async () => {
      await withKey(database);
      const head = await headOf(database);
      const one = run(head);
      line.holdOnce = commit;
      const succeeding = cut.succeed('r', tokenId, head, succession);
      await expect.poll(() => line.isHolding).toBe(true);
      const storing = database.store(tokenId, head, [one], headAfter(one), 1);
      await expect.poll(() => sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")).toBe('1');
      line.letGo();
      expect(await Promise.all([succeeding, storing])).toEqual(['succeeded', 'moved']);
      expect(sql('SELECT count(*) FROM @batches')).toBe('0');
    });

    test('while somebody else went on is told as what it was', async () => {
      const head = await enrolled(database);
      const [mine, theirs] = [run(head), run(head)];
      line.cutOnce = { when: 'before', at: bound('store') };
      const [outcome] = await Promise.all([
        cut.store(tokenId, head, [mine], headAfter(mine), 1),
        database.store(tokenId, head, [theirs], headAfter(theirs), 2),
      ]);
      expect([outcome, line.cuts]).toEqual(['moved', 1]);
      expect((await database.findBatch(tokenId, 1))?.bytes).toEqual(new Uint8Array(theirs.bytes));
    });

    test('for good, because the server stays away, is told as unknown', async () => {
      const head = await enrolled(database);
      const one = run(head);
      line.cutOnce = { when: 'after', at: bound('store'), isForGood: true };
      await expect(cut.store(tokenId, head, [one], headAfter(one), 1)).rejects.toMatchObject({ code: 'internal' });
      expect((await database.findToken(tokenId))?.head.batchIndex).toBe(1); // stored, and nobody could know
      await expect(cut.findToken(tokenId)).rejects.toMatchObject({ code: 'busy' });
    });

    test('because the line is dead and says nothing, is given up', async () => {
      const dead = await open(server().urlOf(nameOf(url), join(server().folder, nameOf(url))), { replyMs: 300, connectMs: 300 });
      line.isSilent = true;
      const startMs = performance.now();
      await expect(dead.publicUrl()).rejects.toMatchObject({ code: 'busy' });
      expect(performance.now() - startMs).toBeLessThan(10_000);
      line.isSilent = false;
      expect(await dead.publicUrl()).toBeNull();
    });
  });

  describe('several servers', () => {
    test('that make one database at once make it once', async () => {
      const empty = server().newDatabase();
      const all = await Promise.all(Array.from({ length: 6 }, async () => await open(empty)));
      await Promise.all(all.map((one, at) => one.setPublicUrl(`https://${at}`)));
      expect(server().sql(nameOf(empty), 'SELECT count(*) FROM ukeyd.meta')).toBe('2');
    });

    // Where an administrator has made `serializable` the rule, the losers are rolled back as conflicts, and tried again.
    test.each(['read committed', 'serializable'])(
      'that store behind the same head at once store one run, whole, and the others nothing (%s)',
      async (isolation) => {
        sql(`ALTER DATABASE ${nameOf(url)} SET default_transaction_isolation = '${isolation}'`);
        const servers = [await open(), await open(), await open()];
        let head = await enrolled(database);
        for (let round = 0; round < 20; round += 1) {
          const rivals = servers.map((one, at) => ({ one, added: run(head, at + 1) }));
          const from = head;
          const outcomes = await Promise.all(rivals.map(({ one, added }) => one.store(tokenId, from, [added], headAfter(added), round)));
          expect(outcomes.filter((outcome) => outcome === 'stored')).toHaveLength(1);
          const won = rivals[outcomes.indexOf('stored')]?.added as NewBatch;
          head = headAfter(won);
          expect((await database.findToken(tokenId))?.head).toEqual({ ...head, sealHash: new Uint8Array(head.sealHash) });
        }
        expect(sql('SELECT count(*), max(sequence), count(DISTINCT sequence) FROM @entries')).toBe(
          Array(3)
            .fill(head.nextSequence - 1)
            .join('|'),
        );
        expect(sql('SELECT count(*), max(batch_index) FROM @batches')).toBe('20|20');
        expect((await database.findToken(tokenId))?.documents).toBe(head.nextSequence - 1);
      },
    );

    test('that let a key go on and store of the one before at once never do both', async () => {
      const other = await open();
      for (let round = 0; round < 12; round += 1) {
        const id = round.toString(16).padStart(32, '0');
        const head = await enrolled(database, id);
        const one = run(head);
        await database.addRecovery({ codeHash: id, tokenId: id, madeAtMs: 1, expiresAtMs: 9, supersedes: false });
        await database.bindRecovery(id, `key ${id}`, Uint8Array.of(1), Uint8Array.of(2));
        const outcomes = await Promise.all([
          database.succeed(id, id, head, { ...succession, keyId: `key ${id}` }),
          other.store(id, head, [one], headAfter(one), 1),
        ]);
        expect([
          ['succeeded', 'moved'],
          ['moved', 'stored'],
        ]).toContainEqual(outcomes);
        expect(await database.successions(id)).toHaveLength(outcomes[0] === 'succeeded' ? 1 : 0);
        expect(await database.marks(id, 1, 9)).toHaveLength(outcomes[1] === 'stored' ? 1 : 0);
      }
    });

    test('that admit one key as a new token and as a successor at once admit it once', async () => {
      const other = await open();
      for (let round = 0; round < 12; round += 1) {
        const [id, key] = [`a${round}`.padStart(32, '0'), `b${round}`.padStart(32, '0')];
        const head = await enrolled(database, id);
        await database.addRecovery({ codeHash: id, tokenId: id, madeAtMs: 1, expiresAtMs: 9, supersedes: false });
        await database.bindRecovery(id, key, Uint8Array.of(1), Uint8Array.of(2));
        await database.addCode({ ...code, codeHash: key });
        const outcomes = await Promise.all([
          database.succeed(id, id, head, { ...succession, keyId: key }),
          other.enrol(key, record(key), '{}'),
        ]);
        expect([
          ['succeeded', 'token-known'],
          ['key-known', 'enrolled'],
        ]).toContainEqual(outcomes);
      }
    });

    test('that are given one code at once enrol one token', async () => {
      const other = await open();
      await database.addCode(code);
      const outcomes = await Promise.all([
        database.enrol(code.codeHash, record('aa'), '{}'),
        other.enrol(code.codeHash, record('bb'), '{}'),
      ]);
      expect(outcomes.toSorted()).toEqual(['code-used', 'enrolled']);
      expect(await database.listTokens('', 9)).toHaveLength(1);
    });

    test('of which one holds a token too long do not wait for ever', async () => {
      const head = await enrolled(database);
      const hasty = await open(url, { lockMs: 100 });
      const one = run(head);
      const holding = holdToken();
      try {
        await expect.poll(() => sql("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid'")).not.toBe('0');
        await expect(hasty.store(tokenId, head, [one], headAfter(one), 1)).rejects.toMatchObject({ code: 'busy' });
      } finally {
        await holding;
      }
      expect(await hasty.store(tokenId, head, [one], headAfter(one), 1)).toBe('stored');
    });

    /** Another transaction changes the token's row, and takes its time. */
    async function holdToken(): Promise<void> {
      const words = 'BEGIN; UPDATE ukeyd.tokens SET serial = serial; SELECT pg_sleep(2); ROLLBACK';
      await new Promise<void>((resolve, reject) => {
        execFile('psql', ['-h', server().folder, '-U', 'postgres', '-d', nameOf(url), '-Xqc', words], (fault) =>
          fault === null ? resolve() : reject(fault),
        );
      });
    }
  });

  describe('a server that does not keep the promise', () => {
    test('because fsync is off is refused, also by who is connected already', async () => {
      const short = await open(url, { lifetimeMs: 1 });
      server().configure('fsync = off');
      server().reload();
      try {
        await expect.poll(() => sql('SHOW fsync')).toBe('off');
        await expect(openPostgresDatabase(url, log)).rejects.toMatchObject({ code: 'halted' });
        await expect.poll(async () => await short.publicUrl().catch((thrown: UkeyError) => thrown.code)).toBe('halted');
      } finally {
        server().configure('fsync = on');
        server().reload();
        await expect.poll(() => sql('SHOW fsync')).toBe('on');
      }
      expect(await short.publicUrl()).toBeNull();
    });

    test('because synchronous_commit is off is made to, and one that promises more is left at that', () => {
      for (const [set, becomes] of [
        ['off', 'on'],
        ['on', 'on'],
        ['local', 'local'],
        ['remote_apply', 'remote_apply'],
      ]) {
        const said = sql(`SET synchronous_commit = ${set}; ${sessionSql}; SHOW synchronous_commit`);
        expect(said.split('\n').at(-1), set).toBe(becomes);
      }
    });

    test('because its encoding cannot hold every name is refused', async () => {
      server().sql('postgres', `CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'`);
      await expect(openPostgresDatabase(server().urlOf('latin'), log)).rejects.toMatchObject({ code: 'halted' });
    });

    test('because a newer server has changed it is refused', async () => {
      sql(`UPDATE @meta SET value = '${schemaVersion + 1}' WHERE key = 'schema-version'`);
      await expect(openPostgresDatabase(url, log)).rejects.toMatchObject({ code: 'internal' });
    });

    test('because the role may not make tables is refused', async () => {
      server().sql('postgres', 'CREATE ROLE nobody_here LOGIN');
      const empty = new URL(server().newDatabase());
      empty.searchParams.set('user', 'nobody_here');
      await expect(openPostgresDatabase(empty.href, log)).rejects.toMatchObject({ code: 'internal' });
    });
  });

  test('a text with a NUL, which PostgreSQL cannot hold, stops no upload', async () => {
    const head = await enrolled(database);
    const one = batch(1, [
      entry(1, { number: 'A\0"\\{},NULL', flaw: 'line\nand "quote" \\ \u2028 ü' }),
      entry(2, { number: 'NULL', currency: '' }),
    ]);
    expect(await database.store(tokenId, head, [one], headAfter(one), 1)).toBe('stored');
    expect(await database.takenNumbers(tokenId, ['A\0"\\{},NULL', 'NULL', 'null'])).toEqual(new Set(['A\0"\\{},NULL', 'NULL']));
    expect(await database.findEntries(tokenId, { kind: 'number', number: 'A\0"\\{},NULL' }, 9)).toEqual([{ sequence: 1, batchIndex: 1 }]);
    expect(sql('SELECT flaw = E\'line\\nand "quote" \\\\ \\u2028 ü\' FROM @entries WHERE sequence = 1')).toBe('t');
    expect(sql("SELECT number, currency = '' FROM @entries WHERE sequence = 2")).toBe('NULL|t');
  });

  test('more questions than connections wait for their turn', async () => {
    await database.setPublicUrl('https://x');
    expect(new Set(await Promise.all(Array.from({ length: 100 }, () => database.publicUrl())))).toEqual(new Set(['https://x']));
    expect(Number(sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ukeyd-server'"))).toBeLessThanOrEqual(12);
  });

  test('refuses every call once it is closed', async () => {
    await database.close();
    await database.close();
    await expect(database.publicUrl()).rejects.toMatchObject({ code: 'internal' });
  });
});
