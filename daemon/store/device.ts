// Owns: what the store asks of a FLASH: bytes at positions, and a sync. Implementations: device-file.ts (raw device or
// preallocated image), mirror.ts (two of them as one) and test/support/memory-device.ts (with faults).
// Invariants: positions and lengths are multiples of sectorBytes; a resolved `writeAndSync` means that the device said
// "durable"; after any rejected write or sync but a repair's the device must be closed and opened again (no retry of a sync).

export interface ReadableDevice {
  readonly path: string;
  read(positionBytes: number, lengthBytes: number): Promise<Uint8Array>;
}

export interface WriteOptions {
  /**
   * What is written stands whole on another device, and everything before it is durable: where it fails nothing is lost, nobody counts on what
   * became of it, and the device goes on. It is not repeated.
   */
  readonly isRepair?: boolean;
}

export interface Device extends ReadableDevice {
  readonly sizeBytes: number;
  /** Smallest unit that a torn write can destroy: 512 or 4096. */
  readonly sectorBytes: number;
  readonly readOnly: boolean;
  /** Writes all of `bytes` at the position, and resolves when the device says "durable". */
  writeAndSync(positionBytes: number, bytes: Uint8Array, options?: WriteOptions): Promise<void>;
  close(): Promise<void>;
}
