// Owns: bytes back from what was packed (zstd, RFC 8878) and of which is known how much comes out, at once or beside the event loop.
// Invariants: never more comes out than was announced, and never less.
import { zstdDecompress, zstdDecompressSync } from 'node:zlib';
import { giveBack } from './give-back.ts';

export interface Packed {
  /** False: it stands as it is. */
  readonly isZstd: boolean;
  readonly bytes: Uint8Array;
  /** Of what comes out. */
  readonly plainBytes: number;
}

/** The trip to a thread costs as much as unpacking less. */
const asideMinBytes = 16 * 1024;
/** Small ones are unpacked one after the other: after so many bytes others have their turn. */
export const turnBytes = 64 * 1024;
/** zlib takes no smaller piece. */
const chunkMinBytes = 64;

/** A byte more than comes out: a piece that is full to the last byte makes zlib get another one, to see whether there is more. */
const optionsFor = (plainBytes: number): { readonly maxOutputLength: number; readonly chunkSize: number } => ({
  maxOutputLength: plainBytes,
  chunkSize: Math.max(chunkMinBytes, plainBytes + 1),
});

/** Null when it does not unpack to exactly what was announced. */
export function unpack({ isZstd, bytes, plainBytes }: Packed): Uint8Array | null {
  if (!isZstd) return bytes;
  try {
    const plain = zstdDecompressSync(bytes, optionsFor(plainBytes));
    return plain.length === plainBytes ? plain : null;
  } catch {
    return null; // not zstd, or more than announced: that is the answer, and the caller tells what it was to be
  }
}

/** The same; much of it in another thread. */
export function unpackAside(packed: Packed): Promise<Uint8Array | null> {
  const { isZstd, bytes, plainBytes } = packed;
  if (!isZstd || plainBytes < asideMinBytes) return Promise.resolve(unpack(packed));
  return new Promise((resolve) => {
    try {
      zstdDecompress(bytes, optionsFor(plainBytes), (fault, plain) =>
        resolve(fault === null && plain.length === plainBytes ? plain : null),
      );
    } catch {
      resolve(null); // announced is more than memory can hold
    }
  });
}

/**
 * What `use` makes of each, in order, up to the first that does not unpack. The bytes are lent for the call: their memory goes back to the system at once
 * and not when V8 comes to collect it, so that whoever reads a whole ledger leaves no heap of batches behind. One more is unpacked meanwhile, and others have
 * their turn after each `turnBytes`.
 */
export async function mapUnpacked<T>(all: readonly Packed[], use: (bytes: Uint8Array, place: number) => T): Promise<T[]> {
  const begin = (place: number): Promise<Uint8Array | null> => (all[place] === undefined ? Promise.resolve(null) : unpackAside(all[place]));
  const made: T[] = [];
  let sinceTurnBytes = 0;
  let coming = begin(0);
  for (const [place, { isZstd, plainBytes }] of all.entries()) {
    const bytes = await coming;
    if (bytes === null) break;
    coming = begin(place + 1);
    made.push(use(bytes, place));
    if (isZstd) giveBack(bytes);
    sinceTurnBytes += plainBytes;
    if (sinceTurnBytes < turnBytes) continue;
    await new Promise((resolve) => setImmediate(resolve));
    sinceTurnBytes = 0;
  }
  return made;
}
