import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, open, readFile, rm, stat, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Device, WriteOptions } from '#store/device.ts';
import { createImage, openFileDevice } from '#store/device-file.ts';
import { formatStore, openLog } from '#store/log.ts';
import { restoreFromMirror } from '#store/restore.ts';
import type { StoreLog } from '#store/store.ts';
import { deviceSuite } from '#test/suites/device-suite.ts';
import { seededRandom } from '#test/support/seed.ts';
import { missingForPower, openPowerDevice } from '#test/torture/os-power-device.ts';
import { missingForStrace, underStrace } from '#test/torture/os-strace.ts';
import { appendAll, dataKey, formatOptions, payloadOf } from './rig.ts';

const mebibyte = 1024 * 1024;
/** What the main thread alone has read from disks, which is where a device is written. */
const ownReads = `/proc/self/task/${process.pid}/io`;
let folder = '';
let made = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ukeyd-device-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

const codeOf = (error: unknown): unknown => (error as { code?: unknown }).code;

/** Node's own, which a program must ask for. */
const collect = (): void => {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
};

const newImage = async (sizeBytes = mebibyte): Promise<string> => {
  made += 1;
  const path = join(folder, `${made}.img`);
  await createImage(path, sizeBytes);
  return path;
};

deviceSuite('an image', async () => {
  const path = await newImage();
  return { device: await openFileDevice(path), reopen: (readOnly) => openFileDevice(path, { readOnly }), clean: () => rm(path) };
});

describe('a store on two images', () => {
  it('is mirrored, healed where a byte of either file changes, and restored', async () => {
    const [flashPath, mirrorPath, newPath] = [await newImage(6 * mebibyte), await newImage(6 * mebibyte), await newImage(6 * mebibyte)];
    const openPair = async (): Promise<StoreLog> =>
      openLog(await openFileDevice(flashPath), dataKey, { mirror: { device: await openFileDevice(mirrorPath), mode: 'sync' } });
    const blank = await openFileDevice(flashPath);
    await formatStore(blank, formatOptions);
    await blank.close();
    const log = await openPair();
    expect(log.mounted.mirror?.remade).toBe(true);
    await appendAll(log, 1, [900, 5000, 70, 30_000]);
    await log.close();
    expect(Buffer.compare(await readFile(flashPath), await readFile(mirrorPath))).toBe(0);
    for (const path of [flashPath, mirrorPath]) {
      const file = await open(path, 'r+');
      await file.write(Buffer.alloc(512, 7), 0, 512, 4 * mebibyte + 4096 + 1024);
      await file.close();
      const healed = await openPair();
      expect(healed.mounted.mirror).toMatchObject({ healedFlash: path === flashPath ? 1 : 0, healedMirror: path === mirrorPath ? 1 : 0 });
      await healed.close();
      expect(Buffer.compare(await readFile(flashPath), await readFile(mirrorPath))).toBe(0);
    }
    const [source, target] = [await openFileDevice(mirrorPath, { readOnly: true }), await openFileDevice(newPath)];
    await restoreFromMirror(source, target, dataKey, { tokenKeyId: new Uint8Array(16).fill(5), slots: [], erase: false });
    await source.close();
    const restored = await openLog(target, dataKey);
    expect((await restored.read(4, 1))[0]?.payload).toEqual(payloadOf(4, 30_000));
    await restored.close();
  });
});

describe('an image', () => {
  it('is created with all its blocks, for its owner only', async () => {
    const path = await newImage(3 * mebibyte);
    const { size, blocks, mode } = await stat(path);
    expect(size).toBe(3 * mebibyte);
    expect(blocks * 512).toBeGreaterThanOrEqual(3 * mebibyte);
    expect(mode & 0o777).toBe(0o600);
  });

  it('gives each read what was written before it and nothing that came later, however many are on their way', async () => {
    const device = await openFileDevice(await newImage());
    const random = seededRandom(11);
    const places = 8;
    const written = Array.from({ length: places }, () => 0);
    const wanted: number[] = [];
    const found: Promise<number>[] = [];
    const writes: Promise<void>[] = [];
    for (let step = 1; step <= 600; step += 1) {
      const place = Math.floor(random() * places);
      if (random() < 0.2) {
        written[place] = step % 251;
        writes.push(device.writeAndSync(place * 4096, Buffer.alloc(4096, step % 251)));
      } else {
        wanted.push(written[place] ?? 0);
        found.push(device.read(place * 4096, 4096).then((bytes) => (bytes[0] === bytes[4095] ? (bytes[0] ?? -1) : -1)));
      }
    }
    await Promise.all(writes);
    expect(await Promise.all(found)).toEqual(wanted);
    await device.close();
  });

  it('is never created over something', async () => {
    const path = await newImage();
    await expect(createImage(path, mebibyte)).rejects.toMatchObject({ code: 'halted' });
    expect((await stat(path)).size).toBe(mebibyte);
  });

  it('is not a token when it is absent, and a directory is none either', async () => {
    await expect(openFileDevice(join(folder, 'absent.img'))).rejects.toMatchObject({ code: 'no-token' });
    await expect(openFileDevice(folder, { readOnly: true })).rejects.toMatchObject({ code: 'halted' });
  });

  it('is refused to a second writer of the same process, not to a reader', async () => {
    const path = await newImage();
    const first = await openFileDevice(path);
    await expect(openFileDevice(path, { lockWaitMs: 60 })).rejects.toMatchObject({ code: 'halted' });
    const reader = await openFileDevice(path, { readOnly: true });
    await reader.close();
    await first.close();
    await (await openFileDevice(path, { lockWaitMs: 0 })).close();
  });

  it('is refused while another process has it, and free as soon as that one is killed', { timeout: 20_000 }, async () => {
    const path = await newImage();
    const holderScript = `
      const { openFileDevice } = await import(${JSON.stringify(new URL('../../daemon/store/device-file.ts', import.meta.url).href)});
      await openFileDevice(${JSON.stringify(path)});
      console.log('open');
      setInterval(() => {}, 1000);`;
    const holder = spawn(process.execPath, ['--input-type=module', '-e', holderScript], { stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = once(holder, 'exit');
    try {
      await once(holder.stdout, 'data');
      await expect(openFileDevice(path, { lockWaitMs: 100 })).rejects.toMatchObject({ code: 'halted' });
      const waiting = openFileDevice(path);
      holder.kill('SIGKILL');
      await (await waiting).close();
    } finally {
      holder.kill('SIGKILL');
      await ended;
    }
  });

  it('is written beside another one, and closed without it', async () => {
    const [one, two] = [await openFileDevice(await newImage()), await openFileDevice(await newImage())];
    await Promise.all([one.writeAndSync(512, Buffer.alloc(512, 6)), two.writeAndSync(512, Buffer.alloc(512, 7))]);
    const first = async (device: Device): Promise<number | undefined> => (await device.read(512, 512))[0];
    expect([await first(one), await first(two)]).toEqual([6, 7]);
    await one.close();
    await expect(one.read(0, 512)).rejects.toMatchObject({ code: 'halted' });
    expect(await first(two)).toBe(7);
    await two.close();
  });

  it('is closed behind what is under way, however much that is', async () => {
    const path = await newImage();
    const device = await openFileDevice(path);
    const reads = Array.from({ length: 1_100 }, () => device.read(0, 512).then(({ length }) => length, codeOf));
    const closing = device.close();
    const done = await Promise.all(reads);
    await closing;
    expect([done.filter((one) => one === 512).length, done.filter((one) => one === 'busy').length]).toEqual([1_024, 76]);
    await (await openFileDevice(path, { lockWaitMs: 0 })).close();
  });

  it.skipIf(!existsSync(ownReads))('is written onwards without waiting for what stands there', async () => {
    const path = await newImage(4 * mebibyte);
    const device = await openFileDevice(path); // and the kernel forgets what it has of it
    const readBytes = (): number => Number(/^read_bytes: (\d+)$/m.exec(readFileSync(ownReads, 'utf8'))?.[1]);
    const write = (at: number): Promise<void> => device.writeAndSync(at * 1_536, Buffer.alloc(1_536, 5));
    await write(0);
    const before = readBytes();
    for (let at = 1; at < 1_000; at += 1) await write(at);
    await device.close();
    // Else it would be each of the 375 pages. (What is in memory alone is never read.)
    expect(readBytes() - before).toBeLessThan(150_000);
  });

  it('keeps nothing of what was read from it', async () => {
    const device = await openFileDevice(await newImage(32 * mebibyte));
    const held = async (): Promise<number> => {
      await new Promise((resolve) => setImmediate(resolve));
      collect();
      return process.memoryUsage().arrayBuffers;
    };
    const before = await held();
    expect((await device.read(0, 32 * mebibyte)).length).toBe(32 * mebibyte);
    // A buffer that was collected is given back by another thread.
    await expect.poll(async () => (await held()) - before).toBeLessThan(16 * mebibyte);
    await device.close();
  });

  it('is not given away when the device is forgotten', async () => {
    const path = await newImage();
    await openFileDevice(path);
    for (let time = 0; time < 3; time += 1) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      collect();
    }
    await expect(openFileDevice(path, { lockWaitMs: 0 })).rejects.toMatchObject({ code: 'halted' });
  });

  describe.skipIf(missingForStrace() !== null && process.env['CI'] === undefined)('whose sync fails', { timeout: 20_000 }, () => {
    /** What two writes say, the first of which is not synced. */
    async function twoWrites(first: WriteOptions): Promise<{ path: string; said: string[] }> {
      const path = await newImage();
      const script = `
        const { openFileDevice } = await import(${JSON.stringify(new URL('../../daemon/store/device-file.ts', import.meta.url).href)});
        const device = await openFileDevice(${JSON.stringify(path)});
        for (const [at, how] of [[0, ${JSON.stringify(first)}], [512, {}]])
          console.log(await device.writeAndSync(at, Buffer.alloc(512, 5), how).then(() => 'written', (error) => error.code + ': ' + error.message));
        await device.close();`;
      const [strace = '', ...args] = underStrace('fdatasync', '1', { kind: 'error', error: 'EIO' });
      const done = spawnSync(strace, [...args, process.execPath, '--input-type=module', '-e', script], {
        encoding: 'utf8',
        timeout: 15_000,
      });
      return { path, said: done.stdout.trim().split('\n') };
    }

    it('counts nothing as written that was not synced, and takes nothing more after that', async () => {
      const { path, said } = await twoWrites({});
      expect(said).toEqual([`unknown-outcome: ${path} failed to write at 0`, `unknown-outcome: an earlier write to ${path} failed`]);
    });

    it('says so of a repair as well, and goes on', async () => {
      const { path, said } = await twoWrites({ isRepair: true });
      expect(said).toEqual([`unknown-outcome: ${path} failed to write at 0`, 'written']);
    });
  });

  it.skipIf(missingForPower() !== null && process.env['CI'] === undefined)(
    'is opened for writing with what stands on the disk, not with what a failed sync has dropped and the kernel still shows',
    { timeout: 20_000 },
    async () => {
      const disk = await openPowerDevice(mebibyte, ['flash']);
      try {
        disk.tell('mode flash cached');
        const path = disk.pathOf('flash');
        const device = await openFileDevice(path);
        await device.writeAndSync(0, Buffer.alloc(4096, 1));
        disk.tell('fault flash sync 1 1 eio');
        await expect(device.writeAndSync(0, Buffer.alloc(4096, 2))).rejects.toMatchObject({ code: 'unknown-outcome' });
        await device.close();
        const shown = await openFileDevice(path, { readOnly: true });
        expect([...new Set(await shown.read(0, 4096))]).toEqual([2]);
        await shown.close();
        const next = await openFileDevice(path);
        // Half of the sectors were dropped.
        expect([...new Set(await next.read(0, 4096))].sort()).toEqual([1, 2]);
        await next.close();
      } finally {
        await disk.close();
      }
    },
  );

  it('that could not be read is no harm to the one that is opened after it', async () => {
    const [path, image] = [await newImage(), await newImage()];
    const device = await openFileDevice(path);
    await truncate(path, 0);
    await expect(device.read(0, 512)).rejects.toMatchObject({ code: 'halted' });
    await device.close();
    const next = await openFileDevice(image);
    await next.writeAndSync(0, Buffer.alloc(512, 9));
    expect((await next.read(0, 512))[0]).toBe(9);
    await next.close();
  });

  it('lets a process end that has it open', { timeout: 20_000 }, async () => {
    const path = await newImage();
    const script = `
      const { openFileDevice } = await import(${JSON.stringify(new URL('../../daemon/store/device-file.ts', import.meta.url).href)});
      const device = await openFileDevice(${JSON.stringify(path)});
      await device.writeAndSync(0, Buffer.alloc(512, 5));
      console.log((await device.read(0, 512))[0]);`;
    const done = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', timeout: 15_000 });
    expect(done.stderr).toBe('');
    expect(done.status).toBe(0);
    expect(done.stdout.trim()).toBe('5');
  });
});

/** A loop device needs root and a free number: on a user's machine that is not given. */
function attachLoop(path: string): string | null {
  const done = spawnSync('losetup', ['--find', '--show', path], { encoding: 'utf8' });
  return done.status === 0 ? done.stdout.trim() : null;
}

function probeLoop(): boolean {
  const done = spawnSync('losetup', ['--find'], { encoding: 'utf8' });
  const usable = done.status === 0 && process.getuid?.() === 0;
  if (!usable && process.env['CI'] === undefined) console.warn('SKIPPED: block devices are not tested here (losetup as root is needed)');
  return usable || process.env['CI'] !== undefined;
}

describe.skipIf(!probeLoop())('a block device', () => {
  // Loop devices outlive processes: whatever a test did not detach goes here, also when it failed.
  const attached = new Set<string>();
  const detachOwn = (path: string): void => {
    attached.delete(path);
    // The number may be another's by now: only a device over an image of this run is ours to detach.
    const backing = spawnSync('losetup', ['--noheadings', '--output', 'BACK-FILE', path], { encoding: 'utf8' }).stdout;
    if (backing.trim().startsWith(`${folder}/`)) spawnSync('losetup', ['--detach', path]);
  };
  afterAll(() => {
    for (const path of attached) detachOwn(path);
  });
  const attach = async (sizeBytes = 8 * mebibyte): Promise<{ path: string; detach: () => void }> => {
    const path = attachLoop(await newImage(sizeBytes));
    if (path === null) throw new Error('losetup could not attach an image');
    attached.add(path);
    return { path, detach: () => detachOwn(path) };
  };

  deviceSuite('a block device', async () => {
    const { path, detach } = await attach(mebibyte);
    const device = await openFileDevice(path).catch((thrown: unknown) => {
      detach();
      throw thrown;
    });
    return { device, reopen: (readOnly) => openFileDevice(path, { readOnly }), clean: async () => detach() };
  });

  it('has the size that the kernel tells and one writer only', async () => {
    const { path, detach } = await attach();
    try {
      const device = await openFileDevice(path);
      expect(device.sizeBytes).toBe(8 * mebibyte);
      await expect(openFileDevice(path, { lockWaitMs: 60 })).rejects.toMatchObject({ code: 'halted' });
      await device.close();
    } finally {
      detach();
    }
  });

  it('is refused while it is mounted', async ({ skip }) => {
    const { path, detach } = await attach();
    const mountPoint = await mkdtemp(join(folder, 'mount-'));
    const made = spawnSync('mkfs.ext4', ['-q', path]).status === 0 && spawnSync('mount', [path, mountPoint]).status === 0;
    try {
      if (!made) skip('no file system can be made and mounted here');
      await expect(openFileDevice(path, { lockWaitMs: 60 })).rejects.toMatchObject({ code: 'halted' });
    } finally {
      if (made) spawnSync('umount', [mountPoint]);
      detach();
    }
  });
});
