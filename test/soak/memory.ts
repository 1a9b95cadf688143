// Owns: what the processes of a service occupy over time, and whether it stays the same. Read from /proc; elsewhere there is nothing to read.
import { existsSync, readFileSync } from 'node:fs';
import type { Machine } from '#test/torture/os-machine.ts';

interface Sample {
  readonly atMinute: number;
  readonly pid: number;
  readonly mb: number;
}

export interface Growth {
  readonly startMb: number;
  readonly endMb: number;
  /** Of a straight line through all samples (least squares). */
  readonly mbPerMinute: number;
  /** What that line rises by in the time that was watched. */
  readonly risenMb: number;
}

/** Occupied by a process; null where it is gone. */
export function occupiedMb(pid: number): number | null {
  const file = `/proc/${pid}/status`;
  if (pid <= 0 || !existsSync(file)) return null;
  const found = /VmRSS:\s+(\d+)/.exec(readFileSync(file, 'utf8'));
  return found === null ? null : Number(found[1]) / 1024;
}

export class MemoryWatch {
  readonly #samples: Record<'front' | 'holder', Sample[]> = { front: [], holder: [] };
  readonly #startedMs = performance.now();

  sample(machine: Machine): void {
    const atMinute = (performance.now() - this.#startedMs) / 60_000;
    for (const [name, pid] of [
      ['front', machine.pid],
      ['holder', machine.holderPids[0] ?? 0],
    ] as const) {
      const mb = occupiedMb(pid);
      if (mb !== null) this.#samples[name].push({ atMinute, pid, mb });
    }
  }

  /** Of the process that was seen last, from the minute on at which it is watched. Null: it was seen too seldom. */
  growth(name: 'front' | 'holder', fromMinute: number): Growth | null {
    const { pid } = this.#samples[name].at(-1) ?? { pid: 0 };
    const seen = this.#samples[name].filter((sample) => sample.pid === pid && sample.atMinute >= fromMinute);
    const [first, last] = [seen[0], seen.at(-1)];
    if (first === undefined || last === undefined || seen.length < 5) return null;
    const mean = (of: (sample: Sample) => number): number => seen.reduce((sum, sample) => sum + of(sample), 0) / seen.length;
    const [meanMinute, meanMb] = [mean(({ atMinute }) => atMinute), mean(({ mb }) => mb)];
    const spread = seen.reduce((sum, { atMinute }) => sum + (atMinute - meanMinute) ** 2, 0);
    const mbPerMinute = seen.reduce((sum, { atMinute, mb }) => sum + (atMinute - meanMinute) * (mb - meanMb), 0) / spread;
    return { startMb: first.mb, endMb: last.mb, mbPerMinute, risenMb: mbPerMinute * (last.atMinute - first.atMinute) };
  }
}
