// Owns: the narrow shape of a PKCS#11 module that this room works with, and the constants of the standard that it names.
// Source: PKCS#11 v2.40 (OASIS), Base §4-5 and Current Mechanisms. The one implementation is pkcs11.ts; tests put a faulty one in between.
// Invariants: every call is synchronous; every refusal is a CkrError; an operation that PKCS#11 cuts in two (Init, then do) is
// one call here, so that no operation stays half open on a session.
// Must not: know pkcs11js, keys or tokens.

/** Session, slot or object. Worthless after the session, login or module it was found in. */
export type Handle = Buffer;

export interface CryptokiTokenInfo {
  readonly label: string;
  readonly manufacturer: string;
  readonly model: string;
  readonly serial: string;
  readonly flags: number;
  readonly pinMinBytes: number;
  readonly pinMaxBytes: number;
}

export interface Attribute {
  readonly type: number;
  readonly value: boolean | number | string | Buffer;
}
export type Template = readonly Attribute[];

export type Mechanism =
  | { readonly kind: 'plain'; readonly mechanism: number }
  /** CKM_RSA_PKCS_OAEP with MGF1 of the same hash and an empty label. */
  | { readonly kind: 'oaep'; readonly hash: OaepHash }
  /** CKM_ECDH1_DERIVE without a KDF: the shared x coordinate. */
  | { readonly kind: 'ecdh'; readonly peerPoint: Buffer };

export type OaepHash = 'sha256' | 'sha1';

export interface Cryptoki {
  /** C_Initialize; nothing when it was done before. */
  initialize(): void;
  /** C_Finalize; nothing when it was not initialised. */
  finalize(): void;
  description(): string;
  /** Slots with a token in them. */
  slots(): Handle[];
  tokenInfo(slot: Handle): CryptokiTokenInfo;
  mechanisms(slot: Handle): ReadonlySet<number>;
  initToken(slot: Handle, soPin: Uint8Array, label: string): void;
  /** Read-write. */
  openSession(slot: Handle): Handle;
  closeSession(session: Handle): void;
  /** CKS_ state. */
  sessionState(session: Handle): number;
  login(session: Handle, userType: number, pin: Uint8Array): void;
  logout(session: Handle): void;
  initPin(session: Handle, pin: Uint8Array): void;
  setPin(session: Handle, oldPin: Uint8Array, newPin: Uint8Array): void;
  /** At most `maxFound` objects. */
  find(session: Handle, template: Template): Handle[];
  attribute(session: Handle, object: Handle, type: number): Buffer;
  createObject(session: Handle, template: Template): Handle;
  destroyObject(session: Handle, object: Handle): void;
  generateKey(session: Handle, mechanism: Mechanism, template: Template): Handle;
  generateKeyPair(
    session: Handle,
    mechanism: Mechanism,
    publicTemplate: Template,
    privateTemplate: Template,
  ): { publicKey: Handle; privateKey: Handle };
  sign(session: Handle, mechanism: Mechanism, key: Handle, data: Uint8Array): Buffer;
  decrypt(session: Handle, mechanism: Mechanism, key: Handle, data: Uint8Array): Buffer;
  wrapKey(session: Handle, mechanism: Mechanism, wrappingKey: Handle, key: Handle): Buffer;
  unwrapKey(session: Handle, mechanism: Mechanism, unwrappingKey: Handle, wrapped: Uint8Array, template: Template): Handle;
  deriveKey(session: Handle, mechanism: Mechanism, baseKey: Handle, template: Template): Handle;
}

/** More objects than this under one label is damage, not data. */
export const maxFound = 64;

/** Spelled as in the standard, so that a test can compare each with pkcs11js's own constant. */
export const CK = {
  CKF_WRITE_PROTECTED: 0x2,
  CKF_LOGIN_REQUIRED: 0x4,
  CKF_USER_PIN_INITIALIZED: 0x8,
  CKF_TOKEN_INITIALIZED: 0x400,
  CKF_USER_PIN_COUNT_LOW: 0x10000,
  CKF_USER_PIN_FINAL_TRY: 0x20000,
  CKF_USER_PIN_LOCKED: 0x40000,
  CKF_SO_PIN_FINAL_TRY: 0x200000,
  CKF_SO_PIN_LOCKED: 0x400000,
  CKF_RW_SESSION: 0x2,
  CKF_SERIAL_SESSION: 0x4,
  CKF_OS_LOCKING_OK: 0x2,
  CKU_SO: 0,
  CKU_USER: 1,
  CKS_RO_USER_FUNCTIONS: 1,
  CKS_RW_USER_FUNCTIONS: 3,
  CKO_DATA: 0,
  CKO_PUBLIC_KEY: 2,
  CKO_PRIVATE_KEY: 3,
  CKO_SECRET_KEY: 4,
  CKK_RSA: 0,
  CKK_EC: 3,
  CKK_GENERIC_SECRET: 0x10,
  CKK_AES: 0x1f,
  CKA_CLASS: 0x0,
  CKA_TOKEN: 0x1,
  CKA_PRIVATE: 0x2,
  CKA_LABEL: 0x3,
  CKA_APPLICATION: 0x10,
  CKA_VALUE: 0x11,
  CKA_KEY_TYPE: 0x100,
  CKA_ID: 0x102,
  CKA_SENSITIVE: 0x103,
  CKA_ENCRYPT: 0x104,
  CKA_DECRYPT: 0x105,
  CKA_WRAP: 0x106,
  CKA_UNWRAP: 0x107,
  CKA_SIGN: 0x108,
  CKA_VERIFY: 0x10a,
  CKA_DERIVE: 0x10c,
  CKA_MODULUS: 0x120,
  CKA_MODULUS_BITS: 0x121,
  CKA_PUBLIC_EXPONENT: 0x122,
  CKA_VALUE_LEN: 0x161,
  CKA_EXTRACTABLE: 0x162,
  CKA_EC_PARAMS: 0x180,
  CKA_EC_POINT: 0x181,
  CKM_RSA_PKCS_KEY_PAIR_GEN: 0x0,
  CKM_RSA_PKCS: 0x1,
  CKM_RSA_PKCS_OAEP: 0x9,
  CKM_SHA_1: 0x220,
  CKM_SHA256: 0x250,
  CKM_EC_KEY_PAIR_GEN: 0x1040,
  CKM_ECDSA: 0x1041,
  CKM_ECDH1_DERIVE: 0x1050,
  CKM_AES_KEY_GEN: 0x1080,
  CKM_AES_KEY_WRAP: 0x2109,
  CKM_AES_KEY_WRAP_PAD: 0x210a,
  CKG_MGF1_SHA1: 0x1,
  CKG_MGF1_SHA256: 0x2,
  CKD_NULL: 0x1,
  CKZ_DATA_SPECIFIED: 0x1,
} as const;

export const plain = (mechanism: number): Mechanism => ({ kind: 'plain', mechanism });
