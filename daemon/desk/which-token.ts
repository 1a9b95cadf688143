// Owns: which of the service's tokens a request is for. Pure.
// Invariant: it follows from the configuration, the terminal and the request alone, never from which tokens are there or open: a request that is
// repeated with its key comes to the same ledger, whatever has been plugged in or out meanwhile.
// Errors: invalid-request (field token or issuer), forbidden.
import type { Charter } from '#ipc-schema/charter.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

export interface Candidate {
  readonly name: string;
  /** Tax id of the issuer that it is for; null: of whichever issuer the token is (a sole token may say nothing). */
  readonly issuer: string | null;
}

export interface Wanted {
  readonly token?: string | undefined;
  readonly issuer?: string | undefined;
}

/** `bound`: name of the only token that the caller may use. */
export function whichToken<C extends Candidate>(candidates: readonly C[], bound: string | null, wanted: Wanted): C {
  if (bound !== null && wanted.token !== undefined && wanted.token !== bound)
    throw new UkeyError('forbidden', `this terminal may use the token ${bound} alone`, { field: 'token' });
  const name = wanted.token ?? bound;
  const named = name === null ? candidates : candidates.filter((one) => one.name === name);
  if (named.length === 0) throw refusal('token', `there is no token ${name}`, candidates);
  const fitting = named.filter(({ issuer }) => wanted.issuer === undefined || issuer === null || issuer === wanted.issuer);
  const [first, ...others] = fitting;
  if (first === undefined) throw refusal('issuer', `there is no token of the issuer ${wanted.issuer}`, named);
  if (others.length > 0) throw refusal('token', 'several tokens could serve this', fitting);
  return first;
}

/** A caller that names its issuer is served by no other one, whichever token is there. */
export function refuseOtherIssuer({ issuer }: Wanted, { issuer: own }: Charter): void {
  if (issuer === undefined || issuer === own.taxId) return;
  throw new UkeyError('invalid-request', 'issuer: the token that is there is of another one', {
    field: 'issuer',
    action: "Plug in the issuer's token, or correct the request.",
  });
}

function refusal(field: 'token' | 'issuer', what: string, candidates: readonly Candidate[]): UkeyError {
  const list = candidates.map(({ name, issuer }) => (issuer === null ? name : `${name} (issuer ${issuer})`)).join(', ');
  return new UkeyError('invalid-request', `${field}: ${what}`, { field, action: `Name one of the tokens of this service: ${list}.` });
}
