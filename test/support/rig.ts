// Owns: a whole world for tests: ticket server, service and one enrolled till, in a temporary folder, over real sockets and real TLS.
// The service runs in this process; its holder is the real one, joined (fast) or as a child process.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { compose, type Overrides, type RunningService } from '#daemon/compose.ts';
import { type Config, parseConfig } from '#ground/config.ts';
import { silentLog } from '#ground/log.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import type { Params } from '#ipc-schema/methods.ts';
import type { GrantOptions } from '#server/grant.ts';
import { type RunningServer, startServer } from '#server/serve.ts';
import { TcpProxy } from '#test/support/tcp-proxy.ts';

export const rigPin = '135790';

export interface RigOptions {
  readonly holder?: 'joined' | 'child';
  readonly grant?: Partial<GrantOptions>;
  readonly overrides?: Overrides;
  /** Cron expression of the probes; default: hardly ever, tests ask for them. */
  readonly probe?: string;
  readonly pinFile?: boolean;
  /** Default: none, which is quicker. */
  readonly mirror?: boolean;
  /** Instead of the soft token: lines of [token]. */
  readonly token?: readonly string[];
  /** Of tokens whose maker has set it. */
  readonly soPin?: string;
  /** Size of the FLASH. */
  readonly flashMib?: number;
  /** Templates of the server's own folder, by name; `grant.templates` grants them. */
  readonly templates?: Readonly<Record<string, unknown>>;
  /** A line between service and server that the test may cut. */
  readonly line?: boolean;
  /** The clock of the server. */
  readonly serverWallMs?: () => number;
}

export interface Rig {
  readonly directory: string;
  readonly config: Config;
  readonly server: RunningServer;
  /** Only with the option `line`. */
  readonly line: TcpProxy;
  running: RunningService;
  admin: Client;
  till: Client;
  /** Stops and starts the service on the same token; logs in. */
  restart(): Promise<void>;
  /** Starts the service after `running.close()`; nobody logs in, only the admin door is connected. */
  startLocked(): Promise<void>;
  stopServer(): Promise<void>;
  /** On the same port with the same data. */
  startServer(): Promise<void>;
  connectTill(): Promise<Client>;
  /** Enrols one more terminal and connects it. */
  connectAs(terminal: string, role: 'till' | 'erp' | 'auditor'): Promise<Client>;
  close(): Promise<void>;
}

export const grant: GrantOptions = {
  issuer: { taxId: 'GB123456789', name: 'Gifts Ltd', address: ['1 Market Street', 'Leeds'] },
  currency: 'GBP',
  mode: 'hybrid',
  limits: { hours: 72, count: 10_000, amount: '10000000', single: '100000' },
  series: [
    { kind: 'invoice', prefix: 'A-', digits: 8, first: 1, last: 99_999_999 },
    { kind: 'credit-note', prefix: 'C-', digits: 8, first: 1, last: 99_999_999 },
  ],
};

/** Entries of the audit trail come in their own time: tests that count entries do not meet them by chance, those of the trail give waits of their own. */
const never = { gatherMs: 3_600_000, calmMs: 3_600_000 };

export async function openRig(options: RigOptions = {}): Promise<Rig> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-rig-'));
  const overrides = { auditWaits: never, ...(options.holder === 'child' ? {} : { startHolder: joined }), ...options.overrides };
  mkdirSync(path.join(directory, 'token'));
  writeFileSync(path.join(directory, 'pin'), `${rigPin}\n`, { mode: 0o600 });
  const config = parseConfig(configText(options), directory);
  mkdirSync(path.join(directory, 'server', 'templates'), { recursive: true });
  for (const [name, content] of Object.entries(options.templates ?? {}))
    writeFileSync(path.join(directory, 'server', 'templates', `${name}.json`), JSON.stringify(content));
  const serverOptions = {
    directory: path.join(directory, 'server'),
    ...(options.serverWallMs === undefined ? {} : { wallMs: options.serverWallMs }),
  };
  let server = await startServer(serverOptions);
  const { port } = server;
  const line = options.line === true ? await TcpProxy.open(port) : null;
  const connectAdmin = (): Promise<Client> => connect({ socketPath: config.admin_socket, client: 'rig/1', waitMs: 2_000 });
  let running = await compose(config, silentLog, overrides);
  let admin = await connectAdmin();
  const ticket = await server.createTicket({
    ...grant,
    ...(line === null ? {} : { serverUrl: `https://127.0.0.1:${line.port}` }),
    ...options.grant,
  });
  await admin.call('token.provision', { label: 'rig', pin: rigPin, soPin: options.soPin ?? '97531000', ticket });
  const { secret } = await admin.call('terminal.enrol', { terminal: 'till-1', role: 'till' });
  const connectWith = (terminal: string, hex: string): Promise<Client> =>
    connect({ socketPath: config.socket, client: 'rig/1', terminal, secret: Buffer.from(hex, 'hex'), waitMs: 2_000 });
  const connectTill = (): Promise<Client> => connectWith('till-1', secret);
  const others: Client[] = [];
  let till = await connectTill();
  const hangUp = (): void => {
    admin.close();
    till.close();
    for (const other of others) other.close();
  };
  const rig: Rig = {
    directory,
    config,
    get line() {
      if (line === null) throw new Error('this rig was opened without a line');
      return line;
    },
    get server() {
      return server;
    },
    get running() {
      return running;
    },
    get admin() {
      return admin;
    },
    get till() {
      return till;
    },
    restart: async () => {
      hangUp();
      await running.close();
      running = await compose(config, silentLog, overrides);
      admin = await connectAdmin();
      if (options.pinFile !== true) await loginWhenReady(admin);
      till = await connectTill();
    },
    startLocked: async () => {
      hangUp();
      running = await compose(config, silentLog, overrides);
      admin = await connectAdmin();
    },
    stopServer: () => server.close(),
    startServer: async () => {
      server = await startServer({ ...serverOptions, port });
    },
    connectTill,
    connectAs: async (terminal, role) => {
      const enrolled = await admin.call('terminal.enrol', { terminal, role, replace: true });
      const client = await connectWith(terminal, enrolled.secret);
      others.push(client);
      return client;
    },
    close: async () => {
      hangUp();
      await running.close();
      await server.close();
      await line?.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  return rig;
}

const joined: NonNullable<Overrides['startHolder']> = (config, events) =>
  joinHolder({ ...partsOf(config), events, note: () => undefined, pollMs: 50 });

/** The token is looked for after the start: until it is seen, a login is too early. */
export async function loginWhenReady(admin: Client): Promise<void> {
  const endMs = performance.now() + 5_000;
  while ((await admin.call('service.status', {})).reason === 'the token is being opened' && performance.now() < endMs) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await admin.call('session.login', { pin: rigPin });
}

function configText(options: RigOptions): string {
  return [
    'state = "state"',
    'socket = "run/ukeyd.sock"',
    'admin_socket = "run/ukeyd-admin.sock"',
    '[token]',
    ...(options.token ?? ['soft_token = "token/key.json"', 'presence = ["token/key.json"]']),
    'flash = "token/flash.img"',
    `flash_mib = ${options.flashMib ?? 32}`,
    ...(options.pinFile === true ? ['pin_file = "pin"'] : []),
    ...(options.mirror === true ? [] : ['[mirror]', 'mode = "off"']),
    '[upload]',
    `probe = "${options.probe ?? '0 0 1 1 *'}"`,
  ].join('\n');
}

export function sale(key: string, more: Partial<Params<'invoice.issue'>> = {}): Params<'invoice.issue'> {
  return {
    key,
    template: 'retail',
    lines: [
      { description: 'WHITE HANGING HEART T-LIGHT HOLDER', quantity: '6', unitPrice: '2.55', sku: '85123A' },
      { description: 'WHITE METAL LANTERN', quantity: '6', unitPrice: '3.39', sku: '71053' },
    ],
    ...more,
  };
}
