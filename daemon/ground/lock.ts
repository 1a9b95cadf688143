// Owns: "only one process at a time", by a lock that the kernel releases when its holder dies, however it dies.
// How: Linux: flock(2) on our own descriptor, taken by flock(1), which inherits the descriptor and so shares its open file;
// Node has no call for it. macOS and BSD: open(2) with O_EXLOCK. Windows: an open that shares nothing (libuv's
// UV_FS_O_EXLOCK). The last two are not tested here.
// Invariants: the file is never removed (two processes could then hold "the same" lock on two files) and its content means
// nothing. The descriptor is close-on-exec, so that no child of ours keeps the lock alive after us.
import { spawnSync } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { UkeyError } from '#ipc-schema/errors.ts';

export interface Lock {
  readonly path: string;
  release(): void;
  [Symbol.dispose](): void;
}

const fileMode = 0o600;
const flockWaitMs = 5_000;
/** Exit status of `flock -n` when another holds the lock. */
const flockTakenStatus = 1;
const exclusiveOpen: Partial<Record<NodeJS.Platform, number>> = { darwin: 0x20, freebsd: 0x20, openbsd: 0x20, win32: 0x1000_0000 };
const socketAction = 'Stop the other service, or give this one another socket path.';
const openTakenCodes: readonly unknown[] = ['EAGAIN', 'EWOULDBLOCK', 'EBUSY'];

/** Takes the lock at once or throws `busy` (another process holds it; `action`: what to do then) or `internal` (it could not be tried). Creates the file. */
export function takeLock(path: string, action = socketAction): Lock {
  const exclusive = exclusiveOpen[process.platform];
  const fd = openFile(path, exclusive === undefined ? 0 : exclusive | constants.O_NONBLOCK, action);
  if (exclusive === undefined) {
    try {
      flock(fd, path, action);
    } catch (thrown) {
      closeSync(fd);
      throw thrown;
    }
  }
  let held = true;
  const release = (): void => {
    if (!held) return;
    held = false;
    closeSync(fd);
  };
  return { path, release, [Symbol.dispose]: release };
}

function openFile(path: string, lockFlags: number, action: string): number {
  try {
    // O_NOFOLLOW: a link planted at this name must not have us create or lock another file. (Undefined, so 0, on Windows.)
    return openSync(path, constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0) | lockFlags, fileMode);
  } catch (cause) {
    if (lockFlags !== 0 && openTakenCodes.includes((cause as NodeJS.ErrnoException).code)) throw taken(path, action);
    throw new UkeyError('internal', `the lock file ${path} cannot be opened: ${String(cause)}`, { cause });
  }
}

function flock(fd: number, path: string, action: string): void {
  const done = spawnSync('flock', ['-n', '-x', '3'], {
    stdio: ['ignore', 'ignore', 'pipe', fd],
    env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' },
    timeout: flockWaitMs,
  });
  if (done.error !== undefined)
    throw new UkeyError('internal', `flock(1) of util-linux or busybox cannot be run: ${done.error.message}`, { cause: done.error });
  if (done.status === 0) return;
  if (done.status === flockTakenStatus) throw taken(path, action);
  throw new UkeyError('internal', `flock(1) ended with ${done.status ?? done.signal}: ${done.stderr.toString('utf8').trim()}`);
}

function taken(path: string, action: string): UkeyError {
  return new UkeyError('busy', `another process holds ${path}`, { action });
}
