// FLASH as a block device of the kernel (a loop device): issuing, restart, the device gone while issuing, a foreign or mounted file system,
// a device that became smaller or larger. Needs root and losetup(8); below the device that goes away lies a FUSE file that can lose power.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { type RunningServer, startServer } from '#server/serve.ts';
import { sale } from '#test/support/rig.ts';
import { type Answered, judgeLedger, Machine } from '#test/torture/os-machine.ts';
import { missingForPower, openPowerDevice } from '#test/torture/os-power-device.ts';

const mib = 1024 * 1024;

function missing(): string | null {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'only root on Linux may attach loop devices';
  if (spawnSync('losetup', ['-f']).status !== 0) return 'there is no free loop device';
  return spawnSync('mkfs.ext4', ['-V']).status === 0 ? missingForPower() : 'mkfs.ext4 is missing (apt-get install e2fsprogs)';
}

const why = missing();
if (why !== null && process.env['CI']) throw new Error(`block devices: ${why}, and CI is set`);
if (why !== null) console.warn(`SKIPPED: block devices: ${why}`);

function run(command: string, ...args: readonly string[]): string {
  const done = spawnSync(command, args, { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')}: ${done.stderr}`);
  return done.stdout.trim();
}

describe.skipIf(why !== null)('a block device', { timeout: 120_000 }, () => {
  let folder: string;
  let server: RunningServer;
  let machine: Machine | null;
  let undo: (() => Promise<void> | void)[];
  beforeEach(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-block-'));
    server = await startServer({ directory: path.join(folder, 'server') });
    machine = null;
    undo = [];
  });
  afterEach(async () => {
    await machine?.kill();
    for (const step of undo.reverse()) await step();
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  function image(sizeBytes: number): string {
    const file = path.join(folder, 'device.img');
    writeFileSync(file, '');
    truncateSync(file, sizeBytes);
    return file;
  }

  function attach(file: string): string {
    const device = run('losetup', '-f', '--show', file);
    undo.push(() => {
      spawnSync('losetup', ['-d', device]);
    });
    return device;
  }

  async function machineOn(device: string): Promise<Machine> {
    const directory = path.join(folder, 'machine');
    mkdirSync(directory, { recursive: true });
    machine = new Machine({ directory, flash: device });
    machine.start();
    return machine;
  }

  async function sell(seller: Machine, name: string, count: number, answered: Answered[]): Promise<void> {
    const till = await seller.till();
    try {
      const keys = Array.from({ length: count }, (_, at) => `${name}-${at}`);
      const answers = await Promise.all(keys.map((key) => till.issue(sale(key), { deadlineMs: 60_000 })));
      for (const [at, answer] of answers.entries()) answered.push({ key: keys[at] ?? '', answer });
    } finally {
      till.close();
    }
  }

  const whole = (count: number): object => ({ lost: 0, doubled: 0, findings: 0, documents: count });

  test('holds a ledger over restarts and kills', async () => {
    const device = attach(image(32 * mib));
    const shop = await machineOn(device);
    await shop.provision(server);
    const answered: Answered[] = [];
    await sell(shop, 'first', 20, answered);
    expect((await shop.status()).store).toMatchObject({ path: device, sizeBytes: 32 * mib });
    await shop.kill();
    shop.start();
    await shop.untilIssuing();
    await sell(shop, 'second', 20, answered);
    await shop.stop();
    expect(await judgeLedger(shop, answered)).toEqual(whole(40));
  });

  /** As people do who are told to plug the token in: what is refused for want of one is asked for again. Returns how often that was. */
  async function sellThrough(seller: Machine, name: string, count: number, answered: Answered[]): Promise<number> {
    const till = await seller.till();
    let refused = 0;
    const one = async (key: string): Promise<void> => {
      for (const giveUpAtMs = performance.now() + 60_000; ; refused += 1) {
        try {
          answered.push({ key, answer: await till.issue(sale(key), { deadlineMs: 60_000 }) });
          return;
        } catch (thrown) {
          const isForWant = thrown instanceof UkeyError && ['no-token', 'locked'].includes(thrown.code);
          if (!isForWant || performance.now() > giveUpAtMs) throw thrown;
        }
        await pause(100);
      }
    };
    try {
      await Promise.all(Array.from({ length: count }, (_, at) => one(`${name}-${at}`)));
      return refused;
    } finally {
      till.close();
    }
  }

  test('one that fails while tills issue is waited for, and goes on when it is back', async () => {
    const power = await openPowerDevice(32 * mib, ['flash']);
    undo.push(() => power.close());
    const device = attach(power.pathOf('flash'));
    const shop = await machineOn(device);
    await shop.provision(server);
    const answered: Answered[] = [];
    await sell(shop, 'before', 10, answered);
    power.tell('arm 2 99 0');
    const during = sellThrough(shop, 'during', 20, answered);
    const gone = await shop.until(({ standing, reason }) => standing === 'no-token' && reason.includes('cannot be read'), 30_000);
    console.log(`gone: ${gone.standing}: ${gone.reason}`);
    power.tell('on');
    const refused = await during;
    await sell(shop, 'after', 10, answered);
    await shop.stop();
    expect(await judgeLedger(shop, answered)).toEqual(whole(40));
    console.log(`refused=${refused} while it was gone`);
  });

  test('with a foreign file system is refused, without a change to it, until it may be erased', async () => {
    const file = image(32 * mib);
    run('mkfs.ext4', '-q', file);
    const before = run('sha256sum', file);
    const device = attach(file);
    const shop = await machineOn(device);
    await expect(shop.provision(server)).rejects.toMatchObject({ code: 'halted' });
    expect(run('sha256sum', file)).toBe(before);
    await shop.provision(server, { erase: true });
    const answered: Answered[] = [];
    await sell(shop, 'erased', 3, answered);
    await shop.stop();
    expect(await judgeLedger(shop, answered)).toEqual(whole(3));
  });

  test('that is mounted is refused, even where it may be erased', async () => {
    const file = image(32 * mib);
    run('mkfs.ext4', '-q', file);
    const device = attach(file);
    const place = path.join(folder, 'mounted');
    mkdirSync(place);
    run('mount', device, place);
    undo.push(() => {
      spawnSync('umount', [place]);
    });
    writeFileSync(path.join(place, 'somebody'), 'else');
    const shop = await machineOn(device);
    await expect(shop.provision(server, { erase: true })).rejects.toMatchObject({ code: 'halted' });
    expect(existsSync(path.join(place, 'somebody'))).toBe(true);
  });

  test('that became smaller is refused with a word; larger or as before, it opens', async () => {
    const file = image(32 * mib);
    const device = attach(file);
    const shop = await machineOn(device);
    await shop.provision(server);
    const answered: Answered[] = [];
    await sell(shop, 'sized', 5, answered);
    await shop.stop();
    const resize = (sizeBytes: number): void => {
      truncateSync(file, sizeBytes);
      run('losetup', '-c', device);
    };
    // Only zeros of the log's end are cut off; they come back as zeros.
    resize(24 * mib);
    shop.start();
    const smaller = await shop.until(({ standing, reason }) => standing !== 'no-token' || !reason.includes('opened'), 20_000);
    expect(smaller.standing).toBe('halted');
    expect(smaller.reason).toContain(String(24 * mib));
    expect(smaller.action).not.toBe('');
    await shop.stop();
    for (const sizeBytes of [48 * mib, 32 * mib]) {
      resize(sizeBytes);
      shop.start();
      await shop.untilIssuing();
      await sell(shop, `at-${sizeBytes}`, 2, answered);
      await shop.stop();
    }
    expect(await judgeLedger(shop, answered)).toEqual(whole(9));
  });
});
