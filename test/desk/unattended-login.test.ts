import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type FileFacts, type PinPlace, PinSource, refusalOf } from '#desk/pin-source.ts';
import { UnattendedLogin } from '#desk/unattended-login.ts';
import { silentLog } from '#ground/log.ts';
import type { HolderState } from '#holder/holder.ts';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { fakeFacts } from '#test/support/fake-holder.ts';

const pin = '135790';
let directory = '';
beforeEach(() => {
  directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-pin-'));
  writeFileSync(path.join(directory, 'pin'), `${pin}\n`, { mode: 0o600 });
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** The same file, as a file and as a credential. */
const placeOf = {
  file: (): PinPlace => ({ kind: 'file', path: path.join(directory, 'pin') }),
  credential: (): PinPlace => ({ kind: 'credential', name: 'pin', directory }),
} as const;

describe.each(['file', 'credential'] as const)('a stored PIN (%s) whose try has no known end', (kind) => {
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
        pin: placeOf[kind](),
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
      pin: placeOf[kind](),
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

describe.each(['file', 'credential'] as const)('a stored PIN (%s) that cannot be used now', (kind) => {
  const firstMs = 10;
  const locked: Extract<HolderState, { kind: 'locked' }> = { kind: 'locked', facts: { ...fakeFacts, loggedIn: false, triesLeft: null } };
  /** A file on a full disk: every write to it is refused. */
  const fillDisk = (): void => symlinkSync('/dev/full', path.join(directory, 'stored-pin-try.json.new'));
  const makeRoom = (): void => rmSync(path.join(directory, 'stored-pin-try.json.new'));
  const pause = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));
  let unattended: UnattendedLogin;
  let asked: string[] = [];
  afterEach(() => unattended.close());

  function open(login: (given: string) => Promise<void>): void {
    asked = [];
    const holder = {
      login: async (given: Uint8Array): Promise<void> => {
        const text = Buffer.from(given).toString();
        asked.push(text);
        await login(text);
        unattended.leave(); // the holder tells `open`
      },
    };
    unattended = new UnattendedLogin({
      ...{ pin: placeOf[kind](), stateDirectory: directory, log: silentLog, retryFirstMs: firstMs },
      holder: holder as unknown as ConstructorParameters<typeof UnattendedLogin>[0]['holder'],
    });
  }

  test('because the disk is full is tried as soon as there is room, and says so meanwhile', async () => {
    open(async () => undefined);
    fillDisk();
    await unattended.attempt(locked);
    expect(unattended.why?.reason).toContain('no space left on device');
    expect(unattended.why?.action).toBe('Make room on the disk that holds the state folder.');
    await pause(5 * firstMs);
    expect(asked).toEqual([]); // not without its record
    makeRoom();
    await expect.poll(() => asked).toEqual([pin]);
    expect(unattended.why).toBeNull();
    await pause(10 * firstMs);
    expect(asked).toEqual([pin]);
  });

  test('because its file is missing is tried when the file is there', async () => {
    open(async () => undefined);
    rmSync(path.join(directory, 'pin'));
    await unattended.attempt(locked);
    expect(unattended.why).not.toBeNull();
    writeFileSync(path.join(directory, 'pin'), `${pin}\n`, { mode: 0o600 });
    await expect.poll(() => asked).toEqual([pin]);
  });

  test('because the token was busy is tried again', async () => {
    let refusals = 3;
    open(async () => {
      refusals -= 1;
      if (refusals >= 0) throw new UkeyError('busy', 'asked for by the test');
    });
    await unattended.attempt(locked);
    await expect.poll(() => asked.length).toBe(4);
  });

  test('is left alone when a person locks the token, or it goes away', async () => {
    open(() => Promise.reject(new UkeyError('busy', 'asked for by the test')));
    for (const stop of [() => unattended.suspend(), () => unattended.leave()]) {
      unattended.resume();
      await unattended.attempt(locked);
      stop();
      const before = asked.length;
      await pause(5 * firstMs);
      expect(asked.length).toBe(before);
      expect(unattended.why).toBeNull();
    }
  });

  test('because it is wrong is not tried again, on a full disk neither, until the file says another', async () => {
    open(async (given) => {
      fillDisk();
      if (given === pin) throw new UkeyError('pin-incorrect', 'asked for by the test');
    });
    await unattended.attempt(locked);
    const reason = unattended.why?.reason;
    expect(reason).toContain('refused');
    await pause(300); // deriving its hash takes a while
    expect(asked).toEqual([pin]);
    expect(unattended.why?.reason).toBe(reason);
    makeRoom();
    await expect
      .poll(() => JSON.parse(readFileSync(path.join(directory, 'stored-pin-try.json'), 'utf8')), { timeout: 5_000 })
      .toMatchObject({ kind: 'wrong' });
    writeFileSync(path.join(directory, 'pin'), '24680\n');
    await expect.poll(() => asked, { timeout: 5_000 }).toEqual([pin, '24680']);
  });
});

describe('a PIN is read', () => {
  const read = (place: PinPlace): string => new PinSource(place).read().toString();
  const codeOf = (place: PinPlace): ErrorCode | null => {
    try {
      read(place);
      return null;
    } catch (error) {
      return error instanceof UkeyError && !error.message.includes(pin) && error.action !== '' ? error.code : 'internal';
    }
  };

  test.each([`${pin}\n`, pin, `${pin}\r\n`, `${pin}\nand more\n`])('from the first line of %j', (content) => {
    writeFileSync(path.join(directory, 'pin'), content);
    for (const place of Object.values(placeOf)) expect(read(place())).toBe(pin);
  });

  test('and not from what is missing, empty, too long or no file', () => {
    for (const content of ['', '\n', `\r\n${pin}`, pin.padEnd(257, ' ')]) {
      writeFileSync(path.join(directory, 'pin'), content);
      for (const place of Object.values(placeOf)) expect(codeOf(place())).toBe('invalid-request');
    }
    rmSync(path.join(directory, 'pin'));
    for (const place of Object.values(placeOf)) expect(codeOf(place())).toBe('invalid-request');
    mkdirSync(path.join(directory, 'pin'));
    for (const place of Object.values(placeOf)) expect(codeOf(place())).toBe('invalid-request');
    expect(codeOf({ kind: 'credential', name: 'pin', directory: null })).toBe('invalid-request');
  });

  test('and not from a file that others may read; as a manager hands one over, it is', () => {
    const file = path.join(directory, 'pin');
    const modes: readonly [number, number][] = [0o400, 0o600, 0o440, 0o640, 0o404, 0o460, 0o604].map((mode) => [mode, mode & 0o077]);
    for (const [mode, others] of modes) {
      chmodSync(file, mode);
      expect(codeOf(placeOf.file())).toBe(others === 0 ? null : 'invalid-request');
      expect(codeOf(placeOf.credential())).toBe((others & 0o037) === 0 ? null : 'invalid-request');
    }
  });

  test.each<[string, Partial<FileFacts>, number | null, boolean]>([
    ['root, whoever runs the service', { uid: 0 }, 990, true],
    ["the service's user", { uid: 990 }, 990, true],
    ['another user', { uid: 1000 }, 990, false],
    ['another user, root runs the service', { uid: 1000 }, 0, false],
    ['nobody: a system without owners', { uid: 0, mode: 0o666 }, null, true],
  ])('from a file of %s', (_who, facts, processUid, isTaken) => {
    for (const kind of ['file', 'credential'] as const)
      expect(refusalOf(kind, { isFile: true, uid: 0, mode: 0o400, ...facts }, processUid) === null).toBe(isTaken);
  });
});
