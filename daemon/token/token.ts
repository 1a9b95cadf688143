// Owns: what the KEY of a token can do for the holder. Two implementations: pkcs11.ts (any vendor's module) and soft-token.ts.
// Invariants: every call is synchronous and runs only inside the holder's process; a signature is returned only after it
// was verified with the token's public key; no private key or PIN ever leaves an implementation.
// Errors are UkeyError: no-token, locked, pin-incorrect, pin-last-try, pin-locked, token-failed; and invalid-request with the field
// for what no token could take (an empty PIN, a control character in it, a label or object that is too long), before any try is spent.
import type { KeyObject } from 'node:crypto';

/** COSE algorithm names (RFC 9053 §2.1, RFC 8812 §2) that a token may sign seals with; best first. */
export type SignatureAlgorithm = 'ES256' | 'PS256' | 'RS256';

/** How the data key is wrapped, best first (store/FORMAT.md §3). The name stands in the store's key slot. */
export type WrapMethod = 'aes-kw' | 'rsa-oaep' | 'rsa-pkcs1' | 'ecdh-p256-hkdf' | 'data-object-kek' | 'rsa-signature-hkdf' | 'soft-scrypt';

/** A wrapped data key: what a key slot of the FLASH holds. `blob` means what `method` says. */
export interface WrappedKey {
  readonly method: WrapMethod;
  readonly blob: Uint8Array;
}

export type PinState = 'ok' | 'low' | 'last' | 'locked';

export interface TokenFacts {
  /** `embedded soft token` or the module's library description. */
  readonly module: string;
  readonly label: string;
  readonly serial: string;
  readonly model: string;
  readonly manufacturer: string;
  /** false: blank token, `provision` first. */
  readonly provisioned: boolean;
  readonly loggedIn: boolean;
  /** null when the module does not tell a number (PKCS#11 knows flags only). */
  readonly triesLeft: number | null;
  readonly pinState: PinState;
}

export interface Token {
  /** Reads afresh from the device. Throws no-token when it is gone. */
  facts(): TokenFacts;
  /**
   * One try with the PIN. The caller (holder) has asked login.ts before whether a try may be spent.
   * Finds the key pair again by CKA_ID and checks it against its public key. The PIN's bytes are the caller's to wipe.
   */
  login(pin: Uint8Array): void;
  logout(): void;
  /** Creates user PIN and key pair on a blank token; nobody is logged in afterwards. Throws token-failed when it is not blank. */
  provision(options: { readonly label: string; readonly pin: Uint8Array; readonly soPin: Uint8Array }): void;
  /**
   * Everything on the token is destroyed, its keys for ever, and `provision` makes it another one: only for a ledger that ends (holder/renewing.ts).
   * One try with the SO PIN, never its last one (pin-last-try). Nobody is logged in afterwards.
   */
  reset(options: { readonly label: string; readonly soPin: Uint8Array }): void;
  /** Public key of the seal key pair. Throws `locked` before login where the module needs one. */
  publicKey(): KeyObject;
  algorithm(): SignatureAlgorithm;
  /** Signs `message` (hashed inside with SHA-256), verifies, returns the COSE form: raw r||s for ES256. One retry on a fresh session if the first is wrong. */
  sign(message: Uint8Array): Uint8Array;
  /** Wraps 32 random bytes with the best method that was proven by a real operation; `only` asks for one method (probing). */
  wrapDataKey(dataKey: Uint8Array, only?: WrapMethod): WrappedKey;
  /** The caller wipes the result. Throws token-failed when it cannot be unwrapped. */
  unwrapDataKey(wrapped: WrappedKey): Uint8Array;
  /** Private data object by name, or null. Null always where the module has no data objects. */
  readObject(name: string): Uint8Array | null;
  /** Replaces the object (create new, then destroy old). Returns false where the module has no data objects. */
  writeObject(name: string, value: Uint8Array): boolean;
  /**
   * One try with the old PIN, as login is; ask login.ts first. The login state stays as it is.
   * Throws invalid-request (`newPin`) when the token does not take the new one.
   */
  changePin(oldPin: Uint8Array, newPin: Uint8Array): void;
  /** One try with the SO PIN (never its last one: pin-last-try), then a new user PIN with all its tries. Nobody is logged in afterwards. */
  unblockPin(soPin: Uint8Array, newPin: Uint8Array): void;
  /** Logs out and closes the session; the module stays loaded until the process ends. */
  close(): void;
}
