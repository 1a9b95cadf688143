// Owns: a token behind p11-kit's remote protocol: a server over SoftHSM2, and how its token is pulled: by killing the process that serves the client, or by cutting
// the line to it. Killed while it writes, SoftHSM2 may lose the whole token, as no stick that is pulled does; behind a cut line it ends what it has begun.
// Invariants: server and socket live in a folder of their own; only processes that this server started are killed, each by its id; the environment
// is set for this process, and so for those that it starts, until `remove`.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';

const startMs = 10_000;

const clients = ['/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so', '/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so'];
const servers = ['/usr/libexec/p11-kit/p11-kit-server', '/usr/lib/p11-kit/p11-kit-server'];

/** The client's module, or null where p11-kit is not installed. */
export function p11KitClient(): string | null {
  return servers.some(existsSync) ? (clients.find(existsSync) ?? null) : null;
}

export class P11KitServer {
  readonly #folder: string;
  readonly #server: ChildProcess;
  readonly #line: Server;
  readonly #ends: Set<Socket>;

  private constructor(folder: string, server: ChildProcess, line: Server, ends: Set<Socket>) {
    this.#folder = folder;
    this.#server = server;
    this.#line = line;
    this.#ends = ends;
  }

  static async start(module: string): Promise<P11KitServer> {
    const folder = mkdtempSync(join(tmpdir(), 'ukeyd-p11-'));
    const socket = join(folder, 'socket');
    const args = ['server', '--foreground', '--name', socket, '--provider', module, 'pkcs11:'];
    const server = spawn('p11-kit', args, { stdio: 'ignore' });
    for (const endMs = performance.now() + startMs; !existsSync(socket); await setTimeout(20))
      if (performance.now() > endMs || server.exitCode !== null) throw new Error(`p11-kit server does not start (${server.exitCode})`);
    const ends = new Set<Socket>();
    const line = createServer((near) => {
      const far = connect(socket);
      for (const [end, other] of [
        [near, far],
        [far, near],
      ] as const) {
        ends.add(end);
        end.pipe(other);
        end.on('error', () => undefined); // the other end was cut
        end.on('close', () => {
          ends.delete(end);
          other.destroy();
        });
      }
    });
    const front = join(folder, 'line');
    await new Promise<void>((resolve) => line.listen(front, resolve));
    process.env['P11_KIT_SERVER_ADDRESS'] = `unix:path=${front}`;
    return new P11KitServer(folder, server, line, ends);
  }

  /** Kills whatever serves a client now. How many that were. */
  pull(): number {
    const serving = childrenOf(this.#server.pid ?? 0);
    for (const pid of serving) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch (thrown) {
        if ((thrown as NodeJS.ErrnoException).code !== 'ESRCH') throw thrown; // it has ended by itself meanwhile
      }
    }
    return serving.length;
  }

  /** Cuts the line of every client. How many that were. */
  cut(): number {
    const cut = this.#ends.size / 2;
    for (const end of [...this.#ends]) end.destroy();
    return cut;
  }

  remove(): void {
    this.#line.close();
    this.cut();
    this.pull();
    this.#server.kill('SIGKILL');
    delete process.env['P11_KIT_SERVER_ADDRESS'];
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function childrenOf(parent: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        // After the name in brackets: state, then the parent.
        const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
        const [state, owner] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
        return state !== 'Z' && Number(owner) === parent;
      } catch {
        return false; // gone meanwhile
      }
    })
    .map(Number);
}
