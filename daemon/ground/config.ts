// Owns: the service's configuration: one TOML file, its names, defaults and bounds. The only door to the TOML library.
// Invariants: unknown keys are refused with the nearest known name; no secret stands in the file, only paths of files that hold one.
// Errors: invalid-request with the key's path.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { parse } from 'smol-toml';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { check, z } from '#ipc-schema/schema.ts';

const correctFile = 'Correct the configuration file.';

const filePath = z.string().min(1).max(4096);

const schema = z.strictObject({
  /** Index, terminals, lock, mirror. */
  state: filePath,
  socket: filePath,
  admin_socket: filePath,
  /** Group of the till socket; left out: the service's own. */
  socket_group: z.string().optional(),
  token: z.strictObject({
    /** PKCS#11 library; left out: the embedded soft token. */
    module: filePath.optional(),
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
  }),
  /** Second copy of the FLASH on the host's disk, so that the loss of either loses nothing. */
  mirror: z
    .strictObject({
      /** Image or block device, at least as large as the FLASH; left out: one file per token in the state folder. */
      path: filePath.optional(),
      /** `sync`: an invoice is answered when both have it. `async`: the mirror follows. */
      mode: z.enum(['sync', 'async', 'off']).default('sync'),
    })
    .prefault({}),
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
});

export type Config = z.infer<typeof schema>;

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
function checked(raw: unknown): Config {
  try {
    return check(schema, raw);
  } catch (cause) {
    const { code, message, field } = asUkeyError(cause);
    throw new UkeyError(code, message, { field, cause: cause instanceof Error ? cause.cause : cause, action: correctFile });
  }
}

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
  const config = checked(raw);
  if (config.token.module === undefined && config.token.soft_token === undefined) {
    const field = 'token.soft_token';
    throw new UkeyError('invalid-request', `${field}: needed where token.module is left out`, { field, action: correctFile });
  }
  if (config.token.pin_file !== undefined && config.token.pin_credential !== undefined) {
    const field = 'token.pin_credential';
    throw new UkeyError('invalid-request', `${field}: only where token.pin_file is left out`, { field, action: correctFile });
  }
  const at = (file: string): string => path.resolve(base, file);
  const { token, mirror } = config;
  return {
    ...config,
    state: at(config.state),
    socket: at(config.socket),
    admin_socket: at(config.admin_socket),
    token: {
      ...token,
      ...(token.module === undefined ? {} : { module: at(token.module) }),
      ...(token.soft_token === undefined ? {} : { soft_token: at(token.soft_token) }),
      ...(token.pin_file === undefined ? {} : { pin_file: at(token.pin_file) }),
      flash: at(token.flash),
      presence: token.presence.map(at),
    },
    mirror: { mode: mirror.mode, ...(mirror.path === undefined ? {} : { path: at(mirror.path) }) },
  };
}
