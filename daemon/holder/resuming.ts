// Owns: bringing a FLASH that is older than what KEY or ticket server have seen up to date again, from the server's copies of this ledger's own
// batches: inspect, read, adopt, open (holder.ts, ResumeStep); or, where that cannot be, look and renew (renewing.ts). Each step opens the store and closes it; the token stays logged in between them.
// Invariants: nothing is signed and nothing issued here; looking writes nothing. Before the first batch is written the KEY's anchor names the newest one that
// is to come, so that a FLASH on which this was cut short is refused as a rollback until it is done. A batch is appended only with a seal
// that holds, in its place in the chain, as it is. The last step is an opening like any other: the anchor is judged there.
// Errors: locked (step `inspect` comes first), halted (what contradicts), and those of login and store.

import { keyIdOf } from '#ipc-schema/cose.ts';
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { signersBefore } from '#ipc-schema/signers.ts';
import type { Device } from '#store/device.ts';
import { openLog } from '#store/log.ts';
import type { StoreLog } from '#store/store.ts';
import { wipe } from '#token/pin.ts';
import type { Token } from '#token/token.ts';
import { AnchorWriter, newestAnchor, readAnchor } from './anchor.ts';
import { encodeCheckpoint, follow, type Walk } from './chain.ts';
import { type Access, refuseReadOnly } from './errands.ts';
import type { Mount, ResumeAnswer, ResumeStep, StoredBatch } from './holder.ts';
import { decodeIdentity, keysIn } from './identity.ts';
import { mending } from './mending.ts';
import type { MirrorParts } from './mirroring.ts';
import { mountLedger, readOwnHeader, unwrapFirst } from './mounting.ts';
import { readMaxBytes } from './opened.ts';
import { publicKeyIfShown } from './survey.ts';
import { spendTry } from './try.ts';

export async function resume(access: Access, step: ResumeStep): Promise<ResumeAnswer> {
  if (access.open() !== null) throw new UkeyError('invalid-request', 'the ledger is open: there is nothing to resume');
  refuseReadOnly(access.parts);
  switch (step.kind) {
    case 'inspect':
      return await inspect(access, step);
    case 'read':
      return { kind: 'batches', batches: await readOlder(access, step) };
    case 'adopt':
      return { kind: 'adopted', nextBatch: await adopt(access, step) };
    case 'open':
      return await open(access);
    case 'survey':
    case 'readDamaged':
    case 'mend':
    case 'leave':
      return await mending(access, step);
    case 'look':
      return await (await import('./renewing.ts')).look(access);
    case 'renew':
      return await (await import('./renewing.ts')).renew(access, step.renewal);
    default:
      return unreachable(step);
  }
}

async function inspect(access: Access, { pin, useLastTry, acceptEnd }: Extract<ResumeStep, { kind: 'inspect' }>): Promise<ResumeAnswer> {
  const { parts } = access;
  const token = await access.present();
  const device = await parts.openDevice(true);
  try {
    if ((await readOwnHeader(device, publicKeyIfShown(token), parts.mirror ?? null)) === null)
      throw new UkeyError('token-failed', 'the FLASH is blank: there is nothing to resume');
    spendTry(token, pin, useLastTry);
    const onFlash = await older(token, device, acceptEnd);
    const anchor = newestAnchor(readAnchor(token), access.seen.anchor, onFlash.storeId, keyIdOf(token.publicKey()));
    const onMirror = await olderOnMirror(parts.mirror ?? null, token, onFlash);
    const place = onMirror === null ? 'flash' : 'mirror';
    const { mount, storeId, mountEpoch } = onMirror ?? onFlash;
    if (anchor !== null && Buffer.compare(anchor.storeId, storeId) !== 0)
      throw new UkeyError('halted', 'the FLASH holds another store than the KEY has last written: it cannot be brought up to that one');
    const seen = anchor === null ? null : { batchIndex: anchor.batchIndex, isOpenedSince: anchor.mountEpoch > mountEpoch };
    const hiddenBehind = place === 'flash' && onFlash.isEndHidden ? onFlash.mount.nextBatch - 1 : null;
    return { kind: 'inspected', mount, place, facts: token.facts(), anchor: seen, hiddenBehind };
  } catch (thrown) {
    throw await access.backOut(token, device, thrown);
  }
}

interface Older {
  readonly mount: Mount;
  readonly storeId: Uint8Array;
  readonly mountEpoch: number;
  readonly isEndHidden: boolean;
}

/** Closes the device. */
async function older(token: Token, device: Device, acceptEnd: boolean): Promise<Older> {
  const { log, mount } = await mountLedger(token, device, null, { isRejoining: true, acceptEnd: acceptEnd ? 0 : null });
  const { mountEpoch, isEndHidden } = log.mounted;
  const { storeId } = log.header;
  await log.close();
  return { mount, storeId, mountEpoch, isEndHidden };
}

/** What the mirror has, where it goes further than the FLASH; null: it does not, or nothing can be read of it alone. */
async function olderOnMirror(mirror: MirrorParts | null, token: Token, onFlash: Older): Promise<Older | null> {
  const device = await openMirror(mirror, token).catch(() => null);
  if (device === null) return null;
  try {
    const found = await older(token, device, false);
    const isSame = Buffer.compare(found.storeId, onFlash.storeId) === 0;
    return isSame && found.mount.nextBatch > onFlash.mount.nextBatch ? found : null;
  } catch {
    return null; // what opening the log does with it, is said there
  } finally {
    await device.close();
  }
}

async function openMirror(mirror: MirrorParts | null, token: Token): Promise<Device> {
  if (mirror === null) throw new UkeyError('no-token', 'there is no mirror');
  return await mirror.open(keyIdOf(token.publicKey()), { readOnly: true, sizeBytes: null });
}

async function loggedIn(access: Access): Promise<Token> {
  const token = await access.present();
  if (!token.facts().loggedIn) throw new UkeyError('locked', 'nobody is logged in: the resumption begins anew');
  return token;
}

async function readOlder(access: Access, step: Extract<ResumeStep, { kind: 'read' }>): Promise<StoredBatch[]> {
  const { place, fromBatch, maxBytes, acceptEnd } = step;
  const token = await loggedIn(access);
  const { openDevice, mirror } = access.parts;
  const device = place === 'flash' ? await openDevice(true) : await openMirror(mirror ?? null, token);
  try {
    const header = await readOwnHeader(device, token.publicKey(), null);
    if (header === null) throw new UkeyError('halted', 'the FLASH is blank');
    const { dataKey } = unwrapFirst(token, header.slots);
    const end = acceptEnd && place === 'flash' ? { givenUpBehind: 0 } : null;
    const log = await openLog(device, dataKey, { end }).finally(() => wipe(dataKey));
    try {
      const frames = await log.read(fromBatch, Math.min(maxBytes, readMaxBytes));
      return frames.map(({ index, payload }) => ({ batchIndex: index, bytes: payload }));
    } finally {
      await log.close();
    }
  } finally {
    await device.close();
  }
}

async function adopt(access: Access, { batches, target, acceptEnd }: Extract<ResumeStep, { kind: 'adopt' }>): Promise<number> {
  const { parts } = access;
  const token = await loggedIn(access);
  const onKey = readAnchor(token);
  const device = await parts.openDevice(false);
  try {
    const header = await readOwnHeader(device, token.publicKey(), parts.mirror ?? null);
    const anchor = header === null ? onKey : newestAnchor(onKey, access.seen.anchor, header.storeId, keyIdOf(token.publicKey()));
    // The KEY knows what is to come before any of it is written: a crash from here on is a rollback until all of it is there.
    // Where what it has seen behind is given up (acknowledgements alone), only a later opening rules over that.
    const mountEpoch = anchor === null ? 0 : anchor.mountEpoch + (anchor.batchIndex > target.batchIndex ? 1 : 0);
    if (onKey !== null && onKey.batchIndex !== target.batchIndex)
      new AnchorWriter(token, { ...onKey, mountEpoch }, parts.note).write(target.batchIndex, target.sealHash, parts.clock.monotonicMs());
    const mounting = { isRejoining: true, acceptEnd, epochMin: mountEpoch };
    const { log, chain } = await mountLedger(token, device, parts.mirror ?? null, mounting);
    try {
      const { signers, succeed } = await keysIn(decodeIdentity(log.mounted.identity));
      let walk: Walk = { chain, signers: signersBefore(signers, chain.nextBatch) };
      const appends: Promise<unknown>[] = [];
      for (const { batchIndex, bytes, checkpoint } of batches) {
        if (batchIndex < chain.nextBatch) await compare(log, batchIndex, bytes);
        else {
          const before = walk.chain;
          walk = follow(walk, bytes, succeed);
          appends.push(log.append(bytes, encodeCheckpoint(before, checkpoint), { reserved: true }));
        }
      }
      await Promise.all(appends);
      // No epoch of this rejoining: should it be cut short, the right FLASH may still be put back.
      access.seen.anchor = { storeId: log.header.storeId, keyId: log.header.tokenKeyId, mountEpoch, ...target };
      return walk.chain.nextBatch;
    } finally {
      await log.close();
    }
  } finally {
    await device.close();
  }
}

/** The mirror knew it, and it is on the FLASH by now. */
async function compare(log: StoreLog, batchIndex: number, bytes: Uint8Array): Promise<void> {
  const [frame] = await log.read(batchIndex, 1);
  if (frame === undefined || Buffer.compare(frame.payload, bytes) !== 0)
    throw new UkeyError('halted', `the mirror holds another batch ${batchIndex} than the ticket server`);
}

async function open(access: Access): Promise<ResumeAnswer> {
  const token = await loggedIn(access);
  const device = await access.parts.openDevice(false);
  try {
    return { kind: 'opened', mount: await access.mount(token, device) };
  } catch (thrown) {
    throw await access.backOut(token, device, thrown);
  }
}
