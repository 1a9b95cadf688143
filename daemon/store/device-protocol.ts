// Owns: what device-file.ts and its thread say to each other: requests and answers, and the shared slot for short writes.
// Invariants: answers come in the order of requests; the slot is filled only while no request is under way.
// Must not: do anything; device-thread.ts cannot be imported by the near end, because importing it runs it.
import type { MessagePort } from 'node:worker_threads';

export interface ThreadStart {
  readonly port: MessagePort;
  /** Bell and slot: see slotOf. */
  readonly shared: SharedArrayBuffer;
}

export interface OpenRequest {
  readonly kind: 'open';
  readonly path: string;
  readonly readOnly: boolean;
  readonly lockWaitMs: number;
}

/** Of the device that is open. */
export type DeviceRequest =
  | { readonly kind: 'read'; readonly positionBytes: number; readonly lengthBytes: number }
  | { readonly kind: 'write'; readonly positionBytes: number; readonly bytes: Uint8Array }
  | { readonly kind: 'close' };

/** `open` comes first, and again after a `close` or a `not-open`: one device at a time. */
export type ThreadRequest = OpenRequest | DeviceRequest;

/** Longest write that goes through the slot. */
export const slotBytes = 64 * 1024;
const slotDataAt = 64;
export const sharedBytes = slotDataAt + slotBytes;
/** Places in `words`: the bell counts requests; the length is 0 while the slot is empty. */
export const bellWord = 0;
export const lengthWord = 1;

export interface Slot {
  readonly words: Int32Array;
  readonly position: Float64Array;
  readonly data: Uint8Array;
}

export const slotOf = (shared: SharedArrayBuffer): Slot => ({
  words: new Int32Array(shared, 0, 2),
  position: new Float64Array(shared, 8, 1),
  data: new Uint8Array(shared, slotDataAt),
});

export type OpenFailure = 'absent' | 'in-use' | 'mounted' | 'unfit' | 'failed';

export type ThreadAnswer =
  | { readonly kind: 'open'; readonly sizeBytes: number; readonly sectorBytes: number }
  | { readonly kind: 'not-open'; readonly reason: OpenFailure; readonly text: string }
  | { readonly kind: 'done' }
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'failed'; readonly text: string };
