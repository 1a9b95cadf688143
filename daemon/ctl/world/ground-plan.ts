// Owns: what a sandbox is made of before anything runs: which programs, which module, and the files that tell them what to do.
// Invariants: the files are written anew at each start from the layout alone, so that a folder can be moved or copied; no secret is in them.
// The limits are wide enough for a year of a busy shop and still there, so that a till under development sees a budget.
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { usage } from '#ctl/exit-codes.ts';
import { writeFile } from '#ctl/output-file.ts';
import { type Layout, type Memory, storeOf } from './layout.ts';

/** As the service itself calls it (token/soft-token.ts). */
export const softTokenName = 'embedded soft token';
/** Outages shall show at once. */
const probeSchedule = '*/2 * * * * *';
const flashMib = 256;

/** Where distributions put SoftHSM2. */
const softhsmPaths = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so',
  '/usr/lib64/pkcs11/libsofthsm2.so',
  '/usr/lib64/softhsm/libsofthsm2.so',
  '/usr/lib/pkcs11/libsofthsm2.so',
  '/usr/lib64/libsofthsm2.so',
  '/usr/lib/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so',
  '/opt/homebrew/lib/softhsm/libsofthsm2.so',
];

/** SoftHSM2 where it is installed, else null: the embedded soft token. */
export function findModule(): string | null {
  return softhsmPaths.find((file) => existsSync(file)) ?? null;
}

/** A program of this package, in the form in which this file itself stands there (source or compiled). Where it is not installed, that is wrong use. */
export function programFile(name: 'daemon/main' | 'server/main'): string {
  const here = fileURLToPath(import.meta.url);
  const file = path.resolve(path.dirname(here), '..', '..', '..', `${name}${path.extname(here)}`);
  if (existsSync(file)) return file;
  throw usage(`${file} is not there`, {
    action: 'A sandbox needs the ticket server: install the package ukeyd-server.',
  });
}

export function writeSofthsmConfig(layout: Layout): void {
  const lines = [`directories.tokendir = ${layout.softhsmTokens}`, 'objectstore.backend = file', 'log.level = ERROR', ''];
  writeFile(layout.softhsmConfig, lines.join('\n'), '--dir');
}

export function writeServiceConfig(layout: Layout, memory: Memory): void {
  const token = memory.module === null ? [`soft_token = ${quoted(layout.softToken)}`] : [`module = ${quoted(memory.module)}`];
  const lines = [
    `state = ${quoted(layout.state)}`,
    `socket = ${quoted(layout.socket)}`,
    `admin_socket = ${quoted(layout.adminSocket)}`,
    '',
    '[token]',
    ...token,
    `flash = ${quoted(storeOf(layout, memory))}`,
    `flash_mib = ${flashMib}`,
    `pin_file = ${quoted(layout.pinFile)}`,
    `presence = [${quoted(layout.token)}]`,
    '',
    '[upload]',
    `probe = ${quoted(probeSchedule)}`,
    '',
  ];
  writeFile(layout.config, lines.join('\n'), '--dir');
}

/** What every process of the world gets, unless whoever started us chose otherwise. */
export function processEnv(layout: Layout): Record<string, string> {
  return process.env['NODE_COMPILE_CACHE'] === undefined ? { NODE_COMPILE_CACHE: layout.compileCache } : {};
}

/** A TOML basic string takes JSON's escapes. */
function quoted(text: string): string {
  return JSON.stringify(text);
}

/** What the authority grants to the sandbox's token (`server/main ticket --charter`). */
export function writeCharterOptions(layout: Layout): void {
  const options = {
    issuer: { taxId: 'GB000000000', name: 'Sandbox Gifts Ltd', address: ['1 Example Street', 'London'] },
    currency: 'GBP',
    mode: 'hybrid',
    limits: { hours: 72, count: 100_000, amount: '100000000.00', single: '1000000.00' },
    series: [
      { kind: 'invoice', prefix: 'S', digits: 8, first: 1, last: 99_999_999 },
      { kind: 'credit-note', prefix: 'SC', digits: 8, first: 1, last: 99_999_999 },
    ],
  };
  writeFile(layout.charter, `${JSON.stringify(options, null, 2)}\n`, '--dir');
}
