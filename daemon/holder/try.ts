// Owns: spending one try with a PIN, after login.ts has said that it may be spent.
// Invariants: a token that is logged in is logged out first, so that no wrong PIN passes as a right one.
// Errors are those of login.ts and of the token.
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { decideLogin } from '#token/login.ts';
import type { Token } from '#token/token.ts';

/** One try with the PIN of a person, if it may be spent. Throws what login.ts refuses with. */
export function spendTry(token: Token, pin: Uint8Array, useLastTry: boolean): void {
  // A login that is left over would let any PIN pass: nobody is asked "already" twice.
  if (token.facts().loggedIn) token.logout();
  const decision = decideLogin(token.facts(), { origin: 'person', useLastTry, storedPinTried: false });
  switch (decision.kind) {
    case 'try':
      token.login(pin);
      return;
    case 'already':
      throw new UkeyError('token-failed', 'the token does not log out');
    case 'refuse':
      throw new UkeyError(decision.code, decision.reason);
    default:
      unreachable(decision);
  }
}
