import { existsSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { compose } from '#daemon/compose.ts';
import { UnattendedLogin } from '#desk/unattended-login.ts';
import { silentLog } from '#ground/log.ts';
import type { HolderState } from '#holder/holder.ts';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { fakeFacts } from '#test/support/fake-holder.ts';
import { openRig, type Rig, rigPin, sale } from '#test/support/rig.ts';

let rig: Rig;
afterEach(() => rig?.close());

const triesInFile = (): number =>
  (JSON.parse(readFileSync(path.join(rig.directory, 'token/key.json'), 'utf8')) as { triesLeft: number }).triesLeft;
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

  test('when it is wrong, is tried once in all, however often the service starts and however the file is made anew', async () => {
    rig = await openRig({ pinFile: true });
    const full = triesInFile();
    writeFileSync(pinFile(), '999999\n');
    for (let start = 0; start < 6; start += 1) {
      if (start > 0) {
        // A service manager puts the credential into a new place each time.
        rmSync(pinFile());
        writeFileSync(pinFile(), '999999\n');
        utimesSync(pinFile(), start, start);
      }
      await rig.restart();
      await expect
        .poll(async () => (await rig.admin.call('service.status', {})).reason, { timeout: 5_000 })
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
  });

  test('missing or empty leaves the service locked, saying so, with no try', async () => {
    rig = await openRig({ pinFile: true });
    const full = triesInFile();
    for (const content of [null, '', '\n', 'x'.repeat(300)]) {
      rmSync(pinFile(), { force: true });
      if (content !== null) writeFileSync(pinFile(), content);
      await rig.restart();
      await expect
        .poll(async () => (await rig.admin.call('service.status', {})).reason, { timeout: 5_000 })
        .not.toBe('the token is being opened');
      expect(await standing()).toBe('locked');
      expect(triesInFile()).toBe(full);
    }
  });
});

describe('a stored PIN whose try has no known end', () => {
  const directory = (): string => rig.config.state;
  const recordFile = (): string => path.join(directory(), 'stored-pin-try.json');

  /** Starts one after the other against a token that does `login`; how often it was asked. */
  async function starts(count: number, facts: Partial<typeof fakeFacts>, login: () => Promise<never> | Promise<void>): Promise<number> {
    let asked = 0;
    for (let at = 0; at < count; at += 1) {
      const holder = {
        login: async (): Promise<never> => {
          asked += 1;
          await login();
          return undefined as never;
        },
      };
      const unattended = new UnattendedLogin({
        pinFile: pinFile(),
        stateDirectory: directory(),
        holder: holder as unknown as ConstructorParameters<typeof UnattendedLogin>[0]['holder'],
        log: silentLog,
      });
      const state: Extract<HolderState, { kind: 'locked' }> = { kind: 'locked', facts: { ...fakeFacts, loggedIn: false, ...facts } };
      await unattended.attempt(state);
    }
    return asked;
  }
  const fails = (code: ErrorCode) => (): Promise<never> => Promise.reject(new UkeyError(code, 'asked for by the test'));

  test.each<[string, Partial<typeof fakeFacts>, ErrorCode, number]>([
    ['is repeated while the token shows that no try was used up', { triesLeft: 3 }, 'token-failed', 12],
    ['is repeated once where the token shows nothing', { triesLeft: null }, 'token-failed', 2],
    ['is not repeated where the token warns', { triesLeft: null, pinState: 'low' }, 'token-failed', 1],
    ['that was wrong is not repeated', { triesLeft: null }, 'pin-incorrect', 1],
    ['that did not take place does not count', { triesLeft: null }, 'no-token', 12],
  ])('%s', async (_what, facts, code, asked) => {
    rig = await openRig({ pinFile: true });
    rmSync(recordFile(), { force: true });
    expect(await starts(12, facts, fails(code))).toBe(asked);
  });

  test('is repeated a few times where it has worked before', async () => {
    rig = await openRig({ pinFile: true });
    rmSync(recordFile(), { force: true });
    expect(await starts(1, { triesLeft: null }, async () => undefined)).toBe(1);
    expect(await starts(30, { triesLeft: null }, fails('token-failed'))).toBe(9);
  });

  test('is recorded before the call: a crash in it is known at the next start', async () => {
    rig = await openRig({ pinFile: true });
    rmSync(recordFile(), { force: true });
    let seen = '';
    await starts(1, {}, async () => {
      seen = readFileSync(recordFile(), 'utf8');
    });
    expect(JSON.parse(seen)).toMatchObject({ kind: 'trying', proven: false });
    expect(seen).not.toContain(rigPin);
  });

  test('that used up a try is not repeated', async () => {
    rig = await openRig({ pinFile: true });
    rmSync(recordFile(), { force: true });
    expect(await starts(1, { triesLeft: 3 }, fails('token-failed'))).toBe(1);
    expect(await starts(3, { triesLeft: 2 }, fails('token-failed'))).toBe(0);
  });
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
