// Shows: a store that damage keeps from opening says which batches and sequences are gone, comes back from a real ticket server byte for byte, and tills go on;
// what the server never got is never cut, and said so.
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Client } from '#ipc-schema/client.ts';
import type { Result } from '#ipc-schema/methods.ts';
import { otherBatch } from '#ipc-schema/spelling.ts';
import { ctl } from '#test/support/ctl.ts';
import { openRig, type Rig, rigPin, sale } from '#test/support/rig.ts';
import { strangerUploads } from '#test/support/stranger.ts';

const longMs = 60_000;
const logStart = 4 * 1024 * 1024;
let rig: Rig;
let till: Client;

beforeEach(async () => {
  rig = await openRig({ flashMib: 16 });
  till = rig.till;
});
afterEach(async () => {
  till.close();
  await rig.close();
});

const flash = (): string => path.join(rig.directory, 'token/flash.img');
const area = (): Buffer => readFileSync(flash()).subarray(logStart, logStart + 1024 * 1024);
const issue = async (from: number, to: number): Promise<string[]> => {
  const numbers: string[] = [];
  for (let at = from; at <= to; at += 1) numbers.push((await till.call('invoice.issue', sale(`k${at}`))).number);
  return numbers;
};
const upload = async (): Promise<void> => {
  await expect.poll(async () => (await rig.admin.call('backlog.flush', {})).pending, { timeout: 10_000 }).toBe(0);
};
const login = (): Promise<Result<'session.login'>> => rig.admin.call('session.login', { pin: rigPin });
const mend = (): Promise<Result<'store.mend'>> => rig.admin.call('store.mend', { pin: rigPin }, { timeoutMs: longMs });
const status = () => rig.admin.call('service.status', {});

/** Places of the frames, found by their headers. */
function places(): Map<number, number> {
  const bytes = area();
  const found = new Map<number, number>();
  for (let at = 0; at < bytes.length; at += 512)
    if (bytes.toString('ascii', at, at + 4) === 'UKFR') found.set(Number(bytes.readBigUInt64BE(at + 24)), logStart + at);
  return found;
}

/** The service is stopped, these batches are destroyed, and it waits for its PIN again. */
async function damage(...batches: number[]): Promise<Buffer> {
  await rig.running.close();
  const before = area();
  const image = openSync(flash(), 'r+');
  for (const batch of batches) writeSync(image, Buffer.alloc(64, 0xee), 0, 64, (places().get(batch) ?? Number.NaN) + 96);
  closeSync(image);
  await rig.startLocked();
  await expect.poll(async () => (await status()).reason, { timeout: 10_000 }).not.toBe('the token is being opened');
  return before;
}

test('it is named, mended and opened by ukeyctl store scrub, and tills go on', { timeout: longMs }, async () => {
  await issue(1, 6);
  await upload();
  const before = await damage(3, 4, 6);
  await expect(login()).rejects.toMatchObject({ code: 'halted' });
  const told = await status();
  expect(told.standing).toBe('halted');
  expect(told.reason).toMatch(/batches 3-4 \(sequences \d+-\d+\)/);
  expect(told.action).toContain('ukeyctl store scrub');
  await expect(rig.admin.call('store.mend', {})).rejects.toMatchObject({ code: 'locked' });
  await expect(rig.admin.call('store.check', { fromRun: 1 })).rejects.toMatchObject({ code: 'halted' });
  const pinFile = path.join(rig.directory, 'typed-pin');
  writeFileSync(pinFile, rigPin, { mode: 0o600 });
  const scrub = await ctl([
    'store',
    'scrub',
    '--pin-file',
    pinFile,
    '--json',
    '--socket',
    path.join(rig.directory, 'run/ukeyd-admin.sock'),
  ]);
  expect(scrub.status, scrub.stderr).toBe(0);
  expect(JSON.parse(scrub.stdout)).toMatchObject({ mended: [3, 4, 6], missing: [] });
  const end = before.findLastIndex((byte) => byte !== 0) + 1;
  expect(area().subarray(0, end).equals(before.subarray(0, end))).toBe(true);
  till = await rig.connectTill();
  expect(await issue(6, 7)).toEqual(['A-00000006', 'A-00000007']);
  await expect(mend()).rejects.toMatchObject({ code: 'invalid-request' });
});

test('while the server is out of reach it stays halted, nothing is written, and it is mended later', { timeout: longMs }, async () => {
  await issue(1, 4);
  await upload();
  await damage(3);
  const spoilt = area();
  await rig.stopServer();
  await expect(login()).rejects.toMatchObject({ code: 'halted' });
  await expect(mend()).rejects.toMatchObject({ code: 'offline' });
  expect(area().equals(spoilt)).toBe(true);
  expect(await status()).toMatchObject({ standing: 'halted' });
  await rig.startServer();
  expect((await mend()).mended).toEqual([3]);
  till = await rig.connectTill();
  expect((await till.call('invoice.issue', sale('k2'))).repeated).toBe(true);
  await rig.restart();
  till = rig.till;
  expect(await issue(5, 5)).toEqual(['A-00000005']);
});

test('what a stranger has brought to the server in another spelling comes back in the one that is followed here', {
  timeout: longMs,
}, async () => {
  await issue(1, 2);
  await upload();
  const { newestBatch } = await rig.admin.call('ledger.read', {});
  const tokenId = (await status()).token?.tokenId ?? '';
  await rig.stopServer();
  await issue(3, 6);
  const { batches } = await rig.admin.call('ledger.read', { fromBatch: newestBatch });
  await damage(newestBatch + 2);
  await expect(login()).rejects.toMatchObject({ code: 'halted' });
  await rig.startServer();
  const [, one = Buffer.alloc(0), two = Buffer.alloc(0)] = batches.map(({ bytes }) => Buffer.from(bytes, 'base64'));
  const strange = [...batches.slice(0, 1).map(({ bytes }) => Buffer.from(bytes, 'base64')), one, otherBatch(two) ?? two];
  expect((await strangerUploads(rig.server, tokenId, strange)).status).toBe(200);
  expect((await mend()).mended).toEqual([newestBatch + 2]);
  till = await rig.connectTill();
  expect(await issue(7, 7)).toEqual(['A-00000007']);
  await upload();
  expect(await status()).toMatchObject({ standing: expect.stringMatching(/^issuing/), alarm: null });
});

test('what the server never got is not cut: the standing says so, and what is left to do', { timeout: longMs }, async () => {
  await issue(1, 2);
  await upload();
  await rig.stopServer();
  const known = Math.max(...places().keys());
  await issue(3, 5);
  await damage(3, known + 2);
  await rig.startServer(); // not before the service was stopped: it would upload them
  const spoilt = area();
  await expect(login()).rejects.toMatchObject({ code: 'halted' });
  await expect(mend()).rejects.toMatchObject({ code: 'halted' });
  const told = await status();
  expect(told.standing).toBe('halted');
  expect(told.reason).toContain(`batch ${known + 2} `);
  expect(told.reason).not.toContain('batch 3 ');
  expect(told.reason).toContain('nobody else has');
  expect(told.action).toContain('ukeyctl store restore');
  // Batch 3 came back meanwhile; nothing else has changed, and whoever asks again hears the same.
  expect(area().equals(spoilt)).toBe(false);
  await expect(mend()).rejects.toMatchObject({ code: 'halted' });
  await expect(rig.connectTill().then((one) => one.call('invoice.issue', sale('x')))).rejects.toMatchObject({ code: 'halted' });
});

test('a wrong PIN costs a try and says so; another reason for halting is no damage', { timeout: longMs }, async () => {
  await issue(1, 2);
  await upload();
  await damage(3);
  await expect(login()).rejects.toMatchObject({ code: 'halted' });
  await expect(rig.admin.call('store.mend', { pin: 'wrong-pin' })).rejects.toMatchObject({ code: 'pin-incorrect' });
  await login().catch(() => undefined);
  expect((await mend()).mended).toEqual([3]);
  await rig.admin.call('session.logout', {});
  await expect(mend()).rejects.toMatchObject({ code: 'locked' });
});
