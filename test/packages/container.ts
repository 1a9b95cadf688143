// Owns: a Debian that boots systemd, thrown away afterwards: made once by debootstrap, copied and booted by systemd-nspawn for each run.
// Invariants: no network but its own loopback; nothing of it is left when it is stopped, whatever happened inside.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** What the packages depend on, a token (SoftHSM2), and what a shop's machine has. */
const included = 'systemd,systemd-sysv,libpam-systemd,dbus,udev,debconf,libstdc++6,util-linux,softhsm2,openssl,procps,rpm';
/** Debian package of each tool that this needs. */
const tools = { debootstrap: 'debootstrap', 'systemd-nspawn': 'systemd-container', nsenter: 'util-linux', 'dpkg-deb': 'dpkg' } as const;

const bootWaitMs = 120_000;
const stopWaitMs = 30_000;
const runWaitMs = 180_000;
const askEveryMs = 500;

/** Why no container can run here, or null. */
export function whyNoContainer(): string | null {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'root on Linux is needed';
  const missing = Object.entries(tools).filter(([tool]) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0);
  return missing.length === 0 ? null : `missing: ${missing.map(([, name]) => name).join(', ')}`;
}

/** Made once for what is in it, below `within`; answers where. An interrupted making leaves nothing that looks whole. */
export function makeBase(within: string): string {
  const folder = path.join(within, `base-${createHash('sha256').update(included).digest('hex').slice(0, 8)}`);
  if (existsSync(folder)) return folder;
  const release = /^VERSION_CODENAME=(\w+)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'stable';
  const half = `${folder}.half`;
  rmSync(half, { recursive: true, force: true });
  const done = spawnSync('debootstrap', ['--variant=minbase', `--include=${included}`, release, half], { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`debootstrap ended with ${done.status}: ${done.stdout.slice(-2_000)}${done.stderr.slice(-2_000)}`);
  renameSync(half, folder);
  return folder;
}

export class Container {
  readonly #nspawn: ChildProcess;
  readonly #leader: number;

  private constructor(nspawn: ChildProcess, leader: number) {
    this.#nspawn = nspawn;
    this.#leader = leader;
  }

  /** Resolves when systemd inside says that it has started. `packages` is seen as /packages. */
  static async boot(base: string, packages: string): Promise<Container> {
    const name = `ukeyd-packages-${process.pid}`;
    const nspawn = spawn(
      'systemd-nspawn',
      [
        '--quiet',
        `--directory=${base}`,
        '--ephemeral',
        `--machine=${name}`,
        '--private-network',
        '--register=no',
        '--keep-unit',
        '--boot',
        `--bind-ro=${packages}:/packages`,
      ],
      { stdio: 'ignore' },
    );
    const endMs = performance.now() + bootWaitMs;
    while (nspawn.exitCode === null && performance.now() < endMs) {
      await new Promise((resolve) => setTimeout(resolve, askEveryMs));
      const leader = Number(spawnSync('pgrep', ['--parent', String(nspawn.pid)], { encoding: 'utf8' }).stdout.split('\n')[0]);
      if (leader === 0) continue;
      const container = new Container(nspawn, leader);
      if (/^(running|degraded)$/m.test(container.run('systemctl is-system-running').stdout)) return container;
    }
    nspawn.kill('SIGKILL');
    throw new Error('systemd did not start in the container');
  }

  /** A shell script inside, as root. */
  run(script: string): Ran {
    const env = ['env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'DEBIAN_FRONTEND=noninteractive', 'LC_ALL=C.UTF-8'];
    const done = spawnSync('nsenter', ['--target', String(this.#leader), '--all', ...env, 'sh', '-c', `cd /root\n${script}`], {
      encoding: 'utf8',
      timeout: runWaitMs,
      killSignal: 'SIGKILL',
    });
    return { status: done.status, stdout: done.stdout ?? '', stderr: done.stderr ?? '' };
  }

  /** Throws when the script fails. */
  must(script: string): string {
    const { status, stdout, stderr } = this.run(script);
    if (status !== 0) throw new Error(`ended with ${status}: ${script}\n${stdout}${stderr}`);
    return stdout.trim();
  }

  async stop(): Promise<void> {
    if (this.#nspawn.exitCode !== null) return;
    const ended = once(this.#nspawn, 'exit');
    this.run('systemctl poweroff');
    const killer = setTimeout(() => this.#nspawn.kill('SIGKILL'), stopWaitMs);
    await ended;
    clearTimeout(killer);
  }
}
