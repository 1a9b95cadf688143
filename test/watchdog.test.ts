// Shows: the service tells its manager that it is ready, how it stands and that it makes progress, and is silent when it makes none.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLog } from '#ground/log.ts';
import { holderSilentMaxMs, takeWish, Watchdog, type WatchdogParts } from '../daemon/watchdog.ts';

describe('what the manager wishes', () => {
  test('is taken out of the environment, so that no child speaks in our name', () => {
    const env: NodeJS.ProcessEnv = { NOTIFY_SOCKET: '/run/x', WATCHDOG_USEC: '60000000', WATCHDOG_PID: '7', PATH: '/bin' };
    expect(takeWish(env, 7)).toEqual({ notifySocket: '/run/x', watchdogMs: 60_000 });
    expect(env).toEqual({ PATH: '/bin' });
  });

  test('no socket, no wish; a watchdog for another process is none of ours', () => {
    expect(takeWish({}, 7)).toBeNull();
    expect(takeWish({ WATCHDOG_USEC: '60000000' }, 7)).toBeNull();
    expect(takeWish({ NOTIFY_SOCKET: '@x', WATCHDOG_USEC: '60000000', WATCHDOG_PID: '8' }, 7)?.watchdogMs).toBeNull();
    expect(takeWish({ NOTIFY_SOCKET: '@x', WATCHDOG_USEC: 'soon' }, 7)?.watchdogMs).toBeNull();
  });
});

describe('progress', () => {
  const patienceMs = 90;

  async function toldWith(parts: Partial<WatchdogParts>, waitMs: number): Promise<readonly string[]> {
    const told: string[] = [];
    const watchdog = new Watchdog({
      wish: { notifySocket: 'unused', watchdogMs: patienceMs },
      log: silentLog,
      ask: () => Promise.resolve(),
      line: () => 'issuing-online: the ticket server answers',
      holderSilentMs: () => 0,
      send: async (words) => void told.push(...words),
      ...parts,
    });
    await watchdog.ready();
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    await watchdog.stopping();
    return told;
  }

  const beats = (told: readonly string[]): number => told.filter((word) => word === 'WATCHDOG=1').length;

  test('each answer feeds the watchdog, more than once within its patience', async () => {
    const told = await toldWith({}, patienceMs * 5);
    expect(told[0]).toBe('READY=1');
    expect(beats(told)).toBeGreaterThanOrEqual(5);
    expect(told).toContain('STATUS=issuing-online: the ticket server answers');
    expect(told.slice(-2)).toEqual(['STOPPING=1', 'STATUS=ending']);
  });

  test.each([
    ['an answer that never comes', { ask: () => new Promise<void>(() => undefined) }],
    ['a door that is shut', { ask: () => Promise.reject(new Error('ECONNREFUSED')) }],
    ['a holder that shows no state for minutes', { holderSilentMs: () => holderSilentMaxMs + 1 }],
  ])('%s feeds it never', async (_what, parts) => {
    const told = await toldWith(parts, patienceMs * 3);
    expect(told).toContain('READY=1');
    expect(beats(told)).toBe(0);
  });

  test('it is fed again when answers come again', async () => {
    let isShut = true;
    setTimeout(() => {
      isShut = false;
    }, patienceMs);
    const told = await toldWith({ ask: () => (isShut ? Promise.reject(new Error('shut')) : Promise.resolve()) }, patienceMs * 4);
    expect(beats(told)).toBeGreaterThan(0);
  });

  test('a manager that cannot be told anything stops nothing', async () => {
    let asked = 0;
    const ask = async (): Promise<void> => {
      asked += 1;
    };
    await toldWith({ ask, send: () => Promise.reject(new Error('ENOENT')) }, patienceMs * 3);
    expect(asked).toBeGreaterThan(2);
  });
});

/** The manager's end of the socket; Node has none of this kind. Prints each variable on a line. */
const manager = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("listening", flush=True)
while True:
    for line in s.recv(65536).decode().split("\\n"):
        print(line, flush=True)
`;

describe('the service under a manager', () => {
  let folder: string;
  let children: ChildProcess[];
  beforeEach(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-watchdog-'));
    children = [];
  });
  afterEach(() => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });

  const waitMs = 60_000;

  test('says READY, its standing and WATCHDOG until it is stopped, then STOPPING; frozen it says nothing', {
    timeout: 2 * waitMs,
  }, async () => {
    const notifySocket = path.join(folder, 'notify');
    const receiver = spawn('python3', ['-c', manager, notifySocket], { stdio: ['ignore', 'pipe', 'inherit'] });
    children.push(receiver);
    const told: string[] = [];
    createInterface({ input: receiver.stdout }).on('line', (line) => told.push(line));
    const hears = async (what: string): Promise<void> => {
      await expect.poll(() => told.some((line) => line.startsWith(what)), { timeout: waitMs }).toBe(true);
    };
    await hears('listening');
    const config = path.join(folder, 'ukeyd.toml');
    writeFileSync(
      config,
      'state = "state"\nsocket = "run/till.sock"\nadmin_socket = "run/admin.sock"\n[token]\nsoft_token = "key.json"\nflash = "flash.img"\n',
    );
    const env = { PATH: process.env['PATH'], NOTIFY_SOCKET: notifySocket, WATCHDOG_USEC: '1500000' };
    const daemon = spawn(process.execPath, ['daemon/main.ts', '--config', config], { env, stdio: 'ignore' });
    children.push(daemon);
    await hears('READY=1');
    await hears('WATCHDOG=1');
    await hears('STATUS=no-token');
    daemon.kill('SIGSTOP');
    await new Promise((resolve) => setTimeout(resolve, 1_000)); // what was on its way
    const countBefore = told.length;
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    expect(told.length).toBe(countBefore);
    daemon.kill('SIGCONT');
    await expect.poll(() => told.length, { timeout: waitMs }).toBeGreaterThan(countBefore);
    const ended = once(daemon, 'exit');
    daemon.kill('SIGTERM');
    await hears('STOPPING=1');
    expect(await ended).toEqual([0, null]);
  });
});
