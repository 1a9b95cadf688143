// Owns: a computer as a test sees it: one service in a process of its own with a state folder of its own, and the places where a token
// may be plugged into it. The ticket server is the test's. Also: reading a ledger with the token alone, and judging answers by it.
// Invariants: it logs in from its PIN file, as an unattended branch does; kill() and close() leave no process behind.
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { LedgerCheck, type LedgerReport } from '#ctl/ledger-check.ts';
import { frontFlags, nodeEnvironment } from '#ground/runtime.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import type { Result } from '#ipc-schema/methods.ts';
import type { GrantOptions } from '#server/grant.ts';
import type { RunningServer } from '#server/serve.ts';
import { grant, sale } from '#test/support/rig.ts';

export const machinePin = '2468013579';
const readBytes = 4 * 1024 * 1024;
const issuingWaitMs = 60_000;
const pollMs = 20;

export interface MachineOptions {
  /** All of it lies in here, where nothing else is said. */
  readonly directory: string;
  /** Block device or image; left out: an image beside the soft token, which is pulled with it. */
  readonly flash?: string;
  readonly flashMib?: number;
  readonly state?: string;
  /** Left out: in the state folder. */
  readonly mirror?: 'off' | { readonly path: string };
  /** Cron expression; hardly ever when left out. */
  readonly probe?: string;
}

export type Status = Result<'service.status'>;

export class Machine {
  readonly directory: string;
  /** Where the token is plugged in. */
  readonly port: string;
  readonly flash: string;
  readonly state: string;
  readonly logFile: string;
  readonly #config: string;
  #child: ChildProcess | null = null;
  #wrapped = false;
  #ticket: Awaited<ReturnType<RunningServer['createTicket']>> | null = null;
  readonly #secrets = new Map<string, Uint8Array>();

  constructor(options: MachineOptions) {
    this.directory = options.directory;
    this.port = path.join(options.directory, 'port');
    this.flash = options.flash ?? path.join(this.port, 'flash.img');
    this.state = options.state ?? path.join(options.directory, 'state');
    this.logFile = path.join(options.directory, 'ukeyd.log');
    this.#config = path.join(options.directory, 'ukeyd.toml');
    mkdirSync(this.port, { recursive: true });
    writeFileSync(path.join(options.directory, 'pin'), `${machinePin}\n`, { mode: 0o600 });
    writeFileSync(this.#config, this.#configText(options));
  }

  /** Process of the service itself, also below a tracer; 0 where there is none. */
  get pid(): number {
    const pid = this.#child?.pid ?? 0;
    if (!this.#wrapped || pid === 0) return pid;
    const children = `/proc/${pid}/task/${pid}/children`;
    return existsSync(children) ? Number(readFileSync(children, 'utf8').trim().split(' ')[0]) : 0;
  }

  /** Processes of the service: the holder, mostly. */
  get holderPids(): readonly number[] {
    const { pid } = this;
    const file = `/proc/${pid}/task/${pid}/children`;
    return pid > 0 && existsSync(file) ? readFileSync(file, 'utf8').trim().split(' ').filter(Boolean).map(Number) : [];
  }

  get isRunning(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  start(wrapping: readonly string[] = []): void {
    const main = path.resolve(import.meta.dirname, '../../daemon/main.ts');
    const [command = process.execPath, ...args] = [...wrapping, process.execPath, ...frontFlags, main, '--config', this.#config];
    const log = openSync(this.logFile, 'a');
    this.#child = spawn(command, args, { env: { ...nodeEnvironment, ...process.env }, stdio: ['ignore', 'ignore', log] });
    this.#wrapped = wrapping.length > 0;
    closeSync(log);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (child === null) return;
    const ended = new Promise<void>((resolve) => {
      if (!this.isRunning) resolve();
      else child.once('exit', () => resolve());
    });
    const { pid } = this;
    if (this.isRunning && pid > 0) process.kill(pid, signal);
    await ended;
    this.#child = null;
  }

  /** As `kill`, in order. */
  stop(): Promise<void> {
    return this.kill('SIGTERM');
  }

  async admin(): Promise<Client> {
    try {
      return await connect({ socketPath: path.join(this.directory, 'run/admin.sock'), client: 'machine/1', waitMs: 20_000 });
    } catch (cause) {
      const said = existsSync(this.logFile) ? readFileSync(this.logFile, 'utf8').slice(-1_000) : '';
      throw new Error(`the service does not answer; it ${this.isRunning ? 'runs' : 'has ended'} and said last: ${said}`, { cause });
    }
  }

  get tillSocket(): string {
    return path.join(this.directory, 'run/ukeyd.sock');
  }

  /** Enrols the terminal at the first call. */
  async secretOf(terminal: string): Promise<Uint8Array> {
    const known = this.#secrets.get(terminal);
    if (known !== undefined) return known;
    const { secret } = await this.withAdmin((admin) => admin.call('terminal.enrol', { terminal, role: 'till' }));
    const bytes = Buffer.from(secret, 'hex');
    this.#secrets.set(terminal, bytes);
    return bytes;
  }

  async till(terminal = 'till-1'): Promise<Client> {
    const secret = await this.secretOf(terminal);
    return await connect({ socketPath: this.tillSocket, client: 'machine/1', terminal, secret, waitMs: 20_000 });
  }

  async withAdmin<T>(act: (admin: Client) => Promise<T>): Promise<T> {
    const admin = await this.admin();
    try {
      return await act(admin);
    } finally {
      admin.close();
    }
  }

  /** `granted`: instead of what every machine is granted; counts at the first call. */
  async provision(server: RunningServer, more: { readonly erase?: boolean } = {}, granted: Partial<GrantOptions> = {}): Promise<void> {
    // A repetition uses the ticket again: the server knows the key by then.
    this.#ticket ??= await server.createTicket({ ...grant, ...granted });
    const ticket = this.#ticket;
    await this.withAdmin((admin) => admin.call('token.provision', { label: 'os', pin: machinePin, soPin: '97531000', ticket, ...more }));
  }

  status(): Promise<Status> {
    return this.withAdmin((admin) => admin.call('service.status', {}));
  }

  /** Waits until the status is as asked. Throws with the last one. */
  async until(isSo: (status: Status) => boolean, waitMs = issuingWaitMs): Promise<Status> {
    const giveUpAtMs = performance.now() + waitMs;
    return await this.withAdmin(async (admin) => {
      for (;;) {
        const status = await admin.call('service.status', {});
        if (isSo(status)) return status;
        if (performance.now() > giveUpAtMs) throw new Error(`it stands at ${status.standing}: ${status.reason}`);
        await new Promise((resolve) => setTimeout(resolve, pollMs));
      }
    });
  }

  untilIssuing(waitMs = issuingWaitMs): Promise<Status> {
    return this.until(({ standing }) => standing === 'issuing-online' || standing === 'issuing-offline', waitMs);
  }

  /** The token goes from this computer's port to the other's. */
  plugInto(other: Machine): void {
    move(this.port, other.port);
  }

  /** The token lies beside the computer. */
  unplug(): void {
    mkdirSync(this.#beside, { recursive: true });
    move(this.port, this.#beside);
  }

  plug(): void {
    move(this.#beside, this.port);
  }

  get #beside(): string {
    return path.join(this.directory, 'beside');
  }

  #configText({ flashMib = 32, mirror, probe = '0 0 1 1 *' }: MachineOptions): string {
    return [
      `state = "${this.state}"`,
      'socket = "run/ukeyd.sock"',
      'admin_socket = "run/admin.sock"',
      '[token]',
      `soft_token = "${this.port}/key.json"`,
      `flash = "${this.flash}"`,
      `flash_mib = ${flashMib}`,
      `presence = ["${this.port}/key.json"]`,
      'pin_file = "pin"',
      ...(mirror === undefined ? [] : ['[mirror]', mirror === 'off' ? 'mode = "off"' : `path = "${mirror.path}"`]),
      '[upload]',
      `probe = "${probe}"`,
    ].join('\n');
  }
}

function move(from: string, to: string): void {
  for (const name of ['flash.img', 'key.json'])
    if (existsSync(path.join(from, name))) renameSync(path.join(from, name), path.join(to, name));
}

export interface ReadLedger {
  readonly report: LedgerReport;
  /** Bodies by sequence. */
  readonly documents: ReadonlyMap<number, string>;
}

/** With the token alone; no service may have it. */
export async function readLedger(machine: Machine): Promise<ReadLedger> {
  const config = {
    module: null,
    softTokenPath: path.join(machine.port, 'key.json'),
    flashPath: machine.flash,
    presencePaths: [],
    readOnly: true,
  };
  const holder = joinHolder({ ...partsOf(config), events: { onState: () => undefined }, note: () => undefined });
  try {
    const mount = await holder.login(Buffer.from(machinePin), false);
    const check = new LedgerCheck({ certificate: mount.certificate, authorityCertificate: mount.authorityCertificate });
    const documents = new Map<number, string>();
    for (let next = 1; next < mount.nextBatch; ) {
      for (const { batchIndex, bytes } of await holder.read(next, readBytes)) {
        for (const { parsed, body } of check.add(bytes).entries)
          if (parsed.number !== null) documents.set(parsed.sequence, Buffer.from(body).toString('utf8'));
        next = batchIndex + 1;
      }
    }
    return { report: check.result(), documents };
  } finally {
    await holder.close();
  }
}

export interface Answered {
  readonly key: string;
  readonly answer: Issued;
}

/** Refusals that say: nothing was issued, and it may go better later. */
const definite = new Set(['no-token', 'locked', 'halted', 'token-failed', 'store-full']);

/** Sells until told to stop; a sale whose end is unknown, or that is refused for the moment, is repeated with its key. */
export async function sell(machine: Machine, name: string, over: () => boolean, answered: Answered[]): Promise<void> {
  const till = await machine.till(`till-${name}`);
  try {
    for (let count = 0; !over(); ) {
      const key = `${name}-${count}`;
      try {
        answered.push({ key, answer: await till.issue(sale(key), { deadlineMs: 60_000 }) });
        count += 1;
      } catch (thrown) {
        if (!(thrown instanceof UkeyError) || !definite.has(thrown.code)) throw thrown;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  } finally {
    till.close();
  }
}

export interface Verdict {
  /** Answered, and not there or otherwise. */
  readonly lost: number;
  /** Keys that were issued twice. */
  readonly doubled: number;
  /** Holes and whatever else does not hold. */
  readonly findings: number;
  readonly documents: number;
}

const keyOf = (document: string): string => (JSON.parse(document) as { request: { key: string } }).request.key;

/** Reads the ledger and compares it with what tills were answered. */
export async function judgeLedger(machine: Machine, answered: readonly Answered[]): Promise<Verdict> {
  const { report, documents } = await readLedger(machine);
  const byKey = new Map([...documents.values()].map((document) => [keyOf(document), document]));
  const lost = answered.filter(({ key, answer }) => byKey.get(key) !== answer.document);
  return {
    lost: lost.length,
    doubled: documents.size - byKey.size,
    findings: report.findingsCount + (report.holds ? 0 : 1),
    documents: documents.size,
  };
}
