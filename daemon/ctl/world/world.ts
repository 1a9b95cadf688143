// Owns: one running sandbox: the ticket server and the service as processes, the line between them, the token's parts, one till.
// Invariants: one world per folder (a lock that the kernel releases); both processes are started again when they die; a token that was
// provisioned is never provisioned again; the service logs in by itself from its PIN file; the world tries a PIN only where it provisioned just now.
// The service is asked through its sockets alone, as a stranger would.
// Must not: print, or read a command line.
import { existsSync, readdirSync } from 'node:fs';
import { endAs } from '#ctl/exit-codes.ts';
import type { Lock } from '#ground/lock.ts';
import { frontFlags, nodeEnvironment } from '#ground/runtime.ts';
import type { Client } from '#ipc-schema/client.ts';
import { asUkeyError, type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import type { Params } from '#ipc-schema/methods.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { firstMemory, knownMemory, lockFolder, makeOwnFolder, type WorldParts } from './claim.ts';
import { dialled } from './dialled.ts';
import { processEnv, programFile, softTokenName, writeCharterOptions, writeServiceConfig, writeSofthsmConfig } from './ground-plan.ts';
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
  storeOf,
  writeMemory,
} from './layout.ts';
import { type Line, loopback, openLine } from './line.ts';
import { type SettingUp, setUpToken } from './setting-up.ts';
import { givenUp, started, startWaitMs } from './started.ts';
import { TendedProcess } from './tended-process.ts';
import { tokenOpen } from './token-open.ts';

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
/** The service's probe interval, and its doubts. */
const lineNoticeWaitMs = 8_000;
/** A start that is given up has issued nothing: nobody waits for its processes' good end. */
const hastyStopMs = 700;
const noticeWaitMs = 10_000;
const callWaitMs = 10_000;
const startCallWaitMs = 2_000;

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
  /** Counts the service's runs: who waits for an earlier one stops. */
  #runs = 0;
  readonly #over = new AbortController();

  private constructor(layout: Layout, memory: Memory, lock: Lock, line: Line, note: (text: string) => void) {
    this.layout = layout;
    this.#memory = memory;
    this.#lock = lock;
    this.#line = line;
    this.#note = note;
  }

  /** Takes the folder, and nothing runs yet: `start` is next. Throws usage when one runs in this folder, busy when the line's port is taken. */
  static async claim(options: WorldOptions): Promise<World> {
    const layout = layoutOf(options.dir);
    makeOwnFolder(layout);
    const before = readMemory(layout);
    if (before === null) refuseForeignFolder(layout, readdirSync(layout.dir));
    const lock = lockFolder(layout);
    try {
      const memory = before === null ? await firstMemory(options) : await knownMemory(layout, before, options);
      makeFolders(layout, memory.module);
      if (JSON.stringify(memory) !== JSON.stringify(before)) writeMemory(layout, memory);
      return new World(layout, memory, lock, await openLine(memory.linePort), options.note);
    } catch (thrown) {
      lock.release();
      throw thrown;
    }
  }

  /** A till can issue, or could once. */
  get isReady(): boolean {
    return this.#template !== null;
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
      store: storeOf(this.layout, this.#memory),
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
      reason: service?.reason ?? (!this.isReady ? 'the sandbox is starting' : 'the service does not answer at this moment'),
      pending: service?.backlog?.pending ?? null,
    };
  }

  async cutLine(): Promise<void> {
    await this.#line.cut();
  }

  async restoreLine(): Promise<void> {
    await this.#line.restore();
  }

  /** Waits until the service knows how its line is (or for a bounded time); one without an open ledger does not look. */
  async lineNoticed(): Promise<void> {
    const isUp = this.#line.isUp();
    await this.#until(lineNoticeWaitMs, ({ backlog }) => backlog === null || (backlog.link === 'up') === isUp);
  }

  /** Pulls the token and waits until the service has noticed (or for a bounded time). */
  async unplug(): Promise<void> {
    if (pullToken(this.layout)) await this.#until(noticeWaitMs, (status) => status.standing === 'no-token');
  }

  /** Plugs the token in and waits until it is open again (or for a bounded time). */
  async plug(): Promise<void> {
    if (plugToken(this.layout)) await this.#opened();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // The service first, while its server can still be reached: what it has begun to send may end well.
    this.#over.abort();
    this.#admin?.close();
    if (!this.isReady) await Promise.all([this.#service?.stop(hastyStopMs), this.#server?.stop(hastyStopMs)]);
    await this.#service?.stop();
    await this.#server?.stop();
    await this.#line.close();
    removeForeignSockets(this.layout);
    this.#lock.release();
  }

  // --- starting ---

  /** A world, or one that was stopped again; returns when a till can issue. Throws what the service says when it will not; `close` is the caller's. */
  async start(): Promise<void> {
    const { layout } = this;
    if (plugToken(layout)) this.#note('the token was out: it is plugged in again');
    keepPin(layout.pinFile);
    keepPin(layout.soPinFile);
    writeCharterOptions(layout);
    if (this.#memory.module !== null) writeSofthsmConfig(layout);
    writeServiceConfig(layout, this.#memory);
    this.#line.lead(this.#memory.serverPort);
    const server = this.#startServer();
    await this.#serverUp(server);
    if (this.#isOver) throw givenUp();
    const service = this.#startService();
    const admin = await dialled({ socket: layout.adminSocket, process: service, logFile: layout.serviceLog, isOver: () => this.#isOver });
    this.#admin = admin;
    try {
      if (await setUpToken(this.#settingUp(admin))) await this.#firstLogin(admin);
    } catch (thrown) {
      const error = asUkeyError(thrown);
      throw error.code === 'internal' ? error : endAs('refused', error);
    }
    const status = await this.#opened();
    const template = status.templates[0]?.id;
    if (template === undefined) throw new UkeyError('internal', 'the service shows no template');
    await this.#online(admin);
    if (this.#isOver) throw givenUp();
    this.#template = template;
  }

  /** A world begins online; a server that stays silent is no reason not to begin. */
  async #online(admin: Client): Promise<void> {
    await admin.call('backlog.flush', {}, { timeoutMs: linkWaitMs }).catch((thrown: unknown) => {
      this.#note(`the ticket server does not answer yet: ${asUkeyError(thrown).message}`);
    });
  }

  #startServer(): TendedProcess {
    const { layout } = this;
    const server = new TendedProcess({
      name: 'the ticket server',
      args: [
        programFile('server/main'),
        ...['--dir', layout.serverDir, '--listen', `${loopback}:${this.#memory.serverPort}`, '--public-url', this.lineUrl],
      ],
      env: processEnv(layout),
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
    this.#server = server;
    return server;
  }

  async #serverUp(process: TendedProcess): Promise<void> {
    const { serverLog } = this.layout;
    await started({
      what: 'the ticket server',
      process,
      logFile: serverLog,
      isReady: () => this.#serverReady,
      isOver: () => this.#isOver,
    });
  }

  #startService(): TendedProcess {
    const { layout } = this;
    const service = new TendedProcess({
      name: 'the service',
      args: [...frontFlags, programFile('daemon/main'), '--config', layout.config],
      env: { ...nodeEnvironment, ...processEnv(layout), ...(this.#memory.module === null ? {} : { SOFTHSM2_CONF: layout.softhsmConfig }) },
      logFile: layout.serviceLog,
      onStarted: () => {
        // Again: its sockets are new, and the token is locked until its PIN file was read.
        this.#runs += 1;
        if (this.isReady) this.#recover();
      },
      onDied: (how, waitMs) => this.#note(`the service ended (${how}): started again in ${waitMs} ms`),
    });
    this.#service = service;
    return service;
  }

  #recover(): void {
    const run = this.#runs;
    this.#opened().catch((thrown: unknown) => {
      if (!this.#isOver && run === this.#runs) this.#note(`the service was started again and is not ready: ${asUkeyError(thrown).message}`);
    });
  }

  #settingUp(admin: Client): SettingUp {
    return {
      layout: this.layout,
      admin,
      terminal: terminalName,
      provisioned: this.#memory.provisioned,
      over: this.#over.signal,
      onProvisioned: () => {
        this.#memory = { ...this.#memory, provisioned: true };
        writeMemory(this.layout, this.#memory);
      },
      note: this.#note,
    };
  }

  /** The PIN was set a moment ago, so it is the right one. */
  async #firstLogin(admin: Client): Promise<void> {
    const status = await admin.call('service.status', {});
    if (status.standing !== 'locked') return;
    const params: Params<'session.login'> = { pin: readPinFile(this.layout.pinFile) };
    await admin.call('session.login', params, { timeoutMs: startWaitMs });
  }

  /** Waits until the service has opened the token by itself. */
  async #opened(): Promise<ServiceStatus> {
    const run = this.#runs;
    return await tokenOpen({
      identity: () => this.#identity(),
      status: () => this.#ask(),
      logFile: this.layout.serviceLog,
      isOver: () => this.#isOver || (this.isReady && run !== this.#runs),
    });
  }

  get #isOver(): boolean {
    return this.#closing !== null;
  }

  // --- asking ---

  get #isPlugged(): boolean {
    return existsSync(this.layout.token);
  }

  async #identity(): Promise<ErrorCode | null> {
    try {
      await this.#admin?.call('service.identity', {}, { timeoutMs: callWaitMs });
      return null;
    } catch (thrown) {
      return asUkeyError(thrown).code;
    }
  }

  async #ask(): Promise<ServiceStatus | null> {
    try {
      const status = (await this.#admin?.call('service.status', {}, { timeoutMs: this.isReady ? callWaitMs : startCallWaitMs })) ?? null;
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
