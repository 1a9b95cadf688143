// Owns: the right to a socket's path: its directory, the lock beside it, and what may be removed from it.
// Invariants: only a socket that nobody answers is ever removed, and only while the lock beside it is held, so that two
// services starting together cannot remove each other's; a file, a link, a directory or a live socket is refused and left alone.
// Must not: listen.
import { chmodSync, chownSync, existsSync, lstatSync, mkdirSync, readFileSync, type Stats, unlinkSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { type Lock, takeLock } from '#ground/lock.ts';
import type { Report } from '#ipc/report.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

/** sun_path of sockaddr_un without its final zero; a longer path is cut or refused by the kernel, so it is refused here. */
const maxPathBytes = process.platform === 'linux' ? 107 : 103;
const directoryMode = 0o750;
const worldWritable = 0o002;
const sticky = 0o1000;
const dialWaitMs = 1_000;

export const hasSocketFiles = process.platform !== 'win32';

/**
 * Makes the path free to listen on and returns the lock that keeps it so.
 * Throws invalid-request (field `socketPath`: not a place for a socket) or busy (another service is there).
 */
export async function claimSocketPath(path: string, group: string | undefined, report: Report): Promise<Lock> {
  if (Buffer.byteLength(path) > maxPathBytes) throw misplaced(path, `the path has more than ${maxPathBytes} bytes`);
  claimDirectory(dirname(path), group, report);
  // The lock first: from here to its release no other service looks at or touches this path.
  const lock = takeLock(`${path}.lock`);
  try {
    await removeStale(path, report);
    return lock;
  } catch (thrown) {
    lock.release();
    throw thrown;
  }
}

/** Gives the bound socket its group, where that exists, and its mode. The order keeps it narrow: no moment is wider than the end. */
export function setSocketAccess(path: string, mode: number, group: string | undefined, report: Report): void {
  if (group !== undefined) giveToGroup(path, group, report);
  chmodSync(path, mode);
}

function claimDirectory(directory: string, group: string | undefined, report: Report): void {
  if (!existsSync(directory)) {
    mkdirSync(directory, { recursive: true, mode: directoryMode });
    // The umask may have taken the group's right; the group may have to pass through to the socket.
    chmodSync(directory, directoryMode);
    if (group !== undefined) giveToGroup(directory, group, report);
    return;
  }
  const stats = lstatSync(directory);
  if (!stats.isDirectory()) throw misplaced(directory, 'the socket must stand in a directory that is no link');
  if (stats.uid !== process.getuid?.() && stats.uid !== 0)
    throw misplaced(directory, 'the directory belongs to another user, who could put another socket there');
  if ((stats.mode & worldWritable) !== 0 && (stats.mode & sticky) === 0)
    throw misplaced(directory, 'anyone may write to the directory, so anyone could put another socket there');
}

async function removeStale(path: string, report: Report): Promise<void> {
  const stats = statsOf(path);
  if (stats === null) return;
  if (!stats.isSocket()) throw misplaced(path, `there is ${kindOf(stats)}, which is left alone`);
  const answer = await dial(path);
  if (answer === 'live')
    throw new UkeyError('busy', `another program answers on ${path}`, {
      action: 'Stop the other service, or give this one another socket path.',
    });
  if (answer === 'gone') return;
  // Nobody listens: what a killed service left. A crash right after this leaves no file, which the next start finds as well.
  unlinkSync(path);
  report('info', 'a socket that nobody served any more was removed', { path });
}

function statsOf(path: string): Stats | null {
  try {
    return lstatSync(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new UkeyError('invalid-request', `${path} cannot be looked at: ${String(cause)}`, { field: 'socketPath', cause });
  }
}

function dial(path: string): Promise<'live' | 'stale' | 'gone'> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    const end = (answer: 'live' | 'stale' | 'gone'): void => {
      socket.destroy();
      resolve(answer);
    };
    // Somebody holds it open and is too busy to accept: not ours to remove.
    socket.setTimeout(dialWaitMs, () => end('live'));
    socket.once('connect', () => end('live'));
    socket.once('error', (cause: NodeJS.ErrnoException) => {
      if (cause.code === 'ECONNREFUSED') end('stale');
      else if (cause.code === 'ENOENT') end('gone');
      else if (cause.code === 'EAGAIN') end('live');
      else reject(new UkeyError('invalid-request', `${path} cannot be dialled: ${cause.message}`, { field: 'socketPath', cause }));
    });
  });
}

function giveToGroup(path: string, group: string, report: Report): void {
  const gid = groupId(group);
  if (gid === null) {
    report('info', 'the group of the tills does not exist here: only this user can open the socket', { group, path });
    return;
  }
  try {
    chownSync(path, process.getuid?.() ?? -1, gid);
  } catch (cause) {
    report('warn', 'the socket could not be given to the group of the tills', { group, path, cause: String(cause) });
  }
}

/** From /etc/group, or a number as it is; null when there is no such group. */
function groupId(group: string): number | null {
  if (/^\d+$/.test(group)) return Number(group);
  if (!existsSync('/etc/group')) return null;
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((one) => one.startsWith(`${group}:`));
  const gid = line?.split(':')[2];
  return gid === undefined || !/^\d+$/.test(gid) ? null : Number(gid);
}

function kindOf(stats: Stats): string {
  if (stats.isSymbolicLink()) return 'a symbolic link';
  if (stats.isDirectory()) return 'a directory';
  return stats.isFile() ? 'a file' : 'something that is no socket';
}

function misplaced(path: string, what: string): UkeyError {
  return new UkeyError('invalid-request', `${path}: ${what}`, {
    field: 'socketPath',
    action: 'Name another socket path in the configuration, or move away what stands there.',
  });
}
