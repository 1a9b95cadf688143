// The token suite against the embedded soft token, and what is its own: the file, its mode, and tries that survive a kill.
import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { codeOf, otherPin, pin, soPin, tokenSuite, wrongPin } from '#test/suites/token-suite.ts';
import { openSoftToken, softTokenName } from '#token/soft-token.ts';

tokenSuite(
  'the embedded soft token',
  () => {
    const directory = mkdtempSync(join(tmpdir(), 'ukeyd-soft-'));
    const paths = new Map<string, string>();
    return {
      blank: () => {
        const path = join(directory, `${paths.size}.token`);
        const token = openSoftToken({ path, create: true });
        paths.set(token.facts().serial, path);
        return token;
      },
      again: (token) => openSoftToken({ path: paths.get(token.facts().serial) ?? '' }),
      unplug: () => {
        for (const name of readdirSync(directory)) renameSync(join(directory, name), join(directory, `${name}.pulled`));
      },
      plug: () => {
        for (const name of readdirSync(directory)) renameSync(join(directory, name), join(directory, name.replace(/\.pulled$/u, '')));
      },
      remove: () => rmSync(directory, { recursive: true, force: true }),
    };
  },
  { wrapMethods: ['soft-scrypt'], triesMax: 8, moduleName: /^embedded soft token$/u },
);

describe('the file of the embedded soft token', () => {
  let directory: string;
  let path: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'ukeyd-soft-'));
    path = join(directory, 'till.token');
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  const provisioned = () => {
    const token = openSoftToken({ path, create: true });
    token.provision({ label: 'till-1', pin, soPin });
    return token;
  };

  test('is named as what it is, in its facts and in the file', () => {
    expect(provisioned().facts()).toMatchObject({ module: softTokenName, model: softTokenName });
    expect(readFileSync(path, 'utf8')).toContain('embedded soft token');
  });

  test('is not made by opening, unless asked for', () => {
    expect(codeOf(() => openSoftToken({ path }))).toBe('no-token');
    expect(readdirSync(directory)).toEqual([]);
  });

  test('is opened, not overwritten, by a second create', () => {
    const first = provisioned().facts().serial;
    expect(openSoftToken({ path, create: true }).facts()).toMatchObject({ serial: first, provisioned: true });
  });

  test.skipIf(process.platform === 'win32')('has mode 0600 after every write, and is refused when others may read it', () => {
    const token = provisioned();
    token.login(pin);
    token.writeObject('anchor-a', Buffer.from('x'));
    expect(statSync(path).mode & 0o777).toBe(0o600);
    chmodSync(path, 0o640);
    expect(codeOf(() => openSoftToken({ path }))).toBe('token-failed');
  });

  test('holds neither PIN nor object in the clear, and leaves no other file behind', () => {
    const token = provisioned();
    token.login(pin);
    token.writeObject('anchor-a', Buffer.from('a very secret anchor'));
    const text = readFileSync(path, 'utf8');
    for (const secret of [
      pin.toString(),
      soPin.toString(),
      'secret anchor',
      'anchor-a',
      Buffer.from('a very secret anchor').toString('base64'),
    ]) {
      expect(text).not.toContain(secret);
    }
    expect(readdirSync(directory)).toEqual(['till.token']);
  });

  test.each([
    ['cut in the middle', (text: string) => text.slice(0, text.length / 2)],
    ['empty', () => ''],
    ['of a newer version', (text: string) => text.replace('"version": 1', '"version": 2')],
    ['with an unknown field', (text: string) => text.replace('{', '{"more": 1,')],
    ['with more tries than there are', (text: string) => text.replace('"triesLeft": 8', '"triesLeft": 9')],
    ['with cheaper scrypt', (text: string) => text.replace('scrypt-32768-8-1', 'scrypt-2-8-1')],
  ])('is refused %s', (_, spoil) => {
    provisioned();
    writeFileSync(path, spoil(readFileSync(path, 'utf8')));
    expect(codeOf(() => openSoftToken({ path }))).toBe('token-failed');
  });

  test('does not open with a vault, key or slot of another token', () => {
    const token = provisioned();
    const elsewhere = join(directory, 'other.token');
    const other = openSoftToken({ path: elsewhere, create: true });
    other.provision({ label: 'till-1', pin, soPin });
    const good = readFileSync(path, 'utf8');
    for (const field of ['vault', 'publicKey', 'user', 'serial']) {
      const mixed = { ...JSON.parse(good), [field]: JSON.parse(readFileSync(elsewhere, 'utf8'))[field] };
      writeFileSync(path, JSON.stringify(mixed));
      const opened = openSoftToken({ path });
      expect(codeOf(() => opened.login(pin))).toBe(field === 'user' || field === 'serial' ? 'pin-incorrect' : 'token-failed');
      expect(opened.facts().loggedIn).toBe(false);
    }
    writeFileSync(path, good);
    token.login(pin);
  });

  test('another token put in its place is not taken for it', () => {
    const token = provisioned();
    token.login(pin);
    rmSync(path);
    openSoftToken({ path, create: true }).provision({ label: 'till-1', pin, soPin });
    expect(codeOf(() => token.facts())).toBe('no-token');
    expect(codeOf(() => token.writeObject('anchor-a', Buffer.from('x')))).not.toBe('nothing thrown');
  });

  test('the last try of the SO PIN is never spent', () => {
    const token = provisioned();
    for (let left = 8; left > 1; left -= 1) expect(codeOf(() => token.unblockPin(wrongPin, otherPin))).toBe('pin-incorrect');
    expect(codeOf(() => token.unblockPin(soPin, otherPin))).toBe('pin-last-try');
  });

  test('killing the process while it tries PINs never wins a try, and never breaks the file', async () => {
    provisioned();
    const script = `
      import { writeSync } from 'node:fs';
      import { openSoftToken } from '#token/soft-token.ts';
      const token = openSoftToken({ path: process.env.TOKEN_PATH });
      for (;;) {
        writeSync(1, 's');
        try { token.login(Buffer.from('0000-nope')); } catch (error) { if (error.code !== 'pin-incorrect') process.exit(1); }
        writeSync(1, 'e');
      }`;
    const triesLeft = (): number => openSoftToken({ path }).facts().triesLeft ?? -1;
    let left = 8;
    let killedInTry = 0;
    while (left > 2 && killedInTry < 2) {
      const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
        env: { ...process.env, TOKEN_PATH: path },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let seen = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        seen += text;
      });
      // The count sinks before the PIN is stretched, which takes tens of milliseconds: the kill falls into that time. Were the
      // count written after it, the try would have ended long before the pause has.
      while (triesLeft() === left) await sleep(2);
      await sleep(25);
      child.kill('SIGKILL');
      await new Promise((done) => child.once('close', done));
      const started = seen.split('s').length - 1;
      const ended = seen.split('e').length - 1;
      if (ended === 0) killedInTry += 1;
      const now = triesLeft();
      expect(now).toBeLessThanOrEqual(left - Math.max(1, ended));
      expect(now).toBeGreaterThanOrEqual(Math.max(0, left - started));
      left = now;
    }
    expect(killedInTry).toBeGreaterThan(0);
    const token = openSoftToken({ path });
    if (left === 0) token.unblockPin(soPin, pin);
    token.login(pin);
    expect(token.facts().triesLeft).toBe(8);
  }, 30_000);
});
