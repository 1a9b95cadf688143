import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { compose, type Overrides, type RunningService } from '#daemon/compose.ts';
import { parseConfig } from '#ground/config.ts';
import { silentLog } from '#ground/log.ts';
import type { Holder } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import { blankFlashAction, UkeyError } from '#ipc-schema/errors.ts';
import type { EnrolmentTicket } from '#ipc-schema/upstream.ts';
import { type RunningServer, startServer } from '#server/serve.ts';
import { grant, loginWhenReady, rigPin, sale } from '#test/support/rig.ts';

interface Shop {
  readonly directory: string;
  running: RunningService;
  admin: Client;
}

let server: RunningServer | null = null;
let serverDirectory = '';
const shops: Shop[] = [];
afterEach(async () => {
  for (const shop of shops.splice(0)) {
    shop.admin.close();
    await shop.running.close();
    rmSync(shop.directory, { recursive: true, force: true });
  }
  await server?.close();
  server = null;
  rmSync(serverDirectory, { recursive: true, force: true });
});

const temporary = (): string => mkdtempSync(path.join(os.tmpdir(), 'ukeyd-prov-'));

async function openServer(): Promise<RunningServer> {
  serverDirectory = temporary();
  server = await startServer({ directory: serverDirectory });
  return server;
}

/** A service on a blank token. `change` sees each call to the holder first. */
async function openShop(directory = temporary(), change: (holder: Holder) => Holder = (holder) => holder): Promise<Shop> {
  const text = [
    'state = "state"',
    'socket = "run/a.sock"',
    'admin_socket = "run/b.sock"',
    '[token]',
    'soft_token = "key.json"',
    'flash = "flash.img"',
  ];
  const config = parseConfig([...text, 'flash_mib = 16', '[upload]', 'probe = "0 0 1 1 *"'].join('\n'), directory);
  const startHolder: NonNullable<Overrides['startHolder']> = (holderConfig, events) =>
    change(joinHolder({ ...partsOf(holderConfig), events, note: () => undefined, pollMs: 50 }));
  const running = await compose(config, silentLog, { startHolder });
  const admin = await connect({ socketPath: config.admin_socket, client: 'rig/1', waitMs: 2_000 });
  const shop = { directory, running, admin };
  shops.push(shop);
  return shop;
}

/** As a service that is killed: nothing is closed in order, the next one starts on the same folder. */
async function startAgain(shop: Shop): Promise<Shop> {
  shops.splice(shops.indexOf(shop), 1);
  shop.admin.close();
  await shop.running.close();
  return await openShop(shop.directory);
}

const provision = (shop: Shop, ticket: EnrolmentTicket): Promise<unknown> =>
  shop.admin.call('token.provision', { label: 'shop', pin: rigPin, soPin: '97531000', ticket });

const issues = async (shop: Shop): Promise<string> => {
  await shop.admin.call('terminal.enrol', { terminal: 'till-1', role: 'till' }).catch(() => undefined);
  const ledger = await shop.running.custody.use();
  return `${ledger.charter?.issuer.taxId} ${ledger.templates.map((template) => template.id).join()}`;
};

describe('provisioning', () => {
  test('makes a blank token issue, once', async () => {
    const shop = await openShop();
    await expect
      .poll(() => shop.admin.call('service.status', {}))
      .toMatchObject({ standing: 'no-token', action: expect.stringContaining('ukeyctl provision') });
    const { createTicket } = await openServer();
    const ticket = await createTicket(grant);
    expect(await provision(shop, ticket)).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
    expect(await issues(shop)).toBe('GB123456789 retail');
    expect(existsSync(path.join(shop.directory, 'state/pending-enrolment.json'))).toBe(false);
    await expect(provision(shop, ticket)).rejects.toMatchObject({
      code: 'invalid-request',
      action: expect.stringContaining('ukeyctl login'),
    });
  });

  test('with a used ticket is refused, and the token may still be provisioned with a good one', async () => {
    const { createTicket } = await openServer();
    const ticket = await createTicket(grant);
    await provision(await openShop(), ticket);
    const second = await openShop();
    await expect(provision(second, ticket)).rejects.toMatchObject({ code: 'forbidden' });
    expect(
      await provision(
        second,
        await createTicket({ ...grant, series: grant.series.map((part) => ({ ...part, prefix: `B${part.prefix}` })) }),
      ),
    ).toMatchObject({
      standing: expect.stringMatching(/^issuing/),
    });
  });

  test('through a ticket of another authority uses nothing of the answer', async () => {
    const { createTicket } = await openServer();
    const ticket = await createTicket(grant);
    const shop = await openShop();
    await expect(provision(shop, { ...ticket, authorityFingerprint: '00'.repeat(32) })).rejects.toMatchObject({ code: 'invalid-request' });
    expect(existsSync(path.join(shop.directory, 'flash.img'))).toBe(false);
    expect(await provision(shop, ticket)).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
  });

  test('while the server is away is refused as offline and may be repeated with the same ticket', async () => {
    const { createTicket, port } = await openServer();
    const ticket = await createTicket(grant);
    await server?.close();
    server = null;
    const shop = await openShop();
    await expect(provision(shop, ticket)).rejects.toMatchObject({ code: 'offline' });
    server = await startServer({ directory: serverDirectory, port });
    expect(await provision(shop, ticket)).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
  });
});

test('a FLASH that was emptied under its KEY is told apart from a blank token, and nobody is sent to provision it', async () => {
  const { createTicket } = await openServer();
  const shop = await openShop();
  await provision(shop, await createTicket(grant));
  const flash = path.join(shop.directory, 'flash.img');
  shops.splice(shops.indexOf(shop), 1);
  shop.admin.close();
  await shop.running.close();
  writeFileSync(flash, Buffer.alloc(statSync(flash).size));
  const again = await openShop(shop.directory);
  await expect
    .poll(async () => again.admin.call('service.status', {}))
    .toMatchObject({ standing: 'no-token', reason: 'the KEY is provisioned, its FLASH is blank', action: blankFlashAction });
  const login = again.admin.call('session.login', { pin: rigPin });
  await expect(login).rejects.toMatchObject({ code: 'token-failed', action: blankFlashAction });
  await expect(again.admin.call('service.identity', {})).rejects.toMatchObject({ action: blankFlashAction });
}, 30_000);

describe('a crash while provisioning', () => {
  test('after the server has answered is mended by the same ticket', async () => {
    const { createTicket } = await openServer();
    const ticket = await createTicket(grant);
    const shop = await openShop(undefined, (holder) => without(holder, 'format'));
    await expect(provision(shop, ticket)).rejects.toMatchObject({ code: 'internal' });
    const again = await startAgain(shop);
    await expect.poll(async () => (await again.admin.call('service.status', {})).reason).not.toBe('the token is being opened');
    expect(await provision(again, ticket)).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
    expect(await issues(again)).toBe('GB123456789 retail');
  });

  test('between format and charter is finished at the next opening', async () => {
    const { createTicket } = await openServer();
    const ticket = await createTicket(grant);
    const shop = await openShop(undefined, (holder) => without(holder, 'commit'));
    await expect(provision(shop, ticket)).rejects.toThrow();
    const again = await startAgain(shop);
    await loginWhenReady(again.admin);
    expect(await issues(again)).toBe('GB123456789 retail');
    const status = await again.admin.call('service.status', {});
    expect(status).toMatchObject({ standing: expect.stringMatching(/^issuing/), issuer: { taxId: 'GB123456789' } });
    expect(existsSync(path.join(again.directory, 'state/pending-enrolment.json'))).toBe(false);
    expect(sale('x').template).toBe(status.templates[0]?.id);
  });

  test('whose answer is lost with the state folder says what to do, and issues nothing', async () => {
    const { createTicket } = await openServer();
    const shop = await openShop(undefined, (holder) => without(holder, 'commit'));
    await expect(provision(shop, await createTicket(grant))).rejects.toThrow();
    rmSync(path.join(shop.directory, 'state/pending-enrolment.json'));
    const again = await startAgain(shop);
    await loginWhenReady(again.admin);
    const { secret } = await again.admin.call('terminal.enrol', { terminal: 'till-1', role: 'till' });
    const till = await connect({
      ...{ socketPath: path.join(again.directory, 'run/a.sock'), client: 'rig/1', terminal: 'till-1', secret: Buffer.from(secret, 'hex') },
      waitMs: 2_000,
    });
    await expect(till.call('invoice.issue', sale('a'))).rejects.toMatchObject({ code: 'halted' });
    till.close();
  });
});

/** A holder that fails in one step, as one that dies there. */
function without(holder: Holder, step: 'format' | 'commit'): Holder {
  const dead = (): UkeyError => new UkeyError('internal', 'asked for by the test');
  const refused = (): never => {
    throw dead();
  };
  return {
    state: () => holder.state(),
    login: (pin, useLastTry) => holder.login(pin, useLastTry),
    logout: () => holder.logout(),
    changePin: (change) => holder.changePin(change),
    unblockPin: (unblock) => holder.unblockPin(unblock),
    provision: (options) => holder.provision(options),
    format: (request) => (step === 'format' ? Promise.reject(dead()) : holder.format(request)),
    commit: (batch) => {
      if (step === 'format') return holder.commit(batch);
      const sealed = Promise.reject(dead());
      const durable = Promise.reject(dead());
      for (const each of [sealed, durable]) each.catch(() => undefined);
      return batch.count > 0 ? { sealed, durable } : refused();
    },
    beginRestore: (options) => holder.beginRestore(options),
    unlockRestore: (sealed) => holder.unlockRestore(sealed),
    finishRestore: (grant) => holder.finishRestore(grant),
    openAgain: () => holder.openAgain(),
    requestRenewal: (hash) => holder.requestRenewal(hash),
    read: (from, maxBytes) => holder.read(from, maxBytes),
    readPacked: (from, maxBytes) => holder.readPacked(from, maxBytes),
    carry: (carried) => holder.carry(carried),
    release: (upToBatch) => holder.release(upToBatch),
    check: (fromRun, heal) => holder.check(fromRun, heal),
    mend: (batches) => holder.mend(batches),
    resume: (step) => holder.resume(step),
    status: () => holder.status(),
    close: () => holder.close(),
  };
}

describe('what provisioning does not bury', () => {
  const more = (
    shop: Shop,
    ticket: EnrolmentTicket,
    consent: { readonly erase?: boolean; readonly eraseLedger?: string },
  ): Promise<unknown> => shop.admin.call('token.provision', { label: 'shop', pin: rigPin, soPin: '97531000', ticket, ...consent });

  /** A shop that was provisioned and is stopped; `change` does something to its folder before it starts again. */
  async function changed(change: (directory: string) => void): Promise<Shop> {
    const { createTicket } = await openServer();
    const shop = await openShop();
    await provision(shop, await createTicket(grant));
    shops.splice(shops.indexOf(shop), 1);
    shop.admin.close();
    await shop.running.close();
    change(shop.directory);
    const again = await openShop(shop.directory);
    await expect
      .poll(async () => (await again.admin.call('service.status', {})).reason, { timeout: 20_000 })
      .not.toBe('the token is being opened');
    return again;
  }

  const another = async (): Promise<EnrolmentTicket> => {
    if (server === null) throw new Error('open the server first');
    return await server.createTicket(grant);
  };

  test.each<[string, (flash: string) => void]>([
    ['blank', (flash) => writeFileSync(flash, Buffer.alloc(statSync(flash).size))],
    ['missing', (flash) => rmSync(flash)],
  ])('a ledger whose FLASH is %s: refused as often as it is tried, and no ticket is spent', async (_what, lose) => {
    const shop = await changed((directory) => {
      lose(path.join(directory, 'flash.img'));
      rmSync(path.join(directory, 'state'), { recursive: true }); // another machine, with no mirror either
    });
    const ticket = await another();
    for (let times = 0; times < 2; times += 1)
      await expect(provision(shop, ticket)).rejects.toMatchObject({ code: 'invalid-request', action: blankFlashAction });
    // Who erases all the same is told by the server that this token has a ledger.
    await expect(more(shop, ticket, { erase: true })).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('a FLASH that holds something else: refused before the KEY gets keys, and it says what', async () => {
    const { createTicket } = await openServer();
    const ticket = await createTicket(grant);
    const shop = await openShop();
    const image = Buffer.alloc(16 * 1024 * 1024);
    image.set([0x53, 0xef], 1080);
    writeFileSync(path.join(shop.directory, 'flash.img'), image);
    await expect(provision(shop, ticket)).rejects.toMatchObject({
      code: 'halted',
      message: expect.stringContaining('ext4'),
      action: expect.stringContaining('--erase'),
    });
    expect(await more(shop, ticket, { erase: true })).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
  });
});
