// Owns: from a token that is logged in and a FLASH that is open to a ledger that may go on: key slot, log, identity, chain.
// Invariants: whose store it is, is settled before anything is written; the data key lives only inside these calls and the log's own copy;
// every seal after the checkpoint is verified before the ledger counts as open.
// Errors: halted (another token's store, damage, a chain that does not hold), token-failed (no slot could be unwrapped).
// On an error the device is still the caller's to close.
import type { KeyObject } from 'node:crypto';
import { decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { newestSigner, type Signer, type Signers, signersBefore } from '#ipc-schema/signers.ts';
import type { Device } from '#store/device.ts';
import { readStoreHeader } from '#store/log.ts';
import type { KeySlot, StoreHeader, StoreLog } from '#store/store.ts';
import { wipe } from '#token/pin.ts';
import type { Token, TokenFacts, WrapMethod } from '#token/token.ts';
import { type Anchor, judgeAge, judgeSeal, newestAnchor, readAnchor, type Seen, seenOf } from './anchor.ts';
import { decodeCarried } from './carried.ts';
import { type Chain, decodeCheckpoint, follow, startOf, type Walk } from './chain.ts';
import { nameDamage } from './damage.ts';
import type { Mount, MountedSigner } from './holder.ts';
import { checkTurn, decodeIdentity, type Identity, keysIn } from './identity.ts';
import { refuseRollback } from './inspection.ts';
import { type MirrorParts, openMirrored } from './mirroring.ts';

/** The slot that only the authority's recovery key opens. */
export const recoveryMethod = 'hpke-recovery';
const verifyChunkBytes = 4 * 1024 * 1024;

const wrapMethods: ReadonlySet<string> = new Set<WrapMethod>([
  'aes-kw',
  'rsa-oaep',
  'rsa-pkcs1',
  'ecdh-p256-hkdf',
  'data-object-kek',
  'rsa-signature-hkdf',
  'soft-scrypt',
]);

export interface Mounting {
  readonly log: StoreLog;
  readonly chain: Chain;
  readonly mount: Mount;
  /** Why the mirror is not used, or null. */
  readonly mirrorFailure: string | null;
  /** Of the token, when all this was done: it was still there. */
  readonly facts: TokenFacts;
}

/**
 * Throws `halted` when the FLASH is of another token. Null: the FLASH is not formatted. Where its superblocks rotted, those of the token's
 * mirror tell; that takes a public key.
 */
export async function readOwnHeader(device: Device, publicKey: KeyObject | null, mirror: MirrorParts | null): Promise<StoreHeader | null> {
  const header = await readStoreHeader(device, null, publicKey === null ? null : keyIdOf(publicKey)).catch((thrown: unknown) =>
    readFromMirror(device, publicKey, mirror, thrown),
  );
  if (header !== null && publicKey !== null && Buffer.compare(header.tokenKeyId, keyIdOf(publicKey)) !== 0) {
    throw new UkeyError('halted', 'the FLASH belongs to another token', {
      action: 'Plug in the token and the FLASH that belong together.',
    });
  }
  return header;
}

async function readFromMirror(
  device: Device,
  publicKey: KeyObject | null,
  mirror: MirrorParts | null,
  thrown: unknown,
): Promise<StoreHeader | null> {
  if (publicKey === null || mirror === null) throw thrown;
  let second: Device;
  try {
    second = await mirror.open(keyIdOf(publicKey), { readOnly: true, sizeBytes: null });
  } catch {
    throw thrown; // no mirror: the FLASH's own word stands
  }
  try {
    return await readStoreHeader(device, second, keyIdOf(publicKey));
  } catch {
    throw thrown; // no better a witness
  } finally {
    await second.close();
  }
}

export interface MountOptions {
  /** An older FLASH is being brought up to what the KEY has seen (resuming.ts): its age is no reason to refuse it yet. */
  readonly isRejoining?: boolean;
  /** How far the ledger was durable when this process had it open last; null: it had not. */
  readonly seen?: Seen | null;
  /** The log has this batch, and what cannot be read behind its end is given up; null: nothing is. */
  readonly acceptEnd?: number | null;
  /** As openLog has it. */
  readonly epochMin?: number;
  /** As openLog has it. */
  readonly note?: (what: string, error: unknown) => void;
}

/** `token` is logged in. The log's opening is the first write, where the device is writable. */
export async function mountLedger(
  token: Token,
  device: Device,
  mirror: MirrorParts | null,
  { isRejoining = false, seen = null, acceptEnd = null, epochMin = 0, note }: MountOptions = {},
): Promise<Mounting> {
  const publicKey = token.publicKey();
  const header = await readOwnHeader(device, publicKey, mirror);
  if (header === null) throw new UkeyError('token-failed', 'the FLASH is not formatted: provision the token first');
  // Before the log is read: a service that goes on writing beside a reader makes it no rollback.
  const ours = seenOf(seen, header.storeId, keyIdOf(publicKey));
  const anchor = newestAnchor(readAnchor(token), ours, header.storeId, keyIdOf(publicKey));
  const end = acceptEnd !== null ? { givenUpBehind: acceptEnd } : ours === null ? null : { ...ours, lastIndex: ours.batchIndex };
  const { dataKey, method } = unwrapFirst(token, header.slots);
  const named = (thrown: unknown): Promise<unknown> => nameDamage(device, dataKey, thrown, anchor?.batchIndex ?? null);
  try {
    const { log, mirrorFailure } = await openMirrored(
      device,
      dataKey,
      mirror,
      keyIdOf(publicKey),
      async (found, second) => (isRejoining ? undefined : await refuseRollback(anchor, found, device, second, dataKey, end)),
      { end, epochMin, ...(note === undefined ? {} : { note }) },
    );
    try {
      const { chain, mount } = await readMount(token, publicKey, log, method);
      if (!isRejoining) await compareWith(anchor, log, chain);
      return { log, chain, mount, mirrorFailure, facts: token.facts() };
    } catch (thrown) {
      const error = await named(thrown); // while the device is open
      await log.close(); // and the device with it; closing it once more does no harm
      throw error;
    }
  } catch (thrown) {
    throw await named(thrown);
  } finally {
    wipe(dataKey);
  }
}

async function readMount(token: Token, publicKey: KeyObject, log: StoreLog, method: string): Promise<Pick<Mounting, 'chain' | 'mount'>> {
  const identity = decodeIdentity(log.mounted.identity);
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  const { chain, front, signers } = await readChain(log, identity);
  checkTurn(signers, spki);
  const mount: Mount = {
    tokenId: signers.tokenId,
    algorithm: token.algorithm(),
    publicKey: spki,
    certificate: newestSigner(signers).certificate,
    authorityCertificate: identity.authorityCertificate,
    signers: mountedSigners(signers),
    checkpoint: front,
    checkpointBatch: log.mounted.checkpointIndex,
    oldestBatch: log.mounted.oldestIndex,
    carried: log.mounted.carried === null ? null : decodeCarried(log.mounted.carried),
    ...chain,
    tornBytes: log.mounted.tornBytes,
    keyWrapping: method,
    mirror: log.mounted.mirror,
  };
  return { chain, mount };
}

/** What was opened, whatever it was healed from, against what the KEY has seen. */
export async function compareWith(anchor: Anchor | null, log: StoreLog, chain: Chain): Promise<void> {
  if (anchor === null) return;
  const { mountEpoch, oldestIndex } = log.mounted;
  judgeAge(anchor, { storeId: log.header.storeId, mountEpoch, lastBatch: chain.nextBatch - 1 });
  if (anchor.batchIndex < oldestIndex) return; // none yet, or released
  if (anchor.batchIndex === chain.nextBatch - 1) return judgeSeal(anchor, chain.headSealHash);
  const [frame] = await log.read(anchor.batchIndex, 1);
  if (frame !== undefined) judgeSeal(anchor, sealHashOf(decodeBatch(frame.payload).sealBytes));
}

export function unwrapFirst(token: Token, slots: readonly KeySlot[]): { dataKey: Uint8Array; method: string } {
  const refusals: unknown[] = [];
  for (const { method, blob } of slots) {
    if (!isWrapMethod(method)) continue;
    try {
      return { dataKey: token.unwrapDataKey({ method, blob }), method };
    } catch (thrown) {
      if (!(thrown instanceof UkeyError) || thrown.code !== 'token-failed') throw thrown;
      refusals.push(thrown);
    }
  }
  throw new UkeyError('token-failed', 'no key slot of the FLASH could be opened by this token', { cause: new AggregateError(refusals) });
}

const isWrapMethod = (method: string): method is WrapMethod => wrapMethods.has(method);

export function mountedSigners({ list: [first, ...others] }: Signers): Mount['signers'] {
  const shown = ({ fromBatch, certificate, succession }: Signer): MountedSigner => ({
    ...{ fromBatch, certificate },
    succession: succession?.signed ?? null,
  });
  return [shown(first), ...others.map(shown)];
}

/** A ledger as it stands in a log, verified from the checkpoint on. */
export interface ChainFound {
  readonly chain: Chain;
  /** All keys of the ledger; the newest may not have sealed anything yet. */
  readonly signers: Signers;
  readonly front: Uint8Array | null;
}

/** Throws `halted`. */
export async function readChain(log: StoreLog, identity: Identity): Promise<ChainFound> {
  const { checkpoint, checkpointIndex, nextIndex } = log.mounted;
  const start = checkpoint === null ? { chain: startOf(identity.certificate), front: null } : decodeCheckpoint(checkpoint);
  if (start.chain.nextBatch !== checkpointIndex) {
    throw new UkeyError('halted', `the checkpoint before frame ${checkpointIndex} says batch ${start.chain.nextBatch}`);
  }
  const { signers, succeed } = await keysIn(identity);
  let walk: Walk = { chain: start.chain, signers: signersBefore(signers, start.chain.nextBatch) };
  while (walk.chain.nextBatch < nextIndex) {
    const frames = await log.read(walk.chain.nextBatch, verifyChunkBytes);
    if (frames.length === 0) throw new UkeyError('halted', `frame ${walk.chain.nextBatch} is missing in the log`);
    for (const frame of frames) walk = follow(walk, frame.payload, succeed);
  }
  checkSuccessions(walk, signers);
  return { chain: walk.chain, signers, front: start.front };
}

/** Who has sealed is who the identity names; at most its newest key, whose turn is now, has not. Throws `halted`. */
function checkSuccessions({ chain, signers: walked }: Walk, signers: Signers): void {
  const newest = newestSigner(signers);
  const isPending = newest.succession !== null && newest.fromBatch === chain.nextBatch;
  if (isPending && Buffer.compare(newest.succession.previousSealHash, chain.headSealHash) !== 0)
    throw new UkeyError('halted', `the succession in the store follows another batch than ${chain.nextBatch - 1}`);
  const last = newestSigner(isPending ? signersBefore(signers, newest.fromBatch) : signers);
  if (Buffer.compare(newestSigner(walked).keyId, last.keyId) !== 0)
    throw new UkeyError('halted', 'the store names other keys of the ledger than those that sealed it');
}
