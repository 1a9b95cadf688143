// Owns: how the holder process is started.
// Invariants: nothing secret in argv or environment; on Linux the kernel kills it when the front dies however it dies (so that the
// FLASH is free for a successor), and it leaves no core image, which would hold the data key. Both by util-linux where it is installed.
// Not covered elsewhere: on other systems a killed front is noticed by the closed channel alone, which a hung driver delays.
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { holderEnvironment, holderFlags } from '#ground/runtime.ts';
import { pinPipeOf } from './pin-pipe.ts';

const toolFolders = ['/usr/bin', '/bin', '/usr/sbin', '/sbin'];
/** Variables that make Node run other code or talk to another channel, and the service manager's socket, which is the front's. */
const withheld = [
  'NODE_OPTIONS',
  'NODE_CHANNEL_FD',
  'NODE_CHANNEL_SERIALIZATION_MODE',
  'NODE_V8_COVERAGE',
  'NOTIFY_SOCKET',
  'WATCHDOG_PID',
];

/** Standard streams, channel, pipe of the PINs (pin-pipe.ts). */
const stdio: StdioOptions = ['ignore', 'pipe', 'pipe', 'ipc', 'pipe'];

/** The shipped program is compiled: then the child stands beside it as .js. */
export const childEntry = new URL(import.meta.url.endsWith('.ts') ? './child.ts' : './child.js', import.meta.url);

export function spawnHolder(entry: URL): ChildProcess {
  const [command = process.execPath, ...args] = [...wrapping(), process.execPath, ...holderFlags, fileURLToPath(entry)];
  const env: NodeJS.ProcessEnv = { ...holderEnvironment, ...process.env };
  for (const name of withheld) delete env[name];
  const child = spawn(command, args, { env, serialization: 'advanced', stdio, windowsHide: true });
  // Its end is told by the process's own.
  pinPipeOf(child)?.on('error', () => undefined);
  return child;
}

/** Each of these replaces itself by the next, so that the process id is the holder's own. */
function wrapping(): string[] {
  if (process.platform !== 'linux') return [];
  const setpriv = findTool('setpriv');
  const prlimit = findTool('prlimit');
  return [
    ...(setpriv === null ? [] : [setpriv, '--pdeathsig', 'KILL']),
    // 1 and not 0: a core that is piped to a collector ignores 0 (Linux, core(5)).
    ...(prlimit === null ? [] : [prlimit, '--core=1:1']),
  ];
}

function findTool(name: string): string | null {
  for (const folder of toolFolders) {
    const path = `${folder}/${name}`;
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not there, or not ours to run: the next folder.
    }
  }
  return null;
}
