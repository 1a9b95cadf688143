// Owns: FLASH and mirror as one device while a store is open: the same bytes at the same positions of both.
// Invariants: `sync`: a write resolves when both said "durable"; they run in parallel, and the first failure of either is the
// failure of the write. `async`: it resolves with the FLASH; the mirror gets the same writes in the same order, at most
// lagMaxBytes behind, and after its first failure nothing more: it is then a true older state, which the next opening brings up.
// Reads come from the FLASH. Must not: compare or repair (heal.ts does).
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device, ReadableDevice } from '#store/device.ts';
import type { MirrorMode } from '#store/store.ts';

/** What an `async` mirror may be behind; then appends wait for it. */
export const lagMaxBytes = 16 * 1024 * 1024;

export class MirroredDevice implements Device {
  readonly flash: Device;
  readonly mirror: Device;
  readonly mode: MirrorMode;
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  #last: Promise<void> = Promise.resolve();
  #behindBytes = 0;
  #failure: UkeyError | null = null;

  constructor(flash: Device, mirror: Device, mode: MirrorMode) {
    this.flash = flash;
    this.mirror = mirror;
    this.mode = mode;
    this.path = flash.path;
    this.sizeBytes = flash.sizeBytes;
    this.sectorBytes = flash.sectorBytes;
    this.readOnly = flash.readOnly;
  }

  get behindBytes(): number {
    return this.#behindBytes;
  }

  /** Why the mirror gets nothing more; null while it does. */
  get failure(): UkeyError | null {
    return this.#failure;
  }

  /** The mirror to be read, with all that it will get. */
  get second(): ReadableDevice {
    return {
      path: this.mirror.path,
      read: async (positionBytes, lengthBytes) => {
        await this.settle();
        return await this.mirror.read(positionBytes, lengthBytes);
      },
    };
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return await this.flash.read(positionBytes, lengthBytes);
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void> {
    if (this.mode === 'sync') {
      // Both are waited for, whatever happens to one: no write of ours is under way when this returns.
      const [flash, mirror] = await Promise.allSettled([
        this.flash.writeAndSync(positionBytes, bytes),
        this.mirror.writeAndSync(positionBytes, bytes),
      ]);
      if (mirror.status === 'rejected') this.#failure ??= failureOf(mirror.reason);
      for (const result of [flash, mirror]) if (result.status === 'rejected') throw result.reason;
      return;
    }
    // As they are now: the caller may change its own while the FLASH writes.
    const taken = Uint8Array.from(bytes);
    await this.flash.writeAndSync(positionBytes, taken);
    this.#follow(positionBytes, taken);
    while (this.#behindBytes > lagMaxBytes && this.#failure === null) await this.#last;
  }

  /** Waits until the mirror has all that it will get. */
  async settle(): Promise<void> {
    await this.#last;
  }

  async close(): Promise<void> {
    await this.#last;
    const [flash, mirror] = await Promise.allSettled([this.flash.close(), this.mirror.close()]);
    for (const result of [flash, mirror]) if (result.status === 'rejected') throw result.reason;
  }

  #follow(positionBytes: number, bytes: Uint8Array): void {
    if (this.#failure !== null) return;
    this.#behindBytes += bytes.length;
    this.#last = this.#last.then(async () => {
      try {
        if (this.#failure === null) await this.mirror.writeAndSync(positionBytes, bytes);
      } catch (cause) {
        // The FLASH has it, so nobody is told an error; usage() shows it, and the next opening heals.
        this.#failure = failureOf(cause);
      } finally {
        this.#behindBytes -= bytes.length;
      }
    });
  }
}

const failureOf = (cause: unknown): UkeyError =>
  cause instanceof UkeyError ? cause : new UkeyError('unknown-outcome', 'the mirror failed', { cause });
