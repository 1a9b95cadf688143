import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { takeLock } from '#ground/lock.ts';
import { type Door, openDoor } from '#ipc/listen.ts';
import { openWorld, RawPeer, refusalOf, temporaryDirectory } from '#test/ipc/world.ts';

const onLinux = process.platform === 'linux';

function openTestDoor(path: string): Promise<Door> {
  return openDoor({
    path,
    mode: 0o660,
    maxConnections: 10,
    open: (wire) => ({
      onBytes: (chunk) => wire.send(chunk.toString('latin1')),
      onDrain: () => undefined,
      onEnd: () => wire.finish(),
      onClosed: () => undefined,
    }),
    report: () => undefined,
  });
}

async function echoes(path: string): Promise<void> {
  const peer = new RawPeer(path);
  peer.send('{}\f');
  await peer.next();
  peer.end();
}

/** A process that listens on a socket or holds a lock, and is then killed so that it cannot clean up. */
async function killed(script: string): Promise<void> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', `${script}; console.log('ready'); setInterval(() => {}, 1000)`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  child.kill('SIGKILL');
  await once(child, 'exit');
}

describe('the path of a socket', () => {
  it('is created with its directory, for owner and group alone', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 'run', 'ukeyd.sock');
    const door = await openTestDoor(path);
    expect(statSync(path).mode & 0o777).toBe(0o660);
    expect(statSync(join(temporary.dir, 'run')).mode & 0o777).toBe(0o750);
    await echoes(path);
    await door.close();
    expect(existsSync(path)).toBe(false);
  });

  it('keeps the mode of a directory that is there already', async () => {
    await using temporary = await temporaryDirectory();
    const run = join(temporary.dir, 'run');
    mkdirSync(run);
    chmodSync(run, 0o755);
    const door = await openTestDoor(join(run, 'ukeyd.sock'));
    expect(statSync(run).mode & 0o777).toBe(0o755);
    await door.close();
  });

  it('is refused in a directory that anyone may write to', async () => {
    await using temporary = await temporaryDirectory();
    const run = join(temporary.dir, 'run');
    mkdirSync(run);
    chmodSync(run, 0o777);
    expect(await refusalOf(openTestDoor(join(run, 'ukeyd.sock')))).toBe('invalid-request');
  });

  it.each<[string, (path: string, dir: string) => void]>([
    ['a file', (path) => writeFileSync(path, 'precious')],
    [
      'a symbolic link to a file',
      (path, dir) => {
        writeFileSync(join(dir, 'file'), 'precious');
        symlinkSync(join(dir, 'file'), path);
      },
    ],
    ['a symbolic link to nothing', (path, dir) => symlinkSync(join(dir, 'nothing'), path)],
    ['a directory', (path) => mkdirSync(path)],
  ])('is refused, and what stands there is left alone: %s', async (_, plant) => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 'ukeyd.sock');
    plant(path, temporary.dir);
    const before = lstatSync(path);
    expect(await refusalOf(openTestDoor(path))).toBe('invalid-request');
    expect(lstatSync(path).ino).toBe(before.ino);
    if (before.isFile()) expect(readFileSync(path, 'utf8')).toBe('precious');
  });

  it('is refused while another program answers there, and that program goes on', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 'ukeyd.sock');
    const other = createServer((socket) => socket.on('error', () => undefined).end('{}\f')).listen(path);
    await once(other, 'listening');
    expect(await refusalOf(openTestDoor(path))).toBe('busy');
    await echoes(path);
    other.close();
  });

  it('is taken when the socket is what a killed service left', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 'ukeyd.sock');
    await killed(`import net from 'node:net'; await new Promise((done) => net.createServer().listen(${JSON.stringify(path)}, done))`);
    expect(lstatSync(path).isSocket()).toBe(true);
    const door = await openTestDoor(path);
    await echoes(path);
    await door.close();
  });

  it('is refused when the kernel would cut it', async () => {
    await using temporary = await temporaryDirectory();
    expect(await refusalOf(openTestDoor(join(temporary.dir, `${'x'.repeat(120)}.sock`)))).toBe('invalid-request');
  });
});

describe('a second service', () => {
  it('on the same sockets is refused, the first is not disturbed, and after its end there is room', async () => {
    await using temporary = await temporaryDirectory();
    await using first = await openWorld({ dir: temporary.dir });
    const client = await first.client();
    expect(await refusalOf(openWorld({ dir: temporary.dir }))).toBe('busy');
    expect((await client.call('events.subscribe', {})).events.length).toBeGreaterThan(0);
    await echoesHello(first.till);
    await first.service.close();
    await using second = await openWorld({ dir: temporary.dir });
    await echoesHello(second.till);
  });

  it('that finds the till’s socket taken gives the admin socket back', async () => {
    await using temporary = await temporaryDirectory();
    mkdirSync(join(temporary.dir, 'run', 'ukeyd.sock'), { recursive: true });
    expect(await refusalOf(openWorld({ dir: temporary.dir }))).toBe('invalid-request');
    expect(existsSync(join(temporary.dir, 'run', 'ukeyd-admin.sock'))).toBe(false);
    takeLock(join(temporary.dir, 'run', 'ukeyd-admin.sock.lock')).release();
  });
});

async function echoesHello(path: string): Promise<void> {
  const peer = new RawPeer(path);
  peer.request(1, 'hello', { version: 1, client: 'raw' });
  expect(await peer.next()).toMatchObject({ kind: 'answer', id: 1 });
  peer.end();
}

describe('the lock', () => {
  it('is held by one at a time and can be taken again after its release', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 'lock');
    const lock = takeLock(path);
    expect(() => takeLock(path)).toThrow(expect.objectContaining({ code: 'busy' }));
    lock.release();
    lock.release();
    takeLock(path).release();
    expect(existsSync(path)).toBe(true);
  });

  it('ends with the process that held it, even when that is killed', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 'lock');
    const module = new URL('../../daemon/ground/lock.ts', import.meta.url).href;
    await killed(`const { takeLock } = await import(${JSON.stringify(module)}); globalThis.lock = takeLock(${JSON.stringify(path)})`);
    takeLock(path).release();
  });

  it('is not kept alive by a child of its holder', async () => {
    await using temporary = await temporaryDirectory();
    const path = join(temporary.dir, 'lock');
    const module = new URL('../../daemon/ground/lock.ts', import.meta.url).href;
    const orphan = `const { spawn } = await import('node:child_process'); const child = spawn('sleep', ['3'], { stdio: 'ignore', detached: true }); child.unref()`;
    await killed(
      `const { takeLock } = await import(${JSON.stringify(module)}); globalThis.lock = takeLock(${JSON.stringify(path)}); ${orphan}`,
    );
    takeLock(path).release();
  });

  it.skipIf(!onLinux)('does not follow a link planted at its name', async () => {
    await using temporary = await temporaryDirectory();
    writeFileSync(join(temporary.dir, 'target'), 'x');
    symlinkSync(join(temporary.dir, 'target'), join(temporary.dir, 'lock'));
    expect(() => takeLock(join(temporary.dir, 'lock'))).toThrow(expect.objectContaining({ code: 'internal' }));
  });
});
