// Owns: databases of NSS for tests, each in a folder of its own and made ready by NSS's own tool, and the rule what happens where NSS is not installed.
// Invariants: PINs reach the tool in a file; a module keeps its label; the module is told its folder in C_Initialize, so that two databases are two doors.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from 'vitest';

const modules = [
  '/usr/lib/x86_64-linux-gnu/libsoftokn3.so',
  '/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so',
  '/usr/lib/aarch64-linux-gnu/libsoftokn3.so',
  '/usr/lib64/libsoftokn3.so',
];

/** NSS gives its token no other name. */
export const nssLabel = 'NSS Certificate DB';

/** `describe` with the module; skipped loudly where it is absent, a failure where CI is set. */
export function describeNss(name: string, define: (modulePath: string) => void): void {
  const module = modules.find((path) => existsSync(path));
  if (module !== undefined && spawnSync('certutil', ['-H'], { stdio: 'ignore' }).error === undefined) {
    describe(name, () => define(module));
    return;
  }
  if (process.env['CI']) throw new Error(`${name}: NSS is not installed, and CI is set`);
  console.warn(`SKIPPED: ${name}: NSS is not installed (apt-get install libnss3 libnss3-tools)`);
  describe.skip(`${name} (NSS is not installed)`, () => define(''));
}

export class NssWorld {
  readonly folder = mkdtempSync(join(tmpdir(), 'ukeyd-nss-'));
  readonly #database = join(this.folder, 'database');

  constructor(pin: string) {
    this.makeToken(pin);
  }

  /** For C_Initialize. */
  get moduleParameters(): string {
    return `configdir='sql:${this.#database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=`;
  }

  /** By NSS's own tool, in the place of what is there. */
  makeToken(pin: string): void {
    this.removeToken();
    mkdirSync(this.#database);
    const pinFile = join(this.folder, 'pin');
    writeFileSync(pinFile, `${pin}\n`, { mode: 0o600 });
    execFileSync('certutil', ['-N', '-d', `sql:${this.#database}`, '-f', pinFile], { stdio: 'pipe' });
    rmSync(pinFile);
  }

  removeToken(): void {
    rmSync(this.#database, { recursive: true, force: true });
  }

  takeAway(): void {
    renameSync(this.#database, `${this.#database}.away`);
  }

  bringBack(): void {
    renameSync(`${this.#database}.away`, this.#database);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
