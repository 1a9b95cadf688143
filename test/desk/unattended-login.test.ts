import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UnattendedLogin } from '#desk/unattended-login.ts';
import { silentLog } from '#ground/log.ts';
import type { HolderState } from '#holder/holder.ts';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { fakeFacts } from '#test/support/fake-holder.ts';

const pin = '135790';
let directory = '';
beforeEach(() => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-pin-'));
  writeFileSync(path.join(directory, 'pin'), `${pin}\n`);
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

describe('a stored PIN whose try has no known end', () => {
  const recordFile = (): string => path.join(directory, 'stored-pin-try.json');

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
        pinFile: path.join(directory, 'pin'),
        stateDirectory: directory,
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
    expect(await starts(12, facts, fails(code))).toBe(asked);
  });

  test('is repeated a few times where it has worked before', async () => {
    expect(await starts(1, { triesLeft: null }, async () => undefined)).toBe(1);
    expect(await starts(30, { triesLeft: null }, fails('token-failed'))).toBe(9);
  });

  test('is recorded before the call: a crash in it is known at the next start', async () => {
    let seen = '';
    await starts(1, {}, async () => {
      seen = readFileSync(recordFile(), 'utf8');
    });
    expect(JSON.parse(seen)).toMatchObject({ kind: 'trying', proven: false });
    expect(seen).not.toContain(pin);
  });

  test('that used up a try is not repeated', async () => {
    expect(await starts(1, { triesLeft: 3 }, fails('token-failed'))).toBe(1);
    expect(await starts(3, { triesLeft: 2 }, fails('token-failed'))).toBe(0);
  });

  test('is one try, however often the token is reported meanwhile', async () => {
    let asked = 0;
    const login = Promise.withResolvers<never>();
    const holder = {
      login: (): Promise<never> => {
        asked += 1;
        return login.promise;
      },
    };
    const unattended = new UnattendedLogin({
      pinFile: path.join(directory, 'pin'),
      stateDirectory: directory,
      holder: holder as unknown as ConstructorParameters<typeof UnattendedLogin>[0]['holder'],
      log: silentLog,
    });
    const state: Extract<HolderState, { kind: 'locked' }> = { kind: 'locked', facts: { ...fakeFacts, loggedIn: false, triesLeft: null } };
    const attempts = Array.from({ length: 5 }, () => unattended.attempt(state));
    await new Promise((resolve) => setTimeout(resolve, 50));
    attempts.push(unattended.attempt(state));
    login.reject(new UkeyError('pin-incorrect', 'asked for by the test'));
    await Promise.all(attempts);
    await unattended.attempt(state);
    expect(asked).toBe(1);
  });
});
