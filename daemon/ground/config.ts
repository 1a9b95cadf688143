// Owns: the service's configuration: its keys, with defaults, bounds and a sentence on each. Everything else that knows keys is made from this schema: the
// names in the environment and on the command line, ukeyctl config check, the example file (installers/configuration.ts).
// Invariants: a key that is not known is refused with the nearest that is; no secret is a value here, only the name of a file or credential that holds
// one; a configuration is right as a whole or not taken at all.
// Errors: invalid-request with the key, and with where it was given.
import { createHash } from 'node:crypto';
import path from 'node:path';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { check, nameText, z } from '#ipc-schema/schema.ts';
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

/** Each has a process of its own. */
export const tokensMax = 16;
/** What the only token is called where it has no name. */
export const soleTokenName = 'main';
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

/** Second copy of a FLASH on the host's disk, so that the loss of either loses nothing. */
const mirrorSchema = (path: string, mode: string) =>
  z.strictObject({
    path: tell(filePath.optional(), { says: path, example: '/srv/ukeyd/mirror.img', path: true }),
    mode: tell(z.enum(['sync', 'async', 'off']).default('sync'), { says: mode }),
  });

const tokenShape = {
  name: tell(nameText.optional(), {
    says: 'What requests call it. Needed where there are several tokens: [[token]] instead of [token], once for each (docs/several-tokens.md).',
    allowed: '1 to 64 of A-Z a-z 0-9 . _ -',
    example: 'main',
  }),
  issuer: tell(z.string().min(1).max(64).optional(), {
    says: 'Tax id of the issuer that this place is for: a token of another one is not used. Needed where there are several.',
    allowed: 'text of 1 to 64 characters',
    example: 'GB123456789',
  }),
  state: tell(filePath.optional(), {
    says: 'Left out: the state folder itself, or, of several tokens, a folder of the name in it.',
    example: '/var/lib/ukeyd',
    path: true,
  }),
  module: tell(filePath.optional(), {
    says: "The vendor's PKCS#11 library. Left out: the embedded soft token of soft_token, for development.",
    example: '/usr/lib/softhsm/libsofthsm2.so',
    path: true,
  }),
  module_sha256: tell(
    z
      .string()
      .regex(/^[0-9a-f]{64}$/)
      .optional(),
    {
      says: 'SHA-256 that the library must have: another file in its place is not loaded.',
      allowed: '64 hexadecimal digits, as sha256sum prints them',
      example: '0'.repeat(64),
    },
  ),
  module_parameters: tell(z.string().min(1).max(4096).optional(), {
    says: "What this module wants to be told in C_Initialize (NSS: where its database is); its vendor's book says so. No place for a secret.",
    example: 'configdir=/var/lib/nss',
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
    path: true,
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
  mirror: mirrorSchema(
    'Of this token alone: image or block device. Left out: one file per token in its state folder.',
    'Of this token alone. With neither of the two: as [mirror] says.',
  ).optional(),
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

const tokenSchema = z.strictObject(tokenShape);
const state = tell(filePath.default('/var/lib/ukeyd'), {
  says: 'Folder of the index, the terminals, the lock and the mirror.',
  path: true,
});
const socket = tell(filePath.default('/run/ukeyd/ukeyd.sock'), { says: 'Socket of tills and ERP programs.', path: true });
const adminSocket = tell(filePath.default('/run/ukeyd/ukeyd-admin.sock'), {
  says: 'Socket of operators: opening it is the proof.',
  path: true,
});
const socketGroup = tell(z.string().min(1).max(64).optional(), {
  says: "Group that may open the till socket. Left out: the service's own.",
  allowed: 'the name of a group',
  example: 'ukey',
});
const upload = z.strictObject({
  probe: tell(z.string().max(256).refine(isCron).default('*/15 * * * * *'), {
    says: 'When to ask the ticket server whether it is there: cron, with seconds first.',
    allowed: 'a cron expression of five or six fields, such as "*/15 * * * * *"',
    live: true,
  }),
});

/** The order is that of the example file. */
const schemaWith = <T extends z.ZodType>(token: T) =>
  z.strictObject({
    ...{ state, socket, admin_socket: adminSocket, socket_group: socketGroup, token },
    mirror: mirrorSchema(
      'Image or block device, at least as large as the FLASH. Left out: one file per token in its state folder.',
      'sync: an invoice is answered when FLASH and mirror have it. async: the mirror follows.',
    ).prefault({}),
    upload: upload.prefault({}),
    log: z.strictObject(logShape).prefault({}),
    metrics: z.strictObject(metricsShape).prefault({}),
  });

/** `[token]`: one. `[[token]]`: several at once. */
const oneSchema = schemaWith(tokenSchema);
const severalSchema = schemaWith(z.array(tokenSchema).min(1).max(tokensMax));
type Raw = z.infer<typeof oneSchema> | z.infer<typeof severalSchema>;
type RawToken = z.infer<typeof tokenSchema>;
type Mirror = Raw['mirror'];

/** Where one token is plugged in, and how it is used. All paths are absolute. */
export interface TokenConfig extends Omit<RawToken, 'name' | 'issuer' | 'state' | 'mirror'> {
  readonly name: string;
  /** Null: of whichever issuer the token is. */
  readonly issuer: string | null;
  readonly state: string;
  readonly mirror: Mirror;
}

export interface Config extends Omit<Raw, 'token' | 'mirror'> {
  readonly tokens: readonly [TokenConfig, ...TokenConfig[]];
}

export const settings: readonly Setting[] = settingsOf(oneSchema);

/** A configuration, and how it came about. */
export interface Given {
  readonly config: Config;
  /** As it was written, with the defaults. */
  readonly raw: Raw;
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
  const raw = checked(tree, origins);
  const refuse: Refuse = (field, why) => bad(field, why, origins.get(field));
  return { config: configOf(raw, refuse), raw, origins };
}

/** The contract's own refusal speaks of a request; here it is a key, what may stand there, and where it was given. */
function checked(tree: Tree, origins: ReadonlyMap<string, Origin>): Raw {
  const isSeveral = tree.kind === 'table' && tree.members.get('token')?.kind === 'tables';
  try {
    return check<Raw>(isSeveral ? severalSchema : oneSchema, plainOf(tree));
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

type Refuse = (field: string, why: string) => UkeyError;

function configOf({ token, mirror, ...whole }: Raw, refuse: Refuse): Config {
  const given: readonly RawToken[] = Array.isArray(token) ? token : [token];
  if (given.length > 1 && mirror.path !== undefined)
    throw refuse('mirror.path', 'of several tokens each names its own, as token.mirror.path');
  const tokens = given.map((one, index) => {
    checkToken(one, Array.isArray(token) ? `token[${index}]` : 'token', given.length > 1, refuse);
    return tokenOf(one, whole.state, given.length > 1, mirror);
  });
  checkApart(tokens, refuse);
  const [first, ...others] = tokens;
  if (first === undefined) throw refuse('token', 'there is none');
  return { ...whole, tokens: [first, ...others] };
}

function checkToken(token: RawToken, field: string, isOneOfSeveral: boolean, refuse: Refuse): void {
  if (token.module === undefined && token.soft_token === undefined)
    throw refuse(`${field}.soft_token`, `needed where ${field}.module is left out`);
  if (token.module !== undefined && token.soft_token !== undefined)
    throw refuse(`${field}.soft_token`, `only where ${field}.module is left out`);
  for (const name of ['module_parameters', 'module_sha256'] as const)
    if (token.module === undefined && token[name] !== undefined) throw refuse(`${field}.${name}`, `only beside ${field}.module`);
  if (token.pin_file !== undefined && token.pin_credential !== undefined)
    throw refuse(`${field}.pin_credential`, `only where ${field}.pin_file is left out`);
  if (!isOneOfSeveral) return;
  // Who serves a request must not depend on which tokens happen to be there: a repetition could else reach another ledger.
  for (const name of ['name', 'issuer'] as const)
    if (token[name] === undefined) throw refuse(`${field}.${name}`, 'needed where there are several tokens');
}

function tokenOf(token: RawToken, state: string, isOneOfSeveral: boolean, common: Mirror): TokenConfig {
  const { name = soleTokenName, issuer = null, state: ownState, mirror = common, ...rest } = token;
  return { ...rest, name, issuer, mirror, state: ownState ?? (isOneOfSeveral ? path.join(state, name) : state) };
}

/** Nothing that belongs to one token may be another's. */
function checkApart(tokens: readonly TokenConfig[], refuse: Refuse): void {
  const taken = new Set<string>();
  for (const [index, { name, state, flash, mirror, module, soft_token, label }] of tokens.entries()) {
    const own: readonly (readonly [field: string, kind: string, value: string | undefined])[] = [
      ['name', 'name', name],
      ['state', 'state', state],
      ['flash', 'image', flash],
      ['mirror.path', 'image', mirror.mode === 'off' ? undefined : mirror.path],
      ['soft_token', 'soft token', module === undefined ? soft_token : undefined],
      ['label', 'label', module === undefined ? undefined : `${module} ${label ?? ''}`],
    ];
    for (const [field, kind, value] of own) {
      if (value === undefined) continue;
      if (taken.has(`${kind} ${value}`)) throw refuse(`token[${index}].${field}`, 'another token has the same');
      taken.add(`${kind} ${value}`);
    }
    // Without a label it would be whichever token the module shows first.
    if (module !== undefined && label === undefined && tokens.some((other, at) => at !== index && other.module === module))
      throw refuse(`token[${index}].label`, 'needed where another token has the same module');
  }
}

/** One key as it is in force; `origin` null: the default, or left out (`value` undefined). */
export interface InForce {
  readonly key: string;
  readonly value: unknown;
  readonly origin: Origin | null;
}

/** Every key, in the order of the schema. */
export function inForce({ raw, origins }: Pick<Given, 'raw' | 'origins'>): readonly InForce[] {
  return settings.flatMap(({ key }) => placesOf(raw, key)).map(([key, value]) => ({ key, value, origin: origins.get(key) ?? null }));
}

/** The key and its value; of a list of tables one pair for each. */
function placesOf(raw: Raw, key: string): [string, unknown][] {
  return key.split('.').reduce<[string, unknown][]>(
    (places, name) =>
      places.flatMap(([above, table]): [string, unknown][] => {
        const into = (at: string, one: unknown): [string, unknown] => [
          at === '' ? name : `${at}.${name}`,
          (one as Readonly<Record<string, unknown>> | undefined)?.[name],
        ];
        return Array.isArray(table) ? table.map((one, at) => into(`${above}[${at}]`, one)) : [into(above, table)];
      }),
    [['', raw]],
  );
}

/** Which keys another configuration changes: those that a reload takes up, and those that wait for the next start. */
export function changesBetween(
  before: Pick<Given, 'raw'>,
  after: Pick<Given, 'raw'>,
): { readonly live: readonly string[]; readonly later: readonly string[] } {
  const told = ({ raw }: Pick<Given, 'raw'>, key: string): string => JSON.stringify(placesOf(raw, key));
  const changed = settings.filter(({ key }) => told(before, key) !== told(after, key));
  const keysOf = (live: boolean): string[] => changed.filter((one) => (one.live === true) === live).map(({ key }) => key);
  return { live: keysOf(true), later: keysOf(false) };
}

/** By which a configuration is known again, hex; there is no secret in one. */
export function digestOf(config: Config): string {
  return createHash('sha256').update(JSON.stringify(config)).digest('hex');
}
