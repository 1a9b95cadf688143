// Owns: one process of a sandbox: it is started, watched, and started again when it dies, as a service manager would.
// Invariants: at most one runs at a time; one that was ready before it died is started again after minBackOffMs, one that never got
// that far after ever longer pauses; stop() ends it for good (SIGTERM, then SIGKILL) and starts nothing more.
// On Linux the process is told to end when this one dies, however it dies (setpriv(1) of util-linux), so that no world is orphaned.
// A log that cannot be written (a full disk) is no reason not to run it.
// Must not: know what the process does; its stderr goes to a file, its stdout's lines to a callback.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, fstatSync, openSync, renameSync, statSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { lastWordsIn } from './last-words.ts';

export interface TendedOptions {
  readonly name: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Its stderr is appended here. */
  readonly logFile: string;
  /** Each line of its stdout. */
  onLine?(line: string): void;
  /** It runs under this process id from now on; not ready yet. */
  onStarted(pid: number): void;
  /** It ended without having been stopped, and is started again after `waitMs`. `how` tells what it said last of its trouble. */
  onDied(how: string, waitMs: number): void;
}

const minBackOffMs = 100;
const maxBackOffMs = 5_000;
const stopWaitMs = 15_000;
/** An older log of this size is put aside (one generation) when the process starts. */
const logMaxBytes = 16 * 1024 * 1024;

export class TendedProcess {
  readonly #options: TendedOptions;
  #child: ChildProcess | null = null;
  #stopping = false;
  #ready = false;
  #backOffMs = minBackOffMs;
  #failedStarts = 0;
  /** Bytes that stood in the log before this run. */
  #logStart = 0;
  #lastWords = '';
  #timer: NodeJS.Timeout | undefined;
  #ended: Promise<void> = Promise.resolve();

  constructor(options: TendedOptions) {
    this.#options = options;
    this.#start();
  }

  /** Null between two runs. */
  get pid(): number | null {
    return this.#child?.pid ?? null;
  }

  /** Runs in a row that ended before they were ready. */
  get failedStarts(): number {
    return this.#failedStarts;
  }

  /** Says that this run reached its purpose: the next death is no failure to start. */
  markReady(): void {
    this.#ready = true;
    this.#backOffMs = minBackOffMs;
    this.#failedStarts = 0;
  }

  /** What it said last of its trouble, in this run or at the end of the one before; may be empty. */
  lastWords(): string {
    return (this.#child === null ? '' : lastWordsIn(this.#options.logFile, this.#logStart)) || this.#lastWords;
  }

  /** `graceMs`: until it is killed. */
  async stop(graceMs = stopWaitMs): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    if (child === null) return;
    child.kill('SIGTERM');
    const killer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    await this.#ended;
    clearTimeout(killer);
  }

  #start(): void {
    const { name, args, env, logFile } = this.#options;
    const log = openLogFile(logFile);
    this.#ready = false;
    this.#logStart = log.bytes;
    const [command = process.execPath, ...rest] = [...boundToUs(), process.execPath, ...args];
    const child = spawn(command, rest, {
      stdio: ['ignore', 'pipe', log.fd ?? 'ignore'],
      env: { ...notOurs(process.env), ...env },
      // A group of its own: Ctrl-C in a terminal reaches this process alone, which ends the others in their order.
      detached: process.platform !== 'win32',
    });
    if (log.fd !== null) closeSync(log.fd);
    this.#child = child;
    if (child.stdout !== null) createInterface({ input: child.stdout }).on('line', (line) => this.#options.onLine?.(line));
    this.#ended = new Promise((resolve) => {
      child.once('error', (cause) => {
        // Not even started: 'close' does not follow.
        if (child.pid === undefined) this.#died(`${name} cannot be run: ${cause.message}`, resolve);
      });
      child.once('close', (status, signal) => this.#died(signal === null ? `status ${status ?? 0}` : signal, resolve));
    });
    if (child.pid !== undefined) this.#options.onStarted(child.pid);
  }

  #died(how: string, resolve: () => void): void {
    this.#child = null;
    resolve();
    if (this.#stopping) return;
    this.#lastWords = lastWordsIn(this.#options.logFile, this.#logStart);
    const waitMs = this.#backOffMs;
    if (!this.#ready) {
      this.#failedStarts += 1;
      this.#backOffMs = Math.min(this.#backOffMs * 2, maxBackOffMs);
    }
    this.#timer = setTimeout(() => this.#start(), waitMs);
    this.#options.onDied(this.#lastWords === '' ? how : `${how}; ${this.#lastWords}`, waitMs);
  }
}

/** `fd` null: it cannot be opened, and nothing is logged. */
function openLogFile(file: string): { readonly fd: number | null; readonly bytes: number } {
  try {
    if ((statSync(file, { throwIfNoEntry: false })?.size ?? 0) > logMaxBytes) renameSync(file, `${file}.1`);
    const fd = openSync(file, 'a', 0o600);
    return { fd, bytes: fstatSync(fd).size };
  } catch {
    // Where a log cannot be had the process matters more; `lastWords` says that the log cannot be read.
    return { fd: null, bytes: 0 };
  }
}

let setpriv: boolean | null = null;

/** What stands before the command; setpriv replaces itself by it, so the process id stays that of the command. */
function boundToUs(): readonly string[] {
  setpriv ??= process.platform === 'linux' && spawnSync('setpriv', ['--pdeathsig', 'TERM', 'true'], { stdio: 'ignore' }).status === 0;
  return setpriv ? ['setpriv', '--pdeathsig', 'TERM', '--'] : [];
}

/** What is meant for the service of this machine, or for ukeyctl, is not meant for a sandbox's. */
function notOurs(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !name.startsWith('UKEYD_')));
}
