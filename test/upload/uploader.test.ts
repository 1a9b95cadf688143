import { cpSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { decodeCbor } from '#ipc-schema/cbor.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { BacklogStatus } from '#ipc-schema/status.ts';
import { acknowledgementPayload, decodeUpload, paths } from '#ipc-schema/upstream.ts';
import { openAuthority } from '#server/authority.ts';
import type { Device } from '#store/device.ts';
import { loginWhenReady, openRig, type Rig, type RigOptions, sale } from '#test/support/rig.ts';
import { ScriptedServer } from '#test/support/scripted-server.ts';
import { HttpsClient, ServerRig } from '#test/support/server-rig.ts';
import { refusalsMax } from '#upload/account.ts';

let rig: Rig;
let scripted: ScriptedServer | null = null;
let stranger: ServerRig | null = null;
afterEach(async () => {
  await scripted?.close();
  await stranger?.stop();
  scripted = stranger = null;
  await rig?.close();
});

const seed = 20_300_304;

async function open(options: RigOptions = {}): Promise<void> {
  rig = await openRig({ line: true, ...options });
}

/** From now on a scripted server stands between service and server. */
async function openScripted(options: RigOptions = {}): Promise<ScriptedServer> {
  await open(options);
  scripted = await ScriptedServer.open(path.join(rig.directory, 'server'), rig.server);
  rig.line.targetPort = scripted.port;
  rig.line.hangUp();
  return scripted;
}

const backlog = (): Promise<BacklogStatus> => rig.admin.call('backlog.status', {});
const flush = (): Promise<BacklogStatus | null> => rig.admin.call('backlog.flush', {}).catch(() => null);
const link = async (): Promise<string> => (await backlog()).link;
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function lineDown(): Promise<void> {
  rig.line.state = 'down';
  rig.line.hangUp();
  for (let at = 0; at < 10 && (await link()) !== 'down'; at += 1) await flush();
  expect(await link()).toBe('down');
}

async function issue(from: number, count: number): Promise<void> {
  const keys = Array.from({ length: count }, (_, at) => sale(`k${from + at}`));
  await Promise.all(keys.map((each) => rig.till.issue({ ...each, brief: true })));
}

/** Flushes until nothing waits. */
async function drain(): Promise<void> {
  await expect
    .poll(
      async () => {
        await flush();
        return (await backlog()).pending;
      },
      { timeout: 20_000, interval: 100 },
    )
    .toBe(0);
}

/** Every batch that is acknowledged stands on the server, byte for byte, and nothing else does. */
async function expectServerIsLedger(): Promise<void> {
  const { custody } = rig.running;
  const { ledger } = custody;
  if (ledger === null) throw new Error('no ledger');
  const tokenId = Buffer.from(ledger.mount.tokenId).toString('hex');
  const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
  const stored: Buffer[] = [];
  for (let from = 1; ; ) {
    const reply = await client.ask(`${paths.tokens}/${tokenId}/batches?from=${from}&limit=64`);
    if (reply.status !== 200) break;
    const { batches } = decodeUpload(reply.body);
    stored.push(...batches.map((batch) => Buffer.from(batch)));
    from += batches.length;
  }
  client.close();
  expect(stored.length).toBeGreaterThanOrEqual(ledger.tip.ackedBatch);
  for (const [at, bytes] of stored.entries()) {
    const { evidence } = await ledger.find({ sequence: firstSequenceOf(bytes) });
    expect(bytes.includes(Buffer.from(evidence.sealBytes)), `batch ${at + 1}`).toBe(true);
  }
}

function firstSequenceOf(batch: Buffer): number {
  const [sealBytes] = decodeCbor(batch, 'batch') as [Uint8Array];
  const payload = (decodeCbor(stripTag(sealBytes), 'seal') as [Uint8Array, unknown, Uint8Array])[2];
  return (decodeCbor(payload, 'payload') as number[])[3] ?? 0;
}
const stripTag = (bytes: Uint8Array): Uint8Array => (bytes[0] === 0xd2 ? bytes.subarray(1) : bytes);

describe('the line', () => {
  test('goes down and comes back; what was issued meanwhile goes up by itself with the next proof', async () => {
    await open();
    await drain();
    expect(await link()).toBe('up');
    await rig.stopServer();
    await lineDown();
    expect((await rig.admin.call('service.status', {})).standing).toBe('issuing-offline');
    await issue(0, 20);
    expect((await backlog()).pending).toBe(20);
    rig.line.state = 'up';
    await flush();
    expect(await link()).toBe('down'); // the line is back, the server is not
    await rig.startServer();
    await drain();
    expect(await link()).toBe('up');
    expect((await rig.admin.call('service.status', {})).standing).toBe('issuing-online');
    await expectServerIsLedger();
  });

  test('that fails once is not down, and a second failure takes it down within a second', async () => {
    await open();
    await drain();
    rig.line.cutOnce = { up: 0 };
    rig.line.hangUp();
    await flush();
    expect(await link()).toBe('up');
    rig.line.state = 'down';
    rig.line.hangUp();
    await flush();
    await expect.poll(link, { timeout: 1_500 }).toBe('down');
  });

  test('is proven by itself once the ledger is open, and after a start', async () => {
    await open();
    await expect.poll(link).toBe('up');
    await lineDown();
    await issue(0, 3);
    rig.line.state = 'up';
    await rig.restart();
    await expect.poll(async () => (await backlog()).pending, { timeout: 5_000 }).toBe(0);
  });
});

describe('a backlog', () => {
  test('of 500 goes up in a few uploads, while tills go on', async () => {
    const server = await openScripted();
    await lineDown();
    for (let at = 0; at < 500; at += 50) await issue(at, 50);
    expect((await backlog()).pending).toBe(500);
    rig.line.state = 'up';
    server.uploads = 0;
    const tills = issue(500, 50);
    await drain();
    await tills;
    await drain();
    expect(server.uploads).toBeLessThan(60);
    await expectServerIsLedger();
    expect(rig.running.custody.budget()).toMatchObject({ countLeft: 10_000 });
  });

  test('goes up whole though the line is cut at any byte, either way', async () => {
    await open();
    let state = seed;
    const random = (below: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
      return state % below;
    };
    for (let cut = 0; cut < 12; cut += 1) {
      rig.line.cutOnce = cut % 2 === 0 ? { up: random(9_000) } : { down: random(6_000) };
      rig.line.hangUp();
      await issue(cut * 3, 3);
      await drain();
    }
    await expectServerIsLedger();
    expect(rig.running.custody.ledger?.tip.documents).toBe(36);
  }, 60_000);

  test('whose answer is lost after the server has stored it is not doubled', async () => {
    const server = await openScripted();
    await drain();
    let lost = 0;
    server.onBatches = async (body) => {
      if (lost++ > 0) return null;
      const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
      await client.ask(paths.batches, { body, type: 'application/ukey-upload+hpke' });
      client.close();
      throw new Error('cut');
    };
    await issue(0, 5);
    await drain();
    expect(lost).toBeGreaterThan(1);
    await expectServerIsLedger();
  });

  test('is sent in halves when the server finds it too large', async () => {
    const server = await openScripted();
    await lineDown();
    for (let at = 0; at < 30; at += 1) await issue(at, 1);
    rig.line.state = 'up';
    server.onBatches = (body) => (body.length > 6_000 ? { status: 413 } : null);
    await drain();
    await expectServerIsLedger();
  });

  test('is sent from where a restored server has lost it', async () => {
    await open();
    await issue(0, 5);
    await drain();
    const data = path.join(rig.directory, 'server');
    const copy = path.join(rig.directory, 'old');
    await rig.stopServer();
    cpSync(data, copy, { recursive: true });
    await rig.startServer();
    for (let at = 5; at < 25; at += 1) {
      await issue(at, 1);
      if (at % 5 === 0) await drain();
    }
    await drain();
    await rig.stopServer();
    for (const name of readdirSync(data).filter((each) => each.startsWith('tickets.db'))) rmSync(path.join(data, name));
    cpSync(copy, data, { recursive: true });
    await rig.startServer();
    rig.line.hangUp();
    const acked = rig.running.custody.ledger?.tip.ackedBatch ?? 0;
    await issue(25, 1);
    await drain();
    expect(rig.running.custody.ledger?.tip.ackedBatch).toBeGreaterThan(acked);
    await expectServerIsLedger();
  });
});

describe('a server that refuses what is uploaded', () => {
  test.each([
    [404, '{"code":"unknown-token","message":"the token is not enrolled here"}'],
    [400, ''],
    [403, 'go away'],
    [422, '{"code":"poison","message":"batch 2 is not readable"}'],
  ])(
    'with status %i again and again is told to a person, who is needed until it acknowledges',
    async (status, body) => {
      const server = await openScripted();
      await drain();
      const report = () => rig.admin.call('service.status', {});
      server.onBatches = () => ({ status, body });
      await issue(0, 1);
      expect(await report()).toMatchObject({ standing: 'issuing-online', action: '' });
      await expect.poll(async () => (await report()).action, { timeout: 10_000 }).not.toBe('');
      const refused = await report();
      expect(refused).toMatchObject({ standing: 'issuing-offline', backlog: { pending: 1, link: 'up' } });
      expect(refused.backlog?.lastError).not.toBeNull();
      expect(server.uploads).toBeGreaterThanOrEqual(refusalsMax);
      await issue(1, 1); // issuing goes on by the budget
      server.onBatches = () => null;
      await drain();
      expect(await report()).toMatchObject({ standing: 'issuing-online', action: '', backlog: { lastError: null } });
    },
    30_000,
  );

  test.each([
    ['that the FLASH has released', true],
    ['that cannot be read by the time it is to be sent', false],
  ])('because it wants a batch %s is told of, and asked anew from the last acknowledged on', async (_what, isKnown) => {
    let oldestRead = 1;
    const server = await openScripted({
      overrides: {
        startHolder: (config, events) => {
          const holder = joinHolder({ ...partsOf(config), events, note: () => undefined, pollMs: 50 });
          const readPacked = holder.readPacked.bind(holder);
          holder.readPacked = (from, maxBytes) =>
            from < oldestRead ? Promise.reject(new UkeyError('not-found', `batch ${from} is released`)) : readPacked(from, maxBytes);
          return holder;
        },
      },
    });
    await issue(0, 3);
    await drain();
    const { ledger } = rig.running.custody;
    if (ledger === null) throw new Error('no ledger');
    oldestRead = ledger.tip.ackedBatch;
    if (isKnown) ledger.keep({ ...ledger.kept, oldestBatch: oldestRead });
    server.onBatches = () => ({ status: 409, body: JSON.stringify({ code: 'gap', message: 'it begins too late', wantBatch: 1 }) });
    await issue(3, 1);
    const report = () => rig.admin.call('service.status', {});
    const told = { standing: 'issuing-offline', action: expect.stringContaining('headquarters') };
    if (isKnown) await expect.poll(report).toMatchObject(told);
    else await expect.poll(async () => (await report()).backlog?.lastError).toMatch(/is released/);
    server.onBatches = () => null;
    await expect.poll(async () => (await backlog()).pending, { timeout: 10_000 }).toBe(0);
    expect(await report()).toMatchObject({ standing: 'issuing-online', action: '' });
  });

  test.each([503, 429])(
    'with status %i asks for time, not for a person',
    async (status) => {
      const server = await openScripted();
      await drain();
      const before = server.uploads;
      server.onBatches = () => ({ status });
      await issue(0, 1);
      await expect.poll(() => server.uploads - before, { timeout: 10_000 }).toBeGreaterThan(refusalsMax);
      expect(await rig.admin.call('service.status', {})).toMatchObject({ standing: 'issuing-online', action: '' });
    },
    30_000,
  );
});

describe('a FLASH that cannot be read for a while', () => {
  test('keeps what waits from going up, is told, and stops no till; once it reads again all goes up by itself', async () => {
    let reads = true;
    await open({
      overrides: {
        startHolder: (config, events) => {
          const parts = partsOf(config);
          const openDevice = async (readOnly: boolean): Promise<Device> => {
            const device = await parts.openDevice(readOnly);
            const read = device.read.bind(device);
            device.read = (...where) =>
              reads ? read(...where) : Promise.reject(new UkeyError('halted', 'the FLASH cannot be read', { cause: new Error('EIO') }));
            return device;
          };
          return joinHolder({ ...parts, openDevice, events, note: () => undefined, pollMs: 50 });
        },
      },
    });
    await drain();
    await lineDown();
    await issue(0, 20);
    reads = false;
    rig.line.state = 'up';
    await flush();
    const report = () => rig.admin.call('service.status', {});
    expect(await report()).toMatchObject({ standing: 'issuing-offline', action: expect.stringContaining('ukeyctl store check') });
    await issue(20, 1);
    reads = true;
    await expect.poll(async () => (await backlog()).pending, { timeout: 10_000 }).toBe(0);
    expect(await report()).toMatchObject({ standing: 'issuing-online', action: '', backlog: { lastError: null } });
    await expectServerIsLedger();
  });
});

describe('what is not our server', () => {
  test('gets nothing and is never the line, whatever it answers', async () => {
    const server = await openScripted();
    await lineDown();
    await issue(0, 3);
    rig.line.state = 'up';
    const stale = await new HttpsClient(rig.server.url, rig.server.authorityCertificate).ask(`${paths.probe}?nonce=${'00'.repeat(16)}`);
    const html = '<html>Welcome to the free network</html>';
    for (const answer of [
      { status: 200, body: html },
      { status: 200, body: '' },
      { status: 204 },
      { status: 302, headers: { location: rig.server.url } },
      { status: 500, body: html },
      { status: 200, body: stale.body },
      { status: 200, body: Buffer.alloc(300_000, 1) },
    ]) {
      server.onProbe = () => answer;
      for (let at = 0; at < 2; at += 1) await flush();
      expect(await link()).toBe('down');
      await rig.till.issue(sale(`portal-${answer.status}-${answer.body?.length ?? 0}`));
    }
    expect(server.uploads).toBe(0);
  });

  test('shows another certificate, or another authority’s server answers in its place', async () => {
    stranger = await ServerRig.start();
    await open();
    await lineDown();
    rig.line.targetPort = stranger.server.port;
    rig.line.state = 'up';
    const before = rig.line.bytesUp;
    for (let at = 0; at < 4; at += 1) await flush();
    expect(await link()).toBe('down');
    expect((await backlog()).lastError).not.toMatch(/Node|--use/);
    expect((await backlog()).lastError).toMatch(/another server answers there/);
    expect(rig.line.bytesUp - before).toBeLessThan(10_000); // handshakes
    await issue(0, 5);
    expect((await backlog()).pending).toBe(5);
  });

  test('may forge acknowledgements: nothing is released, nobody is hammered, and the real one is taken', async () => {
    const server = await openScripted();
    await drain();
    const forgeries: (string | Uint8Array)[] = ['<html>', '', Buffer.alloc(200, 7)];
    server.onBatches = () => ({ status: 200, body: forgeries[server.uploads % forgeries.length] ?? '' });
    server.uploads = 0;
    await issue(0, 4);
    await pause(1_500);
    for (let at = 0; at < 5; at += 1) await issue(10 + at, 1);
    expect((await backlog()).pending).toBe(9);
    expect(server.uploads).toBeLessThanOrEqual(5);
    server.onBatches = () => null;
    await drain();
    await expectServerIsLedger();
  });

  test('may say clone or rollback without a proof: issuing goes on', async () => {
    const server = await openScripted();
    await drain();
    for (const refusal of [
      { code: 'fork', message: 'forged', wantBatch: 2 },
      { code: 'fork', message: 'forged' },
      { code: 'gap', message: 'forged', wantBatch: 1_000_000 },
    ]) {
      server.onBatches = () => ({ status: 409, body: JSON.stringify(refusal) });
      await issue(server.uploads * 10, 1);
      await pause(300);
      expect((await rig.admin.call('service.status', {})).standing).toBe('issuing-online');
    }
    server.onBatches = () => null;
    await drain();
  });
});

describe('a server in trouble', () => {
  test('that acknowledges with a time of next year marks no ledger: it is asked again, and told of where it stays so', async () => {
    const server = await openScripted();
    await drain();
    const authority = await openAuthority(path.join(rig.directory, 'server'), Date.now());
    const nextYearMs = Date.now() + 365 * 86_400_000;
    server.onBatches = async () => {
      const { ledger } = rig.running.custody;
      if (ledger === null) throw new Error('no ledger');
      const upToBatch = ledger.tip.nextBatch - 1;
      const { sealHash: headSealHash } = await ledger.summary(upToBatch);
      const ack = { tokenId: ledger.mount.tokenId, upToBatch, headSealHash, serverTimeMs: nextYearMs, parked: [] };
      return { status: 200, body: authority.signAnswer(acknowledgementPayload(ack)) };
    };
    await issue(0, 1);
    const report = () => rig.admin.call('service.status', {});
    await expect.poll(async () => (await report()).action, { timeout: 10_000 }).toContain('headquarters');
    await issue(1, 1);
    server.onBatches = () => null;
    await drain();
    expect(rig.running.custody.ledger?.tip.serverTimeMs).toBeLessThan(nextYearMs);
    expect(await report()).toMatchObject({ standing: 'issuing-online', action: '' });
  });

  test('that answers 500 is asked ever more rarely, though every probe goes well and tills go on', async () => {
    const server = await openScripted();
    await drain();
    server.onBatches = () => ({ status: 500, body: 'Internal Server Error' });
    server.uploads = 0;
    const untilMs = performance.now() + 3_500;
    for (let at = 0; performance.now() < untilMs; at += 1) {
      await issue(at, 1);
      await flush();
      await pause(20);
    }
    // Waits of at least 250, 500, 1000, 2000 ms.
    expect(server.uploads).toBeGreaterThanOrEqual(2);
    expect(server.uploads).toBeLessThanOrEqual(5);
    expect(await link()).toBe('up');
    server.onBatches = () => null;
    await drain();
    await expectServerIsLedger();
  });

  test('that says 503 with Retry-After is left alone for that long, whoever asks', async () => {
    const server = await openScripted();
    await drain();
    let refused = 0;
    server.onBatches = () => (refused++ === 0 ? { status: 503, headers: { 'retry-after': '2' } } : null);
    server.uploads = 0;
    const startedMs = performance.now();
    await issue(0, 1);
    while (performance.now() - startedMs < 1_800) {
      await flush();
      await issue(1_000 + Math.floor(performance.now()), 1);
      await pause(50);
      if (performance.now() - startedMs < 1_900) expect(server.uploads).toBeLessThanOrEqual(1);
    }
    await expect.poll(async () => (await backlog()).pending, { timeout: 5_000 }).toBe(0);
  });

  test('that never answers holds up no till', async () => {
    await open();
    await drain();
    rig.line.state = 'silent';
    rig.line.hangUp();
    void flush();
    const times: number[] = [];
    for (let at = 0; at < 20; at += 1) {
      const startedMs = performance.now();
      await issue(at, 1);
      times.push(performance.now() - startedMs);
    }
    expect(Math.max(...times)).toBeLessThan(1_500);
    rig.line.state = 'up';
    rig.line.hangUp();
  });
});

describe('a copy of the token', () => {
  test('an old FLASH that goes on issuing is found at the next contact, and stops', async () => {
    await open();
    await issue(0, 3);
    await drain();
    const token = path.join(rig.directory, 'token');
    const old = path.join(rig.directory, 'old-token');
    cpSync(token, old, { recursive: true });
    await issue(3, 3);
    await drain();
    await rig.running.close();
    rmSync(rig.config.tokens[0].state, { recursive: true });
    cpSync(old, token, { recursive: true });
    rig.line.state = 'down';
    await rig.startLocked();
    await loginWhenReady(rig.admin);
    const till = await rig.connectAs('till-9', 'till');
    await till.issue(sale('other'));
    rig.line.state = 'up';
    await flush();
    await expect.poll(async () => (await rig.admin.call('service.status', {})).standing, { timeout: 5_000 }).toBe('halted');
    await expect(till.call('invoice.issue', sale('more'))).rejects.toMatchObject({ code: 'halted' });
  });
});

describe('modes', () => {
  test('offline never uploads by itself', async () => {
    await open({ grant: { mode: 'offline' } });
    await issue(0, 3);
    const before = rig.line.bytesUp;
    await pause(300);
    const startedMs = performance.now();
    expect((await rig.till.issue(sale('w', { wait: 'acknowledged' }))).delivery).toBe('pending');
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    expect((await backlog()).pending).toBe(4);
    expect(rig.line.bytesUp - before).toBeLessThan(10_000);
  });

  test('online answers only what is acknowledged, and refuses while the line is down', async () => {
    await open({ grant: { mode: 'online' } });
    await drain();
    expect((await rig.till.issue(sale('a'))).delivery).toBe('acknowledged');
    await lineDown();
    await expect(rig.till.call('invoice.issue', sale('b'))).rejects.toMatchObject({ code: 'offline' });
    rig.line.state = 'up';
    await drain();
    expect(await rig.till.issue(sale('b'))).toMatchObject({ delivery: 'acknowledged', repeated: false });
  });

  test('online tells the truth about a document whose acknowledgement does not come: it exists', async () => {
    const server = await openScripted({ grant: { mode: 'online' } });
    await drain();
    server.onBatches = () => ({ status: 500 });
    const issuing = rig.till.call('invoice.issue', sale('c'));
    await pause(150);
    const refused = expect(issuing).rejects.toMatchObject({ code: 'unknown-outcome' });
    await lineDown(); // nobody waits for a line that is down
    await refused;
    const startedMs = performance.now();
    await expect(rig.till.call('invoice.issue', sale('c'))).rejects.toMatchObject({ code: 'unknown-outcome' });
    expect(performance.now() - startedMs).toBeLessThan(2_000);
    server.onBatches = () => null;
    rig.line.state = 'up';
    await drain();
    expect(await rig.till.issue(sale('c'))).toMatchObject({ delivery: 'acknowledged', repeated: true });
  });
});
