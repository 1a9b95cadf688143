// Owns: what a holder in this process is made of, and how the parts of a real one are opened from its configuration.
// Invariants: nothing is created by looking: a token file and an image are made only by provisioning and formatting.
// Must not: keep anything open; joined.ts does.
import { type Clock, systemClock } from '#ground/clock.ts';
import { systemText } from '#ground/state-fault.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { createImage, openFileDevice } from '#store/device-file.ts';
import { loadModule, openPkcs11Token, type Pkcs11Options } from '#token/pkcs11.ts';
import type { SlotChoice } from '#token/slot.ts';
import { openSoftToken } from '#token/soft-token.ts';
import type { Token } from '#token/token.ts';
import type { Seen } from './anchor.ts';
import type { HolderConfig } from './configuration.ts';
import type { HolderEvents } from './holder.ts';
import { type MirrorParts, mirrorAt } from './mirroring.ts';

const mib = 1024 * 1024;

export interface HolderParts {
  /** Looks from scratch: no other token of these parts is open. Throws no-token while there is none. */
  openToken(): Token;
  /** Throws no-token while the FLASH is missing. */
  openDevice(readOnly: boolean): Promise<Device>;
  /** A copy of a store by its path, for reading. Throws no-token where there is none. */
  openSource(path: string): Promise<Device>;
  /** Where `openToken` finds none: a blank one (the soft token is made). Called by `provision` only. */
  readonly openBlank?: () => Token;
  /** Makes a blank FLASH where there is none (an image); called by `format` only. */
  readonly createDevice?: () => Promise<void>;
  /** Second copy of the log; left out: none. */
  readonly mirror?: MirrorParts;
  /** Null: the FLASH is no file (tests in memory). */
  readonly flashPath: string | null;
  readonly presencePaths: readonly string[];
  readonly readOnly: boolean;
  readonly clock: Clock;
  readonly events: HolderEvents;
  /** How far the ledger was durable that a holder before this one had open last. */
  readonly seen?: Seen | null;
  /** After each look at the token, whatever it found. */
  readonly onLooked?: () => void;
  /** Nothing in this process helps any more; a new one may. Called at most now and then. */
  readonly onHopeless?: (reason: string) => void;
  /** What a person may want to know and no caller is told. */
  readonly note: (what: string, error: unknown) => void;
  readonly pollMs?: number;
}

/** The part of HolderParts that a configuration decides. */
export type OpenedFromConfig = Omit<HolderParts, 'events' | 'note' | 'seen' | 'onLooked' | 'onHopeless' | 'pollMs'>;

/** Opens nothing yet. Throws invalid-request when the configuration names no token. */
export function partsOf(config: HolderConfig): OpenedFromConfig {
  const { flashPath, presencePaths, imageBytes, mirror } = config;
  return {
    ...tokenParts(config),
    openDevice: (readOnly) => openFileDevice(flashPath, { readOnly }),
    openSource,
    ...(imageBytes === undefined ? {} : { createDevice: () => makeImage(flashPath, imageBytes) }),
    ...(mirror === undefined ? {} : { mirror: mirrorAt(mirror.mode, mirror.place) }),
    flashPath,
    presencePaths,
    readOnly: config.readOnly ?? false,
    clock: systemClock,
  };
}

/** For formatting: the FLASH, made where there is none and one may be made. */
export async function openOrCreate(parts: HolderParts): Promise<Device> {
  try {
    return await parts.openDevice(false);
  } catch (thrown) {
    if (parts.createDevice === undefined || !(thrown instanceof UkeyError) || thrown.code !== 'no-token') throw thrown;
    await parts.createDevice();
    return await parts.openDevice(false);
  }
}

/** A copy that was named: whatever it is, it is no token that is to be plugged in. */
async function openSource(path: string): Promise<Device> {
  try {
    return await openFileDevice(path, { readOnly: true });
  } catch (thrown) {
    if (!(thrown instanceof UkeyError) || thrown.cause === undefined) throw thrown;
    throw new UkeyError('invalid-request', `from: ${path} cannot be read: ${systemText(thrown.cause)}`, {
      field: 'from',
      action: 'Name a FLASH or a mirror that the service can read.',
      cause: thrown,
    });
  }
}

async function makeImage(path: string, imageBytes: number): Promise<void> {
  try {
    await createImage(path, imageBytes);
  } catch (thrown) {
    const cause = thrown instanceof UkeyError ? thrown.cause : null;
    if (!['ENOSPC', 'EDQUOT'].includes((cause as NodeJS.ErrnoException | null)?.code ?? '')) throw thrown;
    throw new UkeyError('halted', `there is no room for ${imageBytes / mib} MiB on the file system of ${path}; nothing was made`, {
      action: 'Make room there, or make the image smaller (flash_mib) or put it elsewhere (flash).',
      cause: thrown,
    });
  }
}

function tokenParts(config: HolderConfig): Pick<HolderParts, 'openToken' | 'openBlank'> {
  const { module: modulePath, moduleSha256, moduleParameters, tokenLabel: label, softTokenPath: path } = config;
  if (modulePath === null) {
    if (path === undefined)
      throw new UkeyError('invalid-request', 'neither a module nor a soft token is named', { field: 'softTokenPath' });
    return { openToken: () => openSoftToken({ path }), openBlank: () => openSoftToken({ path, create: true }) };
  }
  const how: Omit<Pkcs11Options, 'slot'> = {
    modulePath,
    ...(moduleSha256 === undefined ? {} : { moduleSha256 }),
    ...(moduleParameters === undefined ? {} : { moduleParameters }),
  };
  const open = (slot: SlotChoice): Token => {
    restartModule(how);
    return openPkcs11Token({ ...how, slot });
  };
  if (label === undefined) return { openToken: () => open({ kind: 'only' }) };
  return { openToken: () => open({ kind: 'label', label }), openBlank: () => open({ kind: 'blank' }) };
}

/** Some modules (SoftHSM2) look for tokens only in C_Initialize, and show a blank one in the place of one that was pulled. */
function restartModule(how: Omit<Pkcs11Options, 'slot'>): void {
  const module = loadModule(how.modulePath, how);
  try {
    module.finalize();
  } catch {
    // Whatever C_Finalize says: the C_Initialize that follows tells whether the module is of use.
  }
}
