// Owns: making a FLASH from a mirror, for a token that was lost with its FLASH.
// Invariants: the mirror is read only and must open by itself; the target is blank, or may be erased; its superblocks are written last, so a
// crash before leaves no store and the work is repeated. Frames are copied as they stand: keys, positions and history stay; only
// the key slots, the token and, where given, the identity are new. Must not: unwrap or make keys.
import { randomBytes as cryptoRandomBytes } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { KeySlot, StoreHeader } from '#store/store.ts';
import { sealIdentity } from './cipher.ts';
import { blankHead, isAreaBlank } from './erase.ts';
import { idBytes, logStartBytes, saltBytes } from './format.ts';
import { copySegment } from './heal.ts';
import { superblockWriteBytes, writeSuperblock } from './keeper.ts';
import { checkDevice, headerOf, readLog, readSuperblock } from './mount.ts';
import { PatientDevice } from './salvage.ts';
import { identityMaxBytes, type Superblock } from './superblock.ts';
import type { RandomBytes } from './writer.ts';

export interface RestoreOptions {
  /** The new token. */
  readonly tokenKeyId: Uint8Array;
  /** The data key, wrapped for the new token. */
  readonly slots: readonly KeySlot[];
  /** The new token's; the old one stays when absent. */
  readonly identity?: Uint8Array;
  /** Must be true to write over a target that is not blank. */
  readonly erase: boolean;
  readonly onProgress?: (done: number, segments: number) => void;
  readonly randomBytes?: RandomBytes;
}

/**
 * Throws `halted` when the mirror is blank, foreign, damaged or of another key, or when the target does not take it (too small, larger
 * sectors, not blank): nothing is written then. `too-large` for identity or slots. The target's mount epoch is above the mirror's.
 */
export async function restoreFromMirror(
  mirror: Device,
  target: Device,
  dataKey: Uint8Array,
  options: RestoreOptions,
): Promise<StoreHeader> {
  const { tokenKeyId, slots, identity, randomBytes = cryptoRandomBytes } = options;
  if (tokenKeyId.length !== idBytes) throw new UkeyError('internal', 'the id of a token has 16 bytes');
  if ((identity?.length ?? 0) > identityMaxBytes) throw new UkeyError('too-large', `the identity has ${identity?.length} bytes`);
  const source = new PatientDevice(mirror);
  const before = (await readSuperblock(source, dataKey)).superblock;
  const found = await readLog(source, before, dataKey);
  checkDevice(target, before);
  const isBlank = await isAreaBlank(target, 0, logStartBytes);
  if (!isBlank && !options.erase) throw new UkeyError('halted', `${target.path} is not blank: restoring would destroy what is on it`);
  if (!isBlank) await blankHead(target);
  for (const [done, { segment }] of found.heads.entries()) {
    // A hole in the middle is known for damage whenever it is read; one at the end would pass for the end.
    await copySegment(source, target, before, segment, done + 1 < found.heads.length);
    options.onProgress?.(done + 1, found.heads.length);
  }
  const identitySalt = Uint8Array.from(randomBytes(saltBytes));
  const resealed = identity === undefined ? {} : { identitySalt, identitySealed: sealIdentity(dataKey, identitySalt, before, identity) };
  const superblock: Superblock = {
    ...before,
    ...resealed,
    tokenKeyId,
    slots,
    // Whatever stood on the target behind the log means nothing.
    leftovers: true,
    mirrorMayLag: false,
    updateCounter: before.updateCounter + 1,
    mountEpoch: before.mountEpoch + 1,
    lifeBytes: found.heads.length * before.segmentBytes + superblockWriteBytes,
  };
  await writeSuperblock(target, superblock, dataKey);
  return headerOf(superblock);
}
