// Owns: the interface of the block store: a ring of sealed frames on a Device, readable only with the data key, with an optional mirror.
// FORMAT.md is the byte layout. The store knows neither tokens nor invoices: payloads, checkpoints, identity and what is carried are opaque bytes.
// Invariants: frame indexes run 1, 2, 3 ... without a hole; a resolved append is durable and all before it are; nothing is forgotten that
// was not released; opening never formats.
// Errors are UkeyError: halted (damage, foreign or newer format), store-full (refused before any write),
// unknown-outcome (a write or sync failed: this log refuses everything until it is opened again).
import type { Packed } from '#ground/unpacking.ts';

export interface KeySlot {
  /** How the data key is wrapped: the token's WrapMethod, or `hpke-recovery`. */
  readonly method: string;
  readonly blob: Uint8Array;
}

/** What can be read without the data key. */
export interface StoreHeader {
  readonly storeId: Uint8Array; // 16 bytes
  /** Key id of the token that the store belongs to (SHA-256 of its SPKI, first 16 bytes). */
  readonly tokenKeyId: Uint8Array;
  readonly formatVersion: number;
  readonly mountEpoch: number;
  readonly sizeBytes: number;
  readonly segmentBytes: number;
  readonly slots: readonly KeySlot[];
}

export interface FormatOptions {
  readonly storeId: Uint8Array;
  readonly tokenKeyId: Uint8Array;
  readonly dataKey: Uint8Array; // 32 bytes
  readonly slots: readonly KeySlot[];
  /** Kept encrypted and authenticated beside the superblock; at most identityMaxBytes. */
  readonly identity: Uint8Array;
  /** Must be true to format over a device that is not blank. */
  readonly erase: boolean;
  /** Whole pages of 4 KiB; the largest payload is a little less. Chosen by the size of the device when absent. */
  readonly segmentBytes?: number;
}

export interface Frame {
  readonly index: number;
  readonly payload: Uint8Array;
}

/** A frame whose payload is still to be unpacked. */
export interface PackedFrame {
  readonly index: number;
  readonly packed: Packed;
}

/** `sync`: an append resolves when FLASH and mirror are both durable. `async`: with the FLASH; the mirror is a bounded way behind. */
export type MirrorMode = 'sync' | 'async';

/** What was done at opening so that FLASH and mirror are the same. Counts are of run headers, frames and carried strings. */
export interface MirrorReport {
  /** It was missing or of another store, and was made anew: healedMirror counts segments then. */
  readonly remade: boolean;
  readonly healedFlash: number;
  readonly healedMirror: number;
  /** The mirror held frames that were given up when the FLASH was opened without it. */
  readonly discarded: boolean;
}

/** Gaps name frames by index, `from` to `to`, both included. */
export interface CheckReport {
  /** Frames that were found whole on at least one side. */
  readonly frames: number;
  /** Frames that nobody has whole. */
  readonly missing: readonly { readonly from: number; readonly to: number }[];
  /** Frames that were damaged there and whole on the other side; 0 stands for a run header or what is carried. */
  readonly flashDamaged: readonly number[];
  readonly mirrorDamaged: readonly number[];
  /** Whether those were put right. */
  readonly healed: boolean;
}

/** Of one segment. Runs (FORMAT.md §4) number what was written; a segment begins with one. */
export interface SliceReport extends CheckReport {
  /** Where to go on; null: this was the newest segment. */
  readonly nextRun: number | null;
  /** Place of this segment among those that are kept now, from 1. */
  readonly done: number;
  readonly segments: number;
}

export interface CheckOptions {
  /** Put right what one side has whole and the other has not. Needs a mirror and a store that is open for writing. */
  readonly heal: boolean;
  /** Told after each segment. */
  readonly onProgress?: (done: number, segments: number) => void;
}

export interface MirrorUsage {
  readonly mode: MirrorMode;
  /** What an `async` mirror does not have yet. */
  readonly behindBytes: number;
  /** It failed and gets nothing more until the next opening. */
  readonly failed: boolean;
}

/** What mounting found. */
export interface Mounted {
  readonly identity: Uint8Array;
  /** State before frame `checkpointIndex`; null only when the log is empty and never had a checkpoint. */
  readonly checkpoint: Uint8Array | null;
  /** First frame that the checkpoint does not cover. */
  readonly checkpointIndex: number;
  /** First frame that is still there: all before were released. */
  readonly oldestIndex: number;
  /** Index that the next append gets. */
  readonly nextIndex: number;
  /** What was carried last, null if nothing ever was. */
  readonly carried: Uint8Array | null;
  /** Bytes of a torn tail that were cut, 0 if none. */
  readonly tornBytes: number;
  readonly mountEpoch: number;
  /** The log ends where pages cannot be read, and was known (or said) to end there. */
  readonly isEndHidden: boolean;
  /** Null without a mirror. */
  readonly mirror: MirrorReport | null;
}

/** Where a FLASH ends by itself, before anything is written. */
export interface StoreEnd {
  readonly storeId: Uint8Array;
  readonly mountEpoch: number;
  /** 0: the log is empty. */
  readonly lastIndex: number;
}

/**
 * What whoever opens a log knows of its end. A StoreEnd: the log as it was closed, with the last frame that anybody was told of. Else a person gives up what cannot be
 * read behind its end, as long as it shows the frame `givenUpBehind` (0: whatever it shows).
 */
export type KnownEnd = StoreEnd | { readonly givenUpBehind: number };

/** Asked before an opening writes anything; what it throws ends the opening. Null: the FLASH has no superblock that is whole. */
export type Inspect = (flash: StoreEnd | null) => Promise<void>;

export interface StoreUsage {
  readonly sizeBytes: number;
  readonly usedBytes: number;
  /** What plain appends can fill altogether: the log area without the reserve. */
  readonly capacityBytes: number;
  /** What plain appends may still take, headers and padding included. */
  readonly freeBytes: number;
  /** Of capacityBytes, rounded up. */
  readonly percentUsed: number;
  /** Written to the device since it was formatted, superblocks included: for its wear. */
  readonly bytesWritten: number;
  readonly segments: number;
  readonly freeSegments: number;
  readonly oldestIndex: number;
  /** Null without a mirror. */
  readonly mirror: MirrorUsage | null;
}

export interface AppendOptions {
  /** Voids, acks and admin entries may use the reserve that plain appends leave free. */
  readonly reserved?: boolean;
}

export interface StoreLog {
  readonly header: StoreHeader;
  readonly mounted: Mounted;
  /**
   * Appends one frame; resolves when it is durable. Calls may overlap: frames are written one after the other, each with its own sync, in call order.
   * `checkpoint` is the state before this frame; the store keeps it only where a new run begins. Throws `store-full` before
   * anything is written.
   */
  append(payload: Uint8Array, checkpoint: Uint8Array, options?: AppendOptions): Promise<number>;
  /**
   * Frames from `fromIndex` on, decrypted, in order, at least one if there is one, at most about `maxBytes` of payload. Sees only durable
   * frames. Throws `not-found` when the frame was released, `halted` (damageOf) when it is damaged.
   */
  read(fromIndex: number, maxBytes: number): Promise<Frame[]>;
  /** The same, to be unpacked elsewhere. */
  readPacked(fromIndex: number, maxBytes: number): Promise<PackedFrame[]>;
  /** Whether a frame with a payload of this size is sure to fit, and the reserve stays whole behind it. */
  hasRoomFor(payloadBytes: number, options?: AppendOptions): boolean;
  /**
   * Frames up to and with this index may be forgotten. Whole segments are freed, never one that mounting needs; what is carried is moved
   * first. Resolves when it is durable, with the number of segments freed; repeating it is harmless.
   */
  release(upToIndex: number): Promise<number>;
  /** Replaces the bytes that survive every release (at most 256 KiB, and less than a segment). Resolves when they are durable. */
  carry(bytes: Uint8Array): Promise<void>;
  usage(): StoreUsage;
  /** Reads all that is kept, on FLASH and mirror. Appends wait only while the newest segment, or a damaged one, is read. Never throws for damage: it reports it. */
  check(options: CheckOptions): Promise<CheckReport>;
  /** The same for one segment: the first that begins with run `fromRun` or a later one. From 1 on, with each answer's nextRun, it is the whole. */
  checkSlice(fromRun: number, heal: boolean): Promise<SliceReport>;
  /**
   * Puts frames back that nobody has whole, from payloads that were kept elsewhere. Written is only what is byte for byte the frame that stood there; the
   * indexes of those that were. All that is missing around a frame must be given with it.
   */
  mend(frames: readonly Frame[]): Promise<readonly number[]>;
  /** Waits for what is under way, wipes the data key, closes the device. */
  close(): Promise<void>;
}
