// Owns: the processes that the harness starts: none outlives it, and each is ended in good order where it can be.
import { type ChildProcess, type ForkOptions, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const stopWaitMs = 30_000;
const running = new Set<ChildProcess>();

process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

function kept(child: ChildProcess): ChildProcess {
  running.add(child);
  child.once('exit', () => running.delete(child));
  return child;
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** A program of the product, as it is run in a shop. Its log goes to a file. */
export function startProgram(args: readonly string[], environment: Environment, logFile: string): ChildProcess {
  const log = openSync(logFile, 'a', 0o600);
  return kept(spawn(process.execPath, args, { env: { ...process.env, ...environment }, stdio: ['ignore', 'ignore', log] }));
}

/** Node and nothing else. */
export function startBare(): ChildProcess {
  return kept(spawn(process.execPath, ['--eval', 'setInterval(() => undefined, 60_000)'], { stdio: 'ignore' }));
}

/** A part of the harness that talks through messages. */
export function startPart(name: string, environment: Environment = {}): ChildProcess {
  const options: ForkOptions = { execArgv: [], serialization: 'advanced', env: { ...process.env, ...environment } };
  return kept(fork(fileURLToPath(new URL(name, import.meta.url)), [], options));
}

/** One question to a part that answers once and ends. Rejects when it ends without an answer. */
export async function askOnce<T>(name: string, question: object, environment: Environment = {}): Promise<T> {
  const part = startPart(name, environment);
  part.send(question);
  const answer = await new Promise<T>((resolve, reject) => {
    part.once('message', (message) => resolve(message as T));
    part.once('exit', (code, signal) => reject(new Error(`${name} ended with ${signal ?? code}; its last words stand above`)));
  });
  await ended(part);
  return answer;
}

export async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

export async function stop(child: ChildProcess): Promise<void> {
  child.kill('SIGTERM');
  const hard = setTimeout(() => child.kill('SIGKILL'), stopWaitMs);
  await ended(child);
  clearTimeout(hard);
}
