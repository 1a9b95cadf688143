// Owns: the memory of service and command while `ukeyctl export` streams a whole ledger, looked at from outside.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { memoryOf } from './memory.ts';
import type { World } from './world.ts';

const lookMs = 100;

export interface ExportMemory {
  readonly serviceMb: number;
  readonly commandMb: number;
  readonly exportedMb: number;
}

/** Largest seen of each; null: this version has no such command. */
export async function duringExport(world: World, folder: string, serviceMb: () => number): Promise<ExportMemory | null> {
  const { ctl } = world.options.shipped;
  if (spawnSync(process.execPath, [ctl, 'export', '--help'], { stdio: 'ignore' }).status !== 0) return null;
  const file = path.join(folder, 'export.jsonl');
  const args = [ctl, 'export', '--socket', world.files.adminSocket, '--output', file];
  const command = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const largest = { serviceMb: 0, commandMb: 0 };
  const watch = setInterval(() => {
    largest.serviceMb = Math.max(largest.serviceMb, serviceMb());
    largest.commandMb = Math.max(largest.commandMb, memoryOf([command.pid ?? 0])?.residentMb ?? 0);
  }, lookMs);
  const [status] = (await once(command, 'exit')) as [number | null];
  clearInterval(watch);
  if (status !== 0) throw new Error(`ukeyctl export ended with ${status}`);
  const exportedMb = existsSync(file) ? statSync(file).size / 1_000_000 : 0;
  rmSync(file, { force: true });
  return { ...largest, exportedMb };
}
