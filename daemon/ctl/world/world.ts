// Owns: one running sandbox: the ticket server and the service as processes, the line between them, the token's parts, one till.
// Invariants: one world per folder (a lock that the kernel releases); both processes are started again when they die; a token that was
// provisioned is never provisioned again; the service logs in from its PIN file, and only if it does not, the world does, once per start.
// The service is asked through its sockets alone, as a stranger would.
// Must not: print, or read a command line.
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import type { Lock } from '#ground/lock.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Params, ServiceStatus } from '#ipc-schema/methods.ts';
import { firstMemory, lockFolder, unchangedMemory, type WorldParts } from './claim.ts';
import { programFile, softTokenName, writeCharterOptions, writeServiceConfig, writeSofthsmConfig } from './ground-plan.ts';
import {
  keepPin,
  type Layout,
  layoutOf,
  type Memory,
  makeFolders,
  plugToken,
  pullToken,
  readMemory,
  readPinFile,
  refuseForeignFolder,
  removeForeignSockets,
  writeMemory,
} from './layout.ts';
import { type Line, loopback, openLine } from './line.ts';
import { type SettingUp, setUpToken } from './setting-up.ts';
import { started, startWaitMs } from './started.ts';
import { TendedProcess } from './tended-process.ts';

export const terminalName = 'till-1';

export interface WorldOptions extends WorldParts {
  readonly dir: string;
  /** For whoever watches: a process died, a token was plugged in again. */
  note(text: string): void;
}

/** What a program needs in order to use the world: the JSON line of `sandbox`. */
export interface WorldFacts {
  readonly socket: string;
  readonly adminSocket: string;
  readonly terminal: string;
  readonly secretFile: string;
  /** Id of the default template. */
  readonly template: string;
  /** The server itself, also while the line is cut. */
  readonly serverUrl: string;
  readonly pinFile: string;
  readonly daemonPid: number;
  readonly serverPid: number;
  readonly module: string;
  readonly store: string;
}

export interface WorldStatus extends WorldFacts {
  readonly line: 'up' | 'down';
  /** Where the service believes its server to be: the line. */
  readonly lineUrl: string;
  readonly plugged: boolean;
  readonly standing: ServiceStatus['standing'] | 'no-answer';
  readonly reason: string;
  readonly pending: number | null;
}

const stepMs = 50;
const linkWaitMs = 8_000;
const loginGraceMs = 3_000;
const noticeWaitMs = 10_000;
const callWaitMs = 10_000;

export class World {
  readonly layout: Layout;
  readonly #note: (text: string) => void;
  readonly #lock: Lock;
  readonly #line: Line;
  #memory: Memory;
  #server: TendedProcess | null = null;
  #service: TendedProcess | null = null;
  #admin: Client | null = null;
  #serverReady = false;
  #template: string | null = null;
  #closing: Promise<void> | null = null;
  #logins = 0;

  private constructor(layout: Layout, memory: Memory, lock: Lock, line: Line, note: (text: string) => void) {
    this.layout = layout;
    this.#memory = memory;
    this.#lock = lock;
    this.#line = line;
    this.#note = note;
  }

  /** Starts a world, or one that was stopped again, and returns when a till can issue. Throws busy when one runs in this folder. */
  static async open(options: WorldOptions): Promise<World> {
    const layout = layoutOf(options.dir);
    mkdirSync(layout.dir, { recursive: true, mode: 0o700 });
    const before = readMemory(layout);
    if (before === null) refuseForeignFolder(layout, readdirSync(layout.dir));
    const lock = lockFolder(layout);
    let line: Line | null = null;
    let world: World | null = null;
    try {
      const memory = before === null ? await firstMemory(layout, options) : unchangedMemory(before, options);
      makeFolders(layout);
      if (before === null) writeMemory(layout, memory);
      line = await openLine(memory.linePort);
      world = new World(layout, memory, lock, line, options.note);
      await world.#start();
      return world;
    } catch (thrown) {
      if (world === null) {
        await line?.close();
        lock.release();
      } else await world.close();
      throw thrown;
    }
  }

  get memory(): Memory {
    return this.#memory;
  }

  get serverUrl(): string {
    return `https://${loopback}:${this.#memory.serverPort}`;
  }

  get lineUrl(): string {
    return `https://${loopback}:${this.#line.port}`;
  }

  facts(): WorldFacts {
    const { layout } = this;
    return {
      socket: layout.socket,
      adminSocket: layout.adminSocket,
      terminal: terminalName,
      secretFile: layout.secretFile,
      template: this.#template ?? '',
      serverUrl: this.serverUrl,
      pinFile: layout.pinFile,
      daemonPid: this.#service?.pid ?? 0,
      serverPid: this.#server?.pid ?? 0,
      module: this.#memory.module ?? softTokenName,
      store: this.#memory.store,
    };
  }

  async status(): Promise<WorldStatus> {
    const service = await this.#ask();
    return {
      ...this.facts(),
      line: this.#line.isUp() ? 'up' : 'down',
      lineUrl: this.lineUrl,
      plugged: this.#isPlugged,
      standing: service?.standing ?? 'no-answer',
      reason: service?.reason ?? 'the service does not answer at this moment',
      pending: service?.backlog?.pending ?? null,
    };
  }

  async cutLine(): Promise<void> {
    await this.#line.cut();
  }

  async restoreLine(): Promise<void> {
    await this.#line.restore();
  }

  /** Pulls the token and waits until the service has noticed (or for a bounded time). */
  async unplug(): Promise<void> {
    if (pullToken(this.layout)) await this.#until(noticeWaitMs, (status) => status.standing === 'no-token');
  }

  /** Plugs the token in and waits until it is open again (or for a bounded time). */
  async plug(): Promise<void> {
    if (plugToken(this.layout)) await this.#loggedIn();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // The service first, while its server can still be reached: what it has begun to send may end well.
    this.#admin?.close();
    await this.#service?.stop();
    await this.#server?.stop();
    await this.#line.close();
    removeForeignSockets(this.layout);
    this.#lock.release();
  }

  // --- starting ---

  async #start(): Promise<void> {
    const { layout } = this;
    if (plugToken(layout)) this.#note('the token was out: it is plugged in again');
    keepPin(layout.pinFile);
    keepPin(layout.soPinFile);
    writeCharterOptions(layout);
    writeSofthsmConfig(layout);
    writeServiceConfig(layout, this.#memory);
    this.#line.lead(this.#memory.serverPort);
    this.#startServer();
    await this.#serverUp();
    this.#startService();
    this.#admin = await this.#dialAdmin();
    await setUpToken(this.#settingUp(this.#admin));
    const status = await this.#loggedIn();
    const template = status.templates[0]?.id;
    if (template === undefined) throw new UkeyError('internal', 'the service shows no template');
    this.#template = template;
    await this.#online(this.#admin);
  }

  /** A world begins online; a server that stays silent is no reason not to begin. */
  async #online(admin: Client): Promise<void> {
    await admin.call('backlog.flush', {}, { timeoutMs: linkWaitMs }).catch((thrown: unknown) => {
      this.#note(`the ticket server does not answer yet: ${asUkeyError(thrown).message}`);
    });
  }

  #startServer(): void {
    const { layout } = this;
    this.#server = new TendedProcess({
      name: 'the ticket server',
      args: [
        programFile('server/main'),
        ...['--dir', layout.serverDir, '--listen', `${loopback}:${this.#memory.serverPort}`, '--public-url', this.lineUrl],
      ],
      env: {},
      logFile: layout.serverLog,
      onStarted: () => undefined,
      onLine: () => {
        this.#serverReady = true;
        this.#server?.markReady();
      },
      onDied: (how, waitMs) => {
        this.#serverReady = false;
        this.#note(`the ticket server ended (${how}): started again in ${waitMs} ms`);
      },
    });
  }

  async #serverUp(): Promise<void> {
    await started({ what: 'the ticket server', process: this.#server, logFile: this.layout.serverLog, isReady: () => this.#serverReady });
  }

  #startService(): void {
    const { layout } = this;
    this.#service = new TendedProcess({
      name: 'the service',
      args: [programFile('daemon/main'), '--config', layout.config],
      env: { SOFTHSM2_CONF: layout.softhsmConfig },
      logFile: layout.serviceLog,
      onStarted: () => {
        // Again: its sockets are new, and the token is locked until its PIN file was read.
        if (this.#admin !== null) this.#recover();
      },
      onDied: (how, waitMs) => this.#note(`the service ended (${how}): started again in ${waitMs} ms`),
    });
  }

  #recover(): void {
    this.#loggedIn().catch((thrown: unknown) => {
      if (this.#closing === null) this.#note(`the service was started again and is not ready: ${asUkeyError(thrown).message}`);
    });
  }

  async #dialAdmin(): Promise<Client> {
    let client: Client | null = null;
    let refused: UkeyError | null = null;
    connect({ socketPath: this.layout.adminSocket, client: 'ukeyctl-sandbox', waitMs: startWaitMs }).then(
      (connected) => {
        client = connected;
        // The start was given up meanwhile.
        if (this.#closing !== null) connected.close();
      },
      (thrown: unknown) => {
        refused = asUkeyError(thrown);
      },
    );
    const isReady = (): boolean => client !== null || refused !== null;
    await started({ what: 'the service', process: this.#service, logFile: this.layout.serviceLog, isReady });
    if (client === null) throw refused ?? new UkeyError('internal', 'the service does not answer');
    return client;
  }

  #settingUp(admin: Client): SettingUp {
    return {
      layout: this.layout,
      admin,
      terminal: terminalName,
      provisioned: this.#memory.provisioned,
      onProvisioned: () => {
        this.#memory = { ...this.#memory, provisioned: true };
        writeMemory(this.layout, this.#memory);
      },
      note: this.#note,
    };
  }

  /** Waits until the token is open; if it stays locked although its PIN has not been refused, logs in from the PIN file. */
  async #loggedIn(): Promise<ServiceStatus> {
    this.#logins += 1;
    const turn = this.#logins;
    const isOpen = ({ standing }: ServiceStatus): boolean => !['locked', 'no-token', 'halted'].includes(standing);
    const early = await this.#until(loginGraceMs, isOpen);
    if (early !== null && isOpen(early)) return early;
    if (early?.standing === 'locked' && early.token?.pinState === 'ok' && turn === this.#logins) {
      const params: Params<'session.login'> = { pin: readPinFile(this.layout.pinFile) };
      await this.#admin?.call('session.login', params, { timeoutMs: startWaitMs });
    }
    const late = await this.#until(startWaitMs, isOpen);
    if (late !== null && isOpen(late)) return late;
    throw new UkeyError('locked', `the token is not open: ${late?.reason ?? 'the service does not answer'}`, {
      action: `See ${this.layout.serviceLog}.`,
    });
  }

  // --- asking ---

  get #isPlugged(): boolean {
    return existsSync(this.layout.token);
  }

  async #ask(): Promise<ServiceStatus | null> {
    try {
      const status = (await this.#admin?.call('service.status', {}, { timeoutMs: callWaitMs })) ?? null;
      if (status !== null) this.#service?.markReady();
      return status;
    } catch {
      // It is being started again, or is busy starting: the next time it will answer.
      return null;
    }
  }

  /** Asks until `holds`, at most `waitMs`; the last answer, or null when there was none. */
  async #until(waitMs: number, holds: (status: ServiceStatus) => boolean): Promise<ServiceStatus | null> {
    const endMs = performance.now() + waitMs;
    for (;;) {
      const status = await this.#ask();
      if ((status !== null && holds(status)) || performance.now() > endMs || this.#closing !== null) return status;
      await sleep(stepMs);
    }
  }
}

function sleep(waitMs: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, waitMs));
}
