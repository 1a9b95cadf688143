// `ticket-server move`: everything that a file holds is in PostgreSQL afterwards, or nothing is.
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Database } from '#server/database.ts';
import { openPostgresDatabase } from '#server/database-postgres.ts';
import { openSqliteDatabase } from '#server/database-sqlite.ts';
import { noLog } from '#server/log.ts';
import { moveDatabase } from '#server/move-command.ts';
import { batch, entry, headAfter, record } from '#test/suites/database-suite.ts';
import { describePostgres, nameOf } from '#test/support/postgres.ts';
import { ended, ready, ServerProcesses, UploadingToken } from '#test/support/server-process.ts';
import { SocketLine } from '#test/support/socket-line.ts';

const ids = ['aa', 'bb', 'cc'].map((byte) => byte.repeat(16));
const [first = '', second = ''] = ids;

/** Something in every table, with every column that may be empty both ways. */
async function fill(database: Database): Promise<void> {
  await database.bindAuthority('fingerprint');
  await database.setPublicUrl('https://x');
  for (const id of ids) {
    await database.addCode({ codeHash: id, grant: '{"ü":"\\"\\\\"}', madeAtMs: 1, expiresAtMs: 2 });
    await database.enrol(id, record(id), '{}');
  }
  await database.addCode({ codeHash: 'unused', grant: '{}', madeAtMs: 3, expiresAtMs: 4 });
  for (const id of [first, second]) {
    const head = (await database.findToken(id))?.head;
    if (head === undefined) throw new Error('no token');
    const plain = { kind: 'admin', number: null, currency: null, total: null, taxTotal: null };
    const one = batch(1, [entry(1), entry(2, plain), entry(3, { flaw: 'why "not"', currency: '' })]);
    const large = { ...batch(2, [entry(4)]), bytes: Buffer.alloc(900_000, id) };
    const more = Array.from({ length: 8 }, (_, at) => ({ ...batch(3 + at, [entry(5 + at)]), bytes: Buffer.alloc(700_000, at) }));
    const last = more.at(-1) ?? one;
    expect(await database.store(id, head, [one, large, ...more], headAfter(last), 77)).toBe('stored');
    await database.raiseAlarm(id, { kind: 'fork', batchIndex: 1, detail: 'x', proof: Buffer.from(`p${id}`), raisedAtMs: 3 });
  }
  await database.settleAlarms(second, 'found', 9);
  await database.renew(first, { serial: 1, keyId: first, renewedHash: Uint8Array.of(1), certificate: Uint8Array.of(2), madeAtMs: 3 }, 0);
  await database.addRecovery({ codeHash: 'r', tokenId: first, madeAtMs: 1, expiresAtMs: 9, supersedes: true });
  await database.bindRecovery('r', 'key-1', Uint8Array.of(1), Uint8Array.of(2));
  const head = (await database.findToken(first))?.head;
  if (head === undefined) throw new Error('no token');
  const succession = { serial: 1, keyId: 'key-1', fromBatch: 11, previousSealHash: head.sealHash, signed: Uint8Array.of(5), madeAtMs: 6 };
  expect(await database.succeed('r', first, head, succession)).toBe('succeeded');
  await database.addRecovery({ codeHash: 's', tokenId: second, madeAtMs: 1, expiresAtMs: 9, supersedes: false });
}

/** Everything that can be asked. */
async function contentOf(database: Database): Promise<unknown> {
  const tokens = [];
  for (const id of ids) {
    const batches = [];
    for (let index = 1; index <= 11; index += 1)
      batches.push(Buffer.from((await database.findBatch(id, index))?.bytes ?? []).toString('hex'));
    tokens.push({
      ...{ token: await database.findToken(id), code: await database.findCode(id), alarms: await database.alarms(id), batches },
      ...{ marks: await database.marks(id, 1, 99), parked: await database.parked(id, 99), successions: await database.successions(id) },
      ...{ renewals: await database.renewals(id), waiting: await database.waitingRecoveries(id) },
      entries: await database.findEntries(id, { kind: 'range', fromSequence: 1 }, 99),
      numbers: await database.takenNumbers(id, ['A-1', 'A-4', 'A-99']),
    });
  }
  const recoveries = [await database.findRecovery('r'), await database.findRecovery('s')];
  return { tokens, recoveries, unused: await database.findCode('unused'), url: await database.publicUrl() };
}

describePostgres('moving to PostgreSQL', (server) => {
  let directory: string;
  let url: string;
  const processes = new ServerProcesses();
  const file = (): string => join(directory, 'tickets.db');

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'ukey-move-'));
    url = server().newDatabase();
  });
  afterEach(async () => {
    processes.stopAll();
    await rm(directory, { recursive: true, force: true });
  });

  test('takes everything along, and what comes after goes on from there', async () => {
    const old = openSqliteDatabase(file());
    await fill(old);
    const before = await contentOf(old);
    await old.close();
    expect(await moveDatabase(directory, url, noLog)).toEqual({
      tokens: 3,
      batches: 20,
      entries: 24,
      bytes: 2 * (100 + 900_000 + 8 * 700_000),
    });
    const moved = await openPostgresDatabase(url, noLog);
    try {
      expect(await contentOf(moved)).toEqual(before);
      await moved.bindAuthority('fingerprint');
      await expect(moved.bindAuthority('another')).rejects.toMatchObject({ code: 'halted' });
      for (const id of [first, second]) {
        const head = (await moved.findToken(id))?.head;
        if (head === undefined) throw new Error('no token');
        const next = batch(11, [entry(13)]);
        const outcome = await moved.store(id, head, [next], headAfter(next), 99);
        expect(outcome).toBe(id === first ? 'moved' : 'stored'); // another key goes on with the first
        await moved.raiseAlarm(id, { kind: 'fork', batchIndex: 1, detail: 'x', proof: Buffer.from(`p${id}`), raisedAtMs: 3 });
        expect(await moved.alarms(id)).toHaveLength(id === first ? 1 : 0); // settled stays settled
        await moved.raiseAlarm(id, { kind: 'fork', batchIndex: 2, detail: 'new', proof: Buffer.from('new'), raisedAtMs: 4 });
        expect((await moved.findToken(id))?.alarm?.detail).toBe('new');
      }
      expect(await moved.enrol('unused', record('dd'.repeat(16)), '{}')).toBe('enrolled');
    } finally {
      await moved.close();
    }
    expect(readFileSync(join(directory, 'database-url'), 'utf8')).toBe(`${url}\n`);
    expect([existsSync(file()), existsSync(`${file()}.moved`)]).toEqual([false, true]);
  });

  test('whose answer is lost has moved all the same, and one that was cut off before is repeated', async () => {
    const old = openSqliteDatabase(file());
    await fill(old);
    await old.close();
    const folder = join(server().folder, nameOf(url));
    mkdirSync(folder);
    const line = await SocketLine.open(join(folder, '.s.PGSQL.5432'), join(server().folder, '.s.PGSQL.5432'));
    const through = server().urlOf(nameOf(url), folder);
    line.cutOnce = { when: 'before', at: '\0moveAlarms\0', isForGood: true };
    await expect(moveDatabase(directory, through, noLog)).rejects.toMatchObject({ code: 'busy' });
    await line.close();
    expect(server().sql(nameOf(url), 'SELECT count(*) FROM ukeyd.tokens')).toBe('0');
    expect([existsSync(file()), existsSync(join(directory, 'database-url'))]).toEqual([true, false]);
    await rm(join(folder, '.s.PGSQL.5432'), { force: true });
    const again = await SocketLine.open(join(folder, '.s.PGSQL.5432'), join(server().folder, '.s.PGSQL.5432'));
    again.cutOnce = { when: 'after', at: 'COMMIT\0' };
    // The first COMMIT is that of the schema.
    await (await openPostgresDatabase(url, noLog)).close();
    expect(await moveDatabase(directory, through, noLog)).toMatchObject({ tokens: 3, entries: 24 });
    expect(again.cuts).toBe(1);
    await again.close();
    expect(existsSync(`${file()}.moved`)).toBe(true);
  }, 60_000);

  test('after a crash that left the file in use takes no part of it for the whole: what came since is not put aside', async () => {
    const old = openSqliteDatabase(file());
    await fill(old);
    const many = Array.from({ length: 200 }, (_, at) => batch(1 + at, [entry(1 + at)]));
    const third = ids[2] ?? '';
    const start = (await old.findToken(third))?.head;
    if (start === undefined) throw new Error('no token');
    expect(await old.store(third, start, many, headAfter(many.at(-1) ?? batch(1, [])), 88)).toBe('stored');
    await old.close();
    const all = await moveDatabase(directory, url, noLog);
    /** As if the program had ended right after COMMIT. */
    const crash = (): void => {
      rmSync(join(directory, 'database-url'), { force: true });
      for (const ending of ['-wal', '-shm']) rmSync(file() + ending, { force: true });
      copyFileSync(join(directory, 'as-moved'), file());
    };
    copyFileSync(`${file()}.moved`, join(directory, 'as-moved'));
    const renewed = { serial: 2, keyId: first, renewedHash: Uint8Array.of(7), certificate: Uint8Array.of(8), madeAtMs: 9 };
    const succession = { serial: 1, keyId: 'key-2', fromBatch: 11, signed: Uint8Array.of(5), madeAtMs: 6 };
    const alarm = { kind: 'fork', batchIndex: 9, detail: 'y', proof: Uint8Array.of(1), raisedAtMs: 4 } as const;
    /** By the table that is the first to differ then. */
    const changes: readonly [string, (database: Database) => Promise<unknown>][] = [
      ['meta', (database) => database.setPublicUrl('https://y')],
      ['codes', (database) => database.addCode({ codeHash: 'new', grant: '{}', madeAtMs: 3, expiresAtMs: 4 })],
      ['alarms', (database) => database.raiseAlarm(first, alarm)],
      ['alarms', (database) => database.settleAlarms(first, 'found', 9)],
      [
        'recoveries',
        (database) => database.addRecovery({ codeHash: 't', tokenId: second, madeAtMs: 1, expiresAtMs: 9, supersedes: false }),
      ],
      ['recoveries', (database) => database.bindRecovery('s', 'key-2', Uint8Array.of(1), Uint8Array.of(2))],
      ['renewals', (database) => database.renew(first, renewed, 1)],
      [
        'successions',
        async (database) => {
          const head = (await database.findToken(second))?.head;
          if (head === undefined) throw new Error('no token');
          await database.bindRecovery('s', 'key-2', Uint8Array.of(1), Uint8Array.of(2));
          expect(await database.succeed('s', second, head, { ...succession, previousSealHash: head.sealHash })).toBe('succeeded');
        },
      ],
    ];
    for (const [table, change] of changes) {
      crash();
      const served = openSqliteDatabase(file());
      await change(served);
      await served.close();
      const refusal = { code: 'invalid-request', message: expect.stringContaining(`other ${table}:`) as string };
      await expect(moveDatabase(directory, url, noLog), table).rejects.toMatchObject(refusal);
      expect([existsSync(file()), existsSync(join(directory, 'database-url'))], table).toEqual([true, false]);
    }
    // A row that is the same in number and size, but not the same, in what the database holds.
    crash();
    server().sql(nameOf(url), `UPDATE ukeyd.batches SET bytes = decode(repeat('00', 100), 'hex') WHERE token = 3 AND batch_index = 199`);
    await expect(moveDatabase(directory, url, noLog)).rejects.toMatchObject({ code: 'invalid-request' });
    // As the refusal says.
    server().sql(nameOf(url), 'DROP SCHEMA ukeyd CASCADE');
    expect(await moveDatabase(directory, url, noLog)).toEqual(all);
    crash();
    expect(await moveDatabase(directory, url, noLog)).toEqual(all);
    expect([existsSync(file()), existsSync(join(directory, 'database-url'))]).toEqual([false, true]);
  }, 60_000);

  test('has time: neither a statement of it nor a pause between two is ended after seconds', async () => {
    await (await openPostgresDatabase(url, noLog)).close();
    const waits = ['statement_timeout', 'idle_in_transaction_session_timeout'];
    server().sql(
      nameOf(url),
      `CREATE TABLE public.seen (wait interval);
      CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.seen VALUES ${waits.map((wait) => `(current_setting('${wait}')::interval)`).join(', ')}; RETURN NULL; END $$;
      CREATE TRIGGER see AFTER INSERT ON ukeyd.batches FOR EACH STATEMENT EXECUTE FUNCTION public.see()`,
    );
    const old = openSqliteDatabase(file());
    await fill(old);
    await old.close();
    await moveDatabase(directory, url, noLog);
    expect(server().sql(nameOf(url), "SELECT count(*) > 1, min(wait) >= '10 minutes' FROM public.seen")).toBe('t|t');
  }, 60_000);

  test('is refused into a database that holds something, and where there is nothing to move', async () => {
    await expect(moveDatabase(directory, url, noLog)).rejects.toMatchObject({ code: 'invalid-request' });
    const other = await openPostgresDatabase(url, noLog);
    await other.bindAuthority('another');
    await other.close();
    const old = openSqliteDatabase(file());
    await fill(old);
    await old.close();
    await expect(moveDatabase(directory, url, noLog)).rejects.toMatchObject({ code: 'invalid-request' });
    expect([existsSync(file()), existsSync(join(directory, 'database-url'))]).toEqual([true, false]);
  });

  test('by the program waits until no server runs; then the server goes on with it, and the token does not notice', async () => {
    const running = processes.run('--dir', directory);
    const listening = await ready(running);
    const uploading = await UploadingToken.enrol(listening.url, await processes.ticket(directory));
    const before = uploading.client(listening.url);
    const one = uploading.token.batch(3);
    expect(uploading.upTo(await uploading.send(before, [one]))).toBe(1);
    before.close();
    const early = await ended(processes.run('move', '--dir', directory, '--database', url));
    expect([early.code, early.out]).toEqual([1, '']);
    expect(early.err).toMatch(/^ticket-server: .* is in use: stop the server first/);
    running.kill('SIGTERM');
    await ended(running);
    expect((await ended(processes.run('move', '--dir', directory))).code).toBe(2);
    const done = await ended(processes.run('move', '--dir', directory, '--database', url));
    expect([done.code, JSON.parse(done.out)]).toMatchObject([0, { tokens: 1, batches: 1, entries: 3 }]);
    expect((await ended(processes.run('move', '--dir', directory, '--database', url))).code).toBe(2);
    const after = uploading.client((await ready(processes.run('--dir', directory))).url);
    expect(uploading.upTo(await uploading.send(after, [one, uploading.token.batch(2)]))).toBe(2);
    expect(await uploading.view(after)).toMatchObject({ invoices: 5, alarm: null });
    after.close();
    expect(server().sql(nameOf(url), 'SELECT count(*) FROM ukeyd.entries')).toBe('5');
  }, 60_000);
});
