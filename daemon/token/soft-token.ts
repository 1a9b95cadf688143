// Owns: the embedded soft token: a Token without any module, in one PIN-protected file (soft-token-file.ts).
// Invariants: it names itself `embedded soft token` in its facts; a try is taken from the count durably BEFORE the PIN is tried and
// given back only after success, so that killing the process never wins a try; the private key is decrypted in memory only
// between login and logout, and what can be wiped is wiped; a file that is gone or another's is a token pulled out.
// Must not: pretend to be hardware. Its protection is the PIN and the file's mode.
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';
import { existsSync } from 'node:fs';
import { UkeyError } from '#ipc-schema/errors.ts';
import { checkObject } from '#token/data-object.ts';
import { boxKeyBytes, mustOpenBox, openBox, sealBox } from '#token/key-box.ts';
import { checkPin, wipe } from '#token/pin.ts';
import { signatureHolds } from '#token/public-key.ts';
import {
  openSlot,
  type ProvisionedFile,
  readSoftTokenFile,
  type SoftTokenFile,
  sealSlot,
  softTriesMax,
  writeSoftTokenFile,
} from '#token/soft-token-file.ts';
import type { PinState, SignatureAlgorithm, Token, TokenFacts, WrapMethod, WrappedKey } from '#token/token.ts';

export const softTokenName = 'embedded soft token';
const softPinLimits = { minBytes: 4, maxBytes: 64 };
const lowTries = 3;
const maxObjects = 64;

export interface SoftTokenOptions {
  readonly path: string;
  /** Makes a blank token where there is no file. */
  readonly create?: boolean;
}

/** Throws no-token when there is no file and none is to be made. */
export function openSoftToken(options: SoftTokenOptions): SoftToken {
  if (options.create === true && readSoftTokenFile(options.path) === null) {
    writeSoftTokenFile(options.path, { kind: 'blank', serial: randomBytes(8).toString('hex') }, { fresh: true });
  }
  return new SoftToken(options.path);
}

/** What the vault holds, decrypted. */
interface Vault {
  readonly masterKey: Buffer;
  readonly privateKey: KeyObject;
  readonly privateDer: Buffer;
  readonly wrappingKey: Buffer;
  readonly objects: Map<string, Buffer>;
}

export class SoftToken implements Token {
  readonly #path: string;
  readonly #serial: string;
  #vault: Vault | null = null;
  #publicKey: KeyObject | null = null;

  constructor(path: string) {
    this.#path = path;
    const file = readSoftTokenFile(path);
    if (file === null) throw gone();
    this.#serial = file.serial;
  }

  facts(): TokenFacts {
    const file = this.#read();
    const triesLeft = file.kind === 'provisioned' ? file.triesLeft : softTriesMax;
    return {
      module: softTokenName,
      label: file.kind === 'provisioned' ? file.label : '',
      serial: file.serial,
      model: softTokenName,
      manufacturer: 'ukeyd',
      provisioned: file.kind === 'provisioned',
      loggedIn: this.#vault !== null,
      triesLeft,
      pinState: pinStateOf(triesLeft),
    };
  }

  login(pin: Uint8Array): void {
    checkPin(pin, softPinLimits);
    const file = this.#provisioned();
    const { masterKey, file: after } = this.#spendTry(file, 'user', pin);
    if (this.#vault !== null) {
      wipe(masterKey);
      return;
    }
    this.#vault = openVault(after, masterKey);
  }

  logout(): void {
    const vault = this.#vault;
    this.#vault = null;
    if (vault !== null) wipe(vault.masterKey, vault.privateDer, vault.wrappingKey, ...vault.objects.values());
  }

  provision(options: { readonly label: string; readonly pin: Uint8Array; readonly soPin: Uint8Array }): void {
    const file = this.#read();
    if (file.kind !== 'blank') throw new UkeyError('token-failed', 'the token is not blank: it holds a seal key');
    const bytes = Buffer.byteLength(options.label);
    if (bytes === 0 || bytes > 32 || options.label !== options.label.trim()) {
      throw new UkeyError('invalid-request', 'a label has 1 to 32 bytes and no blank at its ends', { field: 'label' });
    }
    checkPin(options.pin, softPinLimits, 'pin');
    checkPin(options.soPin, softPinLimits, 'soPin');
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const masterKey = randomBytes(boxKeyBytes);
    const vault: Vault = {
      masterKey,
      privateKey,
      privateDer: privateKey.export({ type: 'pkcs8', format: 'der' }),
      wrappingKey: randomBytes(boxKeyBytes),
      objects: new Map(),
    };
    const spki = publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
    const head = { kind: 'provisioned', serial: file.serial, label: options.label, publicKey: spki } as const;
    writeSoftTokenFile(this.#path, {
      ...head,
      triesLeft: softTriesMax,
      soTriesLeft: softTriesMax,
      user: sealSlot(options.pin, masterKey, slotPurpose('user', file.serial)),
      so: sealSlot(options.soPin, masterKey, slotPurpose('so', file.serial)),
      vault: sealVault(vault, file.serial, spki),
    });
    wipe(masterKey, vault.privateDer, vault.wrappingKey);
  }

  reset({ soPin }: { readonly soPin: Uint8Array }): void {
    checkPin(soPin, softPinLimits, 'soPin');
    const file = this.#provisioned();
    // Nothing unlocks an SO PIN: its last try is not for a program to spend.
    if (file.soTriesLeft === 1) throw new UkeyError('pin-last-try', 'one try of the SO PIN is left');
    wipe(this.#spendTry(file, 'so', soPin).masterKey);
    this.logout();
    writeSoftTokenFile(this.#path, { kind: 'blank', serial: file.serial });
    // Durable now: the keys are gone. A crash before this left the token as it was.
    this.#publicKey = null;
  }

  publicKey(): KeyObject {
    if (this.#publicKey === null) this.#publicKey = readPublic(this.#provisioned());
    return this.#publicKey;
  }

  algorithm(): SignatureAlgorithm {
    this.publicKey();
    return 'ES256';
  }

  sign(message: Uint8Array): Uint8Array {
    const { privateKey } = this.#open();
    const signature = sign('sha256', message, { key: privateKey, dsaEncoding: 'ieee-p1363' });
    if (!signatureHolds(this.publicKey(), message, signature)) throw new UkeyError('token-failed', 'the token signed wrongly');
    return signature;
  }

  wrapDataKey(dataKey: Uint8Array, only?: WrapMethod): WrappedKey {
    if (only !== undefined && only !== 'soft-scrypt') throw new UkeyError('token-failed', `a soft token does not wrap by ${only}`);
    const { wrappingKey } = this.#open();
    return { method: 'soft-scrypt', blob: sealBox(wrappingKey, dataKey, wrapPurpose(this.#serial)) };
  }

  unwrapDataKey(wrapped: WrappedKey): Uint8Array {
    const { wrappingKey } = this.#open();
    if (wrapped.method !== 'soft-scrypt') throw new UkeyError('token-failed', `a soft token does not wrap by ${wrapped.method}`);
    return mustOpenBox(wrappingKey, wrapped.blob, wrapPurpose(this.#serial));
  }

  readObject(name: string): Uint8Array | null {
    checkObject(name);
    const value = this.#open().objects.get(name);
    return value === undefined ? null : Buffer.from(value);
  }

  writeObject(name: string, value: Uint8Array): boolean {
    checkObject(name, value);
    const vault = this.#open();
    const file = this.#provisioned();
    const objects = new Map(vault.objects).set(name, Buffer.from(value));
    if (objects.size > maxObjects) throw new UkeyError('token-failed', `a soft token holds at most ${maxObjects} data objects`);
    writeSoftTokenFile(this.#path, { ...file, vault: sealVault({ ...vault, objects }, file.serial, file.publicKey) });
    // Durable now; a crash before this left the old value.
    const replaced = vault.objects.get(name);
    if (replaced !== undefined) wipe(replaced);
    this.#vault = { ...vault, objects };
    return true;
  }

  changePin(oldPin: Uint8Array, newPin: Uint8Array): void {
    checkPin(oldPin, softPinLimits, 'oldPin');
    checkPin(newPin, softPinLimits, 'newPin');
    const { masterKey, file } = this.#spendTry(this.#provisioned(), 'user', oldPin);
    this.#setUserPin(file, masterKey, newPin);
  }

  unblockPin(soPin: Uint8Array, newPin: Uint8Array): void {
    checkPin(soPin, softPinLimits, 'soPin');
    checkPin(newPin, softPinLimits, 'newPin');
    const file = this.#provisioned();
    // Nothing unlocks an SO PIN: its last try is not for a program to spend.
    if (file.soTriesLeft === 1) throw new UkeyError('pin-last-try', 'one try of the SO PIN is left');
    this.logout();
    const { masterKey, file: after } = this.#spendTry(file, 'so', soPin);
    this.#setUserPin(after, masterKey, newPin);
  }

  close(): void {
    this.logout();
  }

  #setUserPin(file: ProvisionedFile, masterKey: Buffer, newPin: Uint8Array): void {
    try {
      const user = sealSlot(newPin, masterKey, slotPurpose('user', file.serial));
      writeSoftTokenFile(this.#path, { ...file, user, triesLeft: softTriesMax });
    } finally {
      wipe(masterKey);
    }
  }

  /** Takes one try, durably, then tries the PIN, then gives the try back. Returns the file as it is now. */
  #spendTry(file: ProvisionedFile, who: 'user' | 'so', pin: Uint8Array): { masterKey: Buffer; file: ProvisionedFile } {
    const counter = who === 'user' ? 'triesLeft' : 'soTriesLeft';
    if (file[counter] === 0) throw new UkeyError('pin-locked', 'no try is left');
    writeSoftTokenFile(this.#path, { ...file, [counter]: file[counter] - 1 });
    // The spent try is durable now; a crash or kill from here on costs it.
    const masterKey = openSlot(pin, file[who], slotPurpose(who, file.serial));
    if (masterKey === null) {
      throw new UkeyError('pin-incorrect', 'the PIN is wrong', { field: who === 'user' ? 'pin' : 'soPin' });
    }
    const restored = { ...file, [counter]: softTriesMax };
    writeSoftTokenFile(this.#path, restored);
    return { masterKey, file: restored };
  }

  #open(): Vault {
    const vault = this.#vault;
    if (!existsSync(this.#path)) {
      this.logout();
      throw gone();
    }
    if (vault === null) throw new UkeyError('locked', 'nobody is logged in to the token');
    return vault;
  }

  #read(): SoftTokenFile {
    const file = readSoftTokenFile(this.#path);
    if (file === null || file.serial !== this.#serial) {
      this.logout();
      throw gone();
    }
    return file;
  }

  #provisioned(): ProvisionedFile {
    const file = this.#read();
    if (file.kind === 'blank') throw new UkeyError('token-failed', 'the token is blank: provision it first');
    return file;
  }
}

const gone = (): UkeyError => new UkeyError('no-token', 'the file of the soft token is not there, or is another token');
const slotPurpose = (who: 'user' | 'so', serial: string): string => `soft-scrypt ${who} pin ${serial}`;
const wrapPurpose = (serial: string): string => `soft-scrypt data key ${serial}`;
const vaultPurpose = (serial: string, publicKey: string): string => `soft-scrypt vault ${serial} ${publicKey}`;

function pinStateOf(triesLeft: number): PinState {
  if (triesLeft === 0) return 'locked';
  if (triesLeft === 1) return 'last';
  return triesLeft <= lowTries ? 'low' : 'ok';
}

function readPublic(file: ProvisionedFile): KeyObject {
  try {
    return createPublicKey({ key: Buffer.from(file.publicKey, 'base64'), type: 'spki', format: 'der' });
  } catch (cause) {
    throw new UkeyError('token-failed', 'the public key of the soft token is damaged', { cause });
  }
}

/** Vault: u32 length || PKCS#8 || wrapping key (32) || JSON of the objects. The public key in the associated data pairs them. */
function sealVault(vault: Vault, serial: string, publicKey: string): string {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(vault.privateDer.length);
  const objects = Object.fromEntries([...vault.objects].map(([name, value]) => [name, value.toString('base64')]));
  const plain = Buffer.concat([length, vault.privateDer, vault.wrappingKey, Buffer.from(JSON.stringify(objects))]);
  try {
    return sealBox(vault.masterKey, plain, vaultPurpose(serial, publicKey)).toString('base64');
  } finally {
    wipe(plain);
  }
}

function openVault(file: ProvisionedFile, masterKey: Buffer): Vault {
  const plain = openBox(masterKey, Buffer.from(file.vault, 'base64'), vaultPurpose(file.serial, file.publicKey));
  if (plain === null) {
    wipe(masterKey);
    throw new UkeyError('token-failed', 'the vault of the soft token is damaged');
  }
  const keyEnd = 4 + plain.readUInt32BE(0);
  const privateDer = Buffer.from(plain.subarray(4, keyEnd));
  const wrappingKey = Buffer.from(plain.subarray(keyEnd, keyEnd + boxKeyBytes));
  const stored: Record<string, string> = JSON.parse(plain.toString('utf8', keyEnd + boxKeyBytes));
  wipe(plain);
  const objects = new Map(Object.entries(stored).map(([name, value]) => [name, Buffer.from(value, 'base64')]));
  return { masterKey, privateDer, wrappingKey, objects, privateKey: createPrivateKey({ key: privateDer, type: 'pkcs8', format: 'der' }) };
}
