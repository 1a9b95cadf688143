// Owns: two errands of a holder: a new PIN for the old one, and a new PIN by the SO PIN. Each runs in its turn.
// Invariants: the tries that are left are read before one is spent, and the last one is spent only when asked for; whatever the end, the state
// tells afterwards what the token says now. A change leaves an open ledger open: a wrong old PIN stops no till.
// Must not: log anybody in; keep a PIN.
import { UkeyError } from '#ipc-schema/errors.ts';
import { decideLogin } from '#token/login.ts';
import type { Token, TokenFacts } from '#token/token.ts';
import type { Access } from './errands.ts';
import type { PinChange, PinUnblock } from './holder.ts';

export async function changePin(access: Access, { oldPin, newPin, useLastTry }: PinChange): Promise<TokenFacts> {
  const token = await access.present();
  // That somebody is logged in makes the old PIN no less of a try.
  const decision = decideLogin({ ...token.facts(), loggedIn: false }, { origin: 'person', useLastTry, storedPinTried: false });
  if (decision.kind === 'refuse') throw new UkeyError(decision.code, decision.reason);
  return await withNews(access, token, () => token.changePin(oldPin, newPin));
}

export async function unblockPin(access: Access, { soPin, newPin }: PinUnblock): Promise<TokenFacts> {
  // The SO PIN logs the user out: an open ledger would stop, for a wrong SO PIN too.
  if (access.open() !== null)
    throw new UkeyError('invalid-request', 'the token is open: its PIN is known', {
      action: 'Change the PIN (ukeyctl pin change), or lock the token first (ukeyctl logout).',
    });
  const token = await access.present();
  return await withNews(access, token, () => token.unblockPin(soPin, newPin));
}

/** A refused PIN changes what the token says of its tries, and whether it is logged in. */
async function withNews(access: Access, token: Token, act: () => void): Promise<TokenFacts> {
  try {
    act();
  } finally {
    await access.lookAgain();
  }
  return token.facts();
}
