// Owns: what processes take of the machine's memory, seen from outside (Linux; null elsewhere).
// How it is counted: what belongs to one process alone, and pages of files (Node itself above all, which front and holder both run) once, whichever of
// them has more of the file. Resident sizes would count Node twice; the kernel's own share (Pss, proc_pid_smaps(5)) depends on who else runs
// Node, as the harness does, which no shop has.
import { readFileSync } from 'node:fs';

export interface Memory {
  /** Each page once, in MB. */
  readonly onceMb: number;
  /** Sum of VmRSS. */
  readonly residentMb: number;
  /** Of each process alone, in the order asked for. */
  readonly privateMb: readonly number[];
}

interface Pages {
  readonly privateMb: number;
  readonly residentMb: number;
  /** Pages of a file that are as in the file, by device and inode. */
  readonly files: ReadonlyMap<string, number>;
}

const mapping = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ (\S+ \d+)/;
const size = /^(Rss|Anonymous):\s+(\d+) kB$/;
const mbOfKb = (kb: string): number => (Number(kb) * 1_024) / 1_000_000;

/** Null where the system does not tell, or one of them has gone. */
export function memoryOf(pids: readonly number[]): Memory | null {
  const all: Pages[] = [];
  for (const pid of pids) {
    const smaps = smapsOf(pid);
    if (smaps === null) return null;
    all.push(pagesOf(smaps));
  }
  return memoryOfPages(all);
}

/** Of the text of /proc/PID/smaps. */
export function pagesOf(smaps: string): Pages {
  const files = new Map<string, number>();
  let file = '';
  let mappedMb = 0;
  let residentMb = 0;
  let privateMb = 0;
  for (const line of smaps.split('\n')) {
    file = mapping.exec(line)?.[1] ?? file;
    const [, name, kb] = size.exec(line) ?? [];
    if (name === 'Rss') {
      mappedMb = mbOfKb(kb ?? '0');
      residentMb += mappedMb;
    } else if (name === 'Anonymous') {
      // After Rss in every mapping. What was written to a file's page is no longer the file's.
      const ownMb = mbOfKb(kb ?? '0');
      privateMb += ownMb;
      files.set(file, (files.get(file) ?? 0) + mappedMb - ownMb);
    }
  }
  return { privateMb, residentMb, files };
}

export function memoryOfPages(all: readonly Pages[]): Memory {
  const largest = new Map<string, number>();
  for (const { files } of all) for (const [file, mb] of files) largest.set(file, Math.max(largest.get(file) ?? 0, mb));
  const sum = (numbers: Iterable<number>): number => [...numbers].reduce((total, each) => total + each, 0);
  const privateMb = all.map((one) => one.privateMb);
  return { onceMb: sum(privateMb) + sum(largest.values()), residentMb: sum(all.map((one) => one.residentMb)), privateMb };
}

function smapsOf(pid: number): string | null {
  try {
    return readFileSync(`/proc/${pid}/smaps`, 'utf8');
  } catch {
    return null; // the process has gone, or the system has no such file
  }
}
