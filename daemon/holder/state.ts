// Owns: what a state of the holder means to a caller, and whether two states are the same news. Pure.
// Invariants: total over the closed union; a state that refuses commits does so with nothing written.
import { blankFlashAction, errorTable, UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { TokenFacts } from '#token/token.ts';
import { namedIn } from './damage.ts';
import type { HolderState } from './holder.ts';

/** The error of a call that needs an open ledger. `open` counts as locked: who asks has just seen it close. */
export function whyNotOpen(state: HolderState, cause?: unknown): UkeyError {
  switch (state.kind) {
    case 'starting':
      return new UkeyError('token-failed', 'the token is being opened', { cause });
    case 'absent':
      return new UkeyError('no-token', state.reason, { cause, action: state.action });
    case 'blank':
      return state.facts.provisioned && !state.facts.loggedIn
        ? new UkeyError('locked', 'the KEY is provisioned, its FLASH is blank', { cause, action: blankFlashAction })
        : new UkeyError('locked', 'the token is not provisioned', { cause, action: 'Provision the token (ukeyctl provision).' });
    case 'locked':
    case 'open':
      return new UkeyError('locked', 'nobody is logged in to the token', { cause });
    case 'halted':
      return new UkeyError('halted', state.reason, { cause, action: state.action });
    default:
      return unreachable(state);
  }
}

/** The error of an opening, which may tell as damage what only could not be read. Its code stays: it says what was done until then. */
export function withReasonOf(state: HolderState, error: UkeyError): UkeyError {
  if (state.kind !== 'absent' || state.plugged !== true) return error;
  return new UkeyError(error.code, state.reason, { action: state.action, cause: error });
}

/** The state behind an opening that has failed for good. */
export function haltedBy(error: UkeyError): Extract<HolderState, { kind: 'halted' }> {
  const { message: reason, action } = error;
  const damage = namedIn(error);
  const known = action === errorTable[error.code].action ? {} : { action };
  return { kind: 'halted', reason, ...known, ...(damage === null ? {} : { damage }) };
}

export function isSameState(a: HolderState, b: HolderState): boolean {
  if (a.kind !== b.kind) return false;
  if (a.kind === 'open' && b.kind === 'open' && (a.mount !== b.mount || a.mirrorWaits !== b.mirrorWaits)) return false;
  if ('reason' in a && 'reason' in b) return a.reason === b.reason;
  return 'facts' in a && 'facts' in b ? isSameFacts(a.facts, b.facts) : true;
}

/** Another token than the one of the state, or one that was made ready or emptied meanwhile. */
export function isOtherToken(state: HolderState, { serial, provisioned }: TokenFacts): boolean {
  return 'facts' in state && (serial !== state.facts.serial || provisioned !== state.facts.provisioned);
}

function isSameFacts(a: TokenFacts, b: TokenFacts): boolean {
  return (Object.keys(a) as (keyof TokenFacts)[]).every((name) => a[name] === b[name]);
}
