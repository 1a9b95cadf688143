// Owns: the end of a ledger whose batches are lost for good, as far as KEY and FLASH go: the KEY is initialised anew and gets another key pair, so that no number
// of the old ledger is ever sealed again; the FLASH is formatted by the step that follows (errands.ts, format).
// Invariants: a KEY is destroyed only where it is named and the FLASH holds the store that ends; the mirror of that store is kept aside as it is. Each call
// may be repeated after a crash anywhere: a KEY that is blank or new already goes on from there. The caller has kept durably what is lost.
// Errors: halted (another store on the FLASH), invalid-request (another KEY), those of login and of the token.
import type { KeyObject } from 'node:crypto';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { readStoreHeader } from '#store/log.ts';
import type { Token } from '#token/token.ts';
import type { Access } from './errands.ts';
import type { Renewal, ResumeAnswer } from './holder.ts';
import { enrolmentRequest } from './provisioning.ts';
import { publicKeyIfShown } from './survey.ts';
import { spendTry } from './try.ts';

export async function look(access: Access): Promise<ResumeAnswer> {
  const token = await access.presentOrBlank(true);
  const { provisioned } = token.facts();
  const key = provisioned ? publicKeyIfShown(token) : null;
  return {
    kind: 'looked',
    isBlank: !provisioned,
    keyId: key === null ? null : Buffer.from(keyIdOf(key)).toString('hex'),
    storeKeyId: await storeKeyId(access.parts),
  };
}

export async function renew(access: Access, renewal: Renewal): Promise<ResumeAnswer> {
  const { parts } = access;
  const { ends, destroyed, label, soPin, pin } = renewal;
  const token = await access.presentOrBlank(true);
  const store = await storeKeyId(parts);
  try {
    const before = token.facts().provisioned ? hexId(shownKey(token, pin)) : null;
    if (before !== null && before === store && !destroyed.includes(before)) return { kind: 'renewed', keyId: before, request: null };
    // Blank: formatting was cut short.
    if (store !== null && store !== ends)
      throw new UkeyError('halted', `the FLASH holds the ledger of token ${store}`, {
        action: 'Plug in the FLASH of the ledger that ends.',
      });
    if (before !== null && !destroyed.includes(before) && token.facts().serial !== renewal.serial)
      throw new UkeyError('invalid-request', 'another KEY is there than the one whose ledger ends', {
        action: 'Plug in the KEY with which this was begun.',
      });
    await parts.mirror?.setAside?.(Buffer.from(ends, 'hex'));
    if (before !== null && destroyed.includes(before)) {
      if (before === ends && store !== ends) throw new UkeyError('halted', 'the FLASH does not hold the ledger that ends');
      token.reset({ label, soPin });
      // Nobody can seal in that ledger any more. A crash from here on leaves a blank KEY, with which the next call goes on.
    }
    const request = enrolmentRequest(token, renewal, () => undefined);
    return { kind: 'renewed', keyId: hexId(token.publicKey()), request };
  } finally {
    await access.lookAnew();
  }
}

/** Hex; null: there is none that can be read. */
async function storeKeyId({ openDevice }: Access['parts']): Promise<string | null> {
  const device = await openDevice(true).catch(() => null);
  if (device === null) return null;
  try {
    const header = await readStoreHeader(device).catch(() => null);
    return header === null ? null : Buffer.from(header.tokenKeyId).toString('hex');
  } finally {
    await device.close();
  }
}

/** Where the module shows it only after a login, one is made. */
function shownKey(token: Token, pin: Uint8Array): KeyObject {
  const shown = publicKeyIfShown(token);
  if (shown !== null) return shown;
  spendTry(token, pin, false);
  return token.publicKey();
}

const hexId = (key: KeyObject): string => Buffer.from(keyIdOf(key)).toString('hex');
