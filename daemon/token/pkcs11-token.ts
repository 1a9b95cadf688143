// Owns: the Token of any vendor's module, put together from session, seal key, wrapping and data objects.
// Invariants: handles are found again in each epoch of the session; the token is ours only while its public key is the one
// first seen; no signature leaves unverified; one automatic retry of a wrong signature, on a fresh session, then token-failed.
// Must not: keep a PIN, so that a lost login always ends with `locked`; import pkcs11js.
import type { KeyObject } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import { CkrError, ckrTable, reactionOf } from '#token/ckr.ts';
import { CK, type Cryptoki, type CryptokiTokenInfo, type Handle } from '#token/cryptoki.ts';
import { checkObject, readDataObject, writeDataObject } from '#token/data-object.ts';
import { type ModuleWrapMethod, mayWrap, moduleWrapMethods, signedKeyText, unwrapBlob, wrapProven } from '#token/key-wrap.ts';
import { checkPin, type PinField, pinLimits } from '#token/pin.ts';
import { algorithmOf, fingerprintOf, signatureHolds } from '#token/public-key.ts';
import { findPrivate, findSealPublic, generateSealPair, rawSignature, type SealPublic } from '#token/seal-key.ts';
import { hasUserPin, isInitialized, pinStateOf, type SlotChoice } from '#token/slot.ts';
import type { SignatureAlgorithm, Token, TokenFacts, WrapMethod, WrappedKey } from '#token/token.ts';
import { TokenSession, vanished } from '#token/token-session.ts';

const labelBytes = 32;
const lockedForATimeAction =
  "Wait until it lets go, or reset its lock with its vendor's tool (a TPM: tpm2_dictionarylockout --clear-lockout); then log in with the right PIN.";
/** No further than a fresh session: what a module or a token cannot do must not cost the login. A token that is gone shows in whatever is asked next. */
const keepLogin = { endAt: 'session' } as const;
const loginChallenge = Buffer.from('ukeyd/1 login check: proves that the key pair belongs together', 'utf8');

/** The token that `choice` names. Throws no-token. */
export function createPkcs11Token(cryptoki: Cryptoki, choice: SlotChoice): Pkcs11Token {
  const token = new Pkcs11Token(cryptoki, choice);
  token.facts();
  return token;
}

export class Pkcs11Token implements Token {
  readonly #cryptoki: Cryptoki;
  readonly #session: TokenSession;
  #seal: SealPublic | null = null;
  #privateKey: { readonly epoch: number; readonly handle: Handle } | null = null;

  constructor(cryptoki: Cryptoki, choice: SlotChoice) {
    this.#cryptoki = cryptoki;
    this.#session = new TokenSession(cryptoki, choice);
  }

  facts(): TokenFacts {
    let { info } = this.#session.locate();
    // Asking for an object is what tells a pulled token from a module that goes on showing it.
    const provisioned = isInitialized(info) && this.#session.run('public', (session) => this.#see(session)) !== null;
    this.#session.refreshLogin();
    // Read last, because the ladder may have found the token in another slot meanwhile.
    ({ info } = this.#session.locate());
    return {
      module: this.#cryptoki.description(),
      label: info.label,
      serial: info.serial,
      model: info.model,
      manufacturer: info.manufacturer,
      provisioned,
      loggedIn: this.#session.loggedIn,
      triesLeft: null,
      pinState: pinStateOf(info.flags),
    };
  }

  login(pin: Uint8Array): void {
    const { info } = this.#session.locate();
    this.#check(info, pin, 'pin');
    if (!isInitialized(info) || !hasUserPin(info)) throw new UkeyError('token-failed', 'the token is blank: provision it first');
    this.#enter(CK.CKU_USER, pin);
    try {
      const seal = this.#mustSee();
      const signature = this.#session.run('login', (session) => this.#signOnce(session, seal, loginChallenge));
      if (!signatureHolds(seal.key, loginChallenge, signature)) {
        throw new UkeyError('token-failed', 'the private key of the token does not belong to its public key');
      }
    } catch (error) {
      this.#session.logout();
      throw error;
    }
  }

  logout(): void {
    this.#session.logout();
  }

  /**
   * A blank token is initialised; one that has a user PIN but no seal key (made ready by its vendor, or left by a crash
   * between the steps here) is finished with the same PINs. Throws token-failed when a seal key is there already.
   */
  provision(options: { readonly label: string; readonly pin: Uint8Array; readonly soPin: Uint8Array }): void {
    let { info } = this.#session.locate();
    let isFresh = false;
    const bytes = Buffer.byteLength(options.label);
    if (bytes === 0 || bytes > labelBytes || options.label !== options.label.trim()) {
      throw new UkeyError('invalid-request', `a label has 1 to ${labelBytes} bytes and no blank at its ends`, { field: 'label' });
    }
    this.#check(info, options.pin, 'pin');
    this.#check(info, options.soPin, 'soPin');
    if (isInitialized(info)) {
      this.#refuseProvisioned();
    } else {
      this.#session.close();
      const { slot } = this.#session.locate();
      orVendorsTool('initialises no token', () => refusedAs('soPin', () => this.#cryptoki.initToken(slot, options.soPin, options.label)));
      // An initialised token without a user PIN now, whatever its flags say; a crash here is finished by the next provision.
      info = this.#session.adopt(options.label);
      isFresh = true;
    }
    if (isFresh || !hasUserPin(info)) this.#setUserPin(info, options.soPin, options.pin, 'pin');
    this.#generate(options);
  }

  /**
   * C_InitToken of a token that has been initialised: PKCS#11 3.0 §5.5.7 destroys all objects on it and the user PIN. Where a module has none
   * for such a token, nothing is destroyed: token-failed.
   */
  reset({ label, soPin }: { readonly label: string; readonly soPin: Uint8Array }): void {
    const { info } = this.#session.locate();
    this.#check(info, soPin, 'soPin');
    if ((info.flags & CK.CKF_SO_PIN_LOCKED) !== 0) throw new UkeyError('pin-locked', 'the SO PIN is locked');
    if ((info.flags & CK.CKF_SO_PIN_FINAL_TRY) !== 0) throw new UkeyError('pin-last-try', 'one try of the SO PIN is left');
    orVendorsTool('empties no token', () => {
      // A login proves the SO PIN first: there are modules whose C_InitToken takes any (NSS).
      if (this.#session.loggedIn) this.#session.logout();
      this.#enter(CK.CKU_SO, soPin);
      this.close(); // no module takes it while a session is open
      const { slot } = this.#session.locate();
      refusedAs('soPin', () => this.#cryptoki.initToken(slot, soPin, label));
    });
    this.#seal = null;
    this.#privateKey = null;
    this.#session.adopt(label);
  }

  publicKey(): KeyObject {
    return this.#mustSee().key;
  }

  algorithm(): SignatureAlgorithm {
    return algorithmOf(this.#mustSee().key);
  }

  sign(message: Uint8Array): Uint8Array {
    if (Buffer.from(message.buffer, message.byteOffset, message.byteLength).subarray(0, signedKeyText.length).equals(signedKeyText)) {
      throw new UkeyError('internal', 'this text is signed for a key, never for a caller');
    }
    const seal = this.#mustSee();
    const signature = this.#session.run('login', (session) => this.#signOnce(session, seal, message));
    if (signatureHolds(seal.key, message, signature)) return signature;
    // Empty and wrong signatures come from real drivers now and then; a fresh session is the cure that keeps the login.
    const again = this.#session.run('login', (session) => this.#signOnce(session, seal, message), { startAt: 'session' });
    if (signatureHolds(seal.key, message, again)) return again;
    throw new UkeyError('token-failed', 'the token signed wrongly twice');
  }

  wrapDataKey(dataKey: Uint8Array, only?: WrapMethod): WrappedKey {
    const seal = this.#mustSee();
    const { slot } = this.#session.locate();
    const mechanisms = this.#cryptoki.mechanisms(slot);
    const refusals: unknown[] = [];
    for (const method of moduleWrapMethods) {
      if (only !== undefined && only !== method) continue;
      if (!mayWrap(method, mechanisms)) continue;
      try {
        const place = (session: Handle) => ({ cryptoki: this.#cryptoki, session, seal });
        const blob = this.#session.run('login', (session) => wrapProven(method, place(session), dataKey), keepLogin);
        return { method, blob };
      } catch (error) {
        if (!(error instanceof UkeyError) || error.code === 'locked' || error.code === 'no-token' || error.code === 'internal') throw error;
        refusals.push(error);
      }
    }
    throw new UkeyError('token-failed', `the token can wrap no key${only === undefined ? '' : ` by ${only}`}`, {
      cause: new AggregateError(refusals),
    });
  }

  unwrapDataKey(wrapped: WrappedKey): Uint8Array {
    const method = moduleWrapMethods.find((known) => known === wrapped.method);
    if (method === undefined) throw new UkeyError('token-failed', `a token of a module does not wrap by ${wrapped.method}`);
    return this.#unwrap(method, Buffer.from(wrapped.blob));
  }

  readObject(name: string): Uint8Array | null {
    checkObject(name);
    return this.#session.run('login', (session) => readDataObject(this.#cryptoki, session, name), keepLogin);
  }

  writeObject(name: string, value: Uint8Array): boolean {
    checkObject(name, value);
    return this.#session.run('login', (session) => writeDataObject(this.#cryptoki, session, name, value), keepLogin);
  }

  changePin(oldPin: Uint8Array, newPin: Uint8Array): void {
    const { info } = this.#session.locate();
    this.#check(info, oldPin, 'oldPin');
    this.#check(info, newPin, 'newPin');
    const wasLoggedIn = this.#session.loggedIn;
    // C_Login says of a wrong PIN that it is one; some modules' C_SetPIN does not (tpm2-pkcs11).
    if (!wasLoggedIn) this.#enter(CK.CKU_USER, oldPin);
    try {
      const session = this.#proven();
      refusedAs('newPin', () => this.#cryptoki.setPin(session, oldPin, newPin));
    } catch (error) {
      if (wasLoggedIn && reactionOf(error) === 'retry-session' && this.#stillSigns())
        throw new UkeyError('pin-incorrect', 'the token gives no reason and signs as before: the old PIN is wrong', { cause: error });
      throw this.#lockedFor(error, CK.CKU_USER);
    } finally {
      if (!wasLoggedIn) this.#session.logout();
    }
  }

  unblockPin(soPin: Uint8Array, newPin: Uint8Array): void {
    const { info } = this.#session.locate();
    this.#check(info, soPin, 'soPin');
    this.#check(info, newPin, 'newPin');
    this.#setUserPin(info, soPin, newPin, 'newPin');
  }

  close(): void {
    if (this.#session.loggedIn) this.#session.logout();
    this.#session.close();
  }

  /** The seal's public part on this token, checked to be the one seen first; null on a token without one. */
  #see(session: Handle): SealPublic | null {
    const seen = findSealPublic(this.#cryptoki, session);
    if (seen === null) {
      if (this.#seal !== null) throw vanished('public key');
      return null;
    }
    if (this.#seal !== null && !fingerprintOf(this.#seal.key).equals(fingerprintOf(seen.key))) {
      throw new UkeyError('token-failed', 'the token holds another seal key than before');
    }
    this.#seal ??= seen;
    return seen;
  }

  #mustSee(): SealPublic {
    if (this.#seal !== null) return this.#seal;
    const seal = this.#session.run('public', (session) => this.#see(session));
    if (seal !== null) return seal;
    if (this.#session.loggedIn) throw new UkeyError('token-failed', 'the token holds no seal key: provision it first');
    const { info } = this.#session.locate();
    throw hasUserPin(info)
      ? new UkeyError('locked', 'the public key is not to be seen before login')
      : new UkeyError('token-failed', 'the token is blank: provision it first');
  }

  #signOnce(session: Handle, seal: SealPublic, message: Uint8Array): Buffer {
    return rawSignature(this.#cryptoki, session, this.#privateHandle(session, seal), seal.key, message);
  }

  #privateHandle(session: Handle, seal: SealPublic): Handle {
    const epoch = this.#session.epoch;
    if (this.#privateKey?.epoch !== epoch) this.#privateKey = { epoch, handle: findPrivate(this.#cryptoki, session, seal.id) };
    return this.#privateKey.handle;
  }

  #unwrap(method: ModuleWrapMethod, blob: Buffer): Uint8Array {
    const seal = this.#mustSee();
    const unwrapped = (session: Handle) => unwrapBlob(method, { cryptoki: this.#cryptoki, session, seal }, blob);
    try {
      return this.#session.run('login', unwrapped, keepLogin);
    } catch (error) {
      // A damaged blob and a lost token look alike in some modules: ask for the token before blaming the blob.
      if (reactionOf(error) === 'retry-session') this.#session.run('login', (session) => this.#privateHandle(session, seal));
      throw error;
    }
  }

  /** One C_Login. */
  #enter(userType: number, pin: Uint8Array): void {
    try {
      this.#session.login(userType, pin);
    } catch (error) {
      throw this.#lockedFor(error, userType);
    }
  }

  /** A lock that the flags do not tell of may be one that lets go by itself, as a TPM's: what to do then is another thing. */
  #lockedFor(error: unknown, userType: number): unknown {
    if (!(error instanceof CkrError) || error.ckr !== ckrTable.CKR_PIN_LOCKED.value) return error;
    const { info } = this.#session.locate();
    const isTold = (info.flags & (userType === CK.CKU_SO ? CK.CKF_SO_PIN_LOCKED : CK.CKF_USER_PIN_LOCKED)) !== 0;
    if (isTold) return error;
    return new UkeyError('pin-locked', 'the token has locked itself after wrong PINs, and does not tell for how long', {
      cause: error,
      action: userType === CK.CKU_SO ? lockedForATimeAction : `${lockedForATimeAction} If that does not help, unblock it with its SO-PIN.`,
    });
  }

  /** Without the ladder, which could cost the login. */
  #stillSigns(): boolean {
    try {
      const seal = this.#mustSee();
      const signature = this.#session.run('login', (session) => this.#signOnce(session, seal, loginChallenge), { endAt: 'first' });
      return signatureHolds(seal.key, loginChallenge, signature);
    } catch (error) {
      if (error instanceof UkeyError) return false;
      throw error;
    }
  }

  #proven(): Handle {
    return this.#session.run('public', (session) => {
      this.#cryptoki.sessionState(session);
      return session;
    });
  }

  /** Sets the user PIN with the SO PIN. Logs whoever is logged in out, and leaves nobody logged in. */
  #setUserPin(info: CryptokiTokenInfo, soPin: Uint8Array, newPin: Uint8Array, field: PinField): void {
    if ((info.flags & CK.CKF_SO_PIN_LOCKED) !== 0) throw new UkeyError('pin-locked', 'the SO PIN is locked');
    // Nothing unlocks an SO PIN: its last try is not for a program to spend.
    if ((info.flags & CK.CKF_SO_PIN_FINAL_TRY) !== 0) throw new UkeyError('pin-last-try', 'one try of the SO PIN is left');
    if (this.#session.loggedIn) this.#session.logout();
    orVendorsTool('lets no SO PIN set a PIN', () => this.#enter(CK.CKU_SO, soPin));
    try {
      const session = this.#proven();
      orVendorsTool('lets no SO PIN set a PIN', () => refusedAs(field, () => this.#cryptoki.initPin(session, newPin)));
    } finally {
      this.#session.logout();
    }
  }

  #generate({ pin, soPin }: { readonly pin: Uint8Array; readonly soPin: Uint8Array }): void {
    const { info, slot } = this.#session.locate();
    const state = pinStateOf(info.flags);
    if (state === 'locked') throw new UkeyError('pin-locked', 'no try is left');
    if (state === 'last') throw new UkeyError('pin-last-try', 'one try is left');
    try {
      this.#enter(CK.CKU_USER, pin);
    } catch (error) {
      // Left so by a crash behind C_InitToken; no try was spent. Some modules set the flag without a PIN (tpm2-pkcs11).
      if (!(error instanceof CkrError && error.ckr === ckrTable.CKR_USER_PIN_NOT_INITIALIZED.value)) throw error;
      this.#setUserPin(info, soPin, pin, 'pin');
      this.#enter(CK.CKU_USER, pin);
    }
    try {
      // Once more, because some modules show a public key only after login.
      this.#refuseProvisioned();
      const mechanisms = this.#cryptoki.mechanisms(slot);
      this.#seal = this.#session.run('login', (session) => generateSealPair(this.#cryptoki, session, mechanisms), { endAt: 'first' });
    } finally {
      this.#session.logout();
    }
  }

  #refuseProvisioned(): void {
    if (this.#session.run('public', (session) => this.#see(session)) !== null) {
      throw new UkeyError('token-failed', 'the token is not blank: it holds a seal key');
    }
  }

  #check(info: CryptokiTokenInfo, pin: Uint8Array, field: PinField): void {
    checkPin(pin, pinLimits(info.pinMinBytes, info.pinMaxBytes), field);
  }
}

/** What a module has no call for is to be done with the tool of its vendor. */
function orVendorsTool(what: string, call: () => void): void {
  try {
    call();
  } catch (error) {
    if (!(error instanceof CkrError) || (error.reaction !== 'stop' && error.reaction !== 'next-method')) throw error;
    throw new UkeyError('token-failed', `the module ${what}: ${error.message}`, {
      cause: error,
      action: "Do it with the tool of the token's vendor, or use another token (docs/token.md).",
    });
  }
}

/** A new PIN that the token finds too short, too long or too weak is a fault of the request, not a wrong PIN. */
function refusedAs(field: PinField, call: () => void): void {
  try {
    call();
  } catch (error) {
    const formOfPin: readonly number[] = [
      ckrTable.CKR_PIN_INVALID.value,
      ckrTable.CKR_PIN_LEN_RANGE.value,
      ckrTable.CKR_PIN_TOO_WEAK.value,
    ];
    if (error instanceof CkrError && formOfPin.includes(error.ckr)) {
      throw new UkeyError('invalid-request', 'the token does not take this PIN', { field, cause: error });
    }
    throw error;
  }
}
