// Owns: looking into a process of the service while a benchmark runs: a CPU profile from one signal to the next, and times of what blocks.
// Invariants: nothing of the product knows of it; the first SIGUSR2 begins, the second writes `<name>.stages.json` into the folder.
import { renameSync, writeFileSync } from 'node:fs';
import { Session } from 'node:inspector/promises';
import path from 'node:path';
import process from 'node:process';
import { type Profile, stagesOf } from './stages.ts';

/** Fine enough for stages of some microseconds, over some seconds. */
const sampleUs = 200;

/** Milliseconds that calls took, by name. */
export class Stopwatch {
  #totals: Record<string, { ms: number; count: number }> = {};

  note(name: string, startedMs: number): void {
    const total = this.#totals[name] ?? { ms: 0, count: 0 };
    this.#totals[name] = total;
    total.ms += performance.now() - startedMs;
    total.count += 1;
  }

  take(): Readonly<Record<string, { readonly ms: number; readonly count: number }>> {
    const totals = this.#totals;
    this.#totals = {};
    return totals;
  }
}

export const stagesFile = (folder: string, name: string): string => path.join(folder, `${name}.stages.json`);

export function profileOnSignal(folder: string, name: string, stopwatch: Stopwatch): void {
  const session = new Session();
  session.connect();
  let isRunning = false;
  const toggle = async (): Promise<void> => {
    isRunning = !isRunning;
    if (isRunning) {
      stopwatch.take();
      await session.post('Profiler.enable');
      await session.post('Profiler.setSamplingInterval', { interval: sampleUs });
      await session.post('Profiler.start');
      return;
    }
    const { profile } = await session.post('Profiler.stop');
    const file = stagesFile(folder, name);
    writeFileSync(`${file}.new`, JSON.stringify({ cpu: stagesOf(profile as Profile), waits: stopwatch.take() }));
    renameSync(`${file}.new`, file);
  };
  process.on('SIGUSR2', () => {
    toggle().catch((thrown: unknown) => process.stderr.write(`the profile failed: ${String(thrown)}\n`));
  });
}
