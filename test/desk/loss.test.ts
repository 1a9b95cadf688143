// Shows: a ledger of which batches are lost for good ends, and a new one begins on the same device: nothing without the person's word, every crash between the steps is
// finished by the same command, no number is given twice, and the new ledger tells once what it continues.
import { copyFileSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Overrides } from '#daemon/compose.ts';
import type { FormatRequest, ResumeStep } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { type AdminEvent, decodeAdminEvent } from '#ipc-schema/admin.ts';
import type { Client } from '#ipc-schema/client.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { type EnrolmentTicket, paths, type TokenView, tokenViewSchema } from '#ipc-schema/upstream.ts';
import { readBatches } from '#ledger/stored.ts';
import { grant, openRig, type Rig, type RigOptions, rigPin, sale } from '#test/support/rig.ts';
import { HttpsClient } from '#test/support/server-rig.ts';
import { openSoftToken } from '#token/soft-token.ts';

const longMs = 60_000;
const soPin = '97531000';
const newSeries = grant.series.map((one) => ({ ...one, prefix: `X${one.prefix}` }));
let rig: Rig;
let till: Client;
afterEach(async () => {
  till.close();
  await rig.close();
});

const flash = (): string => path.join(rig.directory, 'token/flash.img');
const key = (): string => path.join(rig.directory, 'token/key.json');
const file = (name: string): string => path.join(rig.directory, name);
const planFile = (): string => file('state/pending-loss.json');
const issue = async (from: number, to: number): Promise<string[]> => {
  const numbers: string[] = [];
  for (let at = from; at <= to; at += 1) numbers.push((await till.call('invoice.issue', sale(`k${at}`))).number);
  return numbers;
};
const upload = async (): Promise<void> => {
  await expect.poll(async () => (await rig.admin.call('backlog.flush', {})).pending, { timeout: 10_000 }).toBe(0);
};
const login = (): Promise<Result<'session.login'>> => rig.admin.call('session.login', { pin: rigPin });
const seen = async (): Promise<void> => {
  await expect.poll(async () => (await rig.admin.call('service.status', {})).reason).not.toBe('the token is being opened');
};
const resume = (acceptLoss?: Params<'store.resume'>['acceptLoss']): Promise<Result<'store.resume'>> =>
  rig.admin.call('store.resume', { pin: rigPin, ...(acceptLoss === undefined ? {} : { acceptLoss }) }, { timeoutMs: longMs });
const ticketFor = (series = newSeries): Promise<EnrolmentTicket> => rig.server.createTicket({ ...grant, series });

/** Where the service dies: before or behind a step of the holder. */
type CrashPoint = 'before renew' | 'behind renew' | 'before format' | 'behind format';
let crashAt: CrashPoint | null = null;

/** A holder that fails once at `crashAt`, as if the service had died there. */
const crashing: NonNullable<Overrides['startHolder']> = (config, events) => {
  const holder = joinHolder({
    ...partsOf(config),
    events: {
      onState: (state) => {
        // Formatted, and nobody has heard of it.
        if (crashAt !== 'behind format' || state.kind !== 'open') events.onState(state);
      },
    },
    note: () => undefined,
    pollMs: 50,
  });
  const die = (point: CrashPoint): void => {
    if (crashAt !== point) return;
    crashAt = null;
    throw new UkeyError('internal', `died ${point}`);
  };
  const around = async <T>(step: 'renew' | 'format', work: () => Promise<T>): Promise<T> => {
    die(`before ${step}`);
    const done = await work();
    die(`behind ${step}`);
    return done;
  };
  return new Proxy(holder, {
    get: (target, name) => {
      if (name === 'resume')
        return (step: ResumeStep) => (step.kind === 'renew' ? around('renew', () => target.resume(step)) : target.resume(step));
      if (name === 'format') return (request: FormatRequest) => around('format', () => target.format(request));
      const value: unknown = Reflect.get(target, name);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
};

interface Lost {
  readonly ledger: string;
  readonly oldNumbers: readonly string[];
}

/** A FLASH that ends two sales behind what the server has, put back after five more that only KEY and index have seen. */
async function lose(options: RigOptions = {}): Promise<Lost> {
  rig = await openRig({ flashMib: 16, ...options });
  till = rig.till;
  const oldNumbers = await issue(1, 3);
  await upload();
  const { tokenId: ledger } = await rig.admin.call('service.identity', {});
  await rig.stopServer();
  await rig.running.close();
  copyFileSync(flash(), file('older.img'));
  await rig.startLocked();
  await seen();
  await login();
  till = await rig.connectTill();
  oldNumbers.push(...(await issue(4, 5)));
  await rig.running.close();
  copyFileSync(flash(), file('old.img'));
  await rig.startLocked();
  await seen();
  await login();
  till = await rig.connectTill();
  oldNumbers.push(...(await issue(6, 10)));
  await rig.running.close();
  copyFileSync(flash(), file('right.img'));
  copyFileSync(file('old.img'), flash());
  for (const name of readdirSync(file('state')).filter((name) => name.startsWith('mirror-')))
    copyFileSync(file('old.img'), file(`state/${name}`));
  await rig.startServer();
  await rig.startLocked();
  await seen();
  return { ledger, oldNumbers };
}

/** What the server shows of a token. */
async function serverView(tokenId: string): Promise<TokenView> {
  const client = new HttpsClient(rig.server.url, rig.server.authorityCertificate);
  try {
    return tokenViewSchema.parse(JSON.parse((await client.ask(`${paths.tokens}/${tokenId}`)).body.toString('utf8')));
  } finally {
    client.close();
  }
}

async function restartLocked(): Promise<void> {
  await rig.running.close();
  await rig.startLocked();
  await seen();
}

/** The admin entries of the open ledger. */
async function told(): Promise<AdminEvent[]> {
  const { ledger } = rig.running.custody;
  if (ledger === null) throw new Error('no ledger is open');
  const events: AdminEvent[] = [];
  const reads = {
    read: async (fromBatch: number) =>
      (await rig.admin.call('ledger.read', { fromBatch })).batches.map((one) => ({
        batchIndex: one.batchIndex,
        bytes: Buffer.from(one.bytes, 'base64'),
      })),
  };
  for await (const { leaves, entries } of readBatches(reads, 1, ledger.tip.nextBatch - 1, 1_000_000))
    for (const [at, { body }] of entries.entries()) if (leaves[at]?.kind === 'admin') events.push(decodeAdminEvent(body));
  return events;
}

async function isWell({ ledger, oldNumbers }: Lost, newLedger: Result<'store.resume'>['newLedger']): Promise<void> {
  const { tokenId } = await rig.admin.call('service.identity', {});
  expect(tokenId).not.toBe(ledger);
  expect(newLedger).toMatchObject({ tokenId, ledger });
  till = await rig.connectTill();
  const numbers = await issue(1, 12); // keys of before are new here
  expect(numbers.filter((number) => oldNumbers.includes(number))).toEqual([]);
  const [event, ...others] = await told();
  expect(others).toEqual([]);
  expect(event).toMatchObject({ event: 'continues', ledger, lastBatch: newLedger?.lastBatch, anchoredBatch: newLedger?.knownBatch });
  expect(existsSync(planFile())).toBe(false);
  await upload();
}

describe('a ledger of which batches are lost for good', () => {
  test('is left as it is, and its loss told, until a person accepts it', { timeout: longMs }, async () => {
    const { ledger } = await lose();
    const before = [readFileSync(flash()), readFileSync(key())] as const;
    await expect(resume()).rejects.toMatchObject({ code: 'halted', message: expect.stringContaining(ledger) });
    const ticket = await ticketFor();
    await expect(resume({ ticket, soPin, eraseLedger: '0'.repeat(32) })).rejects.toMatchObject({
      code: 'invalid-request',
      field: 'acceptLoss.eraseLedger',
    });
    await expect(resume({ ticket: await ticketFor([...grant.series]), soPin, eraseLedger: ledger })).rejects.toMatchObject({
      code: 'invalid-request',
      field: 'acceptLoss.ticket',
    });
    await rig.stopServer();
    await expect(resume({ ticket, soPin, eraseLedger: ledger })).rejects.toMatchObject({ code: 'offline' });
    await rig.startServer();
    expect(readFileSync(flash()).equals(before[0])).toBe(true);
    const keyNow = JSON.parse(readFileSync(key(), 'utf8')) as { publicKey: string };
    expect(keyNow.publicKey).toBe((JSON.parse(before[1].toString()) as { publicKey: string }).publicKey);
    expect(existsSync(planFile())).toBe(false);
    await expect(resume({ ticket, soPin: '11111111', eraseLedger: ledger })).rejects.toMatchObject({ code: 'pin-incorrect' });
    expect((JSON.parse(readFileSync(key(), 'utf8')) as { publicKey: string }).publicKey).toBe(keyNow.publicKey);
    await expect(login()).rejects.toMatchObject({ code: 'halted' });
  });

  test('ends, and a new one with other numbers begins on the same device; the server has what the FLASH had', {
    timeout: longMs,
  }, async () => {
    const lost = await lose({ mirror: true });
    const mirror = readFileSync(file(`state/mirror-${lost.ledger}.img`));
    const { newLedger, foundBatch } = await resume({ ticket: await ticketFor(), soPin, eraseLedger: lost.ledger });
    expect(newLedger?.lastBatch).toBe(foundBatch);
    expect(newLedger?.knownBatch).toBeGreaterThan(foundBatch);
    await isWell(lost, newLedger);
    expect(readFileSync(file(`state/mirror-${lost.ledger}.img`)).equals(mirror)).toBe(true);
    await rig.restart();
    till = rig.till;
    expect(await issue(13, 13)).toEqual(['XA-00000013']);
    expect(await told()).toHaveLength(1);
  });

  test.each<CrashPoint>(['before renew', 'behind renew', 'before format', 'behind format'])(
    'ends also where the service died %s: the same command goes on, and the loss is told once',
    { timeout: longMs },
    async (point) => {
      const lost = await lose({ overrides: { startHolder: crashing } });
      const accepted = { ticket: await ticketFor(), soPin, eraseLedger: lost.ledger };
      crashAt = point;
      await expect(resume(accepted)).rejects.toMatchObject({ code: 'internal' });
      const plan = readFileSync(planFile());
      await restartLocked();
      // Whoever logs in meanwhile gets no ledger that issues old numbers.
      if (point !== 'behind format') await expect(login()).rejects.toBeDefined();
      if (point !== 'before renew' && point !== 'behind format') await expect(resume()).rejects.toMatchObject({ code: 'halted' });
      const { newLedger } = await resume(accepted);
      await isWell(lost, newLedger);
      // As if it had died between the entry and the end of the plan.
      if (point === 'behind format') {
        await rig.running.close();
        writeFileSync(planFile(), plan);
        await rig.startLocked();
        await seen();
        await login();
        expect(await told()).toHaveLength(1);
        expect(existsSync(planFile())).toBe(false);
      }
    },
  );

  test('goes on after it died inside the KEY: blank, or with new keys that nobody had noted', { timeout: longMs }, async () => {
    const lost = await lose({ overrides: { startHolder: crashing } });
    const accepted = { ticket: await ticketFor(), soPin, eraseLedger: lost.ledger };
    crashAt = 'before renew';
    await expect(resume(accepted)).rejects.toMatchObject({ code: 'internal' });
    await rig.running.close();
    const token = openSoftToken({ path: key() });
    token.reset({ soPin: Buffer.from(soPin) });
    await rig.startLocked();
    await seen();
    await expect(resume()).rejects.toMatchObject({ code: 'halted' });
    crashAt = 'before renew';
    await expect(resume(accepted)).rejects.toMatchObject({ code: 'internal' });
    await rig.running.close();
    token.provision({ label: 'rig', pin: Buffer.from(rigPin), soPin: Buffer.from(soPin) });
    await rig.startLocked();
    await seen();
    await expect(login()).rejects.toMatchObject({ code: 'halted' });
    await isWell(lost, (await resume(accepted)).newLedger);
  });

  test('does not end where the right FLASH comes back before its KEY was destroyed', { timeout: longMs }, async () => {
    const lost = await lose({ overrides: { startHolder: crashing } });
    crashAt = 'before renew';
    await expect(resume({ ticket: await ticketFor(), soPin, eraseLedger: lost.ledger })).rejects.toMatchObject({ code: 'internal' });
    await rig.running.close();
    copyFileSync(file('right.img'), flash());
    await rig.startLocked();
    await seen();
    await login();
    till = await rig.connectTill();
    expect(await issue(11, 11)).toEqual(['A-00000011']);
    expect(await told()).toEqual([]);
  });

  test('is not buried under a charter with its own numbers, whatever the ticket says of it; another ticket goes on', {
    timeout: longMs,
  }, async () => {
    const lost = await lose();
    const { prefixes, ...silent } = await ticketFor([...grant.series]);
    expect(prefixes).toEqual(['A-', 'C-']);
    const before = readFileSync(flash());
    await expect(resume({ ticket: silent, soPin, eraseLedger: lost.ledger })).rejects.toMatchObject({
      code: 'invalid-request',
      field: 'acceptLoss.ticket',
    });
    expect(readFileSync(flash()).equals(before)).toBe(true);
    await restartLocked();
    await isWell(lost, (await resume({ ticket: await ticketFor(), soPin, eraseLedger: lost.ledger })).newLedger);
  });

  test('brings the server also what only its mirror has', { timeout: longMs }, async () => {
    const lost = await lose({ mirror: true });
    await rig.running.close();
    copyFileSync(file('older.img'), flash());
    await rig.startLocked();
    await seen();
    await expect(login()).rejects.toMatchObject({ code: 'halted' });
    const { newLedger } = await resume({ ticket: await ticketFor(), soPin, eraseLedger: lost.ledger });
    expect((await serverView(lost.ledger)).invoices).toBe(5);
    await isWell(lost, newLedger);
  });
});
