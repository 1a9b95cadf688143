// Owns: where things of a sandbox stand under its folder, and what of it is remembered from one start to the next.
// Invariants: everything is under the folder, except sockets where its path is too long for the kernel; folders are their owner's
// alone; secrets are files of mode 0600, made once and never replaced while what they open exists.
// All parts of the token are in one folder, so that one rename pulls it or plugs it in.
import { createHash, randomInt } from 'node:crypto';
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { usage } from '#ctl/exit-codes.ts';
import { writeFile } from '#ctl/output-file.ts';
import type { UkeyError } from '#ipc-schema/errors.ts';
import { check, z } from '#ipc-schema/schema.ts';

/** sun_path of sockaddr_un, with room for the `.lock` beside a socket. */
const socketPathMaxBytes = process.platform === 'linux' ? 107 : 103;
const longestSocketName = 'ukeyd-admin.sock';
const pinDigits = 8;
const ownerFolder = 0o700;
const ownerFile = 0o600;

export interface Layout {
  readonly dir: string;
  readonly memory: string;
  readonly lock: string;
  readonly socket: string;
  readonly adminSocket: string;
  readonly controlSocket: string;
  readonly pinFile: string;
  /** Its enrolment ticket, until the token is provisioned. */
  readonly ticketFile: string;
  readonly soPinFile: string;
  readonly secretFile: string;
  readonly config: string;
  readonly charter: string;
  readonly serviceLog: string;
  readonly serverLog: string;
  readonly serverDir: string;
  readonly state: string;
  /** The token while it is plugged in, and while it is not. */
  readonly token: string;
  readonly unplugged: string;
  readonly softToken: string;
  readonly softhsmTokens: string;
  readonly softhsmConfig: string;
  readonly flash: string;
  /** Compiled code of the processes: they start faster. */
  readonly compileCache: string;
}

/** Where everything stands; makes nothing. */
export function layoutOf(folder: string): Layout {
  const dir = path.resolve(folder);
  const at = (...names: string[]): string => path.join(dir, ...names);
  const sockets = socketFolder(dir);
  return {
    dir,
    memory: at('sandbox.json'),
    lock: at('sandbox.lock'),
    socket: path.join(sockets, 'ukeyd.sock'),
    adminSocket: path.join(sockets, longestSocketName),
    controlSocket: path.join(sockets, 'sandbox.sock'),
    pinFile: at('pin'),
    ticketFile: at('ticket.json'),
    soPinFile: at('so-pin'),
    secretFile: at('till-1.secret'),
    config: at('ukeyd.toml'),
    charter: at('charter-options.json'),
    serviceLog: at('log', 'service.log'),
    serverLog: at('log', 'server.log'),
    serverDir: at('server'),
    state: at('state'),
    token: at('token'),
    unplugged: at('token.unplugged'),
    softToken: at('token', 'soft-token.json'),
    softhsmTokens: at('token', 'softhsm'),
    softhsmConfig: at('softhsm2.conf'),
    flash: at('token', 'flash.img'),
    compileCache: at('compile-cache'),
  };
}

/** `DIR/run`, or, where that is too long for a socket, a folder of the same user in the system's temporary one. */
function socketFolder(dir: string): string {
  const run = path.join(dir, 'run');
  if (Buffer.byteLength(path.join(run, longestSocketName)) <= socketPathMaxBytes) return run;
  const name = createHash('sha256').update(dir).digest('hex').slice(0, 12);
  return path.join(tmpdir(), `ukeyd-${process.getuid?.() ?? 0}-${name}`);
}

/** `module`: null for the embedded soft token, which needs no folder of SoftHSM2's. */
export function makeFolders(layout: Layout, module: string | null): void {
  const folders = [layout.dir, path.dirname(layout.socket), path.dirname(layout.serviceLog), layout.serverDir, layout.state];
  for (const folder of folders) mkdirSync(folder, { recursive: true, mode: ownerFolder });
  const sockets = lstatSync(path.dirname(layout.socket));
  // In a shared temporary folder another user may have made this name first.
  if (!sockets.isDirectory() || (process.getuid !== undefined && sockets.uid !== process.getuid())) {
    throw usage(`${path.dirname(layout.socket)} belongs to someone else`, { field: '--dir', action: 'Use a --dir with a shorter path.' });
  }
  chmodSync(path.dirname(layout.socket), ownerFolder);
  if (!existsSync(layout.token) && !existsSync(layout.unplugged)) mkdirSync(layout.token, { mode: ownerFolder });
  if (module === null) return;
  const tokens = existsSync(layout.token) ? layout.softhsmTokens : path.join(layout.unplugged, path.basename(layout.softhsmTokens));
  mkdirSync(tokens, { recursive: true, mode: ownerFolder });
}

/** Sockets that had to stand elsewhere leave nothing there. Only after all who listen have ended. */
export function removeForeignSockets(layout: Layout): void {
  const folder = path.dirname(layout.socket);
  if (path.dirname(folder) !== layout.dir) rmSync(folder, { recursive: true, force: true });
}

/** Makes the file with a new PIN when it is not there. A PIN is asked of a person too, so it is digits. */
export function keepPin(file: string): void {
  if (existsSync(file)) return;
  const pin = Array.from({ length: pinDigits }, () => randomInt(10)).join('');
  writeFileSync(file, `${pin}\n`, { mode: ownerFile, flag: 'wx' });
}

export function readPinFile(file: string): string {
  return readFileSync(file, 'utf8').trimEnd();
}

/** False: it is out already. One rename: whoever watches sees all of it vanish at once. */
export function pullToken(layout: Layout): boolean {
  if (!existsSync(layout.token)) return false;
  renameSync(layout.token, layout.unplugged);
  return true;
}

/** False: it is in already. */
export function plugToken(layout: Layout): boolean {
  if (!existsSync(layout.unplugged)) return false;
  renameSync(layout.unplugged, layout.token);
  return true;
}

// --- what is remembered ---

const memorySchema = z.strictObject({
  format: z.literal('ukey-sandbox/1'),
  /** PKCS#11 module; null: the embedded soft token. */
  module: z.string().nullable(),
  /** FLASH that was named, absolute; null: the image among the token's parts, wherever the folder stands. */
  store: z.string().nullable(),
  /** The charter names the line's port, so it stays. */
  linePort: z.int().min(1).max(65_535),
  serverPort: z.int().min(1).max(65_535),
  /** The token carries a ledger: it is never provisioned again. */
  provisioned: z.boolean(),
});

export type Memory = z.infer<typeof memorySchema>;

export function readMemory(layout: Layout): Memory | null {
  if (!existsSync(layout.memory)) return null;
  try {
    const memory = check(memorySchema, JSON.parse(readFileSync(layout.memory, 'utf8')));
    return memory.store === layout.flash ? { ...memory, store: null } : memory;
  } catch (cause) {
    throw usage(`${layout.memory} is not what a sandbox writes`, { field: '--dir', action: 'Use another --dir.', cause });
  }
}

/** FLASH. */
export function storeOf(layout: Layout, memory: Memory): string {
  return memory.store ?? layout.flash;
}

export function writeMemory(layout: Layout, memory: Memory): void {
  // Beside, then in its place: on a full disk the old one stays, which says that the token is provisioned.
  const beside = `${layout.memory}.new`;
  writeFile(beside, `${JSON.stringify(memory, null, 2)}\n`, '--dir');
  renameSync(beside, layout.memory);
}

/** A folder with other things in it is refused: a sandbox is a folder that may be deleted as a whole. */
export function refuseForeignFolder(layout: Layout, names: readonly string[]): void {
  const foreign = names.filter((name) => name !== path.basename(layout.lock));
  if (foreign.length === 0) return;
  throw usage(`${layout.dir} holds other things than a sandbox`, { field: '--dir', action: 'Name a new or empty folder.' });
}

export function refuseOther(what: string, option: string): UkeyError {
  return usage(`this sandbox was made with another ${what}`, { field: option, action: `Leave ${option} out, or use another --dir.` });
}
