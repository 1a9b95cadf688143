// Owns: a TPM of its own for tests: swtpm, tpm2-abrmd on a private D-Bus, and the store of the module tpm2-pkcs11 beside it.
// Invariants: all state is in one temporary folder; the three processes die with this one (their parent-death signal), and at `remove`; each is killed by
// its id. The environment is set for this process, and so for those that it starts, until `remove`. The TPM itself counts wrong PINs and locks.
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe } from 'vitest';

const startMs = 20_000;
const modules = ['x86_64-linux-gnu', 'aarch64-linux-gnu'].map((machine) => `/usr/lib/${machine}/pkcs11/libtpm2_pkcs11.so`);
const tools = ['swtpm', 'tpm2-abrmd', 'dbus-daemon', 'tpm2_getcap', 'tpm2_ptool', 'setpriv'];
const packages = 'swtpm tpm2-abrmd libtss2-tcti-tabrmd0 dbus tpm2-tools libtpm2-pkcs11-1 libtpm2-pkcs11-tools';

/** Wrong PINs until it locks, and the seconds after which it forgets one. */
export interface TpmPatience {
  readonly triesMax: number;
  readonly forgetsSeconds: number;
}

/** More than any test of a suite tries. */
const patient: TpmPatience = { triesMax: 1_000, forgetsSeconds: 1_000 };

/** `describe` with the module and a world for all its tests; skipped loudly where a part is absent, a failure where CI is set. */
export function describeTpm(name: string, define: (modulePath: string, world: () => TpmWorld) => void): void {
  const module = modules.find((path) => existsSync(path));
  const absent = tools.filter((tool) => spawnSync('which', [tool], { stdio: 'ignore', env: toolEnvironment() }).status !== 0);
  if (module !== undefined && absent.length === 0) {
    describe(name, () => {
      let world: TpmWorld | null = null;
      beforeAll(() => {
        world = new TpmWorld();
      });
      // Registered first, so that it comes after whatever the tests themselves end.
      afterAll(() => world?.remove());
      define(module, () => world ?? absentWorld());
    });
    return;
  }
  if (process.env['CI']) throw new Error(`${name}: ${absent.join(', ') || 'tpm2-pkcs11'} is not installed, and CI is set`);
  console.warn(`SKIPPED: ${name}: no TPM in software (apt-get install ${packages})`);
  describe.skip(`${name} (not installed)`, () => define('', absentWorld));
}

function absentWorld(): never {
  throw new Error('there is no TPM outside its tests');
}

export class TpmWorld {
  readonly folder = mkdtempSync(join(tmpdir(), 'ukeyd-tpm-'));
  readonly environment: Readonly<Record<string, string>>;
  readonly #store = join(this.folder, 'store');
  readonly #pulled = join(this.folder, 'pulled');
  readonly #bus = join(this.folder, 'bus');
  readonly #socket = join(this.folder, 'tpm.sock');
  readonly #logFile = join(this.folder, 'log');
  readonly #log = openSync(this.#logFile, 'a');
  readonly #running = new Map<string, ChildProcess>();

  constructor() {
    for (const folder of [this.#store, this.#pulled, join(this.folder, 'state')]) mkdirSync(folder);
    const tcti = 'tabrmd:bus_type=session';
    this.environment = {
      DBUS_SESSION_BUS_ADDRESS: `unix:path=${this.#bus}`,
      TPM2_PKCS11_STORE: this.#store,
      TPM2_PKCS11_TCTI: tcti,
      TPM2TOOLS_TCTI: tcti,
      TSS2_LOG: 'all+NONE',
    };
    Object.assign(process.env, this.environment);
    try {
      this.#start();
    } catch (error) {
      this.remove();
      throw error;
    }
  }

  #start(): void {
    writeFileSync(join(this.folder, 'bus.conf'), busConfiguration(this.#bus));
    this.#run('dbus-daemon', ['--nofork', '--nopidfile', `--config-file=${join(this.folder, 'bus.conf')}`]);
    this.#until(() => existsSync(this.#bus), 'dbus-daemon');
    this.switchOn();
    this.setPatience(patient);
  }

  /** The store is empty, and no wrong PIN is remembered. */
  clear(): void {
    for (const folder of [this.#store, this.#pulled]) {
      rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder);
    }
    this.unlock();
    this.setPatience(patient);
  }

  /** Its tokens are out of sight of a module that starts after this; another is made in their place. */
  hideTokens(): void {
    for (const name of readdirSync(this.#store)) renameSync(join(this.#store, name), join(this.#pulled, name));
  }

  setPatience({ triesMax, forgetsSeconds }: TpmPatience): void {
    this.#tool('tpm2_dictionarylockout', ['-s', '-n', `${triesMax}`, '-t', `${forgetsSeconds}`, '-l', `${forgetsSeconds}`]);
  }

  unlock(): void {
    this.#tool('tpm2_dictionarylockout', ['-c']);
  }

  /** Wrong PINs that the TPM itself has counted. */
  wrongTries(): number {
    const found = /TPM2_PT_LOCKOUT_COUNTER: (0x[0-9a-fA-F]+)/.exec(this.#tool('tpm2_getcap', ['properties-variable']));
    return Number(found?.[1]);
  }

  /** By the vendor's own tool. */
  makeToken({ label, pin, soPin }: { readonly label: string; readonly pin: string; readonly soPin: string }): void {
    this.#tool('tpm2_ptool', ['init', '--path', this.#store]);
    this.#tool('tpm2_ptool', ['addtoken', '--path', this.#store, '--pid=1', `--label=${label}`, `--sopin=${soPin}`, `--userpin=${pin}`]);
  }

  /** The chip is gone, and who stands before it knows nothing of that. */
  switchOff(): void {
    this.#end('swtpm');
  }

  switchOn(): void {
    for (const name of ['swtpm', 'tpm2-abrmd']) this.#end(name);
    rmSync(this.#socket, { force: true });
    const server = `type=unixio,path=${this.#socket}`;
    const control = `type=unixio,path=${this.#socket}.ctrl`;
    const state = `dir=${join(this.folder, 'state')}`;
    this.#run('swtpm', [
      'socket',
      '--tpm2',
      '--flags',
      'not-need-init,startup-clear',
      '--tpmstate',
      state,
      '--server',
      server,
      '--ctrl',
      control,
    ]);
    this.#until(() => existsSync(this.#socket), 'swtpm');
    this.#run('tpm2-abrmd', ['--session', '--allow-root', `--tcti=swtpm:path=${this.#socket}`]);
    this.#until(
      () => spawnSync('tpm2_getcap', ['properties-fixed'], { stdio: 'ignore', env: toolEnvironment() }).status === 0,
      'tpm2-abrmd',
    );
  }

  remove(): void {
    for (const name of [...this.#running.keys()].reverse()) this.#end(name);
    for (const name of Object.keys(this.environment)) delete process.env[name];
    closeSync(this.#log);
    rmSync(this.folder, { recursive: true, force: true });
  }

  #run(program: string, args: readonly string[]): void {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], {
      stdio: ['ignore', this.#log, this.#log],
      env: toolEnvironment(),
    });
    child.on('error', () => undefined); // whoever waits for it says that it did not come
    this.#running.set(program, child);
  }

  #end(program: string): void {
    const pid = this.#running.get(program)?.pid;
    this.#running.delete(program);
    if (pid === undefined) return;
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      return; // gone already
    }
    this.#until(() => hasEnded(pid), `the end of ${program}`);
  }

  #tool(program: string, args: readonly string[]): string {
    return execFileSync(program, args, { encoding: 'utf8', env: toolEnvironment(), stdio: ['ignore', 'pipe', 'pipe'] });
  }

  /** Tests of a token are synchronous, as its calls are. */
  #until(isSo: () => boolean, what: string): void {
    const endMs = performance.now() + startMs;
    while (!isSo()) {
      if (performance.now() > endMs) throw new Error(`${what} does not come: ${readFileSync(this.#logFile, 'utf8').slice(-2_000)}`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
  }
}

/** This process's, and where Debian keeps daemons. */
function toolEnvironment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
}

/** A child that was killed stays a zombie until the event loop comes round. */
function hasEnded(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z');
  } catch {
    return true;
  }
}

const busConfiguration = (socket: string): string => `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=${socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>
`;
