// Owns: a provisioned token with its service as a process, a ticket server as another one, the line between them and one enrolled till.
// Invariants: the line is down unless a benchmark puts it up, so that nothing is uploaded while something else is measured.
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { frontFlags, nodeEnvironment } from '#ground/runtime.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { TcpProxy } from '#test/support/tcp-proxy.ts';
import { childOf } from './machine.ts';
import type { Till } from './messages.ts';
import { type Environment, startProgram, stop } from './process.ts';
import { TicketServer } from './ticket-server.ts';
import { grant, holderConfigOf, pin, soPin, type WorldFiles, type WorldOptions, worldFiles, writeWorldFiles } from './world-files.ts';

export type { WorldOptions } from './world-files.ts';

/** A large ledger brings its index up to date first. */
const startWaitMs = 300_000;
const provisionWaitMs = 300_000;
const lookMs = 20;
const instrumented = fileURLToPath(new URL('./instrumented-service.ts', import.meta.url));

export class World {
  readonly files: WorldFiles;
  readonly options: WorldOptions;
  readonly line: TcpProxy;
  readonly #server: TicketServer;
  #service: ChildProcess | null = null;
  #admin: Client | null = null;
  /** How the process ended. */
  #ended: string | null = null;
  /** Monotonic; null: its service does not run, or did not begin to issue yet. */
  issuingSinceMs: number | null = null;
  till: Till = { terminal: 'till-1', secret: new Uint8Array() };

  private constructor(files: WorldFiles, options: WorldOptions, server: TicketServer, line: TcpProxy) {
    this.files = files;
    this.options = options;
    this.#server = server;
    this.line = line;
  }

  static async open(folder: string, options: WorldOptions): Promise<World> {
    rmSync(folder, { recursive: true, force: true }); // of an attempt that failed
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const files = worldFiles(folder);
    writeWorldFiles(files, options);
    const { databaseUrl } = options;
    const server = await TicketServer.start({ directory: files.server, ...(databaseUrl === undefined ? {} : { databaseUrl }) });
    const line = await TcpProxy.open(server.port);
    const world = new World(files, options, server, line);
    try {
      await world.#provision();
    } catch (thrown) {
      await world.close();
      throw thrown;
    }
    return world;
  }

  get environment(): Environment {
    return this.options.module === null ? {} : { SOFTHSM2_CONF: this.files.softhsmConfig };
  }

  get holderConfig() {
    return holderConfigOf(this.files, this.options);
  }

  get admin(): Client {
    if (this.#admin === null) throw new Error('the service does not run');
    return this.#admin;
  }

  /** The service's processes: null where the system does not tell them. */
  get pids(): { readonly front: number; readonly holder: number | null } {
    const front = this.#service?.pid ?? 0;
    return { front, holder: childOf(front) };
  }

  /** Starts the process and nothing more. */
  launch(environment: Environment = {}): void {
    const { program, shipped } = this.options;
    const args = [...frontFlags, program === 'shipped' ? shipped.service : instrumented, '--config', this.files.config];
    this.#service = startProgram(args, { ...nodeEnvironment, ...this.environment, ...environment }, this.files.log);
    this.#service.once('exit', (code, signal) => {
      this.#ended = signal ?? `status ${code}`;
    });
    this.#ended = null;
  }

  /** Returns when a till can issue, and the mirror (a large one is made beside the tills) has every batch. */
  async start(): Promise<void> {
    if (this.#service === null) this.launch();
    this.#admin ??= await this.#dial();
    await this.until(
      ({ standing, store }) => standing.startsWith('issuing') && (store?.mirrorState?.failure ?? null) === null,
      startWaitMs,
    );
    this.issuingSinceMs ??= performance.now();
  }

  async stop(): Promise<void> {
    this.issuingSinceMs = null;
    this.#admin?.close();
    this.#admin = null;
    if (this.#service !== null) await stop(this.#service);
    this.#service = null;
  }

  lineUp(): void {
    this.line.state = 'up';
  }

  lineDown(): void {
    this.line.state = 'down';
    this.line.hangUp();
  }

  async status(): Promise<ServiceStatus> {
    return await this.admin.call('service.status', {});
  }

  /** Asks until it holds. Throws after `waitMs`. */
  async until(holds: (status: ServiceStatus) => boolean, waitMs: number): Promise<ServiceStatus> {
    const endMs = performance.now() + waitMs;
    for (;;) {
      const status = await this.status();
      if (holds(status)) return status;
      if (performance.now() > endMs)
        throw new Error(`still ${status.standing} after ${waitMs} ms (${status.reason}); see ${this.files.log}`);
      await new Promise((resolve) => setTimeout(resolve, lookMs));
    }
  }

  async close(): Promise<void> {
    await this.stop();
    await this.line.close();
    await this.#server.close();
  }

  /** A service that ends instead of listening is not waited for. */
  async #dial(): Promise<Client> {
    const endMs = performance.now() + startWaitMs;
    for (;;) {
      try {
        return await connect({ socketPath: this.files.adminSocket, client: 'bench/1' });
      } catch (thrown) {
        if (this.#ended !== null)
          throw new Error(`the service ended with ${this.#ended}: ${lastLineOf(this.files.log)}`, { cause: thrown });
        if (performance.now() > endMs) throw thrown;
      }
      await new Promise((resolve) => setTimeout(resolve, lookMs));
    }
  }

  async #provision(): Promise<void> {
    this.launch();
    this.#admin = await this.#dial();
    const ticket = await this.#server.createTicket({ ...grant, serverUrl: `https://127.0.0.1:${this.line.port}` });
    await this.admin.call('token.provision', { label: 'bench', pin, soPin, ticket }, { timeoutMs: provisionWaitMs });
    const { terminal } = this.till;
    const { secret } = await this.admin.call('terminal.enrol', { terminal, role: 'till' });
    this.till = { terminal, secret: Buffer.from(secret, 'hex') };
    this.lineDown();
    await this.start();
  }
}

function lastLineOf(file: string): string {
  return readFileSync(file, 'utf8').trimEnd().split('\n').at(-1) ?? '';
}
