// Disks that are really full (small tmpfs): for the mirror, for a FLASH image that is to be made, for the state folder. Tills go on or are told;
// no invoice is lost or doubled. Needs root for mount(8).
import { spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Client } from '#ipc-schema/client.ts';
import { type RunningServer, startServer } from '#server/serve.ts';
import { sale } from '#test/support/rig.ts';
import { type Answered, judgeLedger, Machine, type MachineOptions, machinePin, readLedger } from '#test/torture/os-machine.ts';

const mib = 1024 * 1024;

function missing(): string | null {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'only root on Linux may mount a tmpfs';
  const place = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-tmpfs-'));
  try {
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', place]).status !== 0) return 'a tmpfs cannot be mounted';
    spawnSync('umount', [place]);
    return null;
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}

const why = missing();
if (why !== null && process.env['CI']) throw new Error(`full disks: ${why}, and CI is set`);
if (why !== null) console.warn(`SKIPPED: full disks: ${why}`);

/** Takes all that is left of a disk. */
function fill(disk: string): string {
  const file = path.join(disk, 'ballast');
  const fd = openSync(file, 'a');
  try {
    for (let chunk = mib; chunk >= 512; chunk /= 2) {
      try {
        for (;;) writeSync(fd, Buffer.alloc(chunk));
      } catch (thrown) {
        if ((thrown as { code?: string }).code !== 'ENOSPC') throw thrown;
      }
    }
  } finally {
    closeSync(fd);
  }
  return file;
}

describe.skipIf(why !== null)('a full disk', { timeout: 90_000 }, () => {
  let folder: string;
  let disk: string;
  let server: RunningServer;
  let machine: Machine | null;
  let till: Client | null;
  let answered: Answered[];
  beforeEach(async () => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-full-'));
    disk = path.join(folder, 'disk');
    mkdirSync(disk);
    server = await startServer({ directory: path.join(folder, 'server') });
    machine = null;
    till = null;
    answered = [];
  });
  afterEach(async () => {
    till?.close();
    await machine?.kill();
    spawnSync('umount', [disk]);
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  function mountDisk(sizeMib: number): void {
    const done = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeMib}m`, 'tmpfs', disk], { encoding: 'utf8' });
    if (done.status !== 0) throw new Error(done.stderr);
  }

  function startMachine(options: Omit<MachineOptions, 'directory'>): Machine {
    const directory = path.join(folder, 'machine');
    mkdirSync(directory);
    machine = new Machine({ directory, ...options });
    machine.start();
    return machine;
  }

  async function sell(name: string, count: number): Promise<void> {
    if (till === null) throw new Error('there is no till');
    for (let at = 0; at < count; at += 1) {
      const key = `${name}-${at}`;
      answered.push({ key, answer: await till.issue(sale(key), { deadlineMs: 30_000 }) });
    }
  }

  async function expectWhole(shop: Machine): Promise<void> {
    await shop.stop();
    expect(await judgeLedger(shop, answered)).toEqual({ lost: 0, doubled: 0, findings: 0, documents: answered.length });
  }

  test('too small for the mirror: tills go on with the FLASH alone, and the status says why', async () => {
    mountDisk(8);
    const shop = startMachine({ mirror: { path: path.join(disk, 'mirror.img') } });
    await shop.provision(server);
    till = await shop.till();
    await sell('small', 5);
    const { store } = await shop.status();
    expect(store?.mirrorState?.failure).toContain('mirror.img');
    expect(existsSync(path.join(disk, 'mirror.img'))).toBe(false);
    await expectWhole(shop);
  });

  test('that fills up under a mirror which is growing into it: nothing is lost, and tills go on', async () => {
    mountDisk(8);
    const mirror = path.join(disk, 'mirror.img');
    writeFileSync(mirror, '', { mode: 0o600 });
    truncateSync(mirror, 32 * mib); // with holes, as a copy tool may have left it
    const shop = startMachine({ mirror: { path: mirror } });
    await shop.provision(server);
    till = await shop.till();
    await sell('room', 5);
    fill(disk);
    // From somewhere in here on the mirror takes nothing.
    await sell('none', 40);
    const { store } = await shop.status();
    expect(store?.mirrorState?.failure).not.toBeNull();
    await sell('alone', 5);
    await expectWhole(shop);
  });

  test('where the FLASH is to be made: provisioning is refused, leaves nothing, and may be repeated', async () => {
    mountDisk(40);
    const flash = path.join(disk, 'flash.img');
    const shop = startMachine({ flash, mirror: 'off' });
    const ballast = fill(disk);
    await expect(shop.provision(server)).rejects.toMatchObject({ code: 'halted' });
    expect(existsSync(flash)).toBe(false);
    rmSync(ballast);
    await shop.provision(server);
    till = await shop.till();
    await sell('made', 3);
    await expectWhole(shop);
  });

  test('under the state folder: tills go on, same keys are same invoices, also through kills and starts', async () => {
    mountDisk(12);
    const state = path.join(disk, 'state');
    const shop = startMachine({ state, mirror: 'off' });
    await shop.provision(server);
    till = await shop.till();
    await sell('before', 10);
    const ballast = fill(disk);
    await sell('full', 60);
    await shop.kill();
    shop.start();
    // The automatic try of the stored PIN must be written down before it is made: a person logs in, or makes room.
    const told = await shop.until(({ standing }) => standing !== 'no-token');
    expect(told.standing).toBe('locked');
    expect(told.reason).toContain('no space left');
    expect(told.action).not.toBe('');
    await shop.withAdmin((admin) => admin.call('session.login', { pin: machinePin }));
    await shop.untilIssuing();
    await sell('full-again', 10);
    for (const { key, answer } of [...answered]) {
      const again = await till.issue(sale(key), { deadlineMs: 30_000 });
      expect(again).toMatchObject({ number: answer.number, repeated: true });
    }
    await shop.kill();
    shop.start();
    await shop.until(({ standing }) => standing === 'locked');
    rmSync(ballast);
    // Nobody logs in this time: it is tried again by itself.
    await shop.untilIssuing();
    await sell('room-again', 5);
    await shop.stop();
    expect((await readLedger(shop)).report.findings).toEqual([]);
    await expectWhole(shop);
  });
});
