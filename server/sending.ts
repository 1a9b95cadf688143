// Owns: answers on their way to their readers: their memory, and how long each may take.
// Invariants: a large answer is written piece by piece, as its reader takes it, and all large ones together have at most `maxBytes`. Where one more would be too
// much, those on which nothing has moved for a while give way, and where all move the new one does: `hasRoom` says no. Small ones always go. An answer has a
// time that any moving line keeps: a slow reader gets it all, one that does not read is cut.
import type { ServerResponse } from 'node:http';
import type { Connection } from './connections.ts';

/** As many bytes are written at once; an answer without more is small. */
const pieceBytes = 64 * 1024;
const mebibyte = 1024 * 1024;

export interface SendWaits {
  /** What each answer has, and what it has besides for each MiB of it. */
  readonly sendMs: number;
  readonly sendMebibyteMs: number;
  /** How long nothing has moved when a large answer can be made to give way. */
  readonly stillMs: number;
}

interface Sending {
  readonly bytes: number;
  readonly cut: () => void;
  movedAtMs: number;
}

export class Outgoing {
  readonly #maxBytes: number;
  readonly #waits: SendWaits;
  readonly #large = new Set<Sending>();
  #largeBytes = 0;

  constructor(maxBytes: number, waits: SendWaits) {
    this.#maxBytes = maxBytes;
    this.#waits = waits;
  }

  /** Whether an answer of so many bytes can go now; others may have been cut for it. */
  hasRoom(bytes: number): boolean {
    if (bytes <= pieceBytes) return true;
    const stillSinceMs = performance.now() - this.#waits.stillMs;
    const still = [...this.#large].filter(({ movedAtMs }) => movedAtMs < stillSinceMs).sort((a, b) => a.movedAtMs - b.movedAtMs);
    for (const one of still) {
      if (this.#largeBytes + bytes <= this.#maxBytes) break;
      this.#end(one);
      one.cut();
    }
    return this.#largeBytes + bytes <= this.#maxBytes;
  }

  /** Writes the body of an answer whose head is written, and ends it. Resolves when all has gone, or nobody is there any more to read it. */
  async send(connection: Connection, response: ServerResponse, body: Uint8Array): Promise<void> {
    const { promise: gone, resolve: end } = Promise.withResolvers<void>();
    const cut = (): void => {
      connection.socket.destroy();
      end();
    };
    const sending = { bytes: body.length, cut, movedAtMs: performance.now() };
    const late = setTimeout(cut, this.#waits.sendMs + (body.length / mebibyte) * this.#waits.sendMebibyteMs);
    response.once('close', end);
    connection.whenGone.add(end); // an answer that stands behind others on its connection hears nothing of its end
    if (body.length > pieceBytes) {
      this.#large.add(sending);
      this.#largeBytes += body.length;
    }
    try {
      await Promise.race([gone, writePieces(response, body, sending)]);
    } finally {
      clearTimeout(late);
      connection.whenGone.delete(end);
      this.#end(sending);
    }
  }

  #end(sending: Sending): void {
    if (this.#large.delete(sending)) this.#largeBytes -= sending.bytes;
  }
}

/** May never resolve when the reader goes away. */
async function writePieces(response: ServerResponse, body: Uint8Array, sending: Sending): Promise<void> {
  let rest = body;
  while (rest.length > pieceBytes && !response.destroyed) {
    await new Promise<void>((resolve) => response.write(rest.subarray(0, pieceBytes), () => resolve()));
    rest = rest.subarray(pieceBytes);
    sending.movedAtMs = performance.now();
  }
  await new Promise<void>((resolve) => response.end(rest.length === 0 ? undefined : rest, () => resolve()));
}
