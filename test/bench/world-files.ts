// Owns: where things of a benchmark's world stand, and the files that its service is started with.
// Invariants: pure but for writing; PINs are of worlds that are deleted after the run, and stand in files as in production.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { HolderConfig } from '#holder/configuration.ts';
import type { GrantOptions } from '#server/grant.ts';
import type { Shipped } from './shipped.ts';

export const pin = '135790';
export const soPin = '97531000';

export interface WorldOptions {
  /** PKCS#11 module; null: the embedded soft token. */
  readonly module: string | null;
  readonly mirror: 'sync' | 'off';
  readonly flashMib: number;
  /** Seconds between two probes. */
  readonly probeSeconds: number;
  readonly shipped: Shipped;
  /** The service as it is shipped, or from TypeScript the one that can be made slow and tells its stages. */
  readonly program: 'shipped' | 'instrumented';
  /** The ticket server's, in PostgreSQL; left out: SQLite in its folder. */
  readonly databaseUrl?: string;
}

export interface WorldFiles {
  readonly folder: string;
  readonly config: string;
  readonly socket: string;
  readonly adminSocket: string;
  readonly state: string;
  readonly token: string;
  readonly flash: string;
  readonly pinFile: string;
  readonly softhsmConfig: string;
  readonly log: string;
  readonly server: string;
}

export function worldFiles(folder: string): WorldFiles {
  const at = (...names: string[]): string => path.join(folder, ...names);
  return {
    folder,
    config: at('ukeyd.toml'),
    socket: at('run', 'ukeyd.sock'),
    adminSocket: at('run', 'ukeyd-admin.sock'),
    state: at('state'),
    token: at('token'),
    flash: at('token', 'flash.img'),
    pinFile: at('pin'),
    softhsmConfig: at('softhsm2.conf'),
    log: at('service.log'),
    server: at('server'),
  };
}

export function writeWorldFiles(files: WorldFiles, options: WorldOptions): void {
  for (const folder of [path.join(files.token, 'softhsm'), files.server]) mkdirSync(folder, { recursive: true, mode: 0o700 });
  writeFileSync(files.pinFile, `${pin}\n`, { mode: 0o600 });
  const hsm = [`directories.tokendir = ${files.token}/softhsm`, 'objectstore.backend = file', 'log.level = ERROR', ''];
  writeFileSync(files.softhsmConfig, hsm.join('\n'));
  const lines = [
    'state = "state"',
    'socket = "run/ukeyd.sock"',
    'admin_socket = "run/ukeyd-admin.sock"',
    '[token]',
    options.module === null ? 'soft_token = "token/key.json"' : `module = ${JSON.stringify(options.module)}`,
    'flash = "token/flash.img"',
    `flash_mib = ${options.flashMib}`,
    'pin_file = "pin"',
    '[mirror]',
    `mode = "${options.mirror}"`,
    '[upload]',
    `probe = "*/${options.probeSeconds} * * * * *"`,
    '[log]',
    'level = "info"',
  ];
  writeFileSync(files.config, `${lines.join('\n')}\n`);
}

/** The same token, FLASH and mirror, for a holder without a service. */
export function holderConfigOf(files: WorldFiles, options: WorldOptions): HolderConfig {
  return {
    module: options.module,
    ...(options.module === null ? { softTokenPath: path.join(files.token, 'key.json') } : {}),
    flashPath: files.flash,
    ...(options.mirror === 'off' ? {} : { mirror: { mode: options.mirror, place: { kind: 'folder', folder: files.state } } as const }),
    presencePaths: [],
  };
}

/** No limits: a benchmark does not wait for an acknowledgement. */
export const grant: GrantOptions = {
  issuer: { taxId: 'GB123456789', name: 'Gifts Ltd', address: ['1 Market Street', 'Leeds'] },
  currency: 'GBP',
  mode: 'hybrid',
  limits: { hours: null, count: null, amount: null, single: null },
  series: [
    { kind: 'invoice', prefix: 'A-', digits: 8, first: 1, last: 99_999_999 },
    { kind: 'credit-note', prefix: 'C-', digits: 8, first: 1, last: 99_999_999 },
  ],
};
