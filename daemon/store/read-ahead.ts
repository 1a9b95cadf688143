// Owns: which stretch of a device is read before it is written. The kernel writes whole pages: of one that it does not hold, and that is written in part, it
// reads the rest first, while the thread that writes stands still. A log is written onwards, so what comes next can be read in time.
// Must not: read.

/** What the kernel reads at once of its own accord, on most systems. */
export const aheadBytes = 128 * 1024;
/** Of the page, or the file system's block. */
const pageBytes = 4096;

export interface Stretch {
  readonly positionBytes: number;
  readonly lengthBytes: number;
}

export class ReadAhead {
  readonly #sizeBytes: number;
  /** What the kernel holds, around the end of what was written last. */
  #fromBytes = 0;
  #toBytes = 0;

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** What is to be read after a write that ended here; null: nothing, as what comes next is known well ahead, or whole pages are written. */
  after(endBytes: number): Stretch | null {
    if (endBytes % pageBytes === 0) return null;
    const goesOn = endBytes >= this.#fromBytes && endBytes <= this.#toBytes;
    if (goesOn && this.#toBytes - endBytes > aheadBytes / 2) return null;
    const positionBytes = goesOn ? this.#toBytes : endBytes - (endBytes % pageBytes);
    const lengthBytes = Math.min(aheadBytes, this.#sizeBytes - positionBytes);
    if (lengthBytes <= 0) return null;
    if (!goesOn) this.#fromBytes = positionBytes;
    this.#toBytes = positionBytes + lengthBytes;
    return { positionBytes, lengthBytes };
  }
}
