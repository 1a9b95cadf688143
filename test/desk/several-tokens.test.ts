// One service, two tokens of two issuers: each its own ledger, upload and standing; whom a request reaches; and a driver that hangs beside one that works.
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { compose, type Overrides, type RunningService } from '#daemon/compose.ts';
import { type Config, parseConfig } from '#ground/config.ts';
import { silentLog } from '#ground/log.ts';
import { joinHolder } from '#holder/joined.ts';
import { startHolder } from '#holder/parent.ts';
import { partsOf } from '#holder/parts.ts';
import { decodeAdminEvent } from '#ipc-schema/admin.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import type { EventNotice } from '#ipc-schema/envelope.ts';
import type { InvoiceDocument } from '#ipc-schema/invoice.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { type RunningServer, startServer } from '#server/serve.ts';
import { grant, rigPin, sale } from '#test/support/rig.ts';

const names = ['shop', 'annex'] as const;
type Name = (typeof names)[number];
const issuerOf: Readonly<Record<Name, string>> = { shop: 'GB111111111', annex: 'GB222222222' };

const joined: NonNullable<Overrides['startHolder']> = (config, events) =>
  joinHolder({ ...partsOf(config), events, note: () => undefined, pollMs: 50 });

/** Each token in a process of its own, with a driver that does what files in the token's folder tell it to. */
const faulty: NonNullable<Overrides['startHolder']> = (config, events) =>
  startHolder({
    config,
    events,
    onChatter: () => undefined,
    entry: new URL('../holder/faulty-child.ts', import.meta.url),
    deadlines: { seal: 3_000 },
  });

let directory: string;
let config: Config;
let server: RunningServer;
let running: RunningService;
let admin: Client;
const clients: Client[] = [];

beforeEach(async () => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-two-'));
  writeFileSync(path.join(directory, 'pin'), `${rigPin}\n`, { mode: 0o600 });
  const tables = names.map((name) => {
    mkdirSync(path.join(directory, name));
    return [
      ...['[[token]]', `name = "${name}"`, `issuer = "${issuerOf[name]}"`, 'flash_mib = 32', 'pin_file = "pin"'],
      ...[`soft_token = "${name}/key.json"`, `presence = ["${name}/key.json"]`, `flash = "${name}/flash.img"`],
    ].join('\n');
  });
  const common = ['state = "state"', 'socket = "run/ukeyd.sock"', 'admin_socket = "run/admin.sock"', '[mirror]', 'mode = "off"'];
  config = parseConfig([...common, '[upload]', 'probe = "0 0 1 1 *"', ...tables].join('\n'), directory);
  server = await startServer({ directory: path.join(directory, 'server') });
});

afterEach(async () => {
  await stop();
  await server.close();
  rmSync(directory, { recursive: true, force: true });
});

async function start(holder = joined): Promise<void> {
  running = await compose(config, silentLog, { startHolder: holder, auditWaits: { gatherMs: 20, calmMs: 50 } });
  admin = await connect({ socketPath: config.admin_socket, client: 'test/1', waitMs: 2_000 });
  clients.push(admin);
}

async function stop(): Promise<void> {
  for (const client of clients.splice(0)) client.close();
  await running.close();
}

async function provision(): Promise<void> {
  for (const token of names) {
    const prefix = token[0]?.toUpperCase();
    const series = grant.series.map((one) => ({ ...one, prefix: `${prefix}${one.prefix}` }));
    const issuer = { ...grant.issuer, taxId: issuerOf[token] };
    const ticket = await server.createTicket({ ...grant, series, issuer });
    await admin.call('token.provision', { token, label: token, pin: rigPin, soPin: '97531000', ticket });
  }
}

async function terminal(
  id: string,
  more: Partial<Params<'terminal.enrol'>> = {},
  onEvent?: (notice: EventNotice) => void,
): Promise<Client> {
  const { secret } = await admin.call('terminal.enrol', { terminal: id, role: 'till', replace: true, ...more });
  const to = { socketPath: config.socket, client: 'test/1', terminal: id, secret: Buffer.from(secret, 'hex'), waitMs: 2_000 };
  const client = await connect({ ...to, ...(onEvent === undefined ? {} : { onEvent }) });
  clients.push(client);
  return client;
}

const documentOf = ({ document = '' }: Issued): InvoiceDocument => JSON.parse(document) as InvoiceDocument;
const tokens = async (): Promise<Result<'service.tokens'>['tokens']> => (await admin.call('service.tokens', {})).tokens;
const standings = async (): Promise<string[]> => (await tokens()).map(({ standing }) => standing);

describe('a service with two tokens', () => {
  beforeEach(async () => {
    await start();
    await provision();
  });

  test('issues on each, in ledgers of their own, and sends each its own backlog up', async () => {
    const till = await terminal('till-1');
    const first = await till.issue({ ...sale('same-key'), token: 'shop' });
    const second = await till.issue({ ...sale('same-key'), issuer: issuerOf.annex });
    expect([first.number, second.number]).toEqual(['SA-00000001', 'AA-00000001']);
    expect([documentOf(first).issuer.taxId, documentOf(second).issuer.taxId]).toEqual([issuerOf.shop, issuerOf.annex]);
    expect(documentOf(first).token).not.toBe(documentOf(second).token);
    // Named by token, by issuer, or by both: the same request, and the same invoice.
    for (const which of [{ issuer: issuerOf.shop }, { token: 'shop', issuer: issuerOf.shop }])
      expect(await till.issue({ ...sale('same-key'), ...which })).toMatchObject({ repeated: true, document: first.document });
    for (const token of names) {
      await admin.call('backlog.flush', { token });
      expect(await admin.call('backlog.status', { token })).toMatchObject({ pending: 0, link: 'up' });
    }
    expect((await tokens()).map(({ token, issuer, standing }) => [token, issuer, standing])).toEqual([
      ['shop', issuerOf.shop, 'issuing-online'],
      ['annex', issuerOf.annex, 'issuing-online'],
    ]);
  });

  test('asks which one is meant where more than one could serve, and issues nothing', async () => {
    const till = await terminal('till-1');
    const refused = { code: 'invalid-request', field: 'token' };
    await expect(till.call('invoice.issue', sale('k'))).rejects.toMatchObject(refused);
    await expect(till.call('invoice.issue', { ...sale('k'), token: 'nobody' })).rejects.toMatchObject(refused);
    await expect(admin.call('session.logout', {})).rejects.toMatchObject(refused);
    await expect(till.call('invoice.issue', { ...sale('k'), issuer: 'GB3' })).rejects.toMatchObject({ ...refused, field: 'issuer' });
    expect(running.places.map(({ custody }) => custody.ledger?.tip.documents)).toEqual([0, 0]);
  });

  test('keeps a terminal that was enrolled for one token to that one, in requests and in events', async () => {
    await expect(terminal('till-0', { token: 'nobody' })).rejects.toMatchObject({ code: 'invalid-request', field: 'token' });
    const heard: EventNotice[] = [];
    const bound = await terminal('till-2', { token: 'annex' }, (notice) => heard.push(notice));
    const free = await terminal('till-1');
    await bound.call('events.subscribe', { events: ['issued'] });
    await free.issue({ ...sale('a'), token: 'shop' });
    expect((await bound.issue(sale('b'))).number).toBe('AA-00000001');
    await expect.poll(() => heard.map(({ event, token, number }) => [event, token, number])).toEqual([['issued', 'annex', 'AA-00000001']]);
    await expect(bound.call('invoice.issue', { ...sale('c'), token: 'shop' })).rejects.toMatchObject({ code: 'forbidden', field: 'token' });
    await expect(bound.call('invoice.get', { number: 'SA-00000001' })).rejects.toMatchObject({ code: 'not-found' });
    expect((await bound.call('service.tokens', {})).tokens.map(({ token }) => token)).toEqual(['annex']);
    expect((await admin.call('terminal.list', {})).terminals).toContainEqual({ terminal: 'till-2', role: 'till', token: 'annex' });
    await stop();
    await start(); // the binding is kept
    expect((await admin.call('terminal.list', {})).terminals).toContainEqual({ terminal: 'till-2', role: 'till', token: 'annex' });
  });

  test('locks and unlocks one without the other', async () => {
    const till = await terminal('till-1');
    await admin.call('session.logout', { token: 'shop' });
    expect(await standings()).toEqual(['locked', 'issuing-online']);
    await expect(till.call('invoice.issue', { ...sale('k'), token: 'shop' })).rejects.toMatchObject({ code: 'locked' });
    await till.issue({ ...sale('k'), token: 'annex' });
    await admin.call('session.login', { token: 'shop', pin: rigPin });
    await expect.poll(standings).toEqual(['issuing-online', 'issuing-online']);
  });

  test("notes a terminal of one token in that one's trail alone", async () => {
    await terminal('till-2', { token: 'annex' });
    await terminal('till-1');
    await admin.call('terminal.remove', { terminal: 'till-2' });
    const named = async (token: Name): Promise<(string | undefined)[]> => {
      const { entries } = await admin.call('audit.list', { token });
      const events = entries.map(({ body }) => decodeAdminEvent(Buffer.from(body ?? '', 'utf8')));
      const records = events.flatMap((event) => (event.event === 'audit' ? event.records : []));
      return records.flatMap(({ what, terminal: id }) => (what.startsWith('terminal.') ? [`${what} ${id}`] : [])).sort();
    };
    await expect.poll(() => named('annex')).toEqual(['terminal.enrol till-1', 'terminal.enrol till-2', 'terminal.remove till-2']);
    await expect.poll(() => named('shop')).toEqual(['terminal.enrol till-1']);
  });

  test('formats no FLASH for another issuer than its place is for', async () => {
    await admin.call('session.logout', { token: 'shop' });
    for (const file of ['key.json', 'flash.img']) rmSync(path.join(directory, 'shop', file));
    await expect.poll(async () => (await admin.call('service.status', { token: 'shop' })).standing).toBe('no-token');
    const ticket = await server.createTicket({ ...grant, issuer: { ...grant.issuer, taxId: issuerOf.annex } });
    const params = { token: 'shop', label: 'shop', pin: rigPin, soPin: '97531000', ticket };
    await expect(admin.call('token.provision', params)).rejects.toMatchObject({ code: 'invalid-request', field: 'ticket' });
    expect(existsSync(path.join(directory, 'shop', 'flash.img'))).toBe(false);
    // Its code is still good, and the token is as blank as before: it takes a ticket of its own issuer.
    const own = await server.createTicket({ ...grant, issuer: { ...grant.issuer, taxId: issuerOf.shop } });
    await admin.call('token.provision', { ...params, ticket: own });
    // A ticket of before does not name its issuer: what its charter says is heard.
    await admin.call('session.logout', { token: 'shop' });
    for (const file of ['key.json', 'flash.img']) rmSync(path.join(directory, 'shop', file));
    await expect.poll(async () => (await admin.call('service.status', { token: 'shop' })).standing).toBe('no-token');
    const { issuer: named, ...silent } = ticket;
    expect(named).toBe(issuerOf.annex);
    await expect(admin.call('token.provision', { ...params, ticket: silent })).rejects.toMatchObject({
      code: 'invalid-request',
      field: 'ticket',
    });
    expect(existsSync(path.join(directory, 'shop', 'flash.img'))).toBe(false);
  });

  test('does not start where a token has left its state folder behind', async () => {
    await stop();
    const [first, ...others] = config.tokens;
    const moved = { ...config, tokens: [{ ...first, state: path.join(config.state, 'other') }, ...others] } as Config;
    const starting = compose(moved, silentLog, { startHolder: joined });
    await expect(starting).rejects.toMatchObject({ code: 'invalid-request', field: 'token.state' });
    await start();
    await expect.poll(standings).toEqual(['issuing-online', 'issuing-online']);
  });

  test('uses no token in the place of another issuer, and both again in their own', async () => {
    const till = await terminal('till-1');
    const before = await till.issue({ ...sale('before'), token: 'shop' });
    await stop();
    const swap = (): void => {
      for (const file of ['key.json', 'flash.img']) {
        const [shop, annex, aside] = [path.join(directory, 'shop', file), path.join(directory, 'annex', file), path.join(directory, file)];
        renameSync(shop, aside);
        renameSync(annex, shop);
        renameSync(aside, annex);
      }
    };
    swap();
    await start();
    await expect.poll(standings, { timeout: 10_000 }).toEqual(['halted', 'halted']);
    const stranger = await terminal('till-2');
    await expect(stranger.call('invoice.issue', { ...sale('x'), token: 'shop' })).rejects.toMatchObject({ code: 'halted' });
    await stop();
    swap();
    await start();
    await expect.poll(standings, { timeout: 10_000 }).toEqual(['issuing-online', 'issuing-online']);
    const again = await terminal('till-1');
    expect(await again.issue({ ...sale('before'), token: 'shop' })).toMatchObject({ repeated: true, document: before.document });
  });
});

test('a token whose driver hangs delays no other, and goes on when it is well', { timeout: 60_000 }, async () => {
  await start();
  await provision();
  await stop();
  await start(faulty);
  await expect.poll(standings, { timeout: 10_000 }).toEqual(['issuing-online', 'issuing-online']);
  const till = await terminal('till-1');
  const timed = async (key: string): Promise<number> => {
    const startedMs = performance.now();
    await till.issue({ ...sale(key), token: 'annex' });
    return performance.now() - startedMs;
  };
  const hang = path.join(directory, 'shop', 'hang-sign');
  writeFileSync(hang, '');
  let isOver = false;
  const stuck = till.call('invoice.issue', { ...sale('stuck'), token: 'shop' }).then(
    () => 'answered',
    (error: { code: string }) => error.code,
  );
  void stuck.finally(() => {
    isOver = true;
  });
  const times: number[] = [];
  for (let at = 0; !isOver; at += 1) {
    times.push(await timed(`beside-${at}`));
    await pause(20);
  }
  console.log(`beside a hang: issued=${times.length} longest_ms=${Math.max(...times).toFixed(0)}`);
  expect(times.length).toBeGreaterThan(10);
  expect(Math.max(...times)).toBeLessThan(1_500); // the hang lasts three seconds
  expect(['token-failed', 'unknown-outcome', 'busy']).toContain(await stuck);
  rmSync(hang);
  const { number } = await till.issue({ ...sale('stuck'), token: 'shop' }, { deadlineMs: 30_000 });
  expect(number).toBe('SA-00000001');
});
