// Owns: a device with broken pages, as a disk has them: they are not read, nor written in part (who writes a part reads the rest first), and one that is
// written whole gets another place.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { pageBytes } from '#store/format.ts';

export class WornDevice implements Device {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  /** Positions; shared by all who open the same FLASH. */
  readonly broken: Set<number>;
  readonly #device: Device;

  constructor(device: Device, broken: Set<number>) {
    this.path = device.path;
    this.sizeBytes = device.sizeBytes;
    this.sectorBytes = device.sectorBytes;
    this.readOnly = device.readOnly;
    this.broken = broken;
    this.#device = device;
  }

  async read(positionBytes: number, lengthBytes: number): Promise<Uint8Array> {
    for (const at of this.broken) if (at < positionBytes + lengthBytes && at + pageBytes > positionBytes) throw unread();
    return await this.#device.read(positionBytes, lengthBytes);
  }

  async writeAndSync(positionBytes: number, bytes: Uint8Array): Promise<void> {
    const end = positionBytes + bytes.length;
    for (const at of this.broken) {
      if (at >= end || at + pageBytes <= positionBytes) continue;
      // What stands before it arrives.
      if (at < positionBytes || at + pageBytes > end) {
        if (at > positionBytes) await this.#device.writeAndSync(positionBytes, bytes.subarray(0, at - positionBytes));
        throw new UkeyError('unknown-outcome', 'it cannot be written', { cause: new Error('EIO') });
      }
      this.broken.delete(at);
    }
    await this.#device.writeAndSync(positionBytes, bytes);
  }

  close(): Promise<void> {
    return this.#device.close();
  }
}

const unread = (): UkeyError => new UkeyError('halted', 'it cannot be read', { cause: new Error('EIO') });
