// Owns: what processes take of the machine's processors, seen from outside (Linux; null elsewhere).
// Why: a rate beside the processors' time for one invoice says whether a faster program or only a larger machine would help.
import { readdirSync, readFileSync } from 'node:fs';

/** Microseconds on a processor since the process began. */
export interface ProcessorTime {
  /** Of the main thread, which runs what is written in JavaScript. */
  readonly mainUs: number;
  /** While it was ready to run and another thread was in its place. */
  readonly mainWaitedUs: number;
  /** Of all threads that are there. */
  readonly allUs: number;
}

/** Null where the system does not tell, or the process has gone. */
export function processorTimeOf(pid: number): ProcessorTime | null {
  try {
    const main = schedule(pid, pid);
    const threads = readdirSync(`/proc/${pid}/task`).map((thread) => schedule(pid, Number(thread)).ranUs);
    return { mainUs: main.ranUs, mainWaitedUs: main.waitedUs, allUs: threads.reduce((sum, us) => sum + us, 0) };
  } catch {
    return null; // the process, or a thread of it, has gone, or the system has no such files
  }
}

/** `before` and `after` a load of `count`: of one. */
export function timeBetween(before: ProcessorTime, after: ProcessorTime, count: number): ProcessorTime {
  const each = (name: keyof ProcessorTime): number => (after[name] - before[name]) / count;
  return { mainUs: each('mainUs'), mainWaitedUs: each('mainWaitedUs'), allUs: each('allUs') };
}

/** sched-stats(rst) of the kernel's documentation, /proc/PID/schedstat: nanoseconds on a processor, nanoseconds waiting for one. */
function schedule(pid: number, thread: number): { readonly ranUs: number; readonly waitedUs: number } {
  const [ranNs = Number.NaN, waitedNs = Number.NaN] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ').map(Number);
  return { ranUs: ranNs / 1_000, waitedUs: waitedNs / 1_000 };
}
