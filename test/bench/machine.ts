// Owns: naming the machine that a figure belongs to, and finding the holder under its front (Linux; null elsewhere).
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import process from 'node:process';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryMb: number;
  readonly kernel: string;
  readonly node: string;
  /** File system and device under the images. */
  readonly disk: string;
  /** Mean number of running processes when the run began: a busy machine measures itself. */
  readonly loadAverage: number;
}

const tmpfsMagic = 0x01021994;
const ramfsMagic = 0x858458f6;

/** A sync of a file in memory costs nothing: figures from there say nothing. */
export function isInMemory(folder: string): boolean {
  const { type } = statfsSync(folder);
  return type === tmpfsMagic || type === ramfsMagic;
}

export function machineAt(folder: string): Machine {
  const cpus = os.cpus();
  return {
    cpu: cpus[0]?.model.trim() ?? os.arch(),
    cores: cpus.length,
    memoryMb: Math.round(os.totalmem() / 1_000_000),
    kernel: `${os.type()} ${os.release()}`,
    node: process.version,
    disk: diskAt(folder),
    loadAverage: os.loadavg()[0] ?? 0,
  };
}

function diskAt(folder: string): string {
  if (!existsSync('/proc/self/mountinfo')) return 'unknown';
  // mountinfo(5): id parent major:minor root mount-point options ... - type source options
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter((words) => words.length > 6)
    .map((words) => ({ at: words[4] ?? '', type: words[words.indexOf('-') + 1] ?? '', source: words[words.indexOf('-') + 2] ?? '' }))
    .filter(({ at }) => `${path.resolve(folder)}/`.startsWith(at === '/' ? '/' : `${at}/`));
  const nearest = mounts.sort((a, b) => b.at.length - a.at.length)[0];
  return nearest === undefined ? 'unknown' : `${nearest.type} on ${nearest.source}`;
}

export function machineText(machine: Machine): string {
  const { cpu, cores, memoryMb, kernel, node, disk, loadAverage } = machine;
  return `${cpu}, ${cores} cores, ${(memoryMb / 1_000).toFixed(0)} GB; ${kernel}; Node ${node}; ${disk}; load average ${loadAverage.toFixed(1)}`;
}

/** The first child of a process: the holder under its front. */
export function childOf(pid: number): number | null {
  const first = textOf(`/proc/${pid}/task/${pid}/children`).trim().split(' ')[0] ?? '';
  return first === '' ? null : Number(first);
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return ''; // the process has gone, or the system has no such file: the caller has its null
  }
}
