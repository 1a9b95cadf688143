// Owns: what callers ask of a holder that is not open: log in, enrol, format. Each runs in its turn, with nobody else at token or FLASH.
// Invariants: no try of a PIN is spent for a FLASH that could not be opened anyway; a failed login leaves the token logged out, a failed
// formatting leaves it logged in, so that it may be repeated.
// Must not: keep anything; joined.ts owns the state.
import type { KeyObject } from 'node:crypto';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { blankFlashAction, UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { Token } from '#token/token.ts';
import type { Seen } from './anchor.ts';
import type { FormatRequest, Mount, ProvisionOptions } from './holder.ts';
import { refuseLeftMirror } from './mirroring.ts';
import { readOwnHeader } from './mounting.ts';
import { type EraseConsent, refuseOccupied } from './occupied.ts';
import type { Opened } from './opened.ts';
import { type HolderParts, openOrCreate } from './parts.ts';
import { type FlashState, provisionedAction, publicKeyIfShown } from './survey.ts';
import { spendTry } from './try.ts';

/** The holder's state, as far as an errand may touch it. */
export interface Access {
  readonly parts: HolderParts;
  open(): Opened | null;
  /** How far the ledger is durable that was open last, or was brought up without being opened; null: there was none. */
  readonly seen: { anchor: Seen | null };
  /** Throws no-token. */
  present(): Promise<Token>;
  /** Where no token is, the blank one that may become ours; with `erase` whatever stands on the FLASH. Throws no-token. */
  presentOrBlank(erase?: boolean): Promise<Token>;
  readFlash(token: Token | null): Promise<FlashState>;
  /** The token is logged in. The holder is open afterwards. */
  mount(token: Token, device: Device): Promise<Mount>;
  /** After an opening that failed: the device is closed, the state is true again; answers the error for the caller. */
  backOut(token: Token, device: Device | null, thrown: unknown): Promise<UkeyError>;
  /** Finds out from nothing what is there. */
  lookAnew(): Promise<void>;
  /** The same, but an open ledger stays open while its token is there. */
  lookAgain(): Promise<void>;
}

export async function logIn(access: Access, pin: Uint8Array, useLastTry: boolean): Promise<Mount> {
  const { parts } = access;
  const open = access.open();
  if (open !== null) {
    // Logged in and mounted already: no try is spent, and none would check the PIN.
    return { ...(await open.settled()), pinUnchecked: true };
  }
  const token = await access.present();
  const device = await parts.openDevice(parts.readOnly);
  try {
    // Before a try is spent: a FLASH that cannot be opened, or is another token's, is no reason to ask for a PIN.
    if ((await readOwnHeader(device, publicKeyIfShown(token), parts.mirror ?? null)) === null) {
      const action = token.facts().provisioned ? blankFlashAction : 'Provision the token (ukeyctl provision).';
      throw new UkeyError('token-failed', 'the FLASH is blank', { action });
    }
    spendTry(token, pin, useLastTry);
    return await access.mount(token, device);
  } catch (thrown) {
    throw await access.backOut(token, device, thrown);
  }
}

/** Step 1 of provisioning. */
export async function enrol(access: Access, options: ProvisionOptions): Promise<Uint8Array> {
  if (access.open() !== null) throw new UkeyError('invalid-request', 'the token is provisioned and open', { action: provisionedAction });
  refuseReadOnly(access.parts);
  const token = await access.presentOrBlank(options.consent?.erase === true);
  if (token.facts().provisioned && (await access.readFlash(token)) === 'formatted') {
    throw new UkeyError('invalid-request', 'the token is provisioned and its FLASH is formatted', { action: provisionedAction });
  }
  if (token.facts().provisioned && !mayRepeat(options, publicKeyIfShown(token))) throw notRepeated();
  await refuseOccupiedFlash(access.parts, options.consent ?? { erase: false });
  try {
    return (await provisioning()).enrolmentRequest(token, options, (key) => {
      if (!mayRepeat(options, key)) throw notRepeated();
    });
  } finally {
    await access.lookAnew();
  }
}

/** Nobody has begun with this token and not ended, as far as the caller knows. A key that shows itself only after login is looked at then. */
function mayRepeat({ repeat = [] }: ProvisionOptions, key: KeyObject | null): boolean {
  return repeat === 'any' || (key === null ? repeat.length > 0 : repeat.includes(Buffer.from(keyIdOf(key)).toString('hex')));
}

function notRepeated(): UkeyError {
  return new UkeyError('invalid-request', 'the KEY has a ledger, and its FLASH is blank or missing', { action: blankFlashAction });
}

/** Before keys are made and a ticket is spent. One that is not there yet, and may be made, is no obstacle. */
async function refuseOccupiedFlash(parts: HolderParts, consent: EraseConsent): Promise<void> {
  let device: Device;
  try {
    device = await parts.openDevice(false);
  } catch (thrown) {
    if (parts.createDevice !== undefined && thrown instanceof UkeyError && thrown.code === 'no-token') return;
    throw thrown;
  }
  try {
    await refuseOccupied(device, consent);
  } finally {
    await device.close();
  }
}

/** Step 2 of provisioning. */
export async function format(access: Access, request: FormatRequest): Promise<Mount> {
  const { parts } = access;
  if (access.open() !== null) throw new UkeyError('invalid-request', 'the FLASH is open: log out first');
  refuseReadOnly(parts);
  const token = await access.present();
  if (!token.facts().loggedIn) throw new UkeyError('locked', 'step 1 of provisioning comes first: nobody is logged in');
  const device = await openOrCreate(parts);
  try {
    await refuseOccupied(device, request);
    if (!request.erase) await refuseLeftMirror(parts.mirror ?? null, token);
    await (await provisioning()).formatFlash(token, device, request);
    // The store is durable, and empty. Mounting it proves that the token can open what it wrapped.
    return await access.mount(token, device);
  } catch (thrown) {
    await device.close().catch((error: unknown) => parts.note('the FLASH did not close', error));
    await access.lookAnew();
    throw thrown; // still logged in: step 2 may be repeated
  }
}

export function refuseReadOnly(parts: HolderParts): void {
  if (parts.readOnly) throw new UkeyError('internal', 'this holder was opened for reading only');
}

/** Loaded when it is needed, once in a token's life: its HPKE and schemas would double the time in which every holder starts. */
const provisioning = (): Promise<typeof import('./provisioning.ts')> => import('./provisioning.ts');
