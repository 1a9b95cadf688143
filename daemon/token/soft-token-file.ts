// Owns: the file of the embedded soft token: its one spelling (JSON, version 1), and how it is replaced.
// Invariants: mode 0600, and refused when others may read it; replaced as a whole by a temporary file, fsync, rename, fsync of the
// directory, so that after a crash either the old or the new file is there, never a mixture; read strictly: no unknown field.
// Cipher: scrypt (RFC 7914) N=32768, r=8, p=1 of a PIN gives the key of a slot; a slot is the master key in a box; the vault is
// the private key, the wrapping key and the data objects in a box under the master key. Boxes are those of key-box.ts.
// Known limit, said in the docs too: whoever can copy the file can try PINs at leisure; tries are counted against people, not thieves.
import { randomBytes, scryptSync } from 'node:crypto';
import { closeSync, existsSync, fstatSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { UkeyError } from '#ipc-schema/errors.ts';
import { boxKeyBytes, openBox, sealBox } from '#token/key-box.ts';
import { wipe } from '#token/pin.ts';

const fileMaxBytes = 4 * 1024 * 1024;
const saltBytes = 16;
const scryptCost = { N: 2 ** 15, r: 8, p: 1, maxmem: 64 * 1024 * 1024 } as const;
const format = 'ukeyd embedded soft token';
const kdf = 'scrypt-32768-8-1';

export interface PinSlot {
  readonly salt: string;
  readonly box: string;
}

export interface BlankFile {
  readonly kind: 'blank';
  readonly serial: string;
}

export interface ProvisionedFile {
  readonly kind: 'provisioned';
  readonly serial: string;
  readonly label: string;
  readonly triesLeft: number;
  readonly soTriesLeft: number;
  readonly user: PinSlot;
  readonly so: PinSlot;
  /** Base64 SubjectPublicKeyInfo. */
  readonly publicKey: string;
  readonly vault: string;
}

export type SoftTokenFile = BlankFile | ProvisionedFile;

export const softTriesMax = 8;

/** null when there is no file. Throws token-failed when it is not one of ours, or readable by others. */
export function readSoftTokenFile(path: string): SoftTokenFile | null {
  let text: string;
  try {
    const file = openSync(path, 'r');
    try {
      const { mode, size } = fstatSync(file);
      if (process.platform !== 'win32' && (mode & 0o077) !== 0) {
        throw new UkeyError('token-failed', `others may read the soft token ${path}`, { action: `chmod 600 ${path}` });
      }
      if (size > fileMaxBytes) throw new UkeyError('token-failed', `the soft token ${path} is larger than any of ours`);
      text = readFileSync(file, 'utf8');
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    if (cause instanceof UkeyError) throw cause;
    if (errnoOf(cause) === 'ENOENT') return null;
    throw new UkeyError('token-failed', `the soft token ${path} cannot be read`, { cause });
  }
  return decode(text, path);
}

/** Durable when it returns. `fresh`: never over a file that is there (Throws token-failed). */
export function writeSoftTokenFile(path: string, file: SoftTokenFile, { fresh = false } = {}): void {
  if (fresh && existsSync(path)) throw new UkeyError('token-failed', `${path} is there already`);
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const handle = openSync(temporary, 'wx', 0o600);
    try {
      writeFileSync(handle, `${JSON.stringify({ format, version: 1, kdf, ...file }, null, 1)}\n`);
      fsyncSync(handle);
    } finally {
      closeSync(handle);
    }
    // The new bytes are durable under another name; a crash here leaves the old token and a stray file without a use.
    renameSync(temporary, path);
    syncDirectory(dirname(path));
    // The new name is durable now.
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw new UkeyError('token-failed', `the soft token ${path} cannot be written`, { cause });
  }
}

export function sealSlot(pin: Uint8Array, masterKey: Uint8Array, purpose: string): PinSlot {
  const salt = randomBytes(saltBytes);
  const key = stretched(pin, salt);
  try {
    return { salt: salt.toString('base64'), box: sealBox(key, masterKey, purpose).toString('base64') };
  } finally {
    wipe(key);
  }
}

/** The master key, or null when the PIN is wrong: the tag of the box tells, nothing else does. */
export function openSlot(pin: Uint8Array, slot: PinSlot, purpose: string): Buffer | null {
  const key = stretched(pin, Buffer.from(slot.salt, 'base64'));
  try {
    return openBox(key, Buffer.from(slot.box, 'base64'), purpose);
  } finally {
    wipe(key);
  }
}

function stretched(pin: Uint8Array, salt: Uint8Array): Buffer {
  return scryptSync(pin, salt, boxKeyBytes, scryptCost);
}

function syncDirectory(path: string): void {
  // Windows gives no handle to a directory that could be synced; its rename is journalled.
  if (process.platform === 'win32') return;
  const handle = openSync(path, 'r');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

function decode(text: string, path: string): SoftTokenFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new UkeyError('token-failed', `the soft token ${path} is damaged`, { cause });
  }
  const common = ['format', 'version', 'kdf', 'kind', 'serial'];
  const more = ['label', 'triesLeft', 'soTriesLeft', 'user', 'so', 'publicKey', 'vault'];
  if (isRecord(value) && value['format'] === format && value['version'] === 1 && value['kdf'] === kdf && isText(value['serial'])) {
    const { kind, serial, label, triesLeft, soTriesLeft, user, so, publicKey, vault } = value;
    if (kind === 'blank' && hasExactly(value, common)) return { kind, serial };
    if (kind === 'provisioned' && hasExactly(value, [...common, ...more])) {
      if (isText(label) && isTries(triesLeft) && isTries(soTriesLeft) && isSlot(user) && isSlot(so) && isText(publicKey) && isText(vault)) {
        return { kind, serial, label, triesLeft, soTriesLeft, user, so, publicKey, vault };
      }
    }
  }
  throw new UkeyError('token-failed', `${path} is no soft token of this version, or it is damaged`);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function hasExactly(value: Record<string, unknown>, keys: readonly string[]): boolean {
  return Object.keys(value).length === keys.length && keys.every((key) => Object.hasOwn(value, key));
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0;
}

function isTries(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= softTriesMax;
}

function isSlot(value: unknown): value is PinSlot {
  return isRecord(value) && hasExactly(value, ['salt', 'box']) && isText(value['salt']) && isText(value['box']);
}

function errnoOf(thrown: unknown): string | null {
  return thrown instanceof Error && 'code' in thrown && typeof thrown.code === 'string' ? thrown.code : null;
}
