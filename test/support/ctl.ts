// Owns: running ukeyctl as a user does: a process of its own, its arguments, its stdin, what it prints and how it ends.
// Invariants: it gets a small environment, so that nothing of the developer's decides a test.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ctlEntry = fileURLToPath(new URL('../../daemon/ctl.ts', import.meta.url));
const runWaitMs = 25_000;
/** Compiled code from one run to the next: many short processes start twice as fast. */
const compileCache = join(tmpdir(), 'ukeyctl-test-compile-cache');

export interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly stdin?: string | Buffer;
  readonly env?: Readonly<Record<string, string>>;
  readonly waitMs?: number;
}

export function ctl(args: readonly string[], options: RunOptions = {}): Promise<Run> {
  return runProgram(process.execPath, [ctlEntry, ...args], options);
}

export function runProgram(
  program: string,
  args: readonly string[],
  { stdin = '', env = {}, waitMs = runWaitMs }: RunOptions = {},
): Promise<Run> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: { PATH: process.env['PATH'] ?? '', NODE_COMPILE_CACHE: compileCache, ...env },
      timeout: waitMs,
      killSignal: 'SIGKILL',
    });
    const said = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => (said.stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said.stderr += text));
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, ...said }));
    // Whoever reads no stdin closes it: no failure of the test.
    child.stdin.on('error', () => undefined);
    child.stdin.end(stdin);
  });
}

/** The one JSON value on stdout. Throws when there is more, or none. */
export function jsonOf(run: Run): Record<string, unknown> {
  if (!run.stdout.endsWith('\n') || run.stdout.indexOf('\n') !== run.stdout.length - 1)
    throw new Error(`stdout is not one line: ${run.stdout}`);
  return JSON.parse(run.stdout) as Record<string, unknown>;
}

/** The error member of a failure's JSON. */
export function errorOf(run: Run): Record<string, unknown> {
  return jsonOf(run)['error'] as Record<string, unknown>;
}

const scriptTool = '/usr/bin/script';

/** Whether a terminal can be played: script(1) of util-linux. Never doubted where CI is set. */
export const hasTerminal = process.env['CI'] !== undefined || existsSync(scriptTool);

/** Runs ukeyctl on a terminal of its own; each answer is typed when its question has been seen. All that the terminal shows is `stdout`. */
export function ctlOnTerminal(args: readonly string[], dialogue: readonly (readonly [question: string, typed: string])[]): Promise<Run> {
  const quoted = [process.execPath, ctlEntry, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
  return new Promise((resolve, reject) => {
    const env = { PATH: process.env['PATH'] ?? '', TERM: 'xterm', NODE_COMPILE_CACHE: compileCache };
    const child = spawn(scriptTool, ['-qefc', quoted, '/dev/null'], { env, timeout: runWaitMs, killSignal: 'SIGKILL' });
    let stdout = '';
    let seenTo = 0;
    let next = 0;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      for (let turn = dialogue[next]; turn !== undefined; turn = dialogue[next]) {
        const at = stdout.indexOf(turn[0], seenTo);
        if (at < 0) return;
        seenTo = at + turn[0].length;
        next++;
        child.stdin.write(turn[1]);
      }
    });
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stdout, stderr: '' }));
    child.stdin.on('error', () => undefined);
  });
}
