// Shows: the service as a process of its own, that gets its PIN as a service manager hands it over.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { type Client, connect } from '#ipc-schema/client.ts';
import { openRig, type Rig, rigPin } from '#test/support/rig.ts';

let rig: Rig;
let daemon: ChildProcess | null = null;
afterEach(async () => {
  await stop();
  await rig?.close();
});

async function stop(): Promise<void> {
  if (daemon === null || daemon.exitCode !== null) return;
  const ended = once(daemon, 'exit');
  daemon.kill('SIGTERM');
  await ended;
  daemon = null;
}

/** A start with these credentials; null: the manager hands over none. */
async function start(credentials: string | null): Promise<Client> {
  const { CREDENTIALS_DIRECTORY: _, ...env } = process.env;
  daemon = spawn(process.execPath, ['daemon/main.ts', '--config', path.join(rig.directory, 'ukeyd.toml')], {
    env: credentials === null ? env : { ...env, CREDENTIALS_DIRECTORY: credentials },
    stdio: 'ignore',
  });
  return await connect({ socketPath: rig.config.admin_socket, client: 'test/1', waitMs: 20_000 });
}

const triesInFile = (): number =>
  (JSON.parse(readFileSync(path.join(rig.directory, 'token/key.json'), 'utf8')) as { triesLeft: number }).triesLeft;

test('a credential logs in; none, or a wrong one, leaves it locked with a reason, and a wrong one is tried once', {
  timeout: 120_000,
}, async () => {
  rig = await openRig();
  await rig.running.close();
  const config = [
    ...['state = "state"', 'socket = "run/ukeyd.sock"', 'admin_socket = "run/ukeyd-admin.sock"', '[token]'],
    ...['soft_token = "token/key.json"', 'flash = "token/flash.img"', 'pin_credential = "ukeyd.pin"', '[mirror]', 'mode = "off"'],
  ];
  writeFileSync(path.join(rig.directory, 'ukeyd.toml'), config.join('\n'));
  const full = triesInFile();
  /** As a manager does: a folder of its own for each start. */
  let starts = 0;
  const handed = (pin: string): string => {
    starts += 1;
    const folder = path.join(rig.directory, `credentials-${starts}`);
    mkdirSync(folder, { mode: 0o700 });
    writeFileSync(path.join(folder, 'ukeyd.pin'), pin, { mode: 0o400 });
    return folder;
  };
  const told = async (credentials: string | null, reason: string, standing: RegExp): Promise<void> => {
    const admin = await start(credentials);
    await expect.poll(async () => (await admin.call('service.status', {})).reason, { timeout: 20_000 }).toContain(reason);
    const status = await admin.call('service.status', {});
    expect(status.standing).toMatch(standing);
    if (status.standing === 'locked') expect(status.action).toContain('ukeyd.pin');
    admin.close();
    await stop();
  };
  await told(null, 'CREDENTIALS_DIRECTORY', /^locked$/);
  const empty = handed(rigPin);
  rmSync(path.join(empty, 'ukeyd.pin'));
  await told(empty, 'was not handed over', /^locked$/);
  for (let restart = 0; restart < 3; restart += 1) await told(handed('999999'), 'stored PIN was refused', /^locked$/);
  expect(triesInFile()).toBe(full - 1);
  await told(handed(rigPin), 'the ticket server', /^issuing/);
  expect(triesInFile()).toBe(full);
  await rig.startLocked();
});
