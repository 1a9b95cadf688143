// A sandbox in trouble: a copied folder, a wrong PIN, a spoilt store, a stop in the middle of the start. It says what is the matter, soon,
// spends no PIN try of its own, and leaves nothing running.
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, openSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { layoutOf } from '#ctl/world/layout.ts';
import { connect } from '#ipc-schema/client.ts';
import { ctl, ctlEntry, errorOf, jsonOf } from '#test/support/ctl.ts';
import { makeFolder, Sandbox } from '#test/support/sandbox.ts';

const waitMs = 90_000;
const stopMaxMs = 2_000;
const sale = (key: string) => ({ key, template: 'retail', lines: [{ description: 'Tea', quantity: '1', unitPrice: '3.75' }], brief: true });

/** A stopped world with one document; each test works on a copy. */
const base = makeFolder();
const original = path.join(base, 'original');
let copies = 0;
let running: Sandbox | null = null;

beforeAll(async () => {
  const sandbox = await Sandbox.start(original, '--module', 'none');
  const till = await sandbox.till();
  await till.issue(sale('first'));
  till.close();
  await sandbox.until(({ pending }) => pending === 0);
  await sandbox.stop();
}, waitMs);

afterEach(async () => {
  await running?.stop();
  running = null;
}, waitMs);

afterAll(() => rmSync(base, { recursive: true, force: true }));

function copy(): string {
  copies += 1;
  const dir = path.join(base, `copy-${copies}`);
  cpSync(original, dir, { recursive: true, preserveTimestamps: true });
  return dir;
}

const start = (dir: string) => ctl(['sandbox', '--dir', dir, '--json'], { waitMs: 45_000 });

/** Processes that name the folder on their command line. */
function processesOf(dir: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(dir);
    } catch {
      return false; // ended meanwhile
    }
  });
}

test(
  'a copied folder issues into its own FLASH, goes on with the ledger, and says why it cannot run beside its original',
  async () => {
    const dir = copy();
    const before = statSync(layoutOf(original).flash);
    running = await Sandbox.start(dir);
    expect(running.facts.store).toBe(layoutOf(dir).flash);
    const till = await running.till();
    expect(await till.issue(sale('first'))).toMatchObject({ repeated: true });
    expect(await till.issue(sale('second'))).toMatchObject({ repeated: false });
    till.close();
    expect(statSync(layoutOf(original).flash).mtimeMs).toBe(before.mtimeMs);
    expect(errorOf(await start(original))).toMatchObject({ code: 'busy' });
    expect(jsonOf(await running.say('verify'))).toMatchObject({ holds: true });
  },
  waitMs,
);

test(
  'a wrong PIN is tried once by the service and never by the sandbox, however often the service dies',
  async () => {
    const dir = copy();
    running = await Sandbox.start(dir);
    const admin = await connect({ socketPath: running.facts.adminSocket, client: 'test' });
    try {
      const full = (await admin.call('service.status', {})).token?.triesLeft ?? 0;
      writeFileSync(running.facts.pinFile, '00000000\n');
      for (const _ of [1, 2, 3]) {
        const { daemonPid } = await running.status();
        process.kill(daemonPid, 'SIGKILL');
        await running.until((status) => status.daemonPid !== daemonPid && status.standing === 'locked');
      }
      // Long enough for one who waits a little and then tries by itself.
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      expect((await admin.call('service.status', {})).token?.triesLeft).toBe(full - 1);
    } finally {
      admin.close();
    }
    await running.stop();
    const again = await start(dir);
    expect(again.status).toBe(3);
    expect(errorOf(again)).toMatchObject({ code: 'locked' });
  },
  waitMs,
);

test(
  'a spoilt store ends the start soon, as halted, with what the service says',
  async () => {
    const dir = copy();
    const { flash } = layoutOf(dir);
    const fd = openSync(flash, 'r+');
    writeSync(fd, Buffer.alloc(8 * 1024 * 1024, 0x5a), 0, 8 * 1024 * 1024, 0);
    const beganMs = performance.now();
    const run = await start(dir);
    expect(performance.now() - beganMs).toBeLessThan(30_000);
    expect(run.status).toBe(3);
    expect(errorOf(run)).toMatchObject({ code: 'halted' });
    expect(run.stderr).not.toContain('{');
  },
  waitMs,
);

test(
  'verify says so when the server does not know the token',
  async () => {
    const dir = copy();
    for (const name of readdirSync(layoutOf(dir).serverDir).filter((one) => one.includes('.sqlite') || one.includes('.db')))
      rmSync(path.join(layoutOf(dir).serverDir, name));
    running = await Sandbox.start(dir);
    const verified = await running.say('verify');
    expect(verified.status).toBe(5);
    expect(errorOf(verified)).toMatchObject({ code: 'not-found' });
  },
  waitMs,
);

describe.skipIf(!existsSync('/proc/self/cmdline'))('a start', () => {
  async function starting(dir: string): Promise<{ child: ChildProcess; ended: Promise<number | null> }> {
    const child = spawn(process.execPath, [ctlEntry, 'sandbox', '--dir', dir, '--module', 'none', '--json'], { stdio: 'ignore' });
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    const endMs = performance.now() + 20_000;
    while (!existsSync(layoutOf(dir).controlSocket) && performance.now() < endMs) await new Promise((resolve) => setTimeout(resolve, 20));
    return { child, ended };
  }

  test.each([300, 2_000])(
    'that is ended by SIGTERM %i ms after it began leaves nothing, and the next one completes it',
    async (afterMs) => {
      const dir = path.join(base, `broken-off-${afterMs}`);
      const { child, ended } = await starting(dir);
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      const beganMs = performance.now();
      child.kill('SIGTERM');
      expect(await ended).toBe(0);
      expect(performance.now() - beganMs).toBeLessThan(stopMaxMs);
      expect(processesOf(dir)).toEqual([]);
      running = await Sandbox.start(dir);
      expect(await running.status()).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
    },
    waitMs,
  );

  test(
    'that is killed when its server has enrolled the key is completed by the next one',
    async () => {
      const dir = path.join(base, 'enrolled');
      const { serverLog, ticketFile } = layoutOf(dir);
      const { child, ended } = await starting(dir);
      const isEnrolled = (): boolean => existsSync(serverLog) && readFileSync(serverLog, 'utf8').includes('token-enrolled');
      for (const endMs = performance.now() + 20_000; !isEnrolled() && performance.now() < endMs; )
        await new Promise((resolve) => setTimeout(resolve, 1));
      child.kill('SIGKILL');
      for (const pid of processesOf(dir)) process.kill(Number(pid), 'SIGKILL');
      await ended;
      expect(existsSync(ticketFile)).toBe(true);
      await expect.poll(() => processesOf(dir)).toEqual([]);
      running = await Sandbox.start(dir);
      expect(await running.status()).toMatchObject({ standing: expect.stringMatching(/^issuing/) });
      expect(existsSync(ticketFile)).toBe(false);
    },
    waitMs,
  );

  test(
    'answers status and stop meanwhile',
    async () => {
      const dir = path.join(base, 'asked');
      const { ended } = await starting(dir);
      const say = (...words: string[]) => ctl(['sandbox', '--dir', dir, ...words, '--json']);
      expect(jsonOf(await say('status'))).toMatchObject({ line: 'up' });
      expect((await say('stop')).status).toBe(0);
      expect(await ended).toBe(0);
      expect(processesOf(dir)).toEqual([]);
    },
    waitMs,
  );
});

test(
  'a token that is out is noticed when the folder was moved, too',
  async () => {
    const dir = copy();
    const moved = `${dir}-moved`;
    renameSync(dir, moved);
    running = await Sandbox.start(moved);
    expect(jsonOf(await running.say('token', 'unplug'))).toMatchObject({ plugged: false, standing: 'no-token' });
    expect(jsonOf(await running.say('token', 'plug'))).toMatchObject({ plugged: true });
  },
  waitMs,
);
