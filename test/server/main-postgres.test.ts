// The program over PostgreSQL: which database it uses and how it is told, two servers on one, and both sides killed while a token uploads.
import { cpSync, existsSync, readFileSync, rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { BuiltBatch } from '#test/support/batch-builder.ts';
import { describePostgres, modeOf, nameOf } from '#test/support/postgres.ts';
import { seededRandom, seedOf } from '#test/support/seed.ts';
import { ended, ready, ServerProcesses, UploadingToken } from '#test/support/server-process.ts';
import type { Reply } from '#test/support/server-rig.ts';

const troubles = 6;
const perBatch = 16;

describePostgres('the program over PostgreSQL', (server) => {
  let directory: string;
  let url: string;
  const processes = new ServerProcesses();
  const sql = (text: string): string => server().sql(nameOf(url), text.replaceAll('@', 'ukeyd.'));

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'ukey-server-'));
    url = server().newDatabase();
  });
  afterEach(async () => {
    processes.stopAll();
    for (const folder of [directory, `${directory}-second`]) await rm(folder, { recursive: true, force: true });
  });

  /** Everything is there, once: what the server says, and what stands in the tables. */
  const expectAll = (upToBatch: number): void => {
    const sequences = upToBatch * perBatch;
    expect(sql('SELECT count(*), max(sequence), count(DISTINCT number) FROM @entries')).toBe(`${sequences}|${sequences}|${sequences}`);
    expect(sql('SELECT count(*), max(batch_index), sum(entry_count) FROM @batches')).toBe(`${upToBatch}|${upToBatch}|${sequences}`);
    expect(sql('SELECT head_batch, documents FROM @tokens')).toBe(`${upToBatch}|${sequences}`);
    expect(sql('SELECT count(*) FROM @alarms')).toBe('0');
  };

  // First: with every database that there is, stopping takes longer.
  test('server and PostgreSQL killed and stopped by turns while it is uploaded to: nothing lost, nothing doubled', async () => {
    const seed = seedOf();
    const random = seededRandom(seed);
    console.log(`seed ${seed}`);
    let child = processes.run('--dir', directory, '--database', url);
    let log = '';
    const listening = await ready(child, (text) => (log += text));
    const { port } = new URL(listening.url);
    const uploading = await UploadingToken.enrol(listening.url, await processes.ticket(directory));
    const { token } = uploading;
    let client = uploading.client(listening.url);
    let pending: BuiltBatch[] = [];
    let acknowledged = 0;
    const refusals: Record<number, number> = {};
    const upload = async (): Promise<Reply | null> => {
      if (pending.length < 8) pending.push(...Array.from({ length: 4 }, () => token.batch(perBatch)));
      const reply = await uploading.send(client, pending).catch((thrown: { code?: string }) => {
        if (thrown.code === undefined) throw thrown;
        return null;
      });
      if (reply === null || reply.status !== 200) {
        if (reply !== null) refusals[reply.status] = (refusals[reply.status] ?? 0) + 1;
        await new Promise((resolve) => setTimeout(resolve, 20)); // an uploader waits longer
        return reply;
      }
      const upToBatch = uploading.upTo(reply);
      expect(upToBatch).toBeGreaterThanOrEqual(acknowledged); // an answer may be lost, a batch that was answered may not
      acknowledged = upToBatch;
      pending = pending.filter((batch) => batch.head.batchIndex > upToBatch);
      return reply;
    };
    for (let trouble = 0; trouble < troubles; trouble += 1) {
      let isOver = false;
      const victim = child;
      const act = async (): Promise<void> => {
        await new Promise((resolve) => setTimeout(resolve, 5 + random() * 120));
        if (trouble % 3 === 2) victim.kill('SIGKILL');
        else {
          await server().stop(trouble % 3 === 0 ? 'immediate' : 'fast');
          await new Promise((resolve) => setTimeout(resolve, 100 + random() * 300));
          await server().start();
        }
        isOver = true;
      };
      const acting = act();
      while (!isOver) await upload();
      await acting;
      if (trouble % 3 === 2) {
        client.close();
        child = processes.run('--dir', directory, '--listen', `127.0.0.1:${port}`);
        client = uploading.client((await ready(child, (text) => (log += text))).url);
      }
      await expect.poll(async () => (await upload())?.status).toBe(200); // without a restart
      expect(sql('SELECT head_batch FROM @tokens')).toBe(String(acknowledged));
    }
    while (pending.length > 0) {
      const reply = await uploading.send(client, pending);
      pending = pending.filter((batch) => batch.head.batchIndex > uploading.upTo(reply));
    }
    client.close();
    expectAll(token.head.batchIndex);
    expect(Object.keys(refusals).filter((status) => status !== '503' && status !== '500')).toEqual([]);
    expect(refusals[503]).toBeGreaterThan(0);
    expect(log).toContain('"event":"database-lost"');
    expect(log).toContain('"event":"database-back"');
    console.log(`troubles=${troubles} refusals=${JSON.stringify(refusals)} batches=${token.head.batchIndex} lost=0 dup=0`);
  }, 120_000);

  test('keeps the URL beside its keys, so that the next start and the commands find the same database', async () => {
    const first = processes.run('--dir', directory, '--database', url);
    const { url: listening } = await ready(first);
    expect(readFileSync(join(directory, 'database-url'), 'utf8')).toBe(`${url}\n`);
    expect(modeOf(join(directory, 'database-url'))).toBe(0o600);
    const uploading = await UploadingToken.enrol(listening, await processes.ticket(directory));
    first.kill('SIGTERM');
    expect((await ended(first)).code).toBe(0);
    const again = processes.run('--dir', directory);
    const client = uploading.client((await ready(again)).url);
    expect(uploading.upTo(await uploading.send(client, [uploading.token.batch(perBatch)]))).toBe(1);
    client.close();
    expectAll(1);
    expect(existsSync(join(directory, 'tickets.db'))).toBe(false);
    const settled = await ended(
      processes.run('settle-alarm', '--dir', directory, '--token', uploading.token.tokenId, '--note', 'nothing found'),
    );
    expect([settled.code, JSON.parse(settled.out)]).toEqual([0, { token: uploading.token.tokenId, settled: 0 }]);
  }, 30_000);

  test('refuses, in one sentence and with 2, a URL with a password, one that it does not understand, and one for a command', async () => {
    for (const wrong of [
      'postgres://u:geheim@127.0.0.1/t',
      'postgres://127.0.0.1/t?password=geheim',
      'tickets.db',
      `${url}&sslmode=maybe&sslkey=x`,
    ]) {
      const { code, out, err } = await ended(processes.run('--dir', directory, '--database', wrong));
      expect([code, out], wrong).toEqual([2, '']);
      expect(err.trimEnd().split('\n')).toHaveLength(1);
      expect(err).not.toContain('geheim');
    }
    expect((await ended(processes.run('ticket', '--dir', directory, '--charter', 'x', '--database', url))).code).toBe(2);
    expect(existsSync(join(directory, 'database-url'))).toBe(false);
  }, 30_000);

  test('leaves no token behind: neither in a file, nor in another database, nor with another authority', async () => {
    const refused = async (dir: string, at: string): Promise<unknown> => {
      const { code, out } = await ended(processes.run('--dir', dir, '--database', at));
      return [code, out];
    };
    const onFile = processes.run('--dir', directory);
    await UploadingToken.enrol((await ready(onFile)).url, await processes.ticket(directory));
    onFile.kill('SIGTERM');
    await ended(onFile);
    expect(await refused(directory, url)).toEqual([2, '']);
    expect(existsSync(join(directory, 'database-url'))).toBe(false);
    for (const name of ['tickets.db', 'tickets.db-wal', 'tickets.db-shm']) rmSync(join(directory, name), { force: true });
    const onPostgres = processes.run('--dir', directory, '--database', url);
    await ready(onPostgres);
    onPostgres.kill('SIGTERM');
    await ended(onPostgres);
    expect(await refused(directory, server().newDatabase())).toEqual([2, '']);
    expect(await refused(join(directory, 'another'), url)).toEqual([1, '']);
    expect(readFileSync(join(directory, 'database-url'), 'utf8')).toBe(`${url}\n`);
  }, 60_000);

  test('leaves no ticket behind whose code waits for its token', async () => {
    const onFile = processes.run('--dir', directory);
    await ready(onFile);
    await processes.ticket(directory);
    onFile.kill('SIGTERM');
    await ended(onFile);
    const { code, out, err } = await ended(processes.run('--dir', directory, '--database', url));
    expect([code, out]).toEqual([2, '']);
    expect(err).toContain('ticket-server move');
    expect(existsSync(join(directory, 'database-url'))).toBe(false);
    expect((await ended(processes.run('move', '--dir', directory, '--database', url))).code).toBe(0);
    expect(sql('SELECT count(*) FROM @codes WHERE used_by IS NULL')).toBe('1');
  }, 60_000);

  test('ends with 1 and says what to do where nothing answers, so that whoever watches it starts it again', async () => {
    const { code, out, err } = await ended(processes.run('--dir', directory, '--database', 'postgres:///t?host=/nowhere'));
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(/^ticket-server: .*\/nowhere/);
    expect(err).toContain('Start PostgreSQL');
    expect(err).not.toContain('    at ');
  }, 30_000);

  test('two servers on one database take one token’s uploads at once: each batch once, no fork, whoever is asked', async () => {
    const second = `${directory}-second`;
    const one = await ready(processes.run('--dir', directory, '--database', url));
    cpSync(directory, second, { recursive: true });
    const two = await ready(processes.run('--dir', second));
    const uploading = await UploadingToken.enrol(one.url, await processes.ticket(second));
    const { token } = uploading;
    const clients = [uploading.client(one.url), uploading.client(two.url)];
    const all: BuiltBatch[] = [];
    for (let round = 0; round < 12; round += 1) {
      const added = Array.from({ length: 3 }, () => token.batch(perBatch));
      all.push(...added);
      // The same, more and less of it, to both at once: as after answers that were lost.
      const shares = [added, all.slice(-4), added.slice(0, 1), added];
      const replies = await Promise.all(shares.map((share, at) => uploading.send(clients[at % 2] as (typeof clients)[0], share)));
      for (const reply of replies.filter(({ status }) => status !== 200)) expect(reply.status).toBe(503); // moved too often: come again
      expect(Math.max(...replies.filter(({ status }) => status === 200).map((reply) => uploading.upTo(reply)))).toBe(token.head.batchIndex);
    }
    for (const client of clients)
      expect(await uploading.view(client)).toMatchObject({ upToBatch: 36, invoices: 36 * perBatch, alarm: null });
    for (const client of clients) client.close();
    expectAll(36);
  }, 60_000);
});
