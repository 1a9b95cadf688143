// Owns: opening a raw block device or an image for one process alone, and what is known of it then: its descriptor, size and sector.
// Invariants: a writable open excludes every other writer until it is closed or this process dies (O_EXCL, or flock on an image), and begins by making
// the kernel forget what it remembers of the device; a read-only open locks nothing.
// Errors are UkeyError: no-token (nothing there), halted (in use, mounted, unfit), busy (a tool that failed this time). Must not: read or write; device-file.ts does.
import { spawn } from 'node:child_process';
import { close, constants, fstat, open } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';

/** Sector of an image: files are written in sectors of at least this size on every disk. */
const imageSectorBytes = 512;
const lockRetryMs = 50;
/** Of a tool that takes milliseconds. */
const toolWaitMs = 10_000;
const saidMaxChars = 200;
const absentCodes: ReadonlySet<string> = new Set(['ENOENT', 'ENXIO', 'ENODEV', 'ENOMEDIUM', 'EIO']);

/** Descriptors and not FileHandles: those are closed, and with them the lock, when nothing names them any more. */
const openDescriptor = promisify(open);
const statDescriptor = promisify(fstat);
export const closeDescriptor = promisify(close);

export interface Claimed {
  readonly descriptor: number;
  /** Whole sectors. */
  readonly sizeBytes: number;
  readonly sectorBytes: number;
}

export interface Claim {
  readonly path: string;
  readonly readOnly: boolean;
  /** How long a dying predecessor is waited for. */
  readonly lockWaitMs: number;
}

const refused = (code: ErrorCode, text: string, cause?: unknown): UkeyError => new UkeyError(code, text, { cause });
const codeOf = (thrown: unknown): string => (thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '');

/** Throws no-token, halted and busy. A killed predecessor needs a moment to die: waits for it, but not for ever. */
export async function claimDevice(claim: Claim): Promise<Claimed> {
  const giveUpAtMs = performance.now() + claim.lockWaitMs;
  try {
    for (;;) {
      const claimed = await claimOnce(claim);
      if (claimed !== 'in-use') return claimed;
      if (performance.now() >= giveUpAtMs) throw refused('halted', `${claim.path} is in use by another process`);
      await pause(lockRetryMs);
    }
  } catch (thrown) {
    if (thrown instanceof UkeyError) throw thrown;
    const text = thrown instanceof Error ? thrown.message : String(thrown);
    throw refused(absentCodes.has(codeOf(thrown)) ? 'no-token' : 'halted', text, thrown);
  }
}

async function claimOnce({ path, readOnly }: Claim): Promise<Claimed | 'in-use'> {
  const access = readOnly ? constants.O_RDONLY : constants.O_RDWR;
  const descriptor = await openDescriptor(path, access | constants.O_NONBLOCK);
  let isKept = false;
  let rdev: number;
  try {
    const stat = await statDescriptor(descriptor);
    if (stat.isFile()) {
      const isOurs = readOnly || (await tryLock(descriptor));
      if (isOurs && !readOnly) await forgetCached(path);
      isKept = isOurs;
      return isOurs ? { descriptor, sizeBytes: wholeSectors(stat.size, imageSectorBytes), sectorBytes: imageSectorBytes } : 'in-use';
    }
    if (!stat.isBlockDevice()) throw refused('halted', `${path} is neither a block device nor a file`);
    rdev = stat.rdev;
  } finally {
    if (!isKept) await closeDescriptor(descriptor); // and with it the lock
  }
  return await claimBlockDevice(path, rdev, readOnly ? access : access | constants.O_EXCL);
}

async function claimBlockDevice(path: string, rdev: number, flags: number): Promise<Claimed | 'in-use'> {
  const number = numberOf(rdev);
  if ((flags & constants.O_EXCL) !== 0 && (await isMounted(number))) throw refused('halted', `${path} is mounted as a file system`);
  const folder = `/sys/dev/block/${number}`;
  const sectors = await sysNumber(`${folder}/size`);
  // A partition has no queue of its own: it is its disk's.
  const sectorBytes = (await sysNumber(`${folder}/queue/logical_block_size`)) ?? (await sysNumber(`${folder}/../queue/logical_block_size`));
  if (sectors === null || sectorBytes === null) throw refused('halted', `${path}: the kernel does not tell its size`);
  if (sectors === 0) throw refused('no-token', `${path} has no medium`);
  try {
    const descriptor = await openDescriptor(path, flags);
    if ((flags & constants.O_EXCL) !== 0) {
      await forgetCached(path).catch(async (thrown: unknown) => {
        await closeDescriptor(descriptor);
        throw thrown;
      });
    }
    // Sizes in /sys are in units of 512 bytes whatever the sector.
    return { descriptor, sizeBytes: wholeSectors(sectors * 512, sectorBytes), sectorBytes };
  } catch (thrown) {
    if (codeOf(thrown) === 'EBUSY') return 'in-use';
    throw thrown;
  }
}

const wholeSectors = (bytes: number, sectorBytes: number): number => bytes - (bytes % sectorBytes);

/** Major and minor number as Linux packs them into st_rdev (makedev(3)). */
function numberOf(rdev: number): string {
  const wide = BigInt(rdev);
  const major = ((wide >> 8n) & 0xfffn) | ((wide >> 32n) & ~0xfffn);
  const minor = (wide & 0xffn) | ((wide >> 12n) & ~0xffn);
  return `${major}:${minor}`;
}

async function isMounted(number: string): Promise<boolean> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  return lines.some((line) => line.split(' ')[2] === number);
}

async function sysNumber(path: string): Promise<number | null> {
  try {
    return Number((await readFile(path, 'utf8')).trim());
  } catch (thrown) {
    if (codeOf(thrown) === 'ENOENT') return null;
    throw thrown;
  }
}

/** flock(1) locks the open file description that it inherits; the kernel frees it when this process dies, however it dies. */
async function tryLock(descriptor: number): Promise<boolean> {
  const { status } = await runTool('flock', ['-n', '-x', '0'], descriptor);
  if (status !== 0 && status !== 1) throw refused('busy', `flock(1) ended with ${status}`);
  return status === 0;
}

/**
 * What a failed sync has dropped can be read until the kernel forgets it, and the next sync says yes without having written it. So whoever is going to
 * write reads what stands on the disk: dd(1) advises POSIX_FADV_DONTNEED (posix_fadvise(2)), which leaves only what is still to be written. It opens the
 * path itself: one that hangs on a dying disk must not keep our lock after we are gone.
 */
async function forgetCached(path: string): Promise<void> {
  const { status, said } = await runTool('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'], 'ignore');
  if (status !== 0) throw refused('busy', `${path} cannot be read afresh: dd(1) ended with ${status} ${said}`);
}

/** Exit status or signal, and what was said on standard error. Throws halted where it is not installed, and busy where it does not start or end in time. */
function runTool(
  command: string,
  args: readonly string[],
  input: number | 'ignore',
): Promise<{ status: number | string | null; said: string }> {
  return new Promise((resolve, reject) => {
    const tool = spawn(command, args, { stdio: [input, 'ignore', 'pipe'] });
    let said = '';
    tool.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(0, saidMaxChars);
    });
    const timer = setTimeout(() => {
      tool.kill('SIGKILL');
      reject(refused('busy', `${command}(1) did not end within ${toolWaitMs / 1_000} s`));
    }, toolWaitMs);
    tool.on('error', (cause) => {
      clearTimeout(timer);
      const isMissing = codeOf(cause) === 'ENOENT';
      reject(
        refused(
          isMissing ? 'halted' : 'busy',
          `${command}(1) ${isMissing ? 'is needed and not installed' : 'does not start'}: ${cause.message}`,
          cause,
        ),
      );
    });
    tool.on('close', (code, signal) => {
      clearTimeout(timer);
      resolve({ status: code ?? signal, said: said.trim() });
    });
  });
}
