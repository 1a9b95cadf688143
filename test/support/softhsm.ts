// Owns: a private SoftHSM2 world in a temporary directory, and the rule what happens where SoftHSM2 is not installed.
// Invariants: SOFTHSM2_CONF is set for this process before its module is initialised, and for child processes through `environment`;
// tokens are made by provision(), never by a command with a PIN in its arguments; nothing outside the directory is touched.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe } from 'vitest';

const modulePaths = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib64/pkcs11/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so',
  '/opt/homebrew/lib/softhsm/libsofthsm2.so',
];

/** Path of the module, or null where SoftHSM2 is not installed. */
export function softHsmModule(): string | null {
  return modulePaths.find((path) => existsSync(path)) ?? null;
}

/** `describe` with the module; skipped loudly where it is absent, a failure where CI is set. */
export function describeSoftHsm(name: string, define: (modulePath: string) => void): void {
  const modulePath = softHsmModule();
  if (modulePath !== null) {
    describe(name, () => define(modulePath));
    return;
  }
  if (process.env['CI']) throw new Error(`${name}: SoftHSM2 is not installed, and CI is set`);
  console.warn(`SKIPPED: ${name}: SoftHSM2 is not installed (apt-get install softhsm2)`);
  describe.skip(`${name} (SoftHSM2 is not installed)`, () => define(''));
}

export interface SoftHsmWorld {
  readonly directory: string;
  readonly modulePath: string;
  /** For a child process that loads the module. */
  readonly environment: { readonly SOFTHSM2_CONF: string };
  /** Takes every token away, as pulling the stick does. */
  unplug(): void;
  plug(): void;
  remove(): void;
}

export function createSoftHsmWorld(modulePath: string): SoftHsmWorld {
  const directory = mkdtempSync(join(tmpdir(), 'ukeyd-softhsm-'));
  const tokens = join(directory, 'tokens');
  const pulled = join(directory, 'pulled');
  const configPath = join(directory, 'softhsm2.conf');
  mkdirSync(tokens);
  mkdirSync(pulled);
  writeFileSync(
    configPath,
    [`directories.tokendir = ${tokens}`, 'objectstore.backend = file', 'log.level = ERROR', 'slots.removable = true', ''].join('\n'),
  );
  process.env['SOFTHSM2_CONF'] = configPath;
  const move = (from: string, to: string): void => {
    for (const name of readdirSync(from)) renameSync(join(from, name), join(to, name));
  };
  return {
    directory,
    modulePath,
    environment: { SOFTHSM2_CONF: configPath },
    unplug: () => move(tokens, pulled),
    plug: () => move(pulled, tokens),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}
