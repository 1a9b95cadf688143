// Owns: the door to pkcs11js: loading a vendor's module once per process, and each call as the narrow Cryptoki shape.
// Invariants: synchronous calls only (the asynchronous ones keep raw pointers past their end); every refusal becomes a CkrError, also from the
// four functions of pkcs11js that throw plain errors; a PIN becomes a string inside the call; labels are padded to 32 bytes,
// because the module reads 32 bytes whatever pkcs11js passes.
// Must not: decide anything; know keys, tokens or the ladder.
import { createHash } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import pkcs11js from 'pkcs11js';
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { CkrError, ckrTable, reactionOf } from '#token/ckr.ts';
import { CK, type Cryptoki, type CryptokiTokenInfo, type Handle, type Mechanism, maxFound, type Template } from '#token/cryptoki.ts';
import { pinText } from '#token/pin.ts';
import { createPkcs11Token, type Pkcs11Token } from '#token/pkcs11-token.ts';
import type { SlotChoice } from '#token/slot.ts';

/** Room for any signature, wrapped key or plaintext here: RSA-8192 and more. */
const outputBytes = 2048;
const labelBytes = 32;

const wantsParametersAction =
  "The module may want to be told where its token is: its vendor's book says what to write to token.module_parameters (docs/token.md).";

/** pkcs11js's own constants, so that a test can compare our tables with them. */
export const packageConstants: Readonly<Record<string, unknown>> = { ...pkcs11js };

/** A module that was loaded stays loaded: unloading a driver under its own threads crashes some of them. */
const loaded = new Map<string, Cryptoki>();

export interface Pkcs11Options {
  /** Absolute path of the vendor's module. */
  readonly modulePath: string;
  /** Hex SHA-256 that the file must have (allow-list). */
  readonly moduleSha256?: string;
  /** What the module itself wants to be told in C_Initialize (pReserved), by its vendor's book: NSS and others. */
  readonly moduleParameters?: string;
  /** Default: the only token. */
  readonly slot?: SlotChoice;
}

/** Opens the token that `slot` names. Throws no-token when it is not there, token-failed when the module cannot be loaded. */
export function openPkcs11Token(options: Pkcs11Options): Pkcs11Token {
  return createPkcs11Token(loadModule(options.modulePath, options), options.slot ?? { kind: 'only' });
}

type Loading = Pick<Pkcs11Options, 'moduleSha256' | 'moduleParameters'>;

/** Loads a module, or gives the one that this process loaded before from the same file for the same parameters. */
export function loadModule(modulePath: string, { moduleSha256, moduleParameters }: Loading = {}): Cryptoki {
  // A bare name would let the loader search its path: another library than the one that was allowed.
  if (!isAbsolute(modulePath)) throw new UkeyError('token-failed', `the path of a PKCS#11 module must be absolute: ${modulePath}`);
  try {
    const path = realpathSync(modulePath);
    const name = JSON.stringify([path, moduleParameters]);
    const known = loaded.get(name);
    if (known !== undefined) return known;
    if (moduleSha256 !== undefined && createHash('sha256').update(readFileSync(path)).digest('hex') !== moduleSha256.toLowerCase()) {
      throw new UkeyError('token-failed', `the PKCS#11 module ${path} is not the one that was allowed (SHA-256)`);
    }
    const library = new pkcs11js.PKCS11();
    library.load(path);
    const module = new ModuleDoor(library, moduleParameters);
    loaded.set(name, module);
    return module;
  } catch (cause) {
    if (cause instanceof UkeyError) throw cause;
    const action = "Install the token's PKCS#11 module, or correct token.module in the configuration.";
    throw new UkeyError('token-failed', `the PKCS#11 module ${modulePath} cannot be loaded`, { cause, action });
  }
}

class ModuleDoor implements Cryptoki {
  readonly #library: pkcs11js.PKCS11;
  readonly #parameters: { readonly libraryParameters?: string };
  #initialized = false;

  constructor(library: pkcs11js.PKCS11, parameters: string | undefined) {
    this.#library = library;
    // pkcs11js hands on all but the last byte, and no zero behind it: two blanks stand for both.
    this.#parameters = parameters === undefined ? {} : { libraryParameters: `${parameters}  ` };
  }

  initialize(): void {
    if (this.#initialized) return;
    try {
      guarded('C_Initialize', () => this.#library.C_Initialize({ ...this.#parameters, flags: CK.CKF_OS_LOCKING_OK }));
    } catch (error) {
      const code = error instanceof CkrError ? error.ckr : null;
      if (
        code === ckrTable.CKR_CANT_LOCK.value ||
        code === ckrTable.CKR_NEED_TO_CREATE_THREADS.value ||
        code === ckrTable.CKR_ARGUMENTS_BAD.value
      ) {
        this.#initializePlainly();
      } else if (reactionOf(error) !== 'already') {
        throw error;
      }
    }
    this.#initialized = true;
  }

  /** Without a word about threads, which some modules do not take. */
  #initializePlainly(): void {
    try {
      guarded('C_Initialize', () => this.#library.C_Initialize({ ...this.#parameters, flags: 0 }));
    } catch (error) {
      const isUntold = this.#parameters.libraryParameters === undefined;
      if (!isUntold || !(error instanceof CkrError) || error.ckr !== ckrTable.CKR_ARGUMENTS_BAD.value) throw error;
      throw new UkeyError('token-failed', error.message, { cause: error, action: wantsParametersAction });
    }
  }

  finalize(): void {
    if (!this.#initialized) return;
    // Whatever C_Finalize answers, the module counts as uninitialised from here: the next initialize finds out.
    this.#initialized = false;
    guarded('C_Finalize', () => this.#library.C_Finalize());
  }

  description(): string {
    const info = guarded('C_GetInfo', () => this.#library.C_GetInfo());
    const version = `${info.libraryVersion.major}.${info.libraryVersion.minor}`;
    return `${text(info.manufacturerID)}: ${text(info.libraryDescription)} ${version}`;
  }

  slots(): Handle[] {
    return guarded('C_GetSlotList', () => this.#library.C_GetSlotList(true));
  }

  tokenInfo(slot: Handle): CryptokiTokenInfo {
    const info = guarded('C_GetTokenInfo', () => this.#library.C_GetTokenInfo(slot));
    return {
      label: text(info.label),
      manufacturer: text(info.manufacturerID),
      model: text(info.model),
      serial: text(info.serialNumber),
      flags: info.flags,
      pinMinBytes: info.minPinLen,
      pinMaxBytes: info.maxPinLen,
    };
  }

  mechanisms(slot: Handle): ReadonlySet<number> {
    return new Set(guarded('C_GetMechanismList', () => this.#library.C_GetMechanismList(slot)));
  }

  initToken(slot: Handle, soPin: Uint8Array, label: string): void {
    const padded = label + ' '.repeat(Math.max(0, labelBytes - Buffer.byteLength(label)));
    guarded('C_InitToken', () => this.#library.C_InitToken(slot, pinText(soPin, 'soPin'), padded));
  }

  openSession(slot: Handle): Handle {
    return guarded('C_OpenSession', () => this.#library.C_OpenSession(slot, CK.CKF_SERIAL_SESSION | CK.CKF_RW_SESSION));
  }

  closeSession(session: Handle): void {
    guarded('C_CloseSession', () => this.#library.C_CloseSession(session));
  }

  sessionState(session: Handle): number {
    return guarded('C_GetSessionInfo', () => this.#library.C_GetSessionInfo(session)).state;
  }

  login(session: Handle, userType: number, pin: Uint8Array): void {
    guarded('C_Login', () => this.#library.C_Login(session, userType, pinText(pin)));
  }

  logout(session: Handle): void {
    guarded('C_Logout', () => this.#library.C_Logout(session));
  }

  initPin(session: Handle, pin: Uint8Array): void {
    guarded('C_InitPIN', () => this.#library.C_InitPIN(session, pinText(pin)));
  }

  setPin(session: Handle, oldPin: Uint8Array, newPin: Uint8Array): void {
    guarded('C_SetPIN', () => this.#library.C_SetPIN(session, pinText(oldPin, 'oldPin'), pinText(newPin, 'newPin')));
  }

  find(session: Handle, template: Template): Handle[] {
    guarded('C_FindObjectsInit', () => this.#library.C_FindObjectsInit(session, [...template]));
    let found: Handle[];
    try {
      found = guarded('C_FindObjects', () => this.#library.C_FindObjects(session, maxFound));
    } catch (error) {
      try {
        guarded('C_FindObjectsFinal', () => this.#library.C_FindObjectsFinal(session));
      } catch (second) {
        // The search stays open on this session: only a new session helps, whatever the first error was.
        throw new CkrError('C_FindObjectsFinal', ckrTable.CKR_OPERATION_ACTIVE.value, new AggregateError([error, second]));
      }
      throw error;
    }
    guarded('C_FindObjectsFinal', () => this.#library.C_FindObjectsFinal(session));
    return found;
  }

  attribute(session: Handle, object: Handle, type: number): Buffer {
    const [result] = guarded('C_GetAttributeValue', () => this.#library.C_GetAttributeValue(session, object, [{ type }]));
    const value: unknown = result?.value;
    // A module may say OK and CK_UNAVAILABLE_INFORMATION at once; pkcs11js then gives undefined.
    if (!Buffer.isBuffer(value)) throw new CkrError('C_GetAttributeValue', ckrTable.CKR_ATTRIBUTE_TYPE_INVALID.value);
    return value;
  }

  createObject(session: Handle, template: Template): Handle {
    return guarded('C_CreateObject', () => this.#library.C_CreateObject(session, [...template]));
  }

  destroyObject(session: Handle, object: Handle): void {
    guarded('C_DestroyObject', () => this.#library.C_DestroyObject(session, object));
  }

  generateKey(session: Handle, mechanism: Mechanism, template: Template): Handle {
    return guarded('C_GenerateKey', () => this.#library.C_GenerateKey(session, native(mechanism), [...template]));
  }

  generateKeyPair(
    session: Handle,
    mechanism: Mechanism,
    publicTemplate: Template,
    privateTemplate: Template,
  ): { publicKey: Handle; privateKey: Handle } {
    return guarded('C_GenerateKeyPair', () =>
      this.#library.C_GenerateKeyPair(session, native(mechanism), [...publicTemplate], [...privateTemplate]),
    );
  }

  sign(session: Handle, mechanism: Mechanism, key: Handle, data: Uint8Array): Buffer {
    guarded('C_SignInit', () => this.#library.C_SignInit(session, native(mechanism), key));
    return guarded('C_Sign', () => this.#library.C_Sign(session, bytes(data), Buffer.alloc(outputBytes)));
  }

  decrypt(session: Handle, mechanism: Mechanism, key: Handle, data: Uint8Array): Buffer {
    guarded('C_DecryptInit', () => this.#library.C_DecryptInit(session, native(mechanism), key));
    return guarded('C_Decrypt', () => this.#library.C_Decrypt(session, bytes(data), Buffer.alloc(outputBytes)));
  }

  wrapKey(session: Handle, mechanism: Mechanism, wrappingKey: Handle, key: Handle): Buffer {
    return guarded('C_WrapKey', () => this.#library.C_WrapKey(session, native(mechanism), wrappingKey, key, Buffer.alloc(outputBytes)));
  }

  unwrapKey(session: Handle, mechanism: Mechanism, unwrappingKey: Handle, wrapped: Uint8Array, template: Template): Handle {
    return guarded('C_UnwrapKey', () =>
      this.#library.C_UnwrapKey(session, native(mechanism), unwrappingKey, bytes(wrapped), [...template]),
    );
  }

  deriveKey(session: Handle, mechanism: Mechanism, baseKey: Handle, template: Template): Handle {
    return guarded('C_DeriveKey', () => this.#library.C_DeriveKey(session, native(mechanism), baseKey, [...template]));
  }
}

/** The module's own text, of fixed width, padded with blanks (or, against the standard, with zeros). */
function text(field: string): string {
  return field.replace(/[\0 ]+$/u, '');
}

function bytes(data: Uint8Array): Buffer {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}

function native(mechanism: Mechanism): pkcs11js.Mechanism {
  switch (mechanism.kind) {
    case 'plain':
      return { mechanism: mechanism.mechanism };
    case 'oaep': {
      const sha1 = mechanism.hash === 'sha1';
      const hashAlg = sha1 ? CK.CKM_SHA_1 : CK.CKM_SHA256;
      const mgf = sha1 ? CK.CKG_MGF1_SHA1 : CK.CKG_MGF1_SHA256;
      const parameter: pkcs11js.RsaOAEP = { type: pkcs11js.CK_PARAMS_RSA_OAEP, hashAlg, mgf, source: CK.CKZ_DATA_SPECIFIED };
      return { mechanism: CK.CKM_RSA_PKCS_OAEP, parameter };
    }
    case 'ecdh': {
      const parameter: pkcs11js.ECDH1 = { type: pkcs11js.CK_PARAMS_EC_DH, kdf: CK.CKD_NULL, publicData: mechanism.peerPoint };
      return { mechanism: CK.CKM_ECDH1_DERIVE, parameter };
    }
    default:
      return unreachable(mechanism);
  }
}

/** Runs one call of pkcs11js and turns whatever it throws into an error of ours. */
function guarded<T>(call: string, action: () => T): T {
  try {
    return action();
  } catch (cause) {
    if (cause instanceof UkeyError) throw cause;
    const ckr = returnValue(cause);
    if (ckr !== null) throw new CkrError(call, ckr, cause);
    throw new UkeyError('token-failed', `${call} failed without a return value`, { cause });
  }
}

/** `CKR_NAME:value` stands in the message where pkcs11js forgot the code. */
function returnValue(thrown: unknown): number | null {
  if (!(thrown instanceof Error)) return null;
  const found = /CKR_\w+:(\d+)/u.exec(thrown.message);
  if (found !== null) return Number(found[1]);
  return thrown instanceof pkcs11js.Pkcs11Error ? thrown.code : null;
}
