// Owns: the service's configuration: one TOML file, its names, defaults and bounds. The only door to the TOML library.
// Invariants: unknown keys are refused with the nearest known name; no secret stands in the file, only paths of files that hold one.
// Errors: invalid-request with the key's path.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'smol-toml';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { check, nameText, z } from '#ipc-schema/schema.ts';

const correctFile = 'Correct the configuration file.';

/** Each has a process of its own. */
export const tokensMax = 16;
/** What the only token is called where it has no name. */
export const soleTokenName = 'main';

const filePath = z.string().min(1).max(4096);

/** Second copy of a FLASH on the host's disk, so that the loss of either loses nothing. */
const mirrorSchema = z.strictObject({
  /** Image or block device, at least as large as the FLASH; left out: one file per token in the token's state folder. */
  path: filePath.optional(),
  /** `sync`: an invoice is answered when both have it. `async`: the mirror follows. */
  mode: z.enum(['sync', 'async', 'off']).default('sync'),
});

const tokenFields = {
  /** What requests call it; needed where there are several. */
  name: nameText.optional(),
  /** Tax id of the issuer that this place is for: a token of another one is not used. Needed where there are several. */
  issuer: z.string().min(1).max(64).optional(),
  /** Left out: `state` itself, or of several tokens a folder of the token's name in it. */
  state: filePath.optional(),
  /** PKCS#11 library; left out: the embedded soft token. */
  module: filePath.optional(),
  /** What this module wants to be told in C_Initialize (NSS: where its database is); its vendor's book says so. */
  module_parameters: z.string().min(1).max(4096).optional(),
  /** Label of the token to use when the module shows several. */
  label: z.string().max(32).optional(),
  /** Key file of the embedded soft token. */
  soft_token: filePath.optional(),
  /** FLASH: block device or image. */
  flash: filePath,
  /** Size of an image that provisioning creates. */
  flash_mib: z.int().min(16).max(1_048_576).default(256),
  /** For unattended login: file of its owner alone that holds the PIN, or the name of a credential of the service manager (docs/unattended.md). */
  pin_file: filePath.optional(),
  pin_credential: z
    .string()
    .regex(/^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}$/, 'a name, not a path')
    .optional(),
  /** Files that vanish with the token (soft tokens); the FLASH is always watched. */
  presence: z.array(filePath).max(8).default([]),
  /** Left out: as the whole service's. */
  mirror: mirrorSchema.optional(),
};
const tokenSchema = z.strictObject(tokenFields);

const fields = {
  /** Index, terminals, lock, mirror. */
  state: filePath,
  socket: filePath,
  admin_socket: filePath,
  /** Group of the till socket; left out: the service's own. */
  socket_group: z.string().optional(),
  mirror: mirrorSchema.prefault({}),
  upload: z
    .strictObject({
      /** When to probe the ticket server: cron, with seconds. */
      probe: z.string().default('*/15 * * * * *'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z.enum(['error', 'warn', 'info', 'debug']).default('info'),
      format: z.enum(['json', 'text']).default('json'),
    })
    .prefault({}),
};

/** `[token]`: one. `[[token]]`: several at once (docs/several-tokens.md). */
const oneSchema = z.strictObject({ ...fields, token: tokenSchema });
const severalSchema = z.strictObject({ ...fields, token: z.array(tokenSchema).min(1).max(tokensMax) });
type Raw = z.infer<typeof oneSchema> | z.infer<typeof severalSchema>;
type RawToken = z.infer<typeof tokenSchema>;

/** Where one token is plugged in, and how it is used. All paths are absolute. */
export interface TokenConfig extends Omit<RawToken, 'name' | 'issuer' | 'state' | 'mirror'> {
  readonly name: string;
  /** Null: of whichever issuer the token is. */
  readonly issuer: string | null;
  readonly state: string;
  readonly mirror: z.infer<typeof mirrorSchema>;
}

export interface Config extends Omit<Raw, 'token' | 'mirror'> {
  readonly tokens: readonly [TokenConfig, ...TokenConfig[]];
}

/** Reads and checks the file. Relative paths in it are taken from its folder. */
export function readConfig(file: string): Config {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new UkeyError('invalid-request', `configuration ${file} cannot be read`, {
      cause,
      action: 'Name a readable file with --config.',
    });
  }
  return parseConfig(text, path.dirname(path.resolve(file)));
}

/** The contract's own refusal speaks of a request; here it is a file. */
function checked(raw: unknown): Raw {
  const isSeveral = typeof raw === 'object' && raw !== null && 'token' in raw && Array.isArray(raw.token);
  try {
    return isSeveral ? check(severalSchema, raw) : check(oneSchema, raw);
  } catch (cause) {
    const { code, message, field } = asUkeyError(cause);
    throw new UkeyError(code, message, { field, cause: cause instanceof Error ? cause.cause : cause, action: correctFile });
  }
}

const refuse = (field: string, why: string): UkeyError =>
  new UkeyError('invalid-request', `${field}: ${why}`, { field, action: correctFile });

export function parseConfig(text: string, base: string): Config {
  let raw: unknown;
  try {
    raw = parse(text);
  } catch (cause) {
    throw new UkeyError('invalid-request', `configuration is not TOML: ${cause instanceof Error ? cause.message : ''}`, {
      cause,
      action: correctFile,
    });
  }
  const { token, mirror, ...config } = checked(raw);
  const at = (file: string): string => path.resolve(base, file);
  const whole = { ...config, state: at(config.state), socket: at(config.socket), admin_socket: at(config.admin_socket) };
  const given: readonly RawToken[] = Array.isArray(token) ? token : [token];
  if (given.length > 1 && mirror.path !== undefined)
    throw refuse('mirror.path', 'of several tokens each names its own, as token.mirror.path');
  const tokens = given.map((one, index) => {
    const field = Array.isArray(token) ? `token[${index}]` : 'token';
    checkToken(one, field, given.length > 1);
    return tokenOf(one, whole.state, given.length > 1, mirror, at);
  });
  checkApart(tokens);
  const [first, ...others] = tokens;
  if (first === undefined) throw refuse('token', 'there is none');
  return { ...whole, tokens: [first, ...others] };
}

function checkToken(token: RawToken, field: string, isOneOfSeveral: boolean): void {
  if (token.module === undefined && token.soft_token === undefined)
    throw refuse(`${field}.soft_token`, `needed where ${field}.module is left out`);
  if (token.module === undefined && token.module_parameters !== undefined)
    throw refuse(`${field}.module_parameters`, `only beside ${field}.module`);
  if (token.pin_file !== undefined && token.pin_credential !== undefined)
    throw refuse(`${field}.pin_credential`, `only where ${field}.pin_file is left out`);
  if (!isOneOfSeveral) return;
  // Who serves a request must not depend on which tokens happen to be there: a repetition could else reach another ledger.
  for (const name of ['name', 'issuer'] as const)
    if (token[name] === undefined) throw refuse(`${field}.${name}`, 'needed where there are several tokens');
}

function tokenOf(
  token: RawToken,
  state: string,
  isOneOfSeveral: boolean,
  common: z.infer<typeof mirrorSchema>,
  at: (file: string) => string,
): TokenConfig {
  const { name = soleTokenName, issuer = null, state: ownState, module, soft_token, pin_file, mirror = common, ...rest } = token;
  return {
    ...rest,
    name,
    issuer,
    state: ownState === undefined ? (isOneOfSeveral ? path.join(state, name) : state) : at(ownState),
    ...(module === undefined ? {} : { module: at(module) }),
    ...(soft_token === undefined ? {} : { soft_token: at(soft_token) }),
    ...(pin_file === undefined ? {} : { pin_file: at(pin_file) }),
    flash: at(rest.flash),
    presence: rest.presence.map(at),
    mirror: { mode: mirror.mode, ...(mirror.path === undefined ? {} : { path: at(mirror.path) }) },
  };
}

/** Nothing that belongs to one token may be another's. */
function checkApart(tokens: readonly TokenConfig[]): void {
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
