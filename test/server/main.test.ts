// The program: ready line, tickets beside a running server, SIGTERM, SIGKILL at random instants.
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { mediaTypes, parseTicket, paths } from '#ipc-schema/upstream.ts';
import { type BuiltBatch, BuiltToken } from '#test/support/batch-builder.ts';
import { ended, ready, ServerProcesses, UploadingToken } from '#test/support/server-process.ts';
import { grantOptions, HttpsClient } from '#test/support/server-rig.ts';

const kills = 5;

let directory: string;
const processes = new ServerProcesses();
const run = (...words: string[]): ChildProcess => processes.run(...words);

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'ukey-server-'));
});
afterEach(async () => {
  processes.stopAll();
  await rm(directory, { recursive: true, force: true });
});

describe('the program', () => {
  test('serves, makes tickets beside itself, and ends well at SIGTERM', async () => {
    const server = run('--dir', directory);
    const { url, pid, authorityFingerprint } = await ready(server);
    expect(pid).toBe(server.pid);
    const [options, out] = [join(directory, 'options.json'), join(directory, 'ticket.json')];
    await writeFile(options, JSON.stringify(grantOptions()));
    expect((await ended(run('ticket', '--dir', directory, '--charter', options, '--file', out))).code).toBe(0);
    expect((await stat(out)).mode & 0o777).toBe(0o600);
    const ticket = parseTicket(JSON.parse(await readFile(out, 'utf8')));
    expect(ticket).toMatchObject({ url, authorityFingerprint });
    const client = new HttpsClient(url, Buffer.from(ticket.tlsCertificate ?? '', 'base64'));
    const reply = await client.ask(paths.enrol, { body: new BuiltToken().enrolment(ticket.code), type: mediaTypes.cose });
    expect(reply.status).toBe(200);
    client.close();
    const printed = await ended(run('ticket', '--dir', directory, '--charter', options));
    expect(parseTicket(JSON.parse(printed.out)).code).not.toBe(ticket.code);
    expect(printed.err).not.toContain(parseTicket(JSON.parse(printed.out)).code);
    server.kill('SIGTERM');
    expect((await ended(server)).code).toBe(0);
  }, 30_000);

  test('keeps the public URL that is recorded until another one is asked for', async () => {
    const recorded = 'https://tickets.example:8443';
    const startAndStop = async (...words: string[]): Promise<{ publicUrl: string; log: string }> => {
      let log = '';
      const server = run('--dir', directory, ...words);
      const { publicUrl } = await ready(server, (text) => (log += text));
      expect((await processes.ticket(directory)).url).toBe(publicUrl);
      server.kill('SIGTERM');
      await ended(server);
      return { publicUrl, log };
    };
    expect(await startAndStop('--public-url', recorded)).toMatchObject({ publicUrl: recorded });
    const kept = await startAndStop();
    expect(kept.publicUrl).toBe(recorded);
    expect(kept.log).toContain('"level":"warn","event":"public-url-kept"');
    const changed = await startAndStop('--public-url', 'https://other.example');
    expect(changed.publicUrl).toBe('https://other.example');
    expect(changed.log).toContain('"level":"warn","event":"public-url-changed"');
  }, 30_000);

  test('is alone on its folder: a second one is refused and changes nothing', async () => {
    const first = run('--dir', directory);
    const { url } = await ready(first);
    const second = await ended(run('--dir', directory));
    expect([second.code, second.out]).toEqual([1, '']);
    expect((await processes.ticket(directory)).url).toBe(url);
    first.kill('SIGKILL');
    await ended(first);
    const third = run('--dir', directory);
    expect((await ready(third)).pid).toBe(third.pid);
  }, 30_000);

  test('used wrongly ends with 2', async () => {
    const uses = [
      [],
      ['--dir'],
      ['--dir', 'x', 'dance'],
      ['--dir', 'x', '--listen', 'nowhere'],
      ['--dir', 'x', '--public-url', 'http://x'],
      ['ticket', '--dir', 'x'],
    ];
    const codes = await Promise.all(uses.map(async (words) => (await ended(run(...words))).code));
    expect(codes).toEqual(uses.map(() => 2));
  }, 30_000);

  test('what an operator can mend is a sentence and what to do, not a stack', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    const { port } = taken.address() as AddressInfo;
    const file = join(directory, 'file');
    await writeFile(file, '');
    const uses: readonly (readonly [readonly string[], string])[] = [
      [['--dir', directory, '--listen', `127.0.0.1:${port}`], `127.0.0.1:${port}`],
      [['--dir', directory, '--listen', '203.0.113.1:8443'], '203.0.113.1'],
      [['--dir', file], file],
      [['--dir', join(file, 'below')], join(file, 'below')],
      [['--dir', join(directory, 'other'), '--database', 'postgres://x@127.0.0.1:1/nobody'], 'ECONNREFUSED'],
    ];
    for (const [words, named] of uses) {
      const { code, out, err } = await ended(run(...words));
      expect([code, out], err).toEqual([1, '']);
      expect(err.trimEnd().split('\n'), err).toHaveLength(2);
      expect(err, named).toContain(named);
      expect(err.startsWith('ticket-server: '), err).toBe(true);
    }
    taken.close();
    const running = run('--dir', directory);
    await ready(running);
    for (const words of [
      ['--dir', directory],
      ['move', '--dir', directory, '--database', 'postgres://x@127.0.0.1:1/nobody'],
    ]) {
      const { code, err } = await ended(run(...words));
      expect([code, err.trimEnd().split('\n').length, err.startsWith('ticket-server: busy: ')], err).toEqual([1, 2, true]);
    }
  }, 60_000);

  test('prints help with status 0', async () => {
    for (const words of [['--help'], ['ticket', '--help'], ['-h']]) {
      const { code, out, err } = await ended(run(...words));
      expect([code, err]).toEqual([0, '']);
      expect(out).toContain('--charter FILE.json');
    }
  }, 30_000);

  test('a charter file that is not right ends with 2 and one sentence that names the file and the field', async () => {
    const file = join(directory, 'options.json');
    const { currency: _currency, ...withoutCurrency } = grantOptions();
    const cases: readonly (readonly [string, string])[] = [
      ['{ nonsense', 'JSON'],
      [JSON.stringify(withoutCurrency), 'currency'],
      [JSON.stringify({ ...grantOptions(), colour: 'red' }), 'colour'],
      [JSON.stringify({ ...grantOptions(), serverUrl: 'https://tickets.example', templates: ['none-such'] }), 'none-such'],
    ];
    const wrong = [...cases, [null, 'ENOENT'] as const];
    for (const [content, named] of wrong) {
      await rm(file, { force: true });
      if (content !== null) await writeFile(file, content);
      const { code, out, err } = await ended(run('ticket', '--dir', directory, '--charter', file));
      expect([code, out], named).toEqual([2, '']);
      expect(err.trimEnd().split('\n'), err).toHaveLength(1);
      expect(err.startsWith('{'), err).toBe(false);
      expect(err).toContain(file);
      expect(err).toContain(named);
    }
  }, 30_000);

  test('a ticket is never written over a file', async () => {
    const [options, out] = [join(directory, 'options.json'), join(directory, 'ticket.json')];
    await writeFile(options, JSON.stringify(grantOptions({ serverUrl: 'https://tickets.example' })));
    await writeFile(out, 'mine');
    expect((await ended(run('ticket', '--dir', directory, '--charter', options, '--file', out))).code).toBe(2);
    expect(await readFile(out, 'utf8')).toBe('mine');
  }, 30_000);

  test('a ticket before the server ever ran needs a URL', async () => {
    const options = join(directory, 'options.json');
    await writeFile(options, JSON.stringify(grantOptions()));
    expect((await ended(run('ticket', '--dir', directory, '--charter', options))).code).toBe(2);
    await writeFile(options, JSON.stringify(grantOptions({ serverUrl: 'https://tickets.example' })));
    expect((await ended(run('ticket', '--dir', directory, '--charter', options))).code).toBe(0);
  });

  test('killed at random instants while it is uploaded to, holds every acknowledged batch once and takes the rest again', async () => {
    let child = run('--dir', directory);
    let { url } = await ready(child);
    const port = new URL(url).port;
    const uploading = await UploadingToken.enrol(url, await processes.ticket(directory));
    const { token } = uploading;
    let client = uploading.client(url);

    const seed = Number(process.env['TEST_SEED'] ?? Date.now() % 1_000_000);
    console.log(`seed ${seed}`);
    let state = seed;
    const random = (): number => {
      state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
      return state / 2_147_483_648;
    };
    let pending: BuiltBatch[] = [];
    let acknowledged = 0;
    let lostAnswers = 0;
    for (let kill = 0; kill < kills; kill++) {
      const victim = child;
      const timer = setTimeout(() => victim.kill('SIGKILL'), 5 + random() * 120);
      for (;;) {
        if (pending.length < 8) pending.push(...Array.from({ length: 4 }, () => token.batch(16)));
        try {
          const reply = await uploading.send(client, pending);
          expect(reply.status).toBe(200);
          const upToBatch = uploading.upTo(reply);
          expect(upToBatch).toBeGreaterThanOrEqual(acknowledged);
          acknowledged = upToBatch;
          pending = pending.filter((batch) => batch.head.batchIndex > upToBatch);
        } catch (thrown) {
          if ((thrown as { code?: string }).code === undefined) throw thrown;
          lostAnswers++;
          break;
        }
      }
      clearTimeout(timer);
      client.close();
      child = run('--dir', directory, '--listen', `127.0.0.1:${port}`);
      ({ url } = await ready(child));
      client = uploading.client(url);
      const shown = await uploading.view(client);
      expect(shown.upToBatch).toBeGreaterThanOrEqual(acknowledged); // an answer may be lost, a batch that was answered may not
      expect(shown).toMatchObject({ lastSequence: shown.upToBatch * 16, invoices: shown.upToBatch * 16, alarm: null });
    }
    expect(uploading.upTo(await uploading.send(client, pending))).toBe(token.head.batchIndex);
    client.close();
    console.log(`kills=${kills} lost_answers=${lostAnswers} batches=${token.head.batchIndex} lost=0 dup=0`);
  }, 60_000);
});
