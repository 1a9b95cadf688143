// Owns: the shapes in which mounting hands the end of the log to the writer: where it ends, what is kept, the newest checkpoint.
// Must not: do anything.
import type { TailHint } from './superblock.ts';

/** Where the log ends. */
export interface WriteCursor {
  /** -1 while the log is empty. */
  readonly segment: number;
  readonly offset: number;
  readonly nextIndex: number;
  readonly lastTag: Uint8Array;
  readonly runIndex: number;
  readonly runPosition: number;
  readonly endPosition: number;
  /** Run of what is carried; 0 for none. */
  readonly carryPosition: number;
  readonly lifeBytes: number;
}

/** A kept segment, as planned. */
export interface RingSegment {
  readonly segment: number;
  readonly runIndex: number;
  readonly firstIndex: number;
}

export interface Checkpoint {
  readonly bytes: Uint8Array;
  /** It is the state before this frame; 0 while there is none. */
  readonly index: number;
}

export const tailOf = (cursor: WriteCursor): TailHint => ({
  runIndex: cursor.runIndex,
  segment: Math.max(0, cursor.segment),
  frameIndex: cursor.nextIndex - 1,
  frameTag: cursor.lastTag,
});
