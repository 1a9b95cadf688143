// Owns: putting batches back into a store that damage keeps from opening, from the ticket server's copies: survey, readDamaged, mend, open or leave
// (holder.ts, MendStep). Each step opens the store anew and closes it; the token stays logged in between them.
// Invariants: `survey` opens the ledger as a login does where that is possible, so that all that the mirror has is healed first; looking writes nothing; a
// batch is written only as the very bytes that stood there (store/mend.ts), nothing is cut and nothing appended. The last step is an opening
// like any other, with all its checks; `leave` logs out, and the state says what is known.
// Errors: locked (step `survey` comes first), and those of login and opening.
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { type DamagedLog, openDamaged } from '#store/damaged-log.ts';
import type { Device } from '#store/device.ts';
import { damageOf } from '#store/recover.ts';
import { wipe } from '#token/pin.ts';
import type { Token } from '#token/token.ts';
import { readAnchor } from './anchor.ts';
import { decodeCarried } from './carried.ts';
import { decodeCheckpoint, startOf } from './chain.ts';
import { namesOf } from './damage.ts';
import type { Access } from './errands.ts';
import type { DamagedLedger, MendStep, ResumeAnswer } from './holder.ts';
import { decodeIdentity, keysIn } from './identity.ts';
import { mountedSigners, readOwnHeader, unwrapFirst } from './mounting.ts';
import { readMaxBytes } from './opened.ts';
import { publicKeyIfShown } from './survey.ts';
import { spendTry } from './try.ts';

export async function mending(access: Access, step: MendStep): Promise<ResumeAnswer> {
  switch (step.kind) {
    case 'survey':
      return await survey(access, step);
    case 'readDamaged': {
      const { fromBatch, maxBytes } = step;
      const frames = await within(access, true, fromBatch, (log) => log.read(fromBatch, Math.min(maxBytes, readMaxBytes)));
      return { kind: 'batches', batches: frames.map(({ index, payload }) => ({ batchIndex: index, bytes: payload })) };
    }
    case 'mend': {
      const frames = step.batches.map(({ batchIndex, bytes }) => ({ index: batchIndex, payload: bytes }));
      const batches = await within(access, false, step.fromBatch, (log) => log.mend(frames));
      return { kind: 'mended', batches, damage: await within(access, true, step.fromBatch, describe) };
    }
    case 'leave': {
      const { reason, action, damage } = step;
      await access.backOut(await loggedIn(access), null, new UkeyError('halted', reason, { action, cause: damage }));
      return { kind: 'left' };
    }
    default:
      return unreachable(step);
  }
}

async function survey(access: Access, { pin, useLastTry, fromBatch }: Extract<MendStep, { kind: 'survey' }>): Promise<ResumeAnswer> {
  const { parts } = access;
  const token = await access.present();
  const device = await parts.openDevice(false);
  try {
    if ((await readOwnHeader(device, publicKeyIfShown(token), parts.mirror ?? null)) === null)
      throw new UkeyError('token-failed', 'the FLASH is blank: there is nothing to mend');
    spendTry(token, pin, useLastTry);
    if (fromBatch === null) {
      try {
        return { kind: 'opened', mount: await access.mount(token, device) };
      } catch (thrown) {
        if (damageOf(thrown) === null) throw thrown;
      }
    }
    await device.close(); // an opening that failed may have closed it
    return { kind: 'surveyed', damage: await within(access, true, fromBatch, describe) };
  } catch (thrown) {
    throw await access.backOut(token, device, thrown);
  }
}

async function loggedIn(access: Access): Promise<Token> {
  const token = await access.present();
  if (!token.facts().loggedIn) throw new UkeyError('locked', 'nobody is logged in: the mending begins anew');
  return token;
}

/** One look at the damaged store. `fromBatch`: how far back; null: what opening needs. */
async function within<T>(access: Access, readOnly: boolean, fromBatch: number | null, act: (log: DamagedLog) => Promise<T>): Promise<T> {
  const token = await loggedIn(access);
  const device: Device = await access.parts.openDevice(readOnly);
  try {
    const header = await readOwnHeader(device, token.publicKey(), access.parts.mirror ?? null);
    if (header === null) throw new UkeyError('halted', 'the FLASH is blank');
    const { dataKey } = unwrapFirst(token, header.slots);
    const anchor = readAnchor(token);
    // Opening compares the batch that the KEY has seen last; it may lie before the checkpoint.
    const needed = anchor === null || anchor.batchIndex === 0 ? Number.MAX_SAFE_INTEGER : anchor.batchIndex;
    const log = await openDamaged(device, dataKey, Math.min(fromBatch ?? needed, needed)).finally(() => wipe(dataKey));
    try {
      return await act(log);
    } finally {
      log.close();
    }
  } finally {
    await device.close();
  }
}

async function describe(log: DamagedLog): Promise<DamagedLedger> {
  const identity = decodeIdentity(log.identity);
  const { signers } = await keysIn(identity);
  const known = log.checkpoint === null ? { chain: startOf(identity.certificate), front: null } : decodeCheckpoint(log.checkpoint);
  return {
    ...{ kind: 'damage', isNamed: true, missing: await namesOf(log), carryLost: log.carryLost },
    tokenId: signers.tokenId,
    signers: mountedSigners(signers),
    authorityCertificate: identity.authorityCertificate,
    checkpoint: known.front,
    before: known.chain,
    oldestBatch: log.oldestIndex,
    nextBatch: log.nextIndex,
    carried: log.carried === null ? null : decodeCarried(log.carried),
  };
}
