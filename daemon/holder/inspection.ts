// Owns: looking at FLASH and mirror before either is written: whether at least one of them is as new as the KEY's anchor, and what a FLASH holds that is to
// be written over.
// Invariants: nothing is written; a side that cannot be read alone decides nothing (the two may heal each other), the check after opening does;
// one side that is new enough suffices, because opening takes what is newer from it.
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { openLog, readStoreHeader } from '#store/log.ts';
import { isOfSilence } from '#store/salvage.ts';
import type { KnownEnd, StoreEnd } from '#store/store.ts';
import { type Anchor, type Findings, judgeAge } from './anchor.ts';

/**
 * `seen`: where the FLASH ends at a glance, by which the opening goes on; new enough is new enough, whatever a thorough look would say. Throws `halted`,
 * reason rollback; `busy` where the thorough look finds more than the glance did.
 */
export async function refuseRollback(
  anchor: Anchor | null,
  seen: StoreEnd | null,
  flash: Device,
  mirror: Device | null,
  dataKey: Uint8Array,
  end: KnownEnd | null = null,
): Promise<void> {
  if (anchor === null || flash.readOnly) return;
  const glance = seen === null ? null : { ...seen, lastBatch: seen.lastIndex };
  if (glance !== null && isNewEnough(anchor, glance)) return;
  // No mirror brings another store up to date, and one of the right store would be made anew from this one.
  if (glance !== null && Buffer.compare(glance.storeId, anchor.storeId) !== 0) judgeAge(anchor, glance);
  // An end that hides decides nothing here, unless it is known.
  const alone = (device: Device, known: KnownEnd | null): Promise<Findings | null> => findingsOn(device, dataKey, known).catch(() => null);
  const onFlash = await alone(flash, end);
  if (onFlash !== null && isNewEnough(anchor, onFlash))
    throw new UkeyError('busy', `${flash.path} reads differently from one look to the next`);
  const isMirror = mirror !== null && (await isOfStore(mirror, anchor.storeId));
  const onMirror = isMirror ? await alone(mirror, null) : null;
  if (onMirror !== null && isNewEnough(anchor, onMirror)) return;
  if (onFlash === null || (isMirror && onMirror === null)) return;
  judgeAge(anchor, onFlash);
}

/**
 * Before a store is written over with a copy of the store `storeId` that ends at `lastBatch`, whatever the consent: throws `halted` where that would cost
 * batches that the copy lacks, or another ledger. A store that cannot be read alone is no loss.
 */
export async function refuseLoss(target: Device, dataKey: Uint8Array, storeId: Uint8Array, lastBatch: number): Promise<void> {
  const header = await readStoreHeader(target).catch((thrown: unknown) => {
    if (isOfSilence(thrown)) throw thrown; // what it holds is not known
    return null;
  });
  if (header === null) return;
  if (Buffer.compare(header.storeId, storeId) !== 0) {
    throw new UkeyError('halted', `${target.path} holds another ledger, of token ${Buffer.from(header.tokenKeyId).toString('hex')}`, {
      action: 'Nothing was written. Take another FLASH.',
    });
  }
  const found = await findingsOn(target, dataKey);
  if (found === null || found.lastBatch <= lastBatch) return;
  throw new UkeyError('halted', `${target.path} ends at batch ${found.lastBatch} of this ledger, and the copy at batch ${lastBatch}`, {
    action: 'Nothing was written. Copy that FLASH to a file, and restore from it; or take another FLASH.',
  });
}

function isNewEnough(anchor: Anchor, found: Findings): boolean {
  try {
    judgeAge(anchor, found);
    return true;
  } catch {
    return false;
  }
}

async function isOfStore(mirror: Device, storeId: Uint8Array): Promise<boolean> {
  const header = await readStoreHeader(mirror).catch(() => null); // what it is, opening will say
  return header !== null && Buffer.compare(header.storeId, storeId) === 0;
}

/** Null: it cannot be read by itself. Throws `busy` where it may hold more than it shows. */
async function findingsOn(device: Device, dataKey: Uint8Array, end: KnownEnd | null = null): Promise<Findings | null> {
  try {
    const log = await openLog(new ReadOnlyView(device), dataKey, { end });
    const { storeId } = log.header;
    const { mountEpoch, nextIndex } = log.mounted;
    await log.close();
    return { storeId, mountEpoch, lastBatch: nextIndex - 1 };
  } catch (thrown) {
    if (asUkeyError(thrown).code === 'busy') throw thrown;
    return null;
  }
}

/** A device that takes no writes, and outlives the log that read it. */
class ReadOnlyView implements Device {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly = true;
  readonly #device: Device;

  constructor(device: Device) {
    this.#device = device;
    this.path = device.path;
    this.sizeBytes = device.sizeBytes;
    this.sectorBytes = device.sectorBytes;
  }

  read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return this.#device.read(positionBytes, lengthBytes);
  }

  writeAndSync(): Promise<void> {
    return Promise.reject(new UkeyError('halted', 'this view takes no writes'));
  }

  async close(): Promise<void> {}
}
