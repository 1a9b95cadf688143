// Owns: the errands session.login, session.logout, session.changePin and session.unblock.
// Invariants: a PIN lives in buffers that are overwritten after the try; logging out first lets what was taken be answered; a PIN file that
// holds another PIN than the token's is known to be wrong from then on without a try.
// Known limit: a PIN arrives in a JSON string, which cannot be overwritten; it lives until the collector takes it, in a process that leaves no core image.
import type { Holder, HolderState, Mount } from '#holder/holder.ts';
import { asUkeyError, type ErrorCode } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';
import type { UnattendedLogin } from './unattended-login.ts';

export interface SessionParts {
  readonly holder: Holder;
  readonly custody: Custody;
  readonly unattended: UnattendedLogin | null;
}

export async function login(parts: SessionParts, params: Params<'session.login'>): Promise<Result<'session.login'>> {
  const { custody, holder, unattended } = parts;
  const pin = Buffer.from(params.pin, 'utf8');
  let mount: Mount;
  try {
    mount = await custody.loggingIn(lent(pin, (copy) => holder.login(copy, params.useLastTry === true)));
    if (mount.pinUnchecked !== true) await unattended?.learn(pin);
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
    // Where it is open still, nothing was locked. Else its process was replaced on the way: it is locked, as was asked.
    if (holder.state().kind === 'open') unattended?.resume();
    throw error;
  }
  return { standing: custody.standing().standing };
}

export async function changePin(parts: SessionParts, params: Params<'session.changePin'>): Promise<Result<'session.changePin'>> {
  const oldPin = Buffer.from(params.pin, 'utf8');
  const useLastTry = params.useLastTry === true;
  try {
    return await withNewPin(parts, params.newPin, (newPin) => parts.holder.changePin({ oldPin, newPin, useLastTry }));
  } finally {
    oldPin.fill(0);
  }
}

export async function unblock(parts: SessionParts, params: Params<'session.unblock'>): Promise<Result<'session.unblock'>> {
  const soPin = Buffer.from(params.soPin, 'utf8');
  try {
    return await withNewPin(parts, params.newPin, (newPin) => parts.holder.unblockPin({ soPin, newPin }));
  } finally {
    soPin.fill(0);
  }
}

/** Ends that say that the token's PIN is the old one still. */
const unchanged: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'pin-incorrect',
  'pin-last-try',
  'pin-locked',
  'invalid-request',
  'no-token',
  'busy',
  'locked',
]);

async function withNewPin(
  { custody, unattended }: SessionParts,
  text: string,
  change: (newPin: Uint8Array) => ReturnType<Holder['changePin']>,
): Promise<Result<'session.changePin'>> {
  const newPin = Buffer.from(text, 'utf8');
  try {
    // Durable before the change: after a crash in it a stored PIN that may be the old one spends no try.
    const takeBack = await unattended?.foresee(newPin);
    const facts = await lent(newPin, change).catch((error: unknown) => {
      if (unchanged.has(asUkeyError(error).code)) takeBack?.();
      throw error;
    });
    await unattended?.learn(newPin);
    const { triesLeft: left, pinState } = facts;
    return { standing: custody.standing().standing, triesLeft: left, pinState, storedPin: unattended?.storedPin ?? 'none' };
  } finally {
    newPin.fill(0);
  }
}

/** The holder overwrites what it is given. */
async function lent<T>(pin: Buffer, use: (copy: Uint8Array) => Promise<T>): Promise<T> {
  const copy = Buffer.from(pin);
  try {
    return await use(copy);
  } finally {
    copy.fill(0);
  }
}

function triesLeft(state: HolderState): number | null {
  return 'facts' in state ? state.facts.triesLeft : null;
}
