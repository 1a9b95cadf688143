// Owns: the memory that the bodies of uploads take: their bytes from the first piece on, and the places of those that are whole and worked on.
// Invariants: a body takes a place when it is whole, so that one that trickles in takes nobody's; never more than `places` are worked on, nor more than
// `maxBytes` held, however many are on their way. Where another piece would be too much, what has held the most for the longest (bytes and time, multiplied)
// gives way: to keep others out takes sending about as much as the server could take in, over and over. What is whole never gives way.

/** What a piece takes beside its bytes: a body may come in millions of pieces. */
export const pieceBytes = 256;

export interface UploadBody {
  readonly sinceMs: number;
  readonly giveWay: () => void;
  bytes: number;
}

export class UploadBodies {
  readonly #places: number;
  readonly #maxBytes: number;
  readonly #nowMs: () => number;
  readonly #coming = new Set<UploadBody>();
  readonly #whole = new Set<UploadBody>();
  #heldBytes = 0;

  constructor(places: number, maxBytes: number, nowMs: () => number = () => performance.now()) {
    this.#places = places;
    this.#maxBytes = maxBytes;
    this.#nowMs = nowMs;
  }

  /** Another one that is whole would find no place now. */
  get isFull(): boolean {
    return this.#whole.size >= this.#places;
  }

  /** `giveWay` is called at most once, while the body is on its way; it must let go of all pieces. */
  begin(giveWay: () => void): UploadBody {
    const body = { sinceMs: this.#nowMs(), giveWay, bytes: 0 };
    this.#coming.add(body);
    return body;
  }

  /** Another piece of a body that is on its way. */
  hold(body: UploadBody, bytes: number): void {
    if (!this.#coming.has(body)) return;
    body.bytes += bytes + pieceBytes;
    this.#heldBytes += bytes + pieceBytes;
    while (this.#heldBytes > this.#maxBytes) {
      const heaviest = this.#heaviest();
      if (heaviest === null) return;
      this.end(heaviest);
      heaviest.giveWay();
    }
  }

  /** The body is whole, in one piece of `bytes`. False: there is no place for it, and it is no longer held. */
  takePlace(body: UploadBody, bytes: number): boolean {
    if (!this.#coming.delete(body)) return false;
    this.#heldBytes += bytes - body.bytes;
    body.bytes = bytes;
    this.#whole.add(body);
    if (this.#whole.size <= this.#places) return true;
    this.end(body);
    return false;
  }

  /** Of whatever became of it; may be called again. */
  end(body: UploadBody): void {
    if (this.#coming.delete(body) || this.#whole.delete(body)) this.#heldBytes -= body.bytes;
  }

  #heaviest(): UploadBody | null {
    const nowMs = this.#nowMs();
    const weight = ({ bytes, sinceMs }: UploadBody): number => bytes * (nowMs - sinceMs + 1);
    let heaviest: UploadBody | null = null;
    for (const body of this.#coming) if (heaviest === null || weight(body) > weight(heaviest)) heaviest = body;
    return heaviest;
  }
}
