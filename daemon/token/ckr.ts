// Owns: the one closed table from a PKCS#11 return value to what we do about it and what a caller is told.
// Source: PKCS#11 v2.40 §5.1 and Appendix B, v3.0 §5.1; reactions from what real modules were seen to do.
// Invariants: every CKR_ code has one row; a code outside the table (vendor-defined, or a module's invention) counts as a lost session;
// only rows of the kind `retry-session` are ever repeated automatically, and no row of the kind `pin` is.
// Must not: call anything.
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';

export type Reaction =
  /** No error. */
  | 'ok'
  /** The state asked for is there already. */
  | 'already'
  /** The session, its handles or the line to the token are lost: climb the ladder (new session, then the module anew). */
  | 'retry-session'
  /** Nobody, or somebody else, is logged in: forget the handles and ask for the PIN. */
  | 'login-again'
  /** The PIN itself. Never repeated automatically. */
  | 'pin'
  /** The module or the token cannot do this: try the next method. */
  | 'next-method'
  /** Only a new process helps. */
  | 'restart'
  /** A fault of ours or of the data: repeating changes nothing. */
  | 'stop';

export interface CkrRule {
  readonly value: number;
  readonly reaction: Reaction;
  readonly code: ErrorCode;
}

const row = (value: number, reaction: Reaction, code: ErrorCode = 'token-failed'): CkrRule => ({ value, reaction, code });

export const ckrTable = {
  CKR_OK: row(0x000, 'ok', 'internal'),
  CKR_CANCEL: row(0x001, 'retry-session'),
  CKR_HOST_MEMORY: row(0x002, 'restart'),
  CKR_SLOT_ID_INVALID: row(0x003, 'retry-session', 'no-token'),
  CKR_GENERAL_ERROR: row(0x005, 'retry-session'),
  CKR_FUNCTION_FAILED: row(0x006, 'retry-session'),
  CKR_ARGUMENTS_BAD: row(0x007, 'stop'),
  CKR_NO_EVENT: row(0x008, 'stop'),
  CKR_NEED_TO_CREATE_THREADS: row(0x009, 'restart'),
  CKR_CANT_LOCK: row(0x00a, 'restart'),
  CKR_ATTRIBUTE_READ_ONLY: row(0x010, 'next-method'),
  CKR_ATTRIBUTE_SENSITIVE: row(0x011, 'next-method'),
  CKR_ATTRIBUTE_TYPE_INVALID: row(0x012, 'next-method'),
  CKR_ATTRIBUTE_VALUE_INVALID: row(0x013, 'next-method'),
  CKR_ACTION_PROHIBITED: row(0x01b, 'next-method'),
  CKR_DATA_INVALID: row(0x020, 'next-method'),
  CKR_DATA_LEN_RANGE: row(0x021, 'next-method'),
  CKR_DEVICE_ERROR: row(0x030, 'retry-session'),
  CKR_DEVICE_MEMORY: row(0x031, 'stop'),
  CKR_DEVICE_REMOVED: row(0x032, 'retry-session', 'no-token'),
  CKR_ENCRYPTED_DATA_INVALID: row(0x040, 'next-method'),
  CKR_ENCRYPTED_DATA_LEN_RANGE: row(0x041, 'next-method'),
  CKR_AEAD_DECRYPT_FAILED: row(0x042, 'next-method'),
  CKR_FUNCTION_CANCELED: row(0x050, 'retry-session'),
  CKR_FUNCTION_NOT_PARALLEL: row(0x051, 'stop'),
  CKR_FUNCTION_NOT_SUPPORTED: row(0x054, 'next-method'),
  CKR_KEY_HANDLE_INVALID: row(0x060, 'retry-session'),
  CKR_KEY_SIZE_RANGE: row(0x062, 'next-method'),
  CKR_KEY_TYPE_INCONSISTENT: row(0x063, 'next-method'),
  CKR_KEY_NOT_NEEDED: row(0x064, 'next-method'),
  CKR_KEY_CHANGED: row(0x065, 'retry-session'),
  CKR_KEY_NEEDED: row(0x066, 'next-method'),
  CKR_KEY_INDIGESTIBLE: row(0x067, 'next-method'),
  CKR_KEY_FUNCTION_NOT_PERMITTED: row(0x068, 'next-method'),
  CKR_KEY_NOT_WRAPPABLE: row(0x069, 'next-method'),
  CKR_KEY_UNEXTRACTABLE: row(0x06a, 'next-method'),
  CKR_MECHANISM_INVALID: row(0x070, 'next-method'),
  CKR_MECHANISM_PARAM_INVALID: row(0x071, 'next-method'),
  CKR_OBJECT_HANDLE_INVALID: row(0x082, 'retry-session'),
  CKR_OPERATION_ACTIVE: row(0x090, 'retry-session'),
  CKR_OPERATION_NOT_INITIALIZED: row(0x091, 'retry-session'),
  CKR_PIN_INCORRECT: row(0x0a0, 'pin', 'pin-incorrect'),
  CKR_PIN_INVALID: row(0x0a1, 'pin', 'pin-incorrect'),
  CKR_PIN_LEN_RANGE: row(0x0a2, 'pin', 'pin-incorrect'),
  CKR_PIN_EXPIRED: row(0x0a3, 'pin', 'pin-locked'),
  CKR_PIN_LOCKED: row(0x0a4, 'pin', 'pin-locked'),
  CKR_SESSION_CLOSED: row(0x0b0, 'retry-session'),
  CKR_SESSION_COUNT: row(0x0b1, 'retry-session'),
  CKR_SESSION_HANDLE_INVALID: row(0x0b3, 'retry-session'),
  CKR_SESSION_PARALLEL_NOT_SUPPORTED: row(0x0b4, 'stop'),
  CKR_SESSION_READ_ONLY: row(0x0b5, 'stop'),
  CKR_SESSION_EXISTS: row(0x0b6, 'stop'),
  CKR_SESSION_READ_ONLY_EXISTS: row(0x0b7, 'stop'),
  CKR_SESSION_READ_WRITE_SO_EXISTS: row(0x0b8, 'stop'),
  CKR_SIGNATURE_INVALID: row(0x0c0, 'stop'),
  CKR_SIGNATURE_LEN_RANGE: row(0x0c1, 'stop'),
  CKR_TEMPLATE_INCOMPLETE: row(0x0d0, 'next-method'),
  CKR_TEMPLATE_INCONSISTENT: row(0x0d1, 'next-method'),
  CKR_TOKEN_NOT_PRESENT: row(0x0e0, 'retry-session', 'no-token'),
  CKR_TOKEN_NOT_RECOGNIZED: row(0x0e1, 'retry-session', 'no-token'),
  CKR_TOKEN_WRITE_PROTECTED: row(0x0e2, 'stop'),
  CKR_UNWRAPPING_KEY_HANDLE_INVALID: row(0x0f0, 'retry-session'),
  CKR_UNWRAPPING_KEY_SIZE_RANGE: row(0x0f1, 'next-method'),
  CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT: row(0x0f2, 'next-method'),
  CKR_USER_ALREADY_LOGGED_IN: row(0x100, 'already'),
  CKR_USER_NOT_LOGGED_IN: row(0x101, 'login-again', 'locked'),
  CKR_USER_PIN_NOT_INITIALIZED: row(0x102, 'stop'),
  CKR_USER_TYPE_INVALID: row(0x103, 'stop'),
  CKR_USER_ANOTHER_ALREADY_LOGGED_IN: row(0x104, 'login-again', 'locked'),
  CKR_USER_TOO_MANY_TYPES: row(0x105, 'login-again', 'locked'),
  CKR_WRAPPED_KEY_INVALID: row(0x110, 'next-method'),
  CKR_WRAPPED_KEY_LEN_RANGE: row(0x112, 'next-method'),
  CKR_WRAPPING_KEY_HANDLE_INVALID: row(0x113, 'retry-session'),
  CKR_WRAPPING_KEY_SIZE_RANGE: row(0x114, 'next-method'),
  CKR_WRAPPING_KEY_TYPE_INCONSISTENT: row(0x115, 'next-method'),
  CKR_RANDOM_SEED_NOT_SUPPORTED: row(0x120, 'next-method'),
  CKR_RANDOM_NO_RNG: row(0x121, 'next-method'),
  CKR_DOMAIN_PARAMS_INVALID: row(0x130, 'next-method'),
  CKR_CURVE_NOT_SUPPORTED: row(0x140, 'next-method'),
  CKR_BUFFER_TOO_SMALL: row(0x150, 'stop'),
  CKR_SAVED_STATE_INVALID: row(0x160, 'stop'),
  CKR_INFORMATION_SENSITIVE: row(0x170, 'next-method'),
  CKR_STATE_UNSAVEABLE: row(0x180, 'stop'),
  CKR_CRYPTOKI_NOT_INITIALIZED: row(0x190, 'retry-session'),
  CKR_CRYPTOKI_ALREADY_INITIALIZED: row(0x191, 'already'),
  CKR_MUTEX_BAD: row(0x1a0, 'restart'),
  CKR_MUTEX_NOT_LOCKED: row(0x1a1, 'restart'),
  CKR_NEW_PIN_MODE: row(0x1b0, 'pin', 'pin-locked'),
  CKR_NEXT_OTP: row(0x1b1, 'pin', 'pin-incorrect'),
  CKR_EXCEEDED_MAX_ITERATIONS: row(0x1b5, 'next-method'),
  CKR_FIPS_SELF_TEST_FAILED: row(0x1b6, 'restart'),
  CKR_LIBRARY_LOAD_FAILED: row(0x1b7, 'restart'),
  CKR_PIN_TOO_WEAK: row(0x1b8, 'pin', 'invalid-request'),
  CKR_PUBLIC_KEY_INVALID: row(0x1b9, 'next-method'),
  CKR_FUNCTION_REJECTED: row(0x200, 'stop'),
  CKR_TOKEN_RESOURCE_EXCEEDED: row(0x201, 'retry-session'),
  CKR_OPERATION_CANCEL_FAILED: row(0x202, 'retry-session'),
} as const satisfies Record<`CKR_${string}`, CkrRule>;

export type CkrName = keyof typeof ckrTable;

const unknownRule = { reaction: 'retry-session', code: 'token-failed' } as const;
const byValue: ReadonlyMap<number, { readonly name: CkrName; readonly rule: CkrRule }> = new Map(
  (Object.keys(ckrTable) as CkrName[]).map((name) => [ckrTable[name].value, { name, rule: ckrTable[name] }]),
);

/** Name, reaction and error code of a return value. Total: any number has an answer. */
export function lookUpCkr(value: number): { readonly name: string; readonly reaction: Reaction; readonly code: ErrorCode } {
  const known = byValue.get(value);
  if (known === undefined) return { name: `CKR_0x${value.toString(16).padStart(8, '0')}`, ...unknownRule };
  return { name: known.name, reaction: known.rule.reaction, code: known.rule.code };
}

/** A module's refusal: a UkeyError that still knows the return value, so that the ladder inside this room can choose. */
export class CkrError extends UkeyError {
  readonly ckr: number;
  readonly ckrName: string;
  readonly reaction: Reaction;

  constructor(call: string, ckr: number, cause?: unknown) {
    const { name, reaction, code } = lookUpCkr(ckr);
    super(code, `${call}: ${name}`, { cause, ...(name === 'CKR_PIN_EXPIRED' ? { action: 'The PIN has expired: change it.' } : {}) });
    this.ckr = ckr;
    this.ckrName = name;
    this.reaction = reaction;
  }
}

/** The reaction to anything thrown; null when it is no module's refusal. */
export function reactionOf(thrown: unknown): Reaction | null {
  return thrown instanceof CkrError ? thrown.reaction : null;
}
