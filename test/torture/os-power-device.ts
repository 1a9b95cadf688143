// Owns: storage that can lose power (power-device.c): compiling it, mounting it in a folder of its own, its commands.
// Invariants: it is unmounted and its folder removed by close(), and by the kernel's signal to it when this process dies first.
// Must not: be imported where FUSE is absent without asking `missingForPower` first.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const mountWaitMs = 10_000;
const pollMs = 10;

/** Why it cannot run here; null when it can. */
export function missingForPower(): string | null {
  if (process.platform !== 'linux') return 'FUSE is used on Linux only';
  if (!existsSync('/dev/fuse')) return 'there is no /dev/fuse';
  if (process.getuid?.() !== 0 && spawnSync('fusermount3', ['-V']).status !== 0) return 'fusermount3 is missing (apt-get install fuse3)';
  if (!existsSync('/usr/include/fuse3/fuse.h')) return 'libfuse3-dev is missing (apt-get install libfuse3-dev)';
  return spawnSync('gcc', ['--version']).status === 0 ? null : 'gcc is missing (apt-get install gcc)';
}

export interface PowerState {
  /** Writes and syncs so far. */
  readonly ops: number;
  /** Writes of a sector that are not durable. */
  readonly pending: number;
  readonly cut: boolean;
  /** Faults that have struck. */
  readonly fired: number;
}

export interface PowerDevice {
  /** The mount point: one file per image, and `control`. */
  readonly folder: string;
  readonly sizeBytes: number;
  pathOf(image: string): string;
  /** A command as power-device.c lists them. */
  tell(command: string): void;
  state(): PowerState;
  close(): Promise<void>;
}

function compile(folder: string): string {
  const program = path.join(folder, 'power-device');
  const source = path.join(import.meta.dirname, 'power-device.c');
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror', '-D_FILE_OFFSET_BITS=64', '-I/usr/include/fuse3'];
  const done = spawnSync('gcc', [...flags, '-o', program, source, '-lfuse3', '-lpthread'], { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`power-device.c does not compile: ${done.stderr}`);
  return program;
}

export async function openPowerDevice(sizeBytes: number, images: readonly string[]): Promise<PowerDevice> {
  const work = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-power-'));
  const folder = path.join(work, 'mount');
  const control = path.join(folder, 'control');
  mkdirSync(folder);
  const program = compile(work);
  // Its own group: Ctrl-C at the terminal reaches this process, which then closes it in order.
  const child = spawn(program, [folder, String(sizeBytes), ...images], { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString()).slice(-2_000);
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const device: PowerDevice = {
    folder,
    sizeBytes,
    pathOf: (image) => path.join(folder, image),
    tell: (command) => {
      writeFileSync(control, command);
      if (command === 'on') for (const image of images) forget(path.join(folder, image));
    },
    state: () => parseState(readFileSync(control, 'utf8')),
    close: async () => {
      // Fails where it has unmounted itself: then nothing is mounted any more.
      if (existsSync(control)) spawnSync('umount', [folder]);
      if (existsSync(control)) spawnSync('umount', ['-l', folder]);
      stop(child);
      await ended;
      rmSync(work, { recursive: true, force: true });
    },
  };
  const giveUpAtMs = performance.now() + mountWaitMs;
  while (!existsSync(control)) {
    if (child.exitCode !== null || performance.now() > giveUpAtMs) {
      await device.close();
      throw new Error(`the power device did not mount: ${said}`);
    }
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
  return device;
}

/** With the power goes what the kernel remembers. */
function forget(file: string): void {
  const done = spawnSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none'], { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`the kernel does not forget ${file}: ${done.stderr}`);
}

function stop(child: ChildProcess): void {
  if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
}

function parseState(text: string): PowerState {
  const figures = new Map(
    text
      .trim()
      .split(' ')
      .map((pair) => pair.split('=') as [string, string]),
  );
  const figure = (name: string): number => Number(figures.get(name) ?? Number.NaN);
  return { ops: figure('ops'), pending: figure('pending'), cut: figure('cut') === 1, fired: figure('fired') };
}
