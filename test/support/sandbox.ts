// Owns: a sandbox as those have it who develop against it: `ukeyctl sandbox` as a process, its JSON line, its words.
// Invariants: its folder is a temporary one and is removed; the process is stopped, or killed where it does not stop.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { WorldFacts, WorldStatus } from '#ctl/world/world.ts';
import { type Client, connect } from '#ipc-schema/client.ts';
import { ctl, ctlEntry, jsonOf, type Run } from '#test/support/ctl.ts';

const stopWaitMs = 20_000;

export function makeFolder(): string {
  return mkdtempSync(path.join(tmpdir(), 'ukeyd-sandbox-'));
}

export class Sandbox {
  readonly dir: string;
  readonly facts: WorldFacts;
  readonly #child: ChildProcess;
  readonly #ended: Promise<number | null>;

  private constructor(dir: string, facts: WorldFacts, child: ChildProcess, ended: Promise<number | null>) {
    this.dir = dir;
    this.facts = facts;
    this.#child = child;
    this.#ended = ended;
  }

  /** Resolves when the JSON line has come. Throws with what it said when it ends before. */
  static async start(dir: string, ...args: string[]): Promise<Sandbox> {
    const child = spawn(process.execPath, [ctlEntry, 'sandbox', '--dir', dir, '--json', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let complaint = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text));
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
    const line = await Promise.race([
      new Promise<string>((resolve) => createInterface({ input: child.stdout }).once('line', resolve)),
      ended.then(() => Promise.reject(new Error(`the sandbox ended: ${complaint}`))),
    ]);
    const value = JSON.parse(line) as WorldFacts & { readonly error?: unknown };
    if (value.error !== undefined) throw new Error(`the sandbox did not start: ${JSON.stringify(value.error)}`);
    return new Sandbox(dir, value, child, ended);
  }

  /** The exit status. */
  stop(): Promise<number | null> {
    this.#child.kill('SIGTERM');
    return this.ended();
  }

  /** The exit status, once it ends by itself: a signal that came while it ends would be its status. */
  async ended(): Promise<number | null> {
    const killer = setTimeout(() => this.#child.kill('SIGKILL'), stopWaitMs);
    const status = await this.#ended;
    clearTimeout(killer);
    return status;
  }

  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }

  say(...words: string[]): Promise<Run> {
    return ctl(['sandbox', '--dir', this.dir, ...words, '--json']);
  }

  async status(): Promise<WorldStatus> {
    return jsonOf(await this.say('status')) as unknown as WorldStatus;
  }

  till(): Promise<Client> {
    const secret = Buffer.from(readFileSync(this.facts.secretFile, 'utf8').trim(), 'hex');
    return connect({ socketPath: this.facts.socket, client: 'sandbox-test', terminal: this.facts.terminal, secret });
  }

  /** Asks until it holds. */
  async until(holds: (status: WorldStatus) => boolean, waitMs = 15_000): Promise<WorldStatus> {
    const endMs = performance.now() + waitMs;
    for (;;) {
      const status = await this.status();
      if (holds(status)) return status;
      if (performance.now() > endMs) throw new Error(`still ${JSON.stringify(status)}`);
    }
  }
}
