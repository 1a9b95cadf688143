// Owns: the closed table of error codes and the one error class of the product.
// Invariants: every refusal that leaves a process carries one of these codes; the table says whose fault it is,
// whether the same request may be repeated, and what a person does. Tests assert codes, never texts.
// Must not: know any transport. JSON-RPC numbers stand here because they are part of the contract (SPEC.md, Errors).

/** May the caller repeat the request? `same-key`: yes, with the same idempotency key; the answer is then the truth. */
export type Retry = 'never' | 'same-key' | 'after-ms' | 'after-action';
/** Whose fault it is. */
export type Fault = 'caller' | 'operator' | 'limit' | 'device' | 'service';

export interface ErrorRule {
  readonly rpcCode: number;
  readonly fault: Fault;
  readonly retry: Retry;
  /** What a person does about it: one sentence. */
  readonly action: string;
}

const rule = (rpcCode: number, fault: Fault, retry: Retry, action: string): ErrorRule => ({ rpcCode, fault, retry, action });

/** The closed table (SPEC.md, Errors), in the order in which it stands there. */
export const errorTable = {
  'invalid-request': rule(-32602, 'caller', 'never', 'Correct the field that is named and send the request again.'),
  'unknown-method': rule(-32601, 'caller', 'never', 'Use a method of openrpc.json.'),
  unauthenticated: rule(-32001, 'caller', 'after-action', 'Send hello, then authenticate with the secret of an enrolled terminal.'),
  forbidden: rule(-32002, 'caller', 'never', 'Ask an administrator for a role that may call this method, or use the admin socket.'),
  busy: rule(-32003, 'service', 'after-ms', 'Wait retryAfterMs, then repeat with the same key.'),
  'too-large': rule(-32004, 'caller', 'never', 'Send a smaller request, or split the document.'),
  'invalid-invoice': rule(-32010, 'caller', 'never', 'Correct the field that is named; nothing was issued.'),
  'template-unknown': rule(-32011, 'caller', 'never', 'Name a template that service.status lists.'),
  'template-expired': rule(
    -32012,
    'operator',
    'after-action',
    'Use a template that is valid at the time of issuing, or have a new one published.',
  ),
  'key-reused': rule(-32013, 'caller', 'never', 'This key belongs to another content: use a new key for a new invoice.'),
  'not-found': rule(-32014, 'caller', 'never', 'Check the key, number or sequence.'),
  'limit-hours': rule(-32020, 'limit', 'after-action', 'Restore the connection to the ticket server: its acknowledgement unlocks.'),
  'limit-count': rule(-32021, 'limit', 'after-action', 'Restore the connection to the ticket server: its acknowledgement unlocks.'),
  'limit-amount': rule(-32022, 'limit', 'after-action', 'Restore the connection to the ticket server: its acknowledgement unlocks.'),
  'limit-single': rule(-32023, 'limit', 'never', 'This amount is above what the charter allows for one invoice.'),
  'limit-deadline': rule(-32024, 'limit', 'after-action', 'The charter is not valid at this time: have the authority issue a new one.'),
  'range-exhausted': rule(-32025, 'limit', 'after-action', 'No number is left in this series: have the authority grant a new range.'),
  'credit-exceeds': rule(-32026, 'caller', 'never', 'Credit at most what remains of the original invoice.'),
  offline: rule(
    -32027,
    'limit',
    'after-action',
    'The charter asks for an acknowledgement and the ticket server is out of reach: restore the line.',
  ),
  locked: rule(-32030, 'operator', 'after-action', 'Log in with the PIN (ukeyctl login).'),
  'pin-incorrect': rule(-32031, 'operator', 'after-action', 'Check the PIN; every wrong try uses one up.'),
  'pin-last-try': rule(-32032, 'operator', 'after-action', 'One try is left: be sure of the PIN, then repeat with useLastTry.'),
  'pin-locked': rule(-32033, 'operator', 'after-action', 'The PIN is locked: unblock the token with its PUK or SO-PIN.'),
  'no-token': rule(-32034, 'device', 'after-action', 'Plug the token in.'),
  'token-failed': rule(
    -32035,
    'device',
    'same-key',
    'The token did not answer rightly; nothing was issued. Repeat with the same key; if it stays, re-plug the token.',
  ),
  'store-full': rule(
    -32036,
    'device',
    'after-action',
    'Restore the connection so that acknowledged blocks can be freed, or use a larger token.',
  ),
  'clock-untrusted': rule(-32037, 'operator', 'after-action', "Set the machine's clock."),
  halted: rule(-32038, 'device', 'after-action', 'Issuing has stopped to protect the ledger: see service.status for the reason.'),
  'unknown-outcome': rule(-32040, 'device', 'same-key', 'Whether it was issued is not known yet: repeat with the same key until it is.'),
  internal: rule(-32603, 'service', 'same-key', 'A fault of the service: repeat with the same key, and report the log entry.'),
} as const satisfies Record<string, ErrorRule>;

/** What a person does where a provisioned KEY has a blank FLASH: what looks like a new token may have lost its ledger. */
export const blankFlashAction =
  'Do not provision it anew: what was on it may be in the mirror (ukeyctl store restore) or at the ticket server; ask headquarters. ' +
  'Only a provisioning that was interrupted is repeated, with the same ticket.';

export type ErrorCode = keyof typeof errorTable;

export interface ErrorDetail {
  /** Path of the field that is wrong, as `lines[3].unitPrice`. */
  readonly field?: string | undefined;
  readonly retryAfterMs?: number | undefined;
  /** Replaces the table's sentence where more is known. */
  readonly action?: string | undefined;
  readonly cause?: unknown;
}

/** What stands in the `data` member of a JSON-RPC error. */
export interface ErrorData {
  code: ErrorCode;
  field?: string;
  retry: Retry;
  retryAfterMs?: number;
  action?: string;
}

/** The one error class. `message` says what happened, `code` what it means, `cause` is always kept. */
export class UkeyError extends Error {
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly action: string;

  constructor(code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.name = 'UkeyError';
    this.code = code;
    this.field = detail.field;
    this.retryAfterMs = detail.retryAfterMs;
    this.action = detail.action ?? errorTable[code].action;
  }

  get retry(): Retry {
    return errorTable[this.code].retry;
  }

  toData(): ErrorData {
    return {
      code: this.code,
      ...(this.field === undefined ? {} : { field: this.field }),
      retry: this.retry,
      ...(this.retryAfterMs === undefined ? {} : { retryAfterMs: this.retryAfterMs }),
      action: this.action,
    };
  }
}

export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(errorTable, value);
}

/** The error as it is, or `internal` around anything that is not ours. Never throws. */
export function asUkeyError(thrown: unknown, fallback: ErrorCode = 'internal'): UkeyError {
  if (thrown instanceof UkeyError) return thrown;
  return new UkeyError(fallback, thrown instanceof Error ? thrown.message : String(thrown), { cause: thrown });
}

/** `never` at the end of an exhaustive switch. */
export function unreachable(value: never): never {
  throw new UkeyError('internal', `unreachable: ${JSON.stringify(value)}`);
}
