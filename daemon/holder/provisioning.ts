// Owns: the two steps that make a blank token ours: the signed enrolment request, and formatting the FLASH.
// Invariants: step 1 may be repeated until step 2 has formatted the FLASH; the data key is made here, wrapped, and overwritten before
// these calls end; a recovery slot is sealed to a public key, so that nothing here can open it.
// Errors: invalid-request (certificates or recovery key that do not fit), halted (the FLASH is not blank), pin-*, token-failed.
import { type KeyObject, randomBytes } from 'node:crypto';
import { sealTo } from '#ground/hpke.ts';
import { keyIdOfSpki, makeSign1 } from '#ipc-schema/cose.ts';
import { enrolmentPayload, recoveryInfoOf } from '#ipc-schema/upstream.ts';
import type { Device } from '#store/device.ts';
import { formatStore } from '#store/log.ts';
import type { KeySlot } from '#store/store.ts';
import { wipe } from '#token/pin.ts';
import type { Token } from '#token/token.ts';
import { bindAnchor } from './anchor.ts';
import type { FormatRequest, ProvisionOptions } from './holder.ts';
import { checkIdentity, encodeIdentity } from './identity.ts';
import { recoveryMethod } from './mounting.ts';
import { spendTry } from './try.ts';

const dataKeyBytes = 32;
const storeIdBytes = 16;

/** Leaves the token logged in: wrapping the data key in step 2 needs it. */
export function enrolmentRequest(token: Token, options: ProvisionOptions, inspectRepeat: (key: KeyObject) => void): Uint8Array {
  const { label, pin, soPin, code } = options;
  const isRepeat = token.facts().provisioned;
  if (!isRepeat) token.provision({ label, pin, soPin });
  // The keys are on the token now; a crash here is finished by the next call with the same PIN.
  spendTry(token, pin, false);
  if (isRepeat) inspectRepeat(token.publicKey());
  const spki = token.publicKey().export({ type: 'spki', format: 'der' });
  const payload = enrolmentPayload({ spki, serial: token.facts().serial, code });
  return makeSign1(token.algorithm(), keyIdOfSpki(spki), payload, (message) => token.sign(message));
}

/** The token is logged in, the device writable. A crash in here leaves no store, or a whole one that opens with the PIN. */
export async function formatFlash(token: Token, device: Device, request: FormatRequest): Promise<void> {
  const { certificate, authorityCertificate, recoveryKey, erase } = request;
  const spki = token.publicKey().export({ type: 'spki', format: 'der' });
  checkIdentity({ certificate, authorityCertificate }, spki);
  const dataKey = randomBytes(dataKeyBytes);
  try {
    const slots: KeySlot[] = [token.wrapDataKey(dataKey)];
    const tokenKeyId = keyIdOfSpki(spki);
    if (recoveryKey !== null) slots.push({ method: recoveryMethod, blob: await sealTo(recoveryKey, recoveryInfoOf(tokenKeyId), dataKey) });
    const identity = encodeIdentity({ certificate, authorityCertificate, successions: [] });
    const storeId = randomBytes(storeIdBytes);
    // The KEY knows the store before it exists: a crash in between leaves a FLASH that is formatted again.
    bindAnchor(token, storeId);
    await formatStore(device, { storeId, tokenKeyId, dataKey, slots, identity, erase });
  } finally {
    wipe(dataKey);
  }
}
