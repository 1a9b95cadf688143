// Owns: a Token in memory whose speed and faults a test chooses. What it has learnt outlives `open`, as a real token outlives a session.
// Invariants: real P-256 signatures; PIN tries are counted; calls block the thread as a driver's do.
import { createCipheriv, createDecipheriv, generateKeyPairSync, type KeyObject, randomBytes, sign } from 'node:crypto';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import type { SignatureAlgorithm, Token, TokenFacts, WrappedKey } from '#token/token.ts';

const triesMax = 3;

export class FakeToken implements Token {
  readonly serial = randomBytes(4).toString('hex');
  /** How long a signature blocks. */
  signMs = 0;
  isPresent = true;
  /** Codes of the next signatures that fail; `null` lets one pass. */
  readonly signFaults: (ErrorCode | null)[] = [];
  /** Called in each signature, before anything else. */
  onSign: () => void = () => undefined;
  signatures = 0;
  logins = 0;
  triesLeft = triesMax;
  isLoggedIn = false;
  #pin: Buffer | null = null;
  #soPin: Buffer = Buffer.alloc(0);
  #keys: { readonly publicKey: KeyObject; readonly privateKey: KeyObject } | null = null;
  readonly #wrappingKey = randomBytes(32);
  readonly #objects = new Map<string, Uint8Array>();

  facts(): TokenFacts {
    this.#mustBePresent();
    const pinState = this.triesLeft === 0 ? 'locked' : this.triesLeft === 1 ? 'last' : this.triesLeft < triesMax ? 'low' : 'ok';
    return {
      ...{ module: 'fake', label: 'fake', serial: this.serial, model: 'fake', manufacturer: 'test', pinState },
      ...{ provisioned: this.#keys !== null, loggedIn: this.isLoggedIn, triesLeft: this.triesLeft },
    };
  }

  login(pin: Uint8Array): void {
    this.#mustBePresent();
    this.logins += 1;
    if (this.triesLeft === 0) throw new UkeyError('pin-locked', 'locked');
    if (this.#pin === null || !this.#pin.equals(pin)) {
      this.triesLeft -= 1;
      throw new UkeyError('pin-incorrect', 'incorrect');
    }
    this.triesLeft = triesMax;
    this.isLoggedIn = true;
  }

  logout(): void {
    this.isLoggedIn = false;
  }

  reset({ soPin }: { readonly soPin: Uint8Array }): void {
    this.#mustBePresent();
    if (!this.#soPin.equals(soPin)) throw new UkeyError('pin-incorrect', 'incorrect', { field: 'soPin' });
    this.#keys = null;
    this.#objects.clear();
    this.isLoggedIn = false;
  }

  provision(options: { readonly pin: Uint8Array; readonly soPin?: Uint8Array }): void {
    this.#mustBePresent();
    if (this.#keys !== null) throw new UkeyError('token-failed', 'not blank');
    this.#pin = Buffer.from(options.pin);
    this.#soPin = Buffer.from(options.soPin ?? []);
    this.#keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  }

  publicKey(): KeyObject {
    return this.#pair().publicKey;
  }

  algorithm(): SignatureAlgorithm {
    return 'ES256';
  }

  sign(message: Uint8Array): Uint8Array {
    this.onSign();
    if (this.signMs > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, this.signMs);
    this.#mustBeOpen();
    const fault = this.signFaults.shift() ?? null;
    if (fault !== null) throw new UkeyError(fault, 'asked for by the test');
    this.signatures += 1;
    return sign('sha256', message, { key: this.#pair().privateKey, dsaEncoding: 'ieee-p1363' });
  }

  wrapDataKey(dataKey: Uint8Array): WrappedKey {
    this.#mustBeOpen();
    const nonce = randomBytes(12);
    const cipher = createCipheriv('aes-256-gcm', this.#wrappingKey, nonce);
    return { method: 'aes-kw', blob: Buffer.concat([nonce, cipher.update(dataKey), cipher.final(), cipher.getAuthTag()]) };
  }

  unwrapDataKey(wrapped: WrappedKey): Uint8Array {
    this.#mustBeOpen();
    const blob = Buffer.from(wrapped.blob);
    try {
      const decipher = createDecipheriv('aes-256-gcm', this.#wrappingKey, blob.subarray(0, 12));
      decipher.setAuthTag(blob.subarray(-16));
      return Buffer.concat([decipher.update(blob.subarray(12, -16)), decipher.final()]);
    } catch (cause) {
      throw new UkeyError('token-failed', 'cannot be unwrapped', { cause });
    }
  }

  readObject(name: string): Uint8Array | null {
    return this.#objects.get(name) ?? null;
  }

  writeObject(name: string, value: Uint8Array): boolean {
    this.#objects.set(name, Uint8Array.from(value));
    return true;
  }

  changePin(oldPin: Uint8Array, newPin: Uint8Array): void {
    const wasLoggedIn = this.isLoggedIn;
    this.login(oldPin);
    this.isLoggedIn = wasLoggedIn;
    this.#pin = Buffer.from(newPin);
  }

  unblockPin(soPin: Uint8Array, newPin: Uint8Array): void {
    this.isLoggedIn = false;
    if (!this.#soPin.equals(soPin)) throw new UkeyError('pin-incorrect', 'incorrect');
    this.#pin = Buffer.from(newPin);
    this.triesLeft = triesMax;
  }

  close(): void {
    this.isLoggedIn = false;
  }

  #pair(): { readonly publicKey: KeyObject; readonly privateKey: KeyObject } {
    if (this.#keys === null) throw new UkeyError('token-failed', 'blank');
    return this.#keys;
  }

  #mustBePresent(): void {
    if (!this.isPresent) {
      this.isLoggedIn = false;
      throw new UkeyError('no-token', 'pulled');
    }
  }

  #mustBeOpen(): void {
    this.#mustBePresent();
    if (!this.isLoggedIn) throw new UkeyError('locked', 'nobody is logged in');
  }
}
