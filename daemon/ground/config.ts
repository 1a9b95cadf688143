// Owns: the service's configuration: its keys, with defaults, bounds and a sentence on each. Everything else that knows keys is made from this schema: the
// names in the environment and on the command line, ukeyctl config check, the example file (installers/configuration.ts).
// Invariants: a key that is not known is refused with the nearest that is; no secret is a value here, only the name of a file or credential that holds
// one; a configuration is right as a whole or not taken at all.
// Errors: invalid-request with the key, and with where it was given.
import { createHash } from 'node:crypto';
import path from 'node:path';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { check, z } from '#ipc-schema/schema.ts';
import {
  configVariable,
  emptyTree,
  environmentLayer,
  fileLayers,
  flagLayer,
  joined,
  type Origin,
  originsOf,
  plainOf,
  type Tree,
  textLayer,
} from './config-layers.ts';
import { type Setting, settingsOf, tell } from './settings.ts';

export const configFileDefault = '/etc/ukeyd/ukeyd.toml';
const correctIt = 'Correct the configuration file.';

const filePath = z.string().min(1).max(4096);
const nameOfOne = z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}$/);

/** Five or six fields of a cron expression, with numbers that such a field may have; what the timetable makes of it is its own to say. */
const cronRanges = [
  [0, 59],
  [0, 59],
  [0, 23],
  [1, 31],
  [1, 12],
  [0, 7],
] as const;

function isCron(text: string): boolean {
  const fields = text.trim().split(/\s+/);
  if (fields.length !== 5 && fields.length !== 6) return false;
  const ranges = cronRanges.slice(cronRanges.length - fields.length);
  return fields.every((field, at) => field.split(',').every((part) => isCronPart(part, ranges[at] ?? [0, 0])));
}

/** `*`, a number, a range or a name (MON), each with a step or without. */
function isCronPart(part: string, [least, most]: readonly [number, number]): boolean {
  if (/^[A-Za-z]{3,9}(-[A-Za-z]{3,9})?$/.test(part)) return true;
  const [, from, to = from, step = '1'] = /^(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:\/(\d{1,2}))?$/.exec(part) ?? ['', '', '', '0'];
  const isWithin = from === undefined || (Number(from) >= least && Number(to) <= most && Number(from) <= Number(to));
  return isWithin && Number(step) > 0;
}

/** Figures tell how a shop sells: nobody on another machine reads them from here. */
function isLoopback(text: string): boolean {
  const [, address = '', port] = /^(127(?:\.\d{1,3}){3}|\[::1\]):(\d{1,5})$/.exec(text) ?? [];
  return port !== undefined && Number(port) <= 65_535 && address.split('.').every((part) => part.startsWith('[') || Number(part) <= 255);
}

const tokenShape = {
  module: tell(filePath.optional(), {
    says: "The vendor's PKCS#11 library. Left out: the embedded soft token of soft_token, for development.",
    example: '/usr/lib/softhsm/libsofthsm2.so',
    ...{ path: true, shown: true },
  }),
  label: tell(z.string().max(32).optional(), {
    says: 'Label of the token to use where the module shows several.',
    allowed: 'text of at most 32 characters',
    example: 'shop-7',
  }),
  soft_token: tell(filePath.optional(), {
    says: 'Key file of the embedded soft token.',
    example: '/var/lib/ukeyd/soft-token.json',
    path: true,
  }),
  flash: tell(filePath, {
    says: 'The FLASH: block device, or an image, which provisioning makes.',
    example: '/dev/disk/by-id/usb-FLASH',
    ...{ path: true, shown: true },
  }),
  flash_mib: tell(z.int().min(16).max(1_048_576).default(256), { says: 'Size of an image that provisioning makes, in MiB.' }),
  pin_file: tell(filePath.optional(), {
    says: 'For a service that logs in by itself: file of its owner alone that holds the PIN. Never the PIN itself (docs/unattended.md).',
    example: '/etc/ukeyd/private/pin',
    path: true,
  }),
  pin_credential: tell(nameOfOne.optional(), {
    says: 'The same, as the name of a credential of the service manager. One of the two.',
    allowed: 'the name of a credential, no path',
    example: 'ukeyd.pin',
  }),
  presence: tell(z.array(filePath).max(8).default([]), {
    says: 'Files that vanish with the token (soft tokens); the FLASH is always watched.',
    allowed: 'a list of at most 8 paths',
    path: true,
  }),
};

const mirrorShape = {
  path: tell(filePath.optional(), {
    says: 'Image or block device, at least as large as the FLASH. Left out: one file per token in the state folder.',
    example: '/srv/ukeyd/mirror.img',
    path: true,
  }),
  mode: tell(z.enum(['sync', 'async', 'off']).default('sync'), {
    says: 'sync: an invoice is answered when FLASH and mirror have it. async: the mirror follows.',
  }),
};

const logShape = {
  level: tell(z.enum(['error', 'warn', 'info', 'debug']).default('info'), { says: 'The least that is told.', live: true }),
  format: tell(z.enum(['auto', 'json', 'text']).default('auto'), {
    says: 'json: one object a line. text: for people. auto: text on a terminal, json elsewhere.',
  }),
  file: tell(filePath.optional(), {
    says: 'Where there is no journal: write here instead of to standard error. A full file becomes FILE.1, that FILE.2, and so on.',
    example: '/var/log/ukeyd/ukeyd.log',
    path: true,
  }),
  file_mib: tell(z.int().min(1).max(1_024).default(16), { says: 'Size of each such file, in MiB.' }),
  files: tell(z.int().min(1).max(100).default(5), { says: 'How many there are at most.' }),
};

const metricsShape = {
  listen: tell(z.string().refine(isLoopback).optional(), {
    says: 'Figures for Prometheus (/metrics), /healthz and /readyz on this address. Left out: not at all. Every user of this machine may ask.',
    allowed: 'a loopback address and a port, such as "127.0.0.1:9464"',
    ...{ example: '127.0.0.1:9464', live: true },
  }),
  textfile: tell(filePath.regex(/\.prom$/).optional(), {
    says: 'The same figures in a file for the textfile collector of node_exporter, replaced whole each time.',
    allowed: 'a path that ends in .prom',
    ...{ example: '/var/lib/prometheus/node-exporter/ukeyd.prom', path: true, live: true },
  }),
  textfile_seconds: tell(z.int().min(5).max(3_600).default(15), { says: 'How often that file is written, in seconds.', live: true }),
};

/** The order is that of the example file. */
const schema = z.strictObject({
  state: tell(filePath.default('/var/lib/ukeyd'), { says: 'Folder of the index, the terminals, the lock and the mirror.', path: true }),
  socket: tell(filePath.default('/run/ukeyd/ukeyd.sock'), { says: 'Socket of tills and ERP programs.', path: true }),
  admin_socket: tell(filePath.default('/run/ukeyd/ukeyd-admin.sock'), {
    says: 'Socket of operators: opening it is the proof.',
    path: true,
  }),
  socket_group: tell(z.string().min(1).max(64).optional(), {
    says: "Group that may open the till socket. Left out: the service's own.",
    allowed: 'the name of a group',
    example: 'ukey',
  }),
  token: z.strictObject(tokenShape),
  /** Second copy of the FLASH on the host's disk, so that the loss of either loses nothing. */
  mirror: z.strictObject(mirrorShape).prefault({}),
  upload: z
    .strictObject({
      probe: tell(z.string().max(256).refine(isCron).default('*/15 * * * * *'), {
        says: 'When to ask the ticket server whether it is there: cron, with seconds first.',
        allowed: 'a cron expression of five or six fields, such as "*/15 * * * * *"',
        live: true,
      }),
    })
    .prefault({}),
  log: z.strictObject(logShape).prefault({}),
  metrics: z.strictObject(metricsShape).prefault({}),
});

export type Config = z.infer<typeof schema>;

export const settings: readonly Setting[] = settingsOf(schema);

/** A configuration, and how it came about. */
export interface Given {
  readonly config: Config;
  /** The file that was named, or the default. */
  readonly file: string;
  /** Where each value was given, by its key; what is not in it is the default. */
  readonly origins: ReadonlyMap<string, Origin>;
}

export interface Sources {
  /** Left out: $UKEYD_CONFIG, else the default. */
  readonly file?: string | undefined;
  readonly environment: NodeJS.ProcessEnv;
  /** What followed each flag, by its name without dashes. */
  readonly flags: Readonly<Record<string, string>>;
}

/** All layers: what the service runs with. */
export function loadConfig({ file, environment, flags }: Sources): Given {
  const named = file ?? environment[configVariable];
  const at = named ?? configFileDefault;
  const over = joined(environmentLayer(settings, environment), flagLayer(settings, flags));
  // In a container environment and flags may say everything; else a missing file is what is wrong.
  const isNeeded = named !== undefined || !originsOf(over).has('token.flash');
  return { file: at, ...decided([...fileLayers(settings, at, isNeeded), over]) };
}

/** The file and what lies beside it, without environment and flags. */
export function readConfig(file: string): Config {
  return decided(fileLayers(settings, file, true)).config;
}

/** One text alone. Relative paths in it are taken from `base`. */
export function parseConfig(text: string, base: string): Config {
  return decided([textLayer(settings, text, 'configuration', path.resolve(base))]).config;
}

function decided(layers: readonly Tree[]): Omit<Given, 'file'> {
  const tree = layers.reduce((under, over) => joined(under, over), emptyTree);
  const origins = originsOf(tree);
  const config = checked(tree, origins);
  const { token } = config;
  if (token.module === undefined && token.soft_token === undefined) throw bad('token.soft_token', 'needed where token.module is left out');
  if (token.pin_file !== undefined && token.pin_credential !== undefined)
    throw bad('token.pin_credential', 'only where token.pin_file is left out', origins.get('token.pin_credential'));
  return { config, origins };
}

/** The contract's own refusal speaks of a request; here it is a key, what may stand there, and where it was given. */
function checked(tree: Tree, origins: ReadonlyMap<string, Origin>): Config {
  try {
    return check(schema, plainOf(tree));
  } catch (thrown) {
    const { field = '', cause } = asUkeyError(thrown);
    const key = field.replace(/\[\d+\]/g, '');
    const setting = settings.find((one) => one.key === key);
    const origin = origins.get(field) ?? origins.get(field.replace(/\[\d+\]$/, ''));
    if (setting !== undefined && origin !== undefined) throw bad(field, `must be ${setting.allowed}`, origin, cause);
    throw bad(field, setting === undefined ? 'is missing' : `is missing: ${setting.allowed} is needed`, origin, cause);
  }
}

function bad(field: string, what: string, origin?: Origin, cause?: unknown): UkeyError {
  const action = origin === undefined || origin.kind === 'file' ? correctIt : `Correct ${origin.text}.`;
  return new UkeyError('invalid-request', `${field}: ${what}${origin === undefined ? '' : ` (${origin.text})`}`, { field, action, cause });
}

/** One key as it is in force; `origin` null: the default, or left out (`value` undefined). */
export interface InForce {
  readonly key: string;
  readonly value: unknown;
  readonly origin: Origin | null;
}

/** Every key, in the order of the schema. */
export function inForce({ config, origins }: Pick<Given, 'config' | 'origins'>): readonly InForce[] {
  return settings.flatMap(({ key }) => placesOf(config, key)).map(([key, value]) => ({ key, value, origin: origins.get(key) ?? null }));
}

/** The key and its value; of a list of tables one pair for each. */
function placesOf(config: Config, key: string): [string, unknown][] {
  return key.split('.').reduce<[string, unknown][]>(
    (places, name) =>
      places.flatMap(([above, table]): [string, unknown][] => {
        const into = (at: string, one: unknown): [string, unknown] => [
          at === '' ? name : `${at}.${name}`,
          (one as Readonly<Record<string, unknown>> | undefined)?.[name],
        ];
        return Array.isArray(table) ? table.map((one, at) => into(`${above}[${at}]`, one)) : [into(above, table)];
      }),
    [['', config]],
  );
}

/** Which keys another configuration changes: those that a reload takes up, and those that wait for the next start. */
export function changesBetween(before: Config, after: Config): { readonly live: readonly string[]; readonly later: readonly string[] } {
  const told = (config: Config, key: string): string => JSON.stringify(placesOf(config, key));
  const changed = settings.filter(({ key }) => told(before, key) !== told(after, key));
  const keysOf = (live: boolean): string[] => changed.filter((one) => (one.live === true) === live).map(({ key }) => key);
  return { live: keysOf(true), later: keysOf(false) };
}

/** By which a configuration is known again, hex; there is no secret in one. */
export function digestOf(config: Config): string {
  return createHash('sha256').update(JSON.stringify(config)).digest('hex');
}
