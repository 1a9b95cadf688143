// Owns: a service as a process of its own that a test may kill at any instant, with its ticket server in the test's process.
// The service logs in by itself from its PIN file, as an unattended branch does; whoever kills it starts it again, as a service manager does.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, createWriteStream, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { LedgerCheck, type LedgerReport } from '#ctl/ledger-check.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import { lineLog } from '#server/log.ts';
import { type RunningServer, startServer } from '#server/serve.ts';
import { grant } from '#test/support/rig.ts';

export const killRigPin = '2468013579';
const readBytes = 4 * 1024 * 1024;

export interface KillRig {
  readonly directory: string;
  readonly tillSocket: string;
  readonly secret: Uint8Array;
  readonly server: RunningServer;
  /** Process of the service, while it runs. */
  pid(): number;
  /** SIGKILL, wait for the end. */
  kill(): Promise<void>;
  start(): Promise<void>;
  admin(): Promise<Client>;
  /** Ends the service and reads its whole store with the token alone. */
  readStore(): Promise<{
    readonly report: LedgerReport;
    readonly documents: ReadonlyMap<number, string>;
    readonly batches: readonly Uint8Array[];
  }>;
  close(): Promise<void>;
}

/** Where the service's log goes: a file, a device that is always full, or a pipe that nobody reads any more. */
export type LogEnd = 'file' | 'full' | 'closed';

/** `more`: lines of the configuration. The ticket server's log stands in server.log. */
export async function openKillRig(
  module: string | null,
  flashMib: number,
  logEnd: LogEnd = 'file',
  more: readonly string[] = [],
): Promise<KillRig> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-kill-'));
  mkdirSync(path.join(directory, 'token', 'softhsm'), { recursive: true });
  writeFileSync(path.join(directory, 'pin'), `${killRigPin}\n`, { mode: 0o600 });
  writeFileSync(
    path.join(directory, 'softhsm2.conf'),
    `directories.tokendir = ${directory}/token/softhsm\nobjectstore.backend = file\nlog.level = ERROR\n`,
  );
  writeFileSync(path.join(directory, 'ukeyd.toml'), [configText(module, flashMib), ...more].join('\n'));
  process.env['SOFTHSM2_CONF'] = path.join(directory, 'softhsm2.conf');
  const serverLog = openSync(path.join(directory, 'server.log'), 'a');
  const server = await startServer({
    directory: path.join(directory, 'server'),
    log: lineLog((bytes) => writeSync(serverLog, bytes)),
  });
  const adminSocket = path.join(directory, 'run/admin.sock');
  const log = createWriteStream(path.join(directory, 'ukeyd.log'), { flags: 'a' });
  const full = logEnd === 'full' ? openSync('/dev/full', 'w') : null;
  let child: ChildProcess | null = null;
  // Compiled once: most of a start would else be reading its own source, and little of it would be killed at work.
  const env = { ...process.env, NODE_COMPILE_CACHE: path.join(directory, 'compile-cache') };
  const start = async (): Promise<void> => {
    const main = path.resolve(import.meta.dirname, '../../daemon/main.ts');
    const started = spawn(process.execPath, [main, '--config', path.join(directory, 'ukeyd.toml')], {
      env,
      stdio: ['ignore', 'ignore', full ?? 'pipe'],
    });
    if (logEnd === 'closed') started.stderr?.destroy();
    else started.stderr?.pipe(log, { end: false });
    child = started;
  };
  const stop = (signal: NodeJS.Signals): Promise<void> =>
    new Promise((resolve) => {
      const running = child;
      child = null;
      if (running === null || running.exitCode !== null || running.signalCode !== null) return resolve();
      running.once('exit', () => resolve());
      running.kill(signal);
    });
  const admin = (): Promise<Client> => connect({ socketPath: adminSocket, client: 'kill-rig/1', waitMs: 20_000 });
  await start();
  const operator = await admin();
  const ticket = await server.createTicket(grant);
  await operator.call('token.provision', { label: 'kill', pin: killRigPin, soPin: '97531000', ticket });
  const { secret } = await operator.call('terminal.enrol', { terminal: 'till-1', role: 'till' });
  operator.close();
  return {
    directory,
    tillSocket: path.join(directory, 'run/ukeyd.sock'),
    secret: Buffer.from(secret, 'hex'),
    server,
    pid: () => child?.pid ?? 0,
    kill: () => stop('SIGKILL'),
    start,
    admin,
    readStore: async () => {
      await stop('SIGTERM');
      return readStore(directory, module);
    },
    close: async () => {
      await stop('SIGTERM');
      await server.close();
      closeSync(serverLog);
      log.end();
      if (full !== null) closeSync(full);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function readStore(directory: string, module: string | null): ReturnType<KillRig['readStore']> {
  const holder = joinHolder({
    ...partsOf({
      module,
      ...(module === null ? { softTokenPath: path.join(directory, 'token/key.json') } : {}),
      flashPath: path.join(directory, 'token/flash.img'),
      presencePaths: [],
      readOnly: true,
    }),
    events: { onState: () => undefined },
    note: () => undefined,
  });
  try {
    const mount = await holder.login(Buffer.from(killRigPin), false);
    const check = new LedgerCheck({ certificate: mount.certificate, authorityCertificate: mount.authorityCertificate });
    const documents = new Map<number, string>();
    const batches: Uint8Array[] = [];
    for (let next = 1; next < mount.nextBatch; ) {
      for (const { batchIndex, bytes } of await holder.read(next, readBytes)) {
        batches.push(bytes);
        for (const { parsed, body } of check.add(bytes).entries)
          if (parsed.number !== null) documents.set(parsed.sequence, Buffer.from(body).toString('utf8'));
        next = batchIndex + 1;
      }
    }
    return { report: check.result(), documents, batches };
  } finally {
    await holder.close();
  }
}

function configText(module: string | null, flashMib: number): string {
  return [
    'state = "state"',
    'socket = "run/ukeyd.sock"',
    'admin_socket = "run/admin.sock"',
    '[token]',
    ...(module === null ? ['soft_token = "token/key.json"'] : [`module = "${module}"`]),
    'flash = "token/flash.img"',
    `flash_mib = ${flashMib}`,
    'pin_file = "pin"',
    '[upload]',
    'probe = "* * * * * *"',
    '[log]',
    'level = "debug"',
  ].join('\n');
}
