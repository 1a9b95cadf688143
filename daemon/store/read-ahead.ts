// Owns: what of a device is read before it is written. The kernel writes whole pages: of one that it does not hold, and that is written in part, it reads
// the rest first, while the thread that writes stands still. A log is written onwards, so what comes next can be read in time.
// Invariants: in small pieces, and never the page that was written last: a page is locked while it is read, and a bad one takes a disk seconds, so a write
// must not wait for a page that it does not come to yet. Must not: read.

/** So much is held ahead of what was written: some dozens of sales. A frame that is larger waits for one page. */
export const leadBytes = 48 * 1024;
export const pieceBytes = 16 * 1024;
/** Of the page, or the file system's block. */
const pageBytes = 4096;

export interface Stretch {
  readonly positionBytes: number;
  readonly lengthBytes: number;
}

export class ReadAhead {
  readonly #sizeBytes: number;
  /** Of what was written last, and of what was asked for behind it. */
  #endBytes = 0;
  #toBytes = 0;

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** A write ended here. What ends with a page somewhere else is no log, but a superblock or a copied segment, and needs nothing. */
  wrote(endBytes: number): void {
    const inPage = endBytes % pageBytes;
    const goesOn = endBytes <= this.#toBytes && this.#toBytes < endBytes + leadBytes + pieceBytes;
    if (!goesOn && inPage === 0) return;
    this.#endBytes = endBytes;
    if (!goesOn) this.#toBytes = endBytes - inPage + pageBytes;
  }

  /** Less than the lead is held. */
  get isDue(): boolean {
    return this.#toBytes < Math.min(this.#endBytes + leadBytes, this.#sizeBytes);
  }

  /** What is to be read now, the nearest first; null: nothing is due. */
  next(): Stretch | null {
    if (!this.isDue) return null;
    const positionBytes = this.#toBytes;
    const lengthBytes = Math.min(pieceBytes, this.#sizeBytes - positionBytes);
    this.#toBytes += lengthBytes;
    return { positionBytes, lengthBytes };
  }
}
