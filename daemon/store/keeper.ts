// Owns: the superblock while a store is open: its present content, and writing its four copies.
// Invariants: each writing raises the counter; copies are written and synced one after the other, so at any instant two equal whole
// copies exist; `current` changes only when all four are durable. Must not: decide what goes into it.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { copyCount, copyStrideBytes } from './format.ts';
import { superblockKey } from './mount.ts';
import { encodeSuperblock, type Superblock, superblockBytes } from './superblock.ts';

export const superblockWriteBytes = superblockBytes * copyCount;

/** Copies 0 and 1 are durable before 2 and 3 are touched. Throws `too-large` when the slots do not fit. */
export async function writeSuperblock(device: Device, superblock: Superblock, dataKey: Uint8Array): Promise<void> {
  const macKey = superblockKey(dataKey, superblock.storeId);
  const bytes = encodeSuperblock(superblock, macKey);
  macKey.fill(0);
  if (bytes === null) throw new UkeyError('too-large', 'the key slots do not fit the superblock');
  for (let copy = 0; copy < copyCount; copy += 1) await device.writeAndSync(copy * copyStrideBytes, bytes);
}

export type SuperblockChange = Partial<
  Pick<Superblock, 'mountEpoch' | 'mirrorMayLag' | 'tail' | 'oldestRun' | 'oldestIndex' | 'carryPosition' | 'lifeBytes'>
>;

export class SuperblockKeeper {
  readonly #device: Device;
  readonly #dataKey: Uint8Array;
  current: Superblock;

  /** `dataKey` is borrowed: the log wipes it after close(). */
  constructor(device: Device, current: Superblock, dataKey: Uint8Array) {
    this.#device = device;
    this.#dataKey = dataKey;
    this.current = current;
  }

  async write(change: SuperblockChange): Promise<void> {
    const next = { ...this.current, ...change, updateCounter: this.current.updateCounter + 1 };
    await writeSuperblock(this.#device, next, this.#dataKey);
    this.current = next;
  }
}
