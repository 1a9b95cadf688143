import { generateKeyPairSync } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { LedgerCheck } from '#ctl/ledger-check.ts';
import type { OpenStore } from '#ctl/verify-store.ts';
import { openStore } from '#ctl/verify-store.ts';
import type { Holder } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { decodeSeal } from '#ipc-schema/batch.ts';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { RecoveryTicket } from '#ipc-schema/recovery.ts';
import { certificateFor } from '#ipc-schema/signers.ts';
import { decodeUpload } from '#ipc-schema/upstream.ts';
import { verifyEvidence } from '#ipc-schema/verify.ts';
import { openAuthority, openRecoveryKey } from '#server/authority.ts';
import { answerWaiting } from '#server/recovery.ts';
import { openDirectory } from '#server/serve.ts';
import { openRig, type Rig, type RigOptions, rigPin, sale } from '#test/support/rig.ts';
import { HttpsClient } from '#test/support/server-rig.ts';

type Restored = Result<'store.restore'>;

const rigs: Rig[] = [];
afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});

/** A shop that has sold: some of it has reached the server, the rest has not. */
async function shop(options: RigOptions = {}): Promise<{ rig: Rig; sold: Map<string, Result<'invoice.issue'>> }> {
  const rig = await openRig({ mirror: true, flashMib: 16, ...options });
  rigs.push(rig);
  const sold = new Map<string, Result<'invoice.issue'>>();
  for (const key of ['a', 'b', 'c']) sold.set(key, await rig.till.call('invoice.issue', sale(key)));
  await rig.admin.call('backlog.flush', {});
  for (const key of ['d', 'e']) sold.set(key, await rig.till.call('invoice.issue', sale(key)));
  return { rig, sold };
}

const tokenIdOf = async (rig: Rig): Promise<string> => (await rig.admin.call('service.identity', {})).tokenId;
const inside = (rig: Rig, ...parts: string[]): string => path.join(rig.directory, ...parts);
const tokenFiles = ['key.json', 'flash.img'];

/** The service is stopped; the mirror is put aside, and what the token is made of goes (to `kept`, where the test wants it back). */
async function lose(rig: Rig, files: readonly string[] = tokenFiles): Promise<{ mirror: string; kept: string }> {
  await rig.running.close();
  const kept = inside(rig, 'kept');
  mkdirSync(kept, { recursive: true });
  for (const file of files) renameSync(inside(rig, 'token', file), path.join(kept, file));
  const [name] = readdirSync(inside(rig, 'state')).filter((file) => file.startsWith('mirror-'));
  const mirror = inside(rig, 'mirror.img');
  copyFileSync(inside(rig, 'state', name ?? ''), mirror);
  if (files.includes('key.json')) rmSync(inside(rig, 'state', name ?? ''));
  await rig.startLocked();
  return { mirror, kept };
}

const blankToken = { pin: rigPin, soPin: '97531000', label: 'next' };

function restore(rig: Rig, params: Partial<Params<'store.restore'>> & { readonly from: string }): Promise<Restored> {
  return rig.admin.call('store.restore', { pin: rigPin, ...params }, { timeoutMs: 60_000 });
}

let keys = 0;

/** Every answer that was given is there, and a till that repeats gets the very same; and it sells on. */
async function expectAllSold(rig: Rig, sold: ReadonlyMap<string, Result<'invoice.issue'>>): Promise<void> {
  const till = await rig.connectTill();
  try {
    for (const [key, before] of sold) {
      const again = await till.call('invoice.issue', sale(key));
      expect(again).toMatchObject({ repeated: true, number: before.number, document: before.document, evidence: before.evidence });
    }
    const next = await till.call('invoice.issue', sale(`new-${keys++}`));
    expect(next.repeated).toBe(false);
    expect(next.sequence).toBeGreaterThan(Math.max(...[...sold.values()].map(({ sequence }) => sequence)));
  } finally {
    till.close();
  }
}

async function storeOf(rig: Rig): Promise<OpenStore> {
  const { soft_token: softTokenPath = '', flash: flashPath } = rig.config.tokens[0];
  return await openStore({ module: null, softTokenPath, flashPath }, Buffer.from(rigPin), () => undefined);
}

/** The whole ledger of the FLASH and of the server, walked with public keys alone; both are the same. */
async function expectLedgersHold(rig: Rig, tokenId: string): Promise<void> {
  const store = await storeOf(rig);
  const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
  try {
    const { authorityCertificate, signers } = store.mount;
    const { certificate } = signers[0];
    const [own, received] = [0, 1].map(() => new LedgerCheck({ certificate, authorityCertificate }));
    const batches: Uint8Array[] = [];
    for await (const { bytes } of store.batches()) {
      own?.add(bytes);
      batches.push(bytes);
    }
    const { body } = await client.ask(`/v1/tokens/${tokenId}/batches?from=1`);
    const arrived = decodeUpload(body).batches;
    for (const bytes of arrived) received?.add(bytes);
    expect(own?.result().findings).toEqual([]);
    expect(received?.result().findings).toEqual([]);
    expect(arrived.map((bytes) => Buffer.from(bytes).toString('hex'))).toEqual(
      batches.slice(0, arrived.length).map((bytes) => Buffer.from(bytes).toString('hex')),
    );
    // Only the acknowledgement of the last upload may be missing there.
    expect(batches.length - arrived.length).toBeLessThanOrEqual(1);
  } finally {
    client.close();
    await store.close();
  }
}

async function tokenView(rig: Rig, tokenId: string): Promise<Record<string, unknown>> {
  const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
  const { body } = await client.ask(`/v1/tokens/${tokenId}`);
  client.close();
  return JSON.parse(body.toString('utf8')) as Record<string, unknown>;
}

describe('a FLASH that was lost', { timeout: 60_000 }, () => {
  test('and was locked by a person stays locked where restoring it is refused, though a PIN is stored', async () => {
    const { rig } = await shop({ pinFile: true });
    await rig.admin.call('session.logout', {});
    await expect(restore(rig, { from: '/nowhere/mirror.img' })).rejects.toMatchObject({ code: 'invalid-request' });
    const standings: string[] = [];
    for (let at = 0; at < 20; at += 1) {
      standings.push((await rig.admin.call('service.status', {})).standing);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    expect(new Set(standings)).toEqual(new Set(['locked']));
  });

  test('and is an older one now, is written over with a newer copy, also where a stored PIN is tried unasked', async () => {
    const { rig, sold } = await shop({ pinFile: true });
    const flash = inside(rig, 'token', 'flash.img');
    await rig.running.close();
    copyFileSync(flash, inside(rig, 'older.img'));
    await rig.startLocked();
    await expect.poll(async () => (await rig.admin.call('service.status', {})).standing, { timeout: 20_000 }).not.toBe('locked');
    const till = await rig.connectTill();
    sold.set('f', await till.call('invoice.issue', sale('f'), { timeoutMs: 30_000 }));
    till.close();
    await rig.running.close();
    copyFileSync(inside(rig, 'older.img'), flash);
    const [name] = readdirSync(inside(rig, 'state')).filter((file) => file.startsWith('mirror-'));
    const mirror = inside(rig, 'mirror.img');
    renameSync(inside(rig, 'state', name ?? ''), mirror);
    await rig.startLocked();
    await expect.poll(async () => (await rig.admin.call('service.status', {})).standing, { timeout: 20_000 }).toBe('halted');
    expect(await restore(rig, { from: mirror, erase: true })).toMatchObject({ successor: false });
    await expectAllSold(rig, sold);
  });

  test('is made anew from its mirror by its KEY alone, without a server, and the lost one is a rollback when it is back', async () => {
    const { rig, sold } = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror, kept } = await lose(rig, ['flash.img']);
    await rig.stopServer();
    expect(await restore(rig, { from: mirror })).toMatchObject({ successor: false, tokenId });
    await expectAllSold(rig, sold);
    expect((await rig.admin.call('service.identity', {})).predecessors).toEqual([]);
    await rig.startServer();
    await rig.admin.call('backlog.flush', {});
    await rig.running.close();
    await expectLedgersHold(rig, tokenId);
    copyFileSync(path.join(kept, 'flash.img'), inside(rig, 'token', 'flash.img'));
    rmSync(inside(rig, 'state', `mirror-${tokenId}.img`));
    await rig.startLocked();
    await expect(rig.admin.call('session.login', { pin: rigPin })).rejects.toMatchObject({ code: 'halted' });
  });

  test('is restored also where its ledger takes longer to read than a caller waits', async () => {
    let reading = Promise.resolve();
    const { rig, sold } = await shop({
      overrides: {
        startHolder: (config, events) => {
          const holder = joinHolder({ ...partsOf(config), events, note: () => undefined, pollMs: 50 });
          const read = holder.read.bind(holder);
          return Object.assign(holder, { read: (from: number, bytes: number) => reading.then(() => read(from, bytes)) });
        },
      },
    });
    const { mirror } = await lose(rig, ['flash.img']);
    const held = Promise.withResolvers<void>();
    reading = held.promise;
    const restored = await restore(rig, { from: mirror }).finally(() => held.resolve());
    expect(restored.entries).toBeGreaterThan(sold.size);
    await expectAllSold(rig, sold);
  });

  test('is not made from a copy that is older than what its KEY has seen', async () => {
    const { rig, sold } = await shop();
    await rig.running.close();
    const old = inside(rig, 'old.img');
    copyFileSync(inside(rig, 'token', 'flash.img'), old);
    await rig.startLocked();
    await rig.admin.call('session.login', { pin: rigPin });
    const till = await rig.connectTill();
    sold.set('f', await till.call('invoice.issue', sale('f')));
    till.close();
    const { mirror } = await lose(rig, ['flash.img']);
    await expect(restore(rig, { from: old })).rejects.toMatchObject({ code: 'halted' });
    expect(statSync(inside(rig, 'token', 'flash.img'), { throwIfNoEntry: false })).toBeUndefined();
    await restore(rig, { from: mirror });
    await expectAllSold(rig, sold);
  });

  test('is not written over something else unasked', async () => {
    const { rig, sold } = await shop();
    const { mirror, kept } = await lose(rig, ['flash.img']);
    writeFileSync(inside(rig, 'token', 'flash.img'), Buffer.alloc(statSync(path.join(kept, 'flash.img')).size, 7));
    await expect(restore(rig, { from: mirror })).rejects.toMatchObject({ code: 'halted' });
    symlinkSync(inside(rig, 'token', 'flash.img'), inside(rig, 'another-name'));
    for (const from of [inside(rig, 'token', 'flash.img'), inside(rig, 'another-name')])
      await expect(restore(rig, { from, erase: true })).rejects.toMatchObject({ code: 'invalid-request' });
    await restore(rig, { from: mirror, erase: true });
    await expectAllSold(rig, sold);
  });
});

describe('a token that died', { timeout: 60_000 }, () => {
  test('is followed by another one with the same ledger: nothing that was answered is lost, and everything arrives', async () => {
    const { rig, sold } = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror } = await lose(rig);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    expect(await restore(rig, { from: mirror, ticket, ...blankToken })).toMatchObject({ successor: true, tokenId });
    await expectAllSold(rig, sold);
    await rig.admin.call('backlog.flush', {});
    const identity = await rig.admin.call('service.identity', {});
    expect(identity.tokenId).toBe(tokenId);
    expect(identity.predecessors).toHaveLength(1);
    expect(await tokenView(rig, tokenId)).toMatchObject({ invoices: sold.size + 1, alarm: null });
    await rig.running.close();
    await expectLedgersHold(rig, tokenId);
    await rig.startLocked();
    await rig.admin.call('session.login', { pin: rigPin });
    await expectAllSold(rig, sold);
  });

  test('may die twice, and its own FLASH is as good a copy as its mirror', async () => {
    const { rig, sold } = await shop();
    const tokenId = await tokenIdOf(rig);
    const first = await lose(rig);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    await restore(rig, { from: path.join(first.kept, 'flash.img'), ticket, ...blankToken });
    await expectAllSold(rig, sold);
    await rig.running.close();
    rmSync(inside(rig, 'kept'), { recursive: true });
    await rig.startLocked();
    const second = await lose(rig);
    const again = await rig.server.createRecoveryTicket({ tokenId });
    await restore(rig, { from: path.join(second.kept, 'flash.img'), ticket: again, ...blankToken });
    await rig.admin.call('backlog.flush', {});
    expect((await rig.admin.call('service.identity', {})).predecessors).toHaveLength(2);
    await rig.running.close();
    await expectLedgersHold(rig, tokenId);
    await rig.startLocked();
  });

  test('leaves a FLASH that is not written over with a copy that lacks some of it', async () => {
    const { rig, sold } = await shop();
    const tokenId = await tokenIdOf(rig);
    await rig.running.close();
    const [old, newest] = [inside(rig, 'old.img'), inside(rig, 'newest.img')];
    copyFileSync(inside(rig, 'token', 'flash.img'), old);
    await rig.stopServer();
    await rig.startLocked();
    await rig.admin.call('session.login', { pin: rigPin });
    const till = await rig.connectTill();
    sold.set('f', await till.call('invoice.issue', sale('f')));
    till.close();
    await lose(rig, ['key.json']);
    await rig.startServer();
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    await expect(restore(rig, { from: old, ticket, erase: true, ...blankToken })).rejects.toMatchObject({ code: 'halted' });
    copyFileSync(inside(rig, 'token', 'flash.img'), newest);
    await restore(rig, { from: newest, ticket, erase: true });
    await expectAllSold(rig, sold);
  });

  test('leaves a ledger that is written over no other one', async () => {
    const { rig } = await shop();
    const other = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror } = await lose(rig);
    await other.rig.running.close();
    copyFileSync(inside(other.rig, 'token', 'flash.img'), inside(rig, 'token', 'flash.img'));
    const before = readFileSync(inside(rig, 'token', 'flash.img'));
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    await expect(restore(rig, { from: mirror, ticket, erase: true, ...blankToken })).rejects.toMatchObject({ code: 'halted' });
    expect(readFileSync(inside(rig, 'token', 'flash.img')).equals(before)).toBe(true);
    await other.rig.startLocked();
  });

  test('gives evidence that is proven with the certificate of its time', async () => {
    const { rig, sold } = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror } = await lose(rig);
    await restore(rig, { from: mirror, ticket: await rig.server.createRecoveryTicket({ tokenId }), ...blankToken });
    const till = await rig.connectTill();
    const fresh = await till.call('invoice.issue', sale('fresh'));
    till.close();
    const { certificate, predecessors } = await rig.admin.call('service.identity', {});
    const certificates = [certificate, ...predecessors.map((one) => one.certificate)].map((text) => Buffer.from(text, 'base64'));
    const { X509Certificate } = await import('node:crypto');
    const used = [sold.get('a'), fresh].map((issued) => {
      const evidence = decodeEvidence(Buffer.from(issued?.evidence ?? '', 'base64'));
      const der = certificateFor(evidence.sealBytes, certificates);
      const key = new X509Certificate(der ?? new Uint8Array()).publicKey;
      verifyEvidence(evidence, key, Buffer.from(issued?.document ?? ''), Buffer.from(tokenId, 'hex'));
      expect(Buffer.from(decodeSeal(evidence.sealBytes).sign1.keyId)).toEqual(Buffer.from(keyIdOf(key)));
      return Buffer.from(der ?? []).toString('base64');
    });
    expect(used).toEqual([predecessors[0]?.certificate, certificate]);
  });

  test('and comes back is known for a fork by the server, and not by what it sold before', async () => {
    const { rig, sold } = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror, kept } = await lose(rig);
    await restore(rig, { from: mirror, ticket: await rig.server.createRecoveryTicket({ tokenId }), ...blankToken });
    await rig.admin.call('backlog.flush', {});
    await rig.running.close();
    for (const file of tokenFiles) renameSync(inside(rig, 'token', file), inside(rig, `next-${file}`));
    for (const file of tokenFiles) renameSync(path.join(kept, file), inside(rig, 'token', file));
    for (const file of readdirSync(inside(rig, 'state'))) if (/^(mirror|index)-/.test(file)) rmSync(inside(rig, 'state', file));
    await rig.stopServer();
    await rig.startLocked();
    await rig.admin.call('session.login', { pin: rigPin });
    const till = await rig.connectTill();
    expect((await till.call('invoice.issue', sale('d'))).document).toBe(sold.get('d')?.document);
    await till.call('invoice.issue', sale('fork'));
    await rig.startServer();
    await rig.admin.call('backlog.flush', {}).catch(() => undefined); // it stops in the middle
    await expect(till.call('invoice.issue', sale('no-more'))).rejects.toMatchObject({ code: 'halted' });
    till.close();
    expect(await tokenView(rig, tokenId)).toMatchObject({ invoices: 5, alarm: expect.anything() });
    // The right one goes on, and its people are told.
    await rig.running.close();
    for (const file of tokenFiles) renameSync(inside(rig, `next-${file}`), inside(rig, 'token', file));
    rmSync(inside(rig, 'state'), { recursive: true });
    await rig.startLocked();
    await rig.admin.call('session.login', { pin: rigPin });
    await rig.admin.call('backlog.flush', {});
    await expect
      .poll(() => rig.admin.call('service.status', {}))
      .toMatchObject({
        standing: 'issuing-online',
        alarm: expect.anything(),
      });
  });
});

describe('restoring is refused', { timeout: 60_000 }, () => {
  test('without a ticket, with a ticket of another ledger, and with one that another key has used; then it goes on', async () => {
    const { rig, sold } = await shop();
    const other = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror } = await lose(rig);
    await expect(restore(rig, { from: mirror, ...blankToken })).rejects.toMatchObject({ code: 'invalid-request' });
    const foreign = await other.rig.server.createRecoveryTicket({ tokenId: await tokenIdOf(other.rig) });
    const made = await rig.server.createRecoveryTicket({ tokenId });
    // None of these has made keys: the token is blank still.
    await expect(restore(rig, { from: mirror, ticket: made })).rejects.toMatchObject({ code: 'invalid-request' });
    const wrong: RecoveryTicket = { ...made, code: 'AAAA' };
    await expect(restore(rig, { from: mirror, ticket: wrong, ...blankToken })).rejects.toMatchObject({ code: 'forbidden' });
    await expect(restore(rig, { from: mirror, ticket: foreign })).rejects.toMatchObject({ code: 'forbidden' });
    const stranger: RecoveryTicket = { ...made, authorityFingerprint: '00'.repeat(32) };
    await expect(restore(rig, { from: mirror, ticket: stranger })).rejects.toMatchObject({ code: 'invalid-request' });
    await expect(restore(rig, { from: inside(rig, 'nothing'), ticket: made })).rejects.toMatchObject({
      code: 'invalid-request',
      field: 'from',
    });
    await restore(rig, { from: mirror, ticket: made });
    await expectAllSold(rig, sold);
  });

  test('where the copy is of another ledger than the ticket', async () => {
    const { rig } = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror } = await lose(rig);
    const second = await openRig({ mirror: true, flashMib: 16 });
    rigs.push(second);
    const theirs = await lose(second);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    await expect(restore(rig, { from: theirs.mirror, ticket, ...blankToken })).rejects.toMatchObject({ code: 'forbidden' });
    await restore(rig, { from: mirror, ticket });
  });

  test('where the server has more than the copy', async () => {
    const { rig } = await shop();
    const tokenId = await tokenIdOf(rig);
    await rig.running.close();
    const old = inside(rig, 'old.img');
    copyFileSync(inside(rig, 'token', 'flash.img'), old);
    await rig.startLocked();
    await rig.admin.call('session.login', { pin: rigPin });
    const till = await rig.connectTill();
    await till.call('invoice.issue', sale('later'));
    till.close();
    await rig.admin.call('backlog.flush', {});
    await lose(rig);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    await expect(restore(rig, { from: old, ticket, ...blankToken })).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('while the recovery key is away, until a person answers with it', async () => {
    const { rig, sold } = await shop();
    const tokenId = await tokenIdOf(rig);
    const { mirror } = await lose(rig);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    const file = inside(rig, 'server', 'authority.json');
    const authority = JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>;
    await rig.stopServer();
    writeFileSync(file, JSON.stringify({ ...authority, recoveryKey: null }), { mode: 0o600 });
    await rig.startServer();
    await expect(restore(rig, { from: mirror, ticket, ...blankToken })).rejects.toMatchObject({
      code: 'forbidden',
      action: expect.stringContaining('--recovery-key'),
    });
    const parts = await openDirectory({ directory: inside(rig, 'server') });
    const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' });
    expect(() => openRecoveryKey(parts.authority, Buffer.from(stranger))).toThrow(expect.objectContaining({ code: 'invalid-request' }));
    const open = openRecoveryKey(parts.authority, Buffer.from(authority['recoveryKey'] ?? ''));
    expect(await answerWaiting(parts, tokenId, open)).toBe(1);
    expect(await answerWaiting(parts, tokenId, open)).toBe(0);
    await parts.database.close();
    expect((await openAuthority(inside(rig, 'server'), Date.now())).openRecovery).toBeNull();
    await restore(rig, { from: mirror, ticket });
    await expectAllSold(rig, sold);
  });
});

type Step = 'unlockRestore' | 'finishRestore' | 'commit';

describe('a crash while another KEY takes over', { timeout: 60_000 }, () => {
  test.each<Step>(['unlockRestore', 'finishRestore', 'commit'])('at %s is mended by repeating, or by the next opening', async (step) => {
    let isFaulty = false;
    const { rig, sold } = await shop({
      overrides: {
        startHolder: (config, events) =>
          failing(joinHolder({ ...partsOf(config), events, note: () => undefined, pollMs: 50 }), step, () => isFaulty),
      },
    });
    const tokenId = await tokenIdOf(rig);
    const { mirror } = await lose(rig);
    const ticket = await rig.server.createRecoveryTicket({ tokenId });
    isFaulty = true;
    await expect(restore(rig, { from: mirror, ticket, ...blankToken })).rejects.toBeInstanceOf(UkeyError);
    await rig.running.close();
    isFaulty = false;
    await rig.startLocked();
    if (step === 'commit') await rig.admin.call('session.login', { pin: rigPin });
    else await restore(rig, { from: mirror, ticket });
    await expectAllSold(rig, sold);
    await rig.admin.call('backlog.flush', {});
    await rig.running.close();
    await expectLedgersHold(rig, tokenId);
    await rig.startLocked();
  });
});

/** A holder that fails in one step, as one that dies there. */
function failing(holder: Holder, step: Step, isFaulty: () => boolean): Holder {
  const dead = (): UkeyError => new UkeyError('internal', 'asked for by the test');
  return new Proxy(holder, {
    get(target, name) {
      const member = Reflect.get(target, name, target) as unknown;
      if (typeof member !== 'function') return member;
      if (name !== step || !isFaulty()) return member.bind(target);
      if (name !== 'commit') return () => Promise.reject(dead());
      return () => {
        const [sealed, durable] = [Promise.reject(dead()), Promise.reject(dead())];
        for (const each of [sealed, durable]) each.catch(() => undefined);
        return { sealed, durable };
      };
    },
  });
}
