import { existsSync, readFileSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { compose } from '#daemon/compose.ts';
import { silentLog } from '#ground/log.ts';
import { openRig, type Rig, rigPin, sale } from '#test/support/rig.ts';

let rig: Rig;
afterEach(() => rig?.close());

const triesInFile = (): number =>
  (JSON.parse(readFileSync(path.join(rig.directory, 'token/key.json'), 'utf8')) as { triesLeft: number }).triesLeft;
/** Services that start again and again, on processors that others use too. */
const manyStartsMs = 30_000;

const pinFile = (): string => path.join(rig.directory, 'pin');
const standing = async (): Promise<string> => (await rig.admin.call('service.status', {})).standing;

describe('a person', () => {
  test('logs out and in; tills hear `locked` in between', async () => {
    rig = await openRig();
    await rig.till.issue(sale('a'));
    expect(await rig.admin.call('session.logout', {})).toEqual({ standing: 'locked' });
    await expect(rig.till.call('invoice.issue', sale('b'))).rejects.toMatchObject({ code: 'locked' });
    expect(await rig.admin.call('session.login', { pin: rigPin })).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
    expect((await rig.till.call('invoice.issue', sale('a'))).repeated).toBe(true);
  });

  test('with a wrong PIN sees the tries go down; the last one is not burnt unasked; the right one brings them back', async () => {
    rig = await openRig();
    const full = triesInFile();
    await rig.admin.call('session.logout', {});
    const login = (pin: string, useLastTry?: boolean): Promise<unknown> =>
      rig.admin.call('session.login', { pin, ...(useLastTry === undefined ? {} : { useLastTry }) });
    for (let left = full - 1; left >= 1; left -= 1) {
      await expect(login('000000')).rejects.toMatchObject({ code: 'pin-incorrect' });
      expect((await rig.admin.call('service.status', {})).token?.triesLeft).toBe(left);
    }
    for (let at = 0; at < 3; at += 1) await expect(login(rigPin)).rejects.toMatchObject({ code: 'pin-last-try' });
    expect(triesInFile()).toBe(1);
    expect(await login(rigPin, true)).toMatchObject({ triesLeft: full });
    expect((await rig.till.issue(sale('a'))).repeated).toBe(false);
  });
});

test('a login while the token is open says that its PIN was not checked', async () => {
  rig = await openRig();
  const full = triesInFile();
  expect(await rig.admin.call('session.login', { pin: '000000' })).toMatchObject({ checked: false });
  expect(triesInFile()).toBe(full);
  await rig.admin.call('session.logout', {});
  expect(await rig.admin.call('session.login', { pin: rigPin })).toMatchObject({ checked: true });
});

describe('the PIN that the service manager provides', () => {
  test('logs in by itself, at the start and after the token was away', async () => {
    rig = await openRig({ pinFile: true });
    await rig.till.issue(sale('a'));
    for (let at = 0; at < 2; at += 1) {
      await rig.restart();
      expect((await rig.till.issue(sale('a'))).repeated).toBe(true);
    }
  });

  test('lets tills wait while it logs in: the first request after a start is served', async () => {
    rig = await openRig({ pinFile: true });
    await rig.till.issue(sale('a'));
    await rig.restart();
    // No patience of the client: one call.
    expect((await rig.till.call('invoice.issue', sale('a'))).repeated).toBe(true);
  });

  test('does not undo what a person has locked', async () => {
    rig = await openRig({ pinFile: true });
    await rig.admin.call('session.logout', {});
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await standing()).toBe('locked');
    await rig.admin.call('session.login', { pin: rigPin });
    expect((await rig.till.issue(sale('a'))).repeated).toBe(false);
  });

  test(
    'when it is wrong, is tried once in all, however often the service starts and however the file is made anew',
    async () => {
      rig = await openRig({ pinFile: true });
      const full = triesInFile();
      writeFileSync(pinFile(), '999999\n');
      for (let start = 0; start < 6; start += 1) {
        if (start > 0) {
          // A service manager puts the credential into a new place each time.
          rmSync(pinFile());
          writeFileSync(pinFile(), '999999\n', { mode: 0o600 });
          utimesSync(pinFile(), start, start);
        }
        await rig.restart();
        await expect
          .poll(async () => (await rig.admin.call('service.status', {})).reason, { timeout: 20_000 })
          .not.toBe('the token is being opened');
        await new Promise((resolve) => setTimeout(resolve, 350));
        expect(await standing()).toBe('locked');
        expect(triesInFile()).toBe(full - 1);
      }
      const left = readFileSync(path.join(rig.config.state, 'stored-pin-try.json'), 'utf8');
      expect(left).not.toContain('999999');
      writeFileSync(pinFile(), `${rigPin}\n`);
      await rig.restart();
      expect((await rig.till.issue(sale('a'))).repeated).toBe(false);
      expect(triesInFile()).toBe(full);
      expect(readFileSync(path.join(rig.config.state, 'stored-pin-try.json'), 'utf8')).toBe('{"kind":"worked"}');
    },
    manyStartsMs,
  );

  test(
    'on a full disk waits for room, says so, and then logs in by itself',
    async () => {
      rig = await openRig({ pinFile: true });
      await rig.till.issue(sale('a'));
      const inTheWay = path.join(rig.config.state, 'stored-pin-try.json.new');
      symlinkSync('/dev/full', inTheWay);
      await rig.running.close();
      await rig.startLocked();
      await expect
        .poll(async () => rig.admin.call('service.status', {}), { timeout: 5_000 })
        .toMatchObject({
          standing: 'locked',
          reason: 'the stored PIN could not be used: no space left on device',
          action: 'Make room on the disk that holds the state folder.',
        });
      rmSync(inTheWay);
      await expect.poll(standing, { timeout: 10_000 }).toMatch(/^issuing/);
    },
    manyStartsMs,
  );

  test('missing or empty leaves the service locked, saying so, with no try', async () => {
    rig = await openRig({ pinFile: true });
    const full = triesInFile();
    for (const content of [null, '', '\n', 'x'.repeat(300)]) {
      rmSync(pinFile(), { force: true });
      if (content !== null) writeFileSync(pinFile(), content, { mode: 0o600 });
      await rig.restart();
      await expect
        .poll(async () => (await rig.admin.call('service.status', {})).reason, { timeout: 5_000 })
        .not.toBe('the token is being opened');
      expect(await standing()).toBe('locked');
      expect(triesInFile()).toBe(full);
    }
  });
});

describe('a new PIN', () => {
  const newPin = '864209';
  const tokenStatus = async () => (await rig.admin.call('service.status', {})).token;
  const change = (pin = rigPin) => rig.admin.call('session.changePin', { pin, newPin });

  test('is given while tills issue, and the old one is wrong from then on', async () => {
    rig = await openRig();
    expect(await change()).toMatchObject({ standing: expect.stringMatching(/^issuing/), pinState: 'ok', storedPin: 'none' });
    expect((await rig.till.issue(sale('a'))).repeated).toBe(false);
    await expect(change()).rejects.toMatchObject({ code: 'pin-incorrect' });
    expect((await rig.till.issue(sale('b'))).repeated).toBe(false);
    await rig.admin.call('session.logout', {});
    await expect(rig.admin.call('session.login', { pin: rigPin })).rejects.toMatchObject({ code: 'pin-incorrect' });
    expect(await rig.admin.call('session.login', { pin: newPin })).toMatchObject({ checked: true });
    await expect(rig.till.call('session.changePin', { pin: rigPin, newPin })).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('makes the stored one stale: that is said at once, and no try is spent on it over restarts until the file changes', async () => {
    rig = await openRig({ pinFile: true });
    const full = triesInFile();
    expect(await change()).toMatchObject({ storedPin: 'wrong' });
    expect(await tokenStatus()).toMatchObject({ storedPin: 'wrong' });
    for (let start = 0; start < 3; start += 1) {
      await rig.running.close();
      await rig.startLocked();
      await expect
        .poll(async () => (await rig.admin.call('service.status', {})).reason, { timeout: 5_000 })
        .toContain('stored PIN was refused');
      expect(triesInFile()).toBe(full);
    }
    writeFileSync(pinFile(), `${newPin}\n`);
    await expect.poll(standing, { timeout: 10_000 }).toMatch(/^issuing/);
    expect(await tokenStatus()).toMatchObject({ storedPin: 'works' });
    expect(triesInFile()).toBe(full);
  }, 30_000);

  test('that was refused leaves the stored one as it was', async () => {
    rig = await openRig({ pinFile: true });
    await rig.restart();
    await expect.poll(standing, { timeout: 5_000 }).toMatch(/^issuing/);
    await expect(change('111111')).rejects.toMatchObject({ code: 'pin-incorrect' });
    expect(await tokenStatus()).toMatchObject({ storedPin: 'works' });
    await rig.restart();
    await expect.poll(standing, { timeout: 5_000 }).toMatch(/^issuing/);
  }, 30_000);

  test('by the SO-PIN opens a token whose tries are used up; one that is open is refused', async () => {
    rig = await openRig({ pinFile: true });
    const unblock = (soPin = '97531000') => rig.admin.call('session.unblock', { soPin, newPin });
    await expect(unblock()).rejects.toMatchObject({ code: 'invalid-request' });
    await rig.admin.call('session.logout', {});
    for (let at = triesInFile(); at > 0; at -= 1)
      await expect(rig.admin.call('session.login', { pin: '000000', useLastTry: true })).rejects.toMatchObject({ code: 'pin-incorrect' });
    await expect(rig.admin.call('session.login', { pin: rigPin })).rejects.toMatchObject({ code: 'pin-locked' });
    await expect(unblock('11110000')).rejects.toMatchObject({ code: 'pin-incorrect' });
    expect(await unblock()).toMatchObject({ standing: 'locked', pinState: 'ok', storedPin: 'wrong' });
    const full = triesInFile();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(triesInFile()).toBe(full);
    await rig.admin.call('session.login', { pin: newPin });
    expect((await rig.till.issue(sale('a'))).repeated).toBe(false);
  }, 30_000);
});

test('a second service on the same state folder is refused, and the first goes on', async () => {
  rig = await openRig();
  await expect(
    compose({ ...rig.config, socket: `${rig.config.socket}2`, admin_socket: `${rig.config.admin_socket}2` }, silentLog),
  ).rejects.toMatchObject({
    code: 'busy',
  });
  expect(existsSync(`${rig.config.socket}2`)).toBe(false);
  expect((await rig.till.issue(sale('a'))).repeated).toBe(false);
});
