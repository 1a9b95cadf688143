// Owns: the errands session.login and session.logout.
// Invariants: a PIN lives in one buffer that is overwritten after the try; logging out first lets what was taken be answered.
import type { Holder, HolderState, Mount } from '#holder/holder.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';
import type { UnattendedLogin } from './unattended-login.ts';

export interface SessionParts {
  readonly holder: Holder;
  readonly custody: Custody;
  readonly unattended: UnattendedLogin | null;
}

export async function login(parts: SessionParts, params: Params<'session.login'>): Promise<Result<'session.login'>> {
  const { custody, holder } = parts;
  const pin = Buffer.from(params.pin, 'utf8');
  let mount: Mount;
  try {
    mount = await custody.loggingIn(holder.login(pin, params.useLastTry === true));
  } finally {
    pin.fill(0);
  }
  await custody.use(); // the ledger is read before the answer: whoever logged in may issue at once
  return { standing: custody.standing().standing, triesLeft: triesLeft(custody.state), checked: mount.pinUnchecked !== true };
}

export async function logout({ custody, holder, unattended }: SessionParts): Promise<Result<'session.logout'>> {
  unattended?.suspend(); // the token tells that it is locked before the call returns
  try {
    await custody.apart(() => holder.logout());
  } catch (error) {
    unattended?.resume();
    throw error;
  }
  return { standing: custody.standing().standing };
}

function triesLeft(state: HolderState): number | null {
  return 'facts' in state ? state.facts.triesLeft : null;
}
