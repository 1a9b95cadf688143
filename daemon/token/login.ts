// Owns: the decision whether one try with a PIN may be spent. A pure function of facts.
// Invariants: a locked PIN is never tried; the last try is spent only by a person who said `useLastTry`; a stored PIN
// that was refused once is never tried again by itself (whoever stores it records the try durably before the call).
// Must not: touch a token, a clock or a PIN. Flags are honoured but not relied on: some modules never set them and then lock.
import type { ErrorCode } from '#ipc-schema/errors.ts';
import type { TokenFacts } from '#token/token.ts';

export interface LoginRequest {
  /** `person`: typed just now. `stored`: an unattended credential. */
  readonly origin: 'person' | 'stored';
  readonly useLastTry: boolean;
  /** A try with this stored PIN was recorded and never reported as successful. */
  readonly storedPinTried: boolean;
}

export type LoginRefusal = Extract<ErrorCode, 'no-token' | 'token-failed' | 'pin-locked' | 'pin-last-try' | 'locked'>;

export type LoginDecision =
  | { readonly kind: 'try' }
  /** The token is logged in: no try is needed, and none would check the PIN. */
  | { readonly kind: 'already' }
  | { readonly kind: 'refuse'; readonly code: LoginRefusal; readonly reason: string };

const refuse = (code: LoginRefusal, reason: string): LoginDecision => ({ kind: 'refuse', code, reason });

/** `facts` is null when there is no token. Rows are in order of precedence. */
export function decideLogin(
  facts: Pick<TokenFacts, 'provisioned' | 'loggedIn' | 'triesLeft' | 'pinState'> | null,
  request: LoginRequest,
): LoginDecision {
  if (facts === null) return refuse('no-token', 'there is no token');
  if (!facts.provisioned) return refuse('token-failed', 'the token is blank: provision it first');
  if (facts.loggedIn) return { kind: 'already' };
  if (facts.pinState === 'locked' || facts.triesLeft === 0) return refuse('pin-locked', 'no try is left');
  if (request.origin === 'stored' && request.storedPinTried) return refuse('locked', 'the stored PIN was tried once and did not work');
  if (facts.pinState === 'last' || facts.triesLeft === 1) {
    // A program never burns the last try, whatever its configuration says.
    if (request.origin === 'stored') return refuse('pin-last-try', 'one try is left, and it is kept for a person');
    if (!request.useLastTry) return refuse('pin-last-try', 'one try is left');
  }
  return { kind: 'try' };
}
