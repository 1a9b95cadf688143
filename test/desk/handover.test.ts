import { X509Certificate } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { LedgerCheck } from '#ctl/ledger-check.ts';
import { openStore } from '#ctl/verify-store.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { adminEventIn } from '#ipc-schema/admin.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { openSuccession } from '#ipc-schema/succession.ts';
import { openRig, type Rig, type RigOptions, rigPin, sale } from '#test/support/rig.ts';
import { HttpsClient } from '#test/support/server-rig.ts';
import { StepClock } from '#test/support/step-clock.ts';

const dayMs = 24 * 3_600_000;
type Sold = Map<string, Result<'invoice.issue'>>;

const rigs: Rig[] = [];
afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});

/** A shop that has sold: some of it has reached the server, the rest has not. */
async function shop(options: RigOptions = {}): Promise<{ rig: Rig; sold: Sold; tokenId: string }> {
  const rig = await openRig({ mirror: true, flashMib: 16, ...options });
  rigs.push(rig);
  const sold: Sold = new Map();
  for (const key of ['a', 'b']) sold.set(key, await rig.till.call('invoice.issue', sale(key)));
  await rig.admin.call('backlog.flush', {});
  for (const key of ['c', 'd']) sold.set(key, await rig.till.call('invoice.issue', sale(key)));
  return { rig, sold, tokenId: (await rig.admin.call('service.identity', {})).tokenId };
}

const inside = (rig: Rig, ...parts: string[]): string => path.join(rig.directory, ...parts);
const tokenFiles = ['key.json', 'flash.img'];
const blankToken = { pin: rigPin, soPin: '97531000', label: 'spare' };
const handOver = (rig: Rig): Promise<Result<'token.handOver'>> => rig.admin.call('token.handOver', {});
const takeBack = (rig: Rig, pin = rigPin): Promise<Result<'token.takeBack'>> => rig.admin.call('token.takeBack', { pin });
const standing = async (rig: Rig): Promise<string> => (await rig.admin.call('service.status', {})).standing;

function restore(rig: Rig, params: Partial<Params<'store.restore'>> & { readonly from: string }): Promise<Result<'store.restore'>> {
  return rig.admin.call('store.restore', { pin: rigPin, ...params }, { timeoutMs: 60_000 });
}

/** The old token goes to `kept`, while the service runs; the copy is the mirror's. */
async function pull(rig: Rig): Promise<{ copy: string; kept: string }> {
  const [name = ''] = readdirSync(inside(rig, 'state')).filter((file) => file.startsWith('mirror-'));
  copyFileSync(inside(rig, 'state', name), inside(rig, 'copy.img'));
  const kept = inside(rig, 'kept');
  mkdirSync(kept, { recursive: true });
  for (const file of tokenFiles) renameSync(inside(rig, 'token', file), path.join(kept, file));
  await expect.poll(async () => (await rig.admin.call('service.status', {})).token, { timeout: 10_000 }).toBeNull();
  return { copy: inside(rig, 'copy.img'), kept };
}

let keys = 0;

/** Every answer that was given is there, and the shop sells on. */
async function expectAllSold(rig: Rig, sold: Sold): Promise<void> {
  const till = await rig.connectTill();
  try {
    for (const [key, { number, document }] of sold)
      expect(await till.call('invoice.issue', sale(key))).toMatchObject({ repeated: true, number, document });
    const key = `next-${keys++}`;
    const next = await till.call('invoice.issue', sale(key));
    expect(next.repeated).toBe(false);
    sold.set(key, next);
  } finally {
    till.close();
  }
}

/** Walks the FLASH with public keys alone (the service is stopped for it); the events that are told, in order. */
async function eventsIn(rig: Rig): Promise<string[]> {
  await rig.running.close();
  const { soft_token: softTokenPath = '', flash: flashPath } = rig.config.tokens[0];
  const store = await openStore({ module: null, softTokenPath, flashPath }, Buffer.from(rigPin), () => undefined);
  const events: string[] = [];
  try {
    const { authorityCertificate, signers } = store.mount;
    const check = new LedgerCheck({ certificate: signers[0].certificate, authorityCertificate });
    for await (const { bytes } of store.batches())
      for (const { parsed, body } of check.add(bytes).entries) if (parsed.kind === 'admin') events.push(adminEventIn(body) ?? 'none');
    expect(check.result().findings).toEqual([]);
    const reasons = signers.slice(1).map(({ succession }) => {
      return openSuccession(succession ?? new Uint8Array(), new X509Certificate(authorityCertificate).publicKey).reason;
    });
    return [...events, ...reasons];
  } finally {
    await store.close();
    await rig.startLocked();
  }
}

async function serverView(rig: Rig, tokenId: string): Promise<Record<string, unknown>> {
  const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
  const { body } = await client.ask(`/v1/tokens/${tokenId}`);
  client.close();
  return JSON.parse(body.toString('utf8')) as Record<string, unknown>;
}

describe('a token that is replaced as planned', { timeout: 60_000 }, () => {
  test('and whose certificate was renewed: the spare has one of its own, which is renewed in its turn', async () => {
    const clock = new StepClock(Date.now(), true);
    const more = { serverWallMs: () => clock.wallMs(), overrides: { clock }, grant: { validDays: 10_000 } };
    const { rig, sold, tokenId } = await shop(more);
    const identity = async () => await rig.admin.call('service.identity', {});
    const renew = async () => await rig.admin.call('token.renewCertificate', {});
    const { certificate: enrolled } = await identity();
    clock.pass(400 * dayMs);
    await rig.admin.call('backlog.flush', {});
    await renew();
    await handOver(rig);
    const { copy } = await pull(rig);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    await restore(rig, { from: copy, ticket, ...blankToken });
    const spare = await identity();
    expect(spare).toMatchObject({ enrolmentCertificate: enrolled, predecessors: [{ fromBatch: 1, certificate: enrolled }] });
    clock.pass(400 * dayMs);
    await rig.admin.call('backlog.flush', {});
    const { previousExpires } = await renew();
    const certificateIn = (text: string): X509Certificate => new X509Certificate(Buffer.from(text, 'base64'));
    expect(Date.parse(previousExpires)).toBe(certificateIn(spare.certificate).validToDate.getTime());
    const { certificate: newest } = await identity();
    expect(certificateIn(newest).publicKey.equals(certificateIn(spare.certificate).publicKey)).toBe(true);
    await expectAllSold(rig, sold);
    await rig.admin.call('backlog.flush', {});
    expect(await serverView(rig, tokenId)).toMatchObject({ invoices: sold.size, alarm: null });
    expect(await eventsIn(rig)).toEqual(['certificate-renewed', 'handover', 'succession', 'certificate-renewed', 'token-replaced']);
  });

  test('is followed by the spare, while the service runs: nothing that was answered under load is lost', async () => {
    const { rig, sold, tokenId } = await shop();
    const refused: unknown[] = [];
    const tills = Array.from({ length: 3 }, async (_, at) => {
      const till = await rig.connectTill();
      for (let count = 0; refused.length === 0; count += 1) {
        const key = `load-${at}-${count}`;
        await till.call('invoice.issue', sale(key)).then(
          (issued) => sold.set(key, issued),
          (error: unknown) => refused.push(error),
        );
      }
      till.close();
    });
    await new Promise((resolve) => setTimeout(resolve, 200));
    const before = await handOver(rig);
    await Promise.all(tills);
    for (const error of refused) expect(['busy', 'halted', 'locked']).toContain((error as UkeyError).code);
    expect(before).toMatchObject({ standing: 'halted', tokenId, pending: expect.any(Number), copy: 'mirror' });
    await expect(rig.till.call('invoice.issue', sale('late'))).rejects.toMatchObject({ code: 'halted' });
    const { copy } = await pull(rig);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    expect(await restore(rig, { from: copy, ticket, ...blankToken })).toMatchObject({ successor: true, planned: true, tokenId });
    await expectAllSold(rig, sold);
    await rig.admin.call('backlog.flush', {});
    expect(await serverView(rig, tokenId)).toMatchObject({ invoices: sold.size, alarm: null });
    expect(await eventsIn(rig)).toEqual(['handover', 'succession', 'token-replaced']);
  });

  test('issues no more after a restart, by a person or by itself, and its own copy changes nothing of that', async () => {
    const { rig, tokenId } = await shop({ pinFile: true });
    await handOver(rig);
    for (let start = 0; start < 2; start += 1) {
      await rig.running.close();
      await rig.startLocked();
      await expect.poll(() => standing(rig), { timeout: 10_000 }).toBe('halted');
      expect((await rig.admin.call('service.status', {})).action).toContain('ukeyctl store restore');
      const till = await rig.connectTill();
      await expect(till.call('invoice.issue', sale('late'))).rejects.toMatchObject({ code: 'halted' });
      till.close();
    }
    await expect(handOver(rig)).rejects.toMatchObject({ code: 'halted' });
    await expect(rig.admin.call('session.login', { pin: rigPin })).rejects.toMatchObject({ code: 'halted' });
    const copy = inside(rig, 'copy.img');
    copyFileSync(inside(rig, 'state', `mirror-${tokenId}.img`), copy);
    await rig.running.close();
    rmSync(inside(rig, 'token', 'flash.img'));
    rmSync(inside(rig, 'pin'));
    await rig.startLocked();
    await expect(restore(rig, { from: copy })).rejects.toMatchObject({ code: 'halted' });
    expect(await standing(rig)).toBe('halted');
  });

  test('goes on where the handover could not be written, and is handed over once by two who ask at once', async () => {
    let isFaulty = false;
    const { rig, sold } = await shop({
      overrides: {
        startHolder: (config, events) => {
          const holder = joinHolder({ ...partsOf(config), events, note: () => undefined, pollMs: 50 });
          const commit = holder.commit.bind(holder);
          holder.commit = (draft) => {
            if (!isFaulty) return commit(draft);
            const refusal = Promise.reject(new UkeyError('token-failed', 'asked for by the test'));
            refusal.catch(() => undefined);
            return { sealed: refusal, durable: refusal };
          };
          return holder;
        },
      },
    });
    isFaulty = true;
    await expect(handOver(rig)).rejects.toMatchObject({ code: 'token-failed' });
    isFaulty = false;
    await expectAllSold(rig, sold);
    const both = await Promise.allSettled([handOver(rig), handOver(rig)]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(await eventsIn(rig)).toEqual(['handover']);
  });

  test('says that its FLASH is the copy where no mirror has everything', async () => {
    const { rig, sold, tokenId } = await shop({ mirror: false });
    expect(await handOver(rig)).toMatchObject({ copy: 'flash' });
    copyFileSync(inside(rig, 'token', 'flash.img'), inside(rig, 'copy.img'));
    for (const file of tokenFiles) rmSync(inside(rig, 'token', file));
    await expect.poll(async () => (await rig.admin.call('service.status', {})).token, { timeout: 10_000 }).toBeNull();
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    expect(await restore(rig, { from: inside(rig, 'copy.img'), ticket, ...blankToken })).toMatchObject({ planned: true });
    await expectAllSold(rig, sold);
  });

  test('keeps its ledger where no other KEY could open the store', async () => {
    const { rig, sold } = await shop({ grant: { recovery: false } });
    await expect(handOver(rig)).rejects.toMatchObject({ code: 'invalid-request' });
    await expectAllSold(rig, sold);
  });
});

describe('a ledger that was handed over is taken back', { timeout: 60_000 }, () => {
  test.each([{ pinFile: false }, { pinFile: true }])(
    'by the old token and its PIN, at once or after a restart: %o',
    async ({ pinFile }) => {
      const { rig, sold, tokenId } = await shop({ pinFile });
      await expect(takeBack(rig)).rejects.toMatchObject({ code: 'invalid-request' });
      await handOver(rig);
      await expect(takeBack(rig, '000000')).rejects.toMatchObject({ code: 'pin-incorrect' });
      expect(await standing(rig)).toBe('halted');
      expect((await takeBack(rig)).standing).toMatch(/^issuing/);
      await expectAllSold(rig, sold);
      await handOver(rig);
      await rig.running.close();
      await rig.startLocked();
      if (pinFile) await expect.poll(() => standing(rig), { timeout: 10_000 }).toBe('halted');
      await takeBack(rig);
      await expectAllSold(rig, sold);
      await rig.admin.call('backlog.flush', {});
      expect(await serverView(rig, tokenId)).toMatchObject({ invoices: sold.size, alarm: null });
      expect(await eventsIn(rig)).toEqual(['handover', 'handover-cancelled', 'handover', 'handover-cancelled']);
    },
  );

  test('too late: where the spare has gone on, the server stops the old one at its first contact', async () => {
    const { rig, sold, tokenId } = await shop();
    await handOver(rig);
    const { copy, kept } = await pull(rig);
    await restore(rig, { from: copy, ticket: await rig.server.createRecoveryTicket({ tokenId }), ...blankToken });
    await expectAllSold(rig, sold);
    await rig.admin.call('backlog.flush', {});
    await rig.running.close();
    for (const file of tokenFiles) renameSync(path.join(kept, file), inside(rig, 'token', file));
    for (const file of readdirSync(inside(rig, 'state'))) if (/^(mirror|index)-/.test(file)) rmSync(inside(rig, 'state', file));
    await rig.startLocked();
    await expect.poll(() => standing(rig), { timeout: 10_000 }).toBe('locked');
    await takeBack(rig).catch(() => undefined); // the server may be quicker
    await rig.admin.call('backlog.flush', {}).catch(() => undefined);
    await expect.poll(() => standing(rig), { timeout: 10_000 }).toBe('halted');
    expect(await serverView(rig, tokenId)).toMatchObject({ invoices: sold.size, alarm: expect.anything() });
  });
});
