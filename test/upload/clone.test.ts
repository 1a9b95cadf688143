// Shows: two copies of one token, each in a service of its own, both sell and both upload. The server takes the first, flags the second and overwrites
// nothing; the second stops and stays stopped; the first goes on and says so.
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { compose, type RunningService } from '#daemon/compose.ts';
import { parseConfig } from '#ground/config.ts';
import { silentLog } from '#ground/log.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { acknowledgementPayload, paths, tokenViewSchema } from '#ipc-schema/upstream.ts';
import { openAuthority } from '#server/authority.ts';
import { openSqliteDatabase } from '#server/database-sqlite.ts';
import { loginWhenReady, openRig, type Rig, sale } from '#test/support/rig.ts';
import { ScriptedServer } from '#test/support/scripted-server.ts';
import { HttpsClient } from '#test/support/server-rig.ts';
import { twoTokens } from '#test/support/two-tokens.ts';

let rig: Rig;
let copy: Copy | null = null;
afterEach(async () => {
  await copy?.close();
  copy = null;
  await rig.close();
});

/** A second machine: its own state folder, and what stands on the token at this moment. */
class Copy {
  readonly directory: string;
  readonly #running: RunningService;
  readonly admin: Client;
  readonly till: Client;

  private constructor(directory: string, running: RunningService, admin: Client, till: Client) {
    this.directory = directory;
    this.#running = running;
    this.admin = admin;
    this.till = till;
  }

  static async open(directory: string): Promise<Copy> {
    const text = [
      'state = "state"',
      'socket = "run/a.sock"',
      'admin_socket = "run/b.sock"',
      ...['[token]', 'soft_token = "token/key.json"', 'flash = "token/flash.img"', '[mirror]', 'mode = "off"'],
      ...['[upload]', 'probe = "0 0 1 1 *"'],
    ];
    const config = parseConfig(text.join('\n'), directory);
    const startHolder = (holderConfig: Parameters<typeof partsOf>[0], events: Parameters<typeof joinHolder>[0]['events']) =>
      joinHolder({ ...partsOf(holderConfig), events, note: () => undefined, pollMs: 50 });
    const running = await compose(config, silentLog, { startHolder });
    const admin = await connect({ socketPath: config.admin_socket, client: 'copy/1', waitMs: 2_000 });
    const terminal = `till-${Math.random().toString(36).slice(2, 8)}`;
    const { secret } = await admin.call('terminal.enrol', { terminal, role: 'till' });
    const till = await connect({
      socketPath: config.socket,
      client: 'copy/1',
      terminal,
      secret: Buffer.from(secret, 'hex'),
      waitMs: 2_000,
    });
    return new Copy(directory, running, admin, till);
  }

  async close(): Promise<void> {
    this.admin.close();
    this.till.close();
    await this.#running.close();
  }
}

const status = (client: Client): Promise<ServiceStatus> => client.call('service.status', {});
const flush = (client: Client): Promise<unknown> => client.call('backlog.flush', {}).catch(() => null);

/** A copy of the token as it stands; the first service is stopped for it and goes on. */
async function copyToken(): Promise<string> {
  await rig.running.close();
  const directory = path.join(rig.directory, 'second');
  cpSync(path.join(rig.directory, 'token'), path.join(directory, 'token'), { recursive: true });
  await rig.restart();
  return directory;
}

async function shownBy(tokenId: string) {
  const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
  const [view, page] = [await client.ask(`${paths.tokens}/${tokenId}`), await client.ask('/')];
  client.close();
  return { view: tokenViewSchema.parse(JSON.parse(view.body.toString('utf8'))), page: page.body.toString('utf8') };
}

async function drain(client: Client): Promise<void> {
  await expect
    .poll(
      async () => {
        await flush(client);
        return (await client.call('backlog.status', {})).pending;
      },
      { timeout: 10_000 },
    )
    .toBe(0);
}

/** Both sell, the first uploads, then the second. `firstSells`, `secondSells`: how many each, so that either may be the longer one. */
async function fork(firstSells: number, secondSells: number): Promise<{ readonly directory: string; readonly tokenId: string }> {
  rig = await openRig();
  await rig.till.issue(sale('before'));
  await drain(rig.admin);
  const directory = await copyToken();
  for (let at = 0; at < firstSells; at += 1) await rig.till.issue(sale(`first-${at}`));
  await drain(rig.admin);
  await rig.stopServer(); // the second sells before it hears anything
  copy = await Copy.open(directory);
  await loginWhenReady(copy.admin);
  for (let at = 0; at < secondSells; at += 1) await copy.till.issue(sale(`second-${at}`));
  await rig.startServer();
  await flush(copy.admin);
  await expect.poll(async () => (copy === null ? '' : (await status(copy.admin)).standing), { timeout: 10_000 }).toBe('halted');
  return { directory, tokenId: (await status(rig.admin)).token?.tokenId ?? '' };
}

describe('a second copy of a token', () => {
  test.each([
    ['that has sold less', 4, 1],
    ['that has sold more', 1, 4],
  ])('%s is refused, flagged, and stops; nothing of the first is overwritten', async (_what, firstSells, secondSells) => {
    const { tokenId } = await fork(firstSells, secondSells);
    const second = await status((copy as Copy).admin);
    expect(second).toMatchObject({
      standing: 'halted',
      reason: expect.stringMatching(/^clone/),
      action: expect.stringContaining('authority'),
    });
    await expect((copy as Copy).till.call('invoice.issue', sale('more'))).rejects.toMatchObject({ code: 'halted' });
    const { view, page } = await shownBy(tokenId);
    expect(view.invoices).toBe(1 + firstSells);
    expect(view.alarm).toMatchObject({ kind: 'fork', raisedAt: expect.any(String) });
    expect(page).toContain(view.alarm?.detail);
  });

  test('stays stopped when its service starts anew, also where the server does not answer; without the fact on disk it is found again', async () => {
    const { directory } = await fork(2, 2);
    const [fact = ''] = readdirSync(path.join(directory, 'state')).filter((name) => name.startsWith('contradiction-'));
    const file = path.join(directory, 'state', fact);
    await copy?.close();
    await rig.stopServer();
    copy = await Copy.open(directory);
    await loginWhenReady(copy.admin).catch(() => undefined);
    await expect.poll(async () => (await status((copy as Copy).admin)).standing).toBe('halted');
    await expect(copy.till.call('invoice.issue', sale('more'))).rejects.toMatchObject({ code: 'halted' });
    await copy.close();
    // A fact that our server has not signed stops nobody.
    const honest = readFileSync(file, 'utf8');
    writeFileSync(file, honest.replace(/"signed":"(.{40})./, '"signed":"$1x'));
    copy = await Copy.open(directory);
    await loginWhenReady(copy.admin);
    expect((await status(copy.admin)).standing).toBe('issuing-offline');
    await rig.startServer();
    await flush(copy.admin);
    await expect.poll(async () => (await status((copy as Copy).admin)).standing, { timeout: 10_000 }).toBe('halted');
    expect(readFileSync(file, 'utf8')).not.toContain('x"');
  });

  test('is stopped no more once the FLASH that the server knows is in its place', async () => {
    const { directory } = await fork(3, 1);
    await copy?.close();
    await rig.running.close();
    cpSync(path.join(rig.directory, 'token'), path.join(directory, 'token'), { recursive: true });
    copy = await Copy.open(directory);
    await loginWhenReady(copy.admin);
    await expect.poll(async () => (await status((copy as Copy).admin)).standing, { timeout: 5_000 }).toMatch(/^issuing/);
    expect(readdirSync(path.join(directory, 'state')).some((name) => name.startsWith('contradiction-'))).toBe(false);
    await rig.startLocked();
  });

  test('is told to the first one, which goes on, until somebody has settled it', async () => {
    const { tokenId } = await fork(2, 1);
    await rig.stopServer();
    await rig.restart();
    const told: unknown[] = [];
    const listener = await connect({
      socketPath: rig.config.admin_socket,
      client: 'listener/1',
      waitMs: 2_000,
      onEvent: ({ event, ...facts }) => told.push({ event, ...facts }),
    });
    await listener.subscribe(['alarm']);
    await rig.startServer();
    await flush(rig.admin);
    const { view } = await shownBy(tokenId);
    await expect
      .poll(async () => (await status(rig.admin)).alarm, { timeout: 5_000 })
      .toMatchObject({ kind: 'clone', batchIndex: view.alarm?.batchIndex });
    const first = await status(rig.admin);
    expect(first).toMatchObject({
      standing: 'issuing-online',
      reason: expect.stringContaining('second copy'),
      action: expect.stringContaining('authority'),
    });
    expect(told).toEqual([expect.objectContaining({ event: 'alarm', batchIndex: view.alarm?.batchIndex, action: first.action })]);
    listener.close();
    await rig.till.issue(sale('goes-on'));
    await drain(rig.admin);
    const database = openSqliteDatabase(path.join(rig.directory, 'server', 'tickets.db'));
    expect(await database.settleAlarms(tokenId, 'the copy was found and destroyed', Date.now())).toBe(1);
    await database.close();
    await rig.restart();
    await flush(rig.admin);
    expect(await status(rig.admin)).toMatchObject({ alarm: null, standing: 'issuing-online', action: '' });
    expect(existsSync(path.join(rig.config.tokens[0].state, `contradiction-${tokenId}.json`))).toBe(false);
  });
});

describe('a proof against one token', () => {
  test('that comes when another one is plugged in stops that other one in nothing, and stops the first when it is back', async () => {
    rig = await openRig({ line: true, pinFile: true });
    const standing = async () => (await status(rig.admin)).standing;
    const { first, spare, swap } = await twoTokens(rig);
    await drain(rig.admin);

    const data = path.join(rig.directory, 'server');
    const scripted = await ScriptedServer.open(data, rig.server);
    const authority = await openAuthority(data, Date.now());
    const [asked, mayAnswer] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    scripted.onBatches = async () => {
      scripted.onBatches = () => null;
      asked.resolve();
      await mayAnswer.promise;
      const headSealHash = new Uint8Array(32).fill(9);
      const answer = { tokenId: Buffer.from(first, 'hex'), upToBatch: 1, headSealHash, serverTimeMs: Date.now(), parked: [] };
      return { status: 200, body: authority.signAnswer(acknowledgementPayload(answer)) };
    };
    try {
      rig.line.targetPort = scripted.port;
      rig.line.hangUp();
      await rig.till.issue(sale('on-the-first', { brief: true }));
      await asked.promise;
      await swap('first', 'spare');
      await expect.poll(standing, { timeout: 5_000 }).toMatch(/^issuing/);
      expect((await status(rig.admin)).token?.tokenId).toBe(spare);
      mayAnswer.resolve();
      await flush(rig.admin);
      expect((await rig.till.issue(sale('on-the-spare'))).number).toMatch(/^A-/);
      expect(await standing()).toBe('issuing-online');
      await swap('spare', 'first');
      await expect.poll(standing, { timeout: 5_000 }).toBe('halted');
    } finally {
      await scripted.close();
    }
  }, 30_000);
});
