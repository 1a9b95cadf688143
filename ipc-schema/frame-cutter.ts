// Owns: for both sides, cutting a connection's bytes into frames at each form feed.
// Invariants: an unfinished frame is never longer than the limit; each byte is searched once, so that a frame arriving byte by
// byte costs no more than one arriving whole; frames are handed out one at a time, so that the caller decides how many per turn.
import { frameEnd } from './envelope.ts';
import { UkeyError } from './errors.ts';

/** Pieces are joined when they become this many: one byte per chunk must not become one object per byte. */
const maxPieces = 256;

export class FrameCutter {
  /** Chunks not yet searched; the first one from #from on. */
  readonly #unread: Buffer[] = [];
  #from = 0;
  /** Pieces of the frame that has begun: they hold no form feed. */
  #pieces: Buffer[] = [];
  #piecesBytes = 0;

  push(chunk: Buffer): void {
    if (chunk.length > 0) this.#unread.push(chunk);
  }

  /** There are bytes that `take` has not looked at. */
  get hasUnread(): boolean {
    return this.#unread.length > 0;
  }

  /** A frame has begun and has not ended; 0 when none has. */
  get unfinishedBytes(): number {
    return this.#piecesBytes;
  }

  /** The next whole frame without its form feed, or null when none is complete. Throws too-large as soon as a frame passes `maxBytes`. */
  take(maxBytes: number): Buffer | null {
    for (let chunk = this.#unread[0]; chunk !== undefined; chunk = this.#unread[0]) {
      const end = chunk.indexOf(frameEnd, this.#from);
      const piece = this.#from === 0 && end === -1 ? chunk : chunk.subarray(this.#from, end === -1 ? chunk.length : end);
      if (this.#piecesBytes + piece.length > maxBytes) throw new UkeyError('too-large', `a frame has more than ${maxBytes} bytes`);
      if (end === -1 || end + 1 === chunk.length) {
        this.#unread.shift();
        this.#from = 0;
      } else {
        this.#from = end + 1;
      }
      if (end !== -1) return this.#finish(piece);
      if (piece.length > 0) this.#keep(piece);
    }
    return null;
  }

  #keep(piece: Buffer): void {
    // A short tail of a long chunk is copied, so that a pause between frames does not hold on to the whole chunk.
    this.#pieces.push(piece.buffer.byteLength > 2 * piece.length ? Buffer.from(piece) : piece);
    this.#piecesBytes += piece.length;
    if (this.#pieces.length >= maxPieces) this.#pieces = [Buffer.concat(this.#pieces, this.#piecesBytes)];
  }

  #finish(last: Buffer): Buffer {
    if (this.#pieces.length === 0) return last;
    const frame = Buffer.concat([...this.#pieces, last], this.#piecesBytes + last.length);
    this.#pieces = [];
    this.#piecesBytes = 0;
    return frame;
  }
}
