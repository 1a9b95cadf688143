// Owns: taking in the body of a request, and what is left of one that was refused.
// Invariants: of a body no more is kept than its maximum, and no more memory than its pieces say: a small piece is copied out of the record that it came in.
import type { IncomingMessage } from 'node:http';
import { UkeyError } from '#ipc-schema/errors.ts';

/** Pieces of a body that has few bytes are put together when there are so many. */
const maxPieces = 256;

export interface Intake {
  /** Null: the client went away before. Throws too-large, or what `drop` was given. */
  readonly whole: Promise<Uint8Array | null>;
  /** Lets go of what has come, and takes nothing more. */
  drop(fault: UkeyError): void;
}

/** Throws too-large when the client says so by itself. `hold` is told of each piece. */
export function takeIn(request: IncomingMessage, maxBytes: number, hold: ((bytes: number) => void) | null): Intake {
  const tooLarge = new UkeyError('too-large', `a body here has at most ${maxBytes} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > maxBytes) throw tooLarge;
  let pieces: Buffer[] = [];
  let bytes = 0;
  const { promise: whole, resolve, reject } = Promise.withResolvers<Uint8Array | null>();
  const drop = (fault: UkeyError): void => {
    request.removeListener('data', take).pause();
    pieces = [];
    reject(fault);
  };
  const take = (piece: Buffer): void => {
    bytes += piece.length;
    if (bytes > maxBytes) {
      drop(tooLarge);
      return;
    }
    pieces.push(piece.length * 2 < piece.buffer.byteLength ? Buffer.from(piece) : piece);
    if (hold !== null) hold(piece.length);
    else if (pieces.length > maxPieces) pieces = [Buffer.concat(pieces)];
  };
  request.on('data', take);
  request.once('end', () => {
    resolve(pieces.length === 1 ? (pieces[0] ?? new Uint8Array(0)) : Buffer.concat(pieces));
    pieces = []; // the request lives on until its answer has gone
  });
  request.once('close', () => resolve(null)); // after `end` this changes nothing
  request.once('error', () => resolve(null));
  return { whole, drop };
}

/** Takes in what is left of a body, for a while. */
export async function discard(request: IncomingMessage, lingerMs: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const enough = setTimeout(resolve, lingerMs);
    request.once('close', () => {
      clearTimeout(enough);
      resolve();
    });
    request.removeAllListeners('data').resume();
  });
}
