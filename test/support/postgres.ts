// Owns: a PostgreSQL server of its own for tests: made, started, stopped and killed here, in a temporary folder, reached through a socket in it.
// Invariants: nothing depends on a server that the system may run; it dies with this process (its parent-death signal), and at `remove`; it runs as another
// user where this one is root, as PostgreSQL demands. It keeps fsync on: a server without it is refused.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe } from 'vitest';

const startMs = 30_000;
const lookMs = 25;
const folders = ['/usr/lib/postgresql', '/usr/local/pgsql', '/opt/homebrew/opt/postgresql'];
const packages = 'postgresql';

/** Folder of PostgreSQL's programs, the newest there is; null: not installed. */
export function postgresPrograms(): string | null {
  const found = folders
    .flatMap((folder) => (existsSync(folder) ? [folder, ...readdirSync(folder).map((version) => join(folder, version))] : []))
    .map((folder) => join(folder, 'bin'))
    .filter((folder) => existsSync(join(folder, 'initdb')));
  return found.sort((a, b) => Number(/\d+/.exec(a)?.[0] ?? 0) - Number(/\d+/.exec(b)?.[0] ?? 0)).at(-1) ?? null;
}

/** `describe` with a server for all its tests; skipped loudly where PostgreSQL is absent, a failure where CI is set. */
export function describePostgres(name: string, define: (server: () => PostgresServer) => void): void {
  const programs = postgresPrograms();
  if (programs === null && process.env['CI']) throw new Error(`${name}: PostgreSQL is not installed, and CI is set`);
  const absent = (): never => {
    throw new Error('there is no PostgreSQL outside its tests');
  };
  if (programs === null) {
    console.warn(`SKIPPED: ${name}: PostgreSQL is not installed (apt-get install ${packages})`);
    describe.skip(`${name} (PostgreSQL is not installed)`, () => define(absent));
    return;
  }
  describe(name, () => {
    let server: PostgresServer | null = null;
    beforeAll(async () => {
      server = await PostgresServer.make(programs);
    }, 2 * startMs);
    // Registered first, so that it comes after whatever the tests themselves end.
    afterAll(async () => await server?.remove());
    define(() => server ?? absent());
  });
}

export class PostgresServer {
  readonly folder: string;
  readonly #programs: string;
  readonly #log: number;
  #process: ChildProcess | null = null;
  #databases = 0;
  #port = 5432;

  private constructor(programs: string, folder: string) {
    this.#programs = programs;
    this.folder = folder;
    this.#log = openSync(join(folder, 'log'), 'a');
  }

  /** `parent`: a folder that other users may enter. */
  static async make(programs: string, parent = tmpdir()): Promise<PostgresServer> {
    const server = new PostgresServer(programs, mkdtempSync(join(parent, 'ukeyd-postgres-')));
    try {
      server.#makeCluster();
      await server.start();
    } catch (thrown) {
      await server.remove();
      throw thrown;
    }
    return server;
  }

  get #data(): string {
    return join(this.folder, 'data');
  }

  #makeCluster(): void {
    mkdirSync(this.#data, { mode: 0o700 });
    const owner = ownerOf();
    for (const path of [this.folder, this.#data]) if (owner !== null) chownSync(path, owner.uid, owner.gid);
    const options = ['-D', this.#data, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'];
    const [program, args] = asOwner(join(this.#programs, 'initdb'), options);
    execFileSync(program, args, { stdio: ['ignore', 'ignore', 'pipe'], cwd: this.folder, env: { ...process.env, LC_ALL: 'C' } });
    this.configure(`listen_addresses = ''\nunix_socket_directories = '${this.folder}'\nmax_connections = 60\nshared_buffers = 64MB`);
  }

  /** Lines of postgresql.conf; they count from the next start, or `reload`. */
  configure(lines: string): void {
    appendFileSync(join(this.#data, 'postgresql.conf'), `\n${lines}\n`);
  }

  file(name: string): string {
    return join(this.#data, name);
  }

  /** For a file of the server itself: it must be its owner's. */
  own(file: string, mode: number): void {
    const owner = ownerOf();
    if (owner !== null) chownSync(file, owner.uid, owner.gid);
    chmodSync(file, mode);
  }

  reload(): void {
    this.#process?.kill('SIGHUP');
  }

  /** `port`: where `configure` has changed it; a part of the socket's name too. */
  async start(port = this.#port): Promise<void> {
    this.#port = port;
    rmSync(join(this.#data, 'postmaster.pid'), { force: true }); // of one that was killed; nobody else knows this folder
    const [program, args] = asOwner(join(this.#programs, 'postgres'), ['-D', this.#data]);
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], {
      stdio: ['ignore', this.#log, this.#log],
      cwd: this.folder,
    });
    this.#process = child;
    const endMs = performance.now() + startMs;
    while (!this.#answers()) {
      if (child.exitCode !== null || performance.now() > endMs)
        throw new Error(`PostgreSQL does not start: ${readFileSync(join(this.folder, 'log'), 'utf8').slice(-2_000)}`);
      await new Promise((resolve) => setTimeout(resolve, lookMs));
    }
  }

  /** `fast`: connections are cut, what runs is rolled back; `immediate`: as a crash, the log is replayed at the next start. */
  async stop(how: 'fast' | 'immediate'): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill(how === 'fast' ? 'SIGINT' : 'SIGQUIT');
    await ended;
  }

  async remove(): Promise<void> {
    await this.stop('immediate');
    closeSync(this.#log);
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** URL of a new, empty database. `socketFolder`: of a line in between. */
  newDatabase(): string {
    this.#databases += 1;
    const name = `tickets_${this.#databases}`;
    this.sql('postgres', `CREATE DATABASE ${name}`);
    return this.urlOf(name);
  }

  urlOf(name: string, socketFolder = this.folder): string {
    return `postgres:///${name}?host=${socketFolder}&port=${this.#port}&user=postgres`;
  }

  /** Runs it by PostgreSQL's own tool; gives its rows, columns apart by `|`. */
  sql(database: string, text: string): string {
    const args = ['-h', this.folder, '-p', String(this.#port), '-U', 'postgres', '-d', database, '-v', 'ON_ERROR_STOP=1', '-XAtqc', text];
    return execFileSync(join(this.#programs, 'psql'), args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
  }

  #answers(): boolean {
    try {
      return this.sql('postgres', 'SELECT 1') === '1';
    } catch {
      return false;
    }
  }
}

/** PostgreSQL refuses to run as root. Null: it runs as whoever runs the tests. */
function ownerOf(): { readonly uid: number; readonly gid: number } | null {
  if (process.getuid?.() !== 0) return null;
  for (const name of ['postgres', 'nobody']) {
    try {
      const id = (flag: string): number =>
        Number(execFileSync('id', [flag, name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }));
      return { uid: id('-u'), gid: id('-g') };
    } catch {
      // the next one
    }
  }
  throw new Error('there is no user whom PostgreSQL could run as');
}

function asOwner(program: string, args: readonly string[]): [string, string[]] {
  const owner = ownerOf();
  if (owner === null) return [program, [...args]];
  return ['setpriv', [`--reuid=${owner.uid}`, `--regid=${owner.gid}`, '--clear-groups', program, ...args]];
}

export const nameOf = (url: string): string => new URL(url).pathname.slice(1);

/** Whether a file of the server is open to others, as its keys may not be. */
export const modeOf = (file: string): number => statSync(file).mode & 0o777;
