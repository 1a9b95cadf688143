// Owns: opening the log together with its mirror: finding or making the mirror of this token, and going on without one that fails.
// Invariants: a mirror is made beside its name and renamed when it is whole and blank, so that a crash leaves none or a usable one; a mirror
// that cannot be used (missing disk, full disk, in use) never stops issuing: the FLASH alone has every batch, the status tells, and the next
// opening brings the mirror up; a large one is made beside the tills, and the log opened again with it. What contradicts the FLASH, or is no store of ours at all, does stop (`halted`, from the store).
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { keyIdOf } from '#ipc-schema/cose.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Device, WriteOptions } from '#store/device.ts';
import { createImage, openFileDevice } from '#store/device-file.ts';
import { type OpenOptions, openLog, readStoreHeader } from '#store/log.ts';
import { UnfitMirror } from '#store/salvage.ts';
import type { MirrorMode, StoreEnd, StoreLog } from '#store/store.ts';
import type { Token } from '#token/token.ts';
import type { MirrorPlace } from './configuration.ts';

const imageUnitBytes = 1024 * 1024;
/** A mirror up to this size is made while the token is opened; a larger one beside the tills. */
const atOnceMaxBytes = 256 * 1024 * 1024;

/** A mirror on its way. */
export interface MirrorMaking {
  /** How far it is, or why it was given up. */
  text(): string;
  hasFailed(): boolean;
  isWhole(): boolean;
  /** Resolves when it is whole: the log is to be opened again. Never rejects. */
  readonly made: Promise<void>;
}

export interface MirrorParts {
  readonly mode: MirrorMode;
  /** The mirror of this token; where there is none and `sizeBytes` is given, a blank one of at least that size is made. Throws no-token, halted. */
  open(tokenId: Uint8Array, options: { readonly readOnly: boolean; readonly sizeBytes: number | null }): Promise<Device>;
  /** Of a ledger that ends: its mirror is kept under another name where it would be in the way of the next one. Repeating it is harmless. Throws `halted`. */
  setAside?(tokenId: Uint8Array): Promise<void>;
  /** The one that `open` has begun to make because it takes long; it threw busy then. */
  making?(): MirrorMaking | null;
}

export function mirrorAt(mode: MirrorMode, place: MirrorPlace, atOnceBytes = atOnceMaxBytes): MirrorParts {
  let making: MirrorMaking | null = null;
  return {
    mode,
    making: () => making,
    setAside: async (tokenId) => {
      if (place.kind === 'file') await setAside(place.path, tokenId);
    },
    open: async (tokenId, { readOnly, sizeBytes }) => {
      const file = pathOf(place, tokenId);
      try {
        const device = await openFileDevice(file, { readOnly });
        if (!readOnly) making = null;
        return device;
      } catch (thrown) {
        // One that was made and cannot be opened is not on its way any more: the log would be opened again and again for it.
        if (!readOnly && making?.isWhole() === true) making = null;
        if (readOnly || sizeBytes === null || !(thrown instanceof UkeyError) || thrown.code !== 'no-token') throw thrown;
      }
      const imageBytes = Math.ceil(sizeBytes / imageUnitBytes) * imageUnitBytes;
      if (imageBytes > atOnceBytes) {
        if (making === null || making.hasFailed()) making = makeBeside(file, imageBytes);
        throw new UkeyError('busy', making.text());
      }
      await makeImage(file, imageBytes);
      return await openFileDevice(file);
    },
  };
}

/** A folder holds the mirrors of several tokens: a spare token must not take the place of the one that it stands in for. */
function pathOf(place: MirrorPlace, tokenId: Uint8Array): string {
  return place.kind === 'file' ? place.path : path.join(place.folder, `mirror-${Buffer.from(tokenId).toString('hex')}.img`);
}

async function setAside(file: string, tokenId: Uint8Array): Promise<void> {
  if (!(await isMirrorOf(file, tokenId))) return;
  if (!(await stat(file)).isFile())
    throw new UkeyError('halted', `the mirror ${file} holds the ledger that ends, and cannot be renamed`, {
      action: 'Name another mirror in the configuration, or none, and keep that one as it is.',
    });
  await rename(file, `${file}.${Buffer.from(tokenId).toString('hex')}`);
}

async function isMirrorOf(file: string, tokenId: Uint8Array): Promise<boolean> {
  const device = await openFileDevice(file, { readOnly: true }).catch(() => null); // none to be found: none to be lost
  if (device === null) return false;
  try {
    const header = await readStoreHeader(device);
    return header !== null && Buffer.compare(header.tokenKeyId, tokenId) === 0;
  } finally {
    await device.close();
  }
}

function makeBeside(file: string, sizeBytes: number): MirrorMaking {
  let doneBytes = 0;
  let failure: string | null = null;
  let isWhole = false;
  const { promise: made, resolve } = Promise.withResolvers<void>();
  makeImage(file, sizeBytes, (bytes) => {
    doneBytes = bytes;
  }).then(
    () => {
      isWhole = true;
      resolve();
    },
    (error: unknown) => {
      failure = asUkeyError(error).message; // the next opening tries again
    },
  );
  return {
    made,
    hasFailed: () => failure !== null,
    isWhole: () => isWhole,
    text: () => failure ?? `it is being made: ${Math.floor((100 * doneBytes) / sizeBytes)} %; until then the FLASH alone has every batch`,
  };
}

async function makeImage(file: string, sizeBytes: number, onProgress?: (doneBytes: number) => void): Promise<void> {
  const unfinished = `${file}.new`;
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 }).catch((cause: unknown) => {
    throw new UkeyError('halted', `the folder of the mirror ${file} cannot be made`, { cause });
  });
  await rm(unfinished, { force: true });
  await createImage(unfinished, sizeBytes, onProgress);
  // It is blank: should the rename not survive a crash, the next opening makes another.
  await rename(unfinished, file);
}

export interface MirroredLog {
  readonly log: StoreLog;
  /** Why the mirror is not used; null when it is, or when there is to be none. */
  readonly mirrorFailure: string | null;
}

/**
 * Opens the log, with the mirror where one is configured and can be used. Throws as openLog does; the FLASH is then still the caller's to close.
 * `inspect` is told of the mirror as well, where it is used. The data key is the caller's to wipe.
 */
export async function openMirrored(
  flash: Device,
  dataKey: Uint8Array,
  mirror: MirrorParts | null,
  tokenId: Uint8Array,
  inspect: (flash: StoreEnd | null, mirror: Device | null) => Promise<void>,
  options: Pick<OpenOptions, 'end' | 'epochMin' | 'note'>,
): Promise<MirroredLog> {
  const openAlone = async (mirrorFailure: string | null): Promise<MirroredLog> => {
    const log = await openLog(flash, dataKey, { ...options, inspect: (found) => inspect(found, null) });
    return { log, mirrorFailure };
  };
  if (mirror === null || flash.readOnly) return await openAlone(null);
  let watched: WatchedDevice;
  try {
    watched = new WatchedDevice(await mirror.open(tokenId, { readOnly: false, sizeBytes: flash.sizeBytes }));
  } catch (thrown) {
    return await openAlone(asUkeyError(thrown).message);
  }
  try {
    const log = await openLog(flash, dataKey, {
      ...options,
      mirror: { device: watched, mode: mirror.mode },
      inspect: (found) => inspect(found, watched),
    });
    return { log, mirrorFailure: null };
  } catch (thrown) {
    await watched.close().catch(() => undefined); // it is not used; what counts is why
    if (!watched.isDead && !(asUkeyError(thrown).cause instanceof UnfitMirror)) throw thrown;
    // Whatever was half done to the mirror, the FLASH rules by its mount epoch when both are opened again.
    return await openAlone(asUkeyError(thrown).message);
  }
}

/**
 * Before a FLASH is formatted: a mirror that holds a ledger of this very token would be made anew, and perhaps nobody else has that ledger.
 * Throws `halted`.
 */
export async function refuseLeftMirror(mirror: MirrorParts | null, token: Token): Promise<void> {
  const tokenId = keyIdOf(token.publicKey());
  const device = await mirror?.open(tokenId, { readOnly: true, sizeBytes: null }).catch((thrown: unknown) => {
    if (asUkeyError(thrown).code === 'no-token') return null; // none to be found: none to be lost
    throw thrown;
  });
  if (device === undefined || device === null) return;
  try {
    const header = await readStoreHeader(device);
    if (header === null || Buffer.compare(header.tokenKeyId, tokenId) !== 0) return;
  } finally {
    await device.close();
  }
  throw new UkeyError('halted', `${device.path} is the mirror of a ledger that this token has written`, {
    action: 'Restore the FLASH from its mirror (ukeyctl store restore); or, if nothing in it is needed, provision with --erase.',
  });
}

/** Remembers whether the device itself failed. */
class WatchedDevice implements Device {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  readonly #device: Device;
  #goodReads = 0;
  #badReads = 0;
  #writeFailed = false;

  constructor(device: Device) {
    this.#device = device;
    this.path = device.path;
    this.sizeBytes = device.sizeBytes;
    this.sectorBytes = device.sectorBytes;
    this.readOnly = device.readOnly;
  }

  /** It does not take writes, or gives nothing back at all. Single bad places are healed and do not count. */
  get isDead(): boolean {
    return this.#writeFailed || (this.#badReads > 0 && this.#goodReads === 0);
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    try {
      const bytes = await this.#device.read(positionBytes, lengthBytes);
      this.#goodReads += 1;
      return bytes;
    } catch (thrown) {
      this.#badReads += 1;
      throw thrown;
    }
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    try {
      await this.#device.writeAndSync(positionBytes, bytes, options);
    } catch (thrown) {
      this.#writeFailed = true;
      throw thrown;
    }
  }

  async close(): Promise<void> {
    await this.#device.close();
  }
}
