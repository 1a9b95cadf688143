// Owns: what keeps a device from becoming a FLASH: what it holds, in words, and the consent that is needed to erase it.
// Invariants: reads only; a ledger is erased by nobody who has not named it; a device that is mounted or in use was refused when it was opened,
// whatever the consent says.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { isAreaBlank } from '#store/erase.ts';
import { defaultSegmentBytesFor, logStartBytes, segmentCountFor } from '#store/format.ts';
import { readStoreHeader } from '#store/log.ts';
import { isOfSilence } from '#store/salvage.ts';
import type { StoreHeader } from '#store/store.ts';
import { strangerBytes, strangerIn } from '#store/strangers.ts';

export interface EraseConsent {
  readonly erase: boolean;
  /** The token id (hex) of the ledger that may be lost. */
  readonly eraseLedger?: string;
}

/** Throws halted: too small, or it holds something that the consent does not cover. */
export async function refuseOccupied(device: Device, { erase, eraseLedger }: EraseConsent): Promise<void> {
  if (segmentCountFor(device.sizeBytes, defaultSegmentBytesFor(device.sizeBytes)) < 1)
    throw new UkeyError('halted', `${device.path} is too small: ${device.sizeBytes} bytes`, { action: 'Take a larger FLASH.' });
  const header: StoreHeader | null | 'strange' = await readStoreHeader(device).catch((thrown: unknown) => {
    if (isOfSilence(thrown)) throw thrown; // what it holds is not known
    return 'strange' as const;
  });
  if (header !== null && header !== 'strange') {
    const id = Buffer.from(header.tokenKeyId).toString('hex');
    if (erase && eraseLedger === id) return;
    throw new UkeyError('halted', `${device.path} holds the ledger of token ${id}`, {
      action: `Take another FLASH. Only if nothing of that ledger is needed any more, name it: --erase --erase-ledger ${id}.`,
    });
  }
  if (erase || (header === null && (await isAreaBlank(device, 0, logStartBytes)))) return;
  const head = await device.read(0, Math.min(strangerBytes, device.sizeBytes));
  throw new UkeyError('halted', `${device.path} holds ${strangerIn(head)}`, {
    action: 'Take another FLASH; or, if nothing of it is needed, erase it with --erase.',
  });
}
