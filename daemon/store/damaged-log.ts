// Owns: a store that does not open because frames are damaged: naming all that is missing from a frame on, reading what is whole, and putting frames
// back (mend.ts) so that it opens as any other does.
// Invariants: looking writes nothing, and nothing is ever cut; written are only frames that are proven to be the very ones that stood there, on the FLASH
// (the next opening brings the mirror up to it). What only the mirror has is healed by an opening that failed before. No frame is
// appended here, so nothing in here needs a mount epoch. The device stays the caller's. Must not: decide what may be lost.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { missingIn } from './check.ts';
import { openCheckpoint } from './cipher.ts';
import { type MendScope, mendSegment } from './mend.ts';
import { headerOf, identityOf, type Reading, readOnce, readSuperblock, verifiedWalk } from './mount.ts';
import { Reader, unpackedFrames } from './reader.ts';
import { type Head, joinGaps } from './recover.ts';
import { lendSegment } from './salvage.ts';
import type { Frame, StoreHeader } from './store.ts';
import type { Superblock } from './superblock.ts';
import type { Gap, Walk } from './walk.ts';

export interface DamagedLog {
  readonly header: StoreHeader;
  readonly identity: Uint8Array;
  /** As in `Mounted`, of the newest run whose header is whole. */
  readonly checkpoint: Uint8Array | null;
  readonly checkpointIndex: number;
  readonly oldestIndex: number;
  /** Behind the last frame that anything tells of. */
  readonly nextIndex: number;
  readonly carried: Uint8Array | null;
  /** What was carried, or the newest run, was durable and cannot be read. */
  readonly carryLost: boolean;
  /** From `fromIndex` (or the checkpoint, where that is before) to the end, in order. */
  readonly missing: readonly Gap[];
  /** As of StoreLog: throws `halted` for a frame that is not whole. */
  read(fromIndex: number, maxBytes: number): Promise<Frame[]>;
  /** As of StoreLog. `missing` is what it was before: look anew. */
  mend(frames: readonly Frame[]): Promise<readonly number[]>;
  /** Wipes the data key; the device stays open. */
  close(): void;
}

/** Throws `halted` where there is no store to be read at all. `dataKey` is copied. */
export async function openDamaged(device: Device, dataKey: Uint8Array, fromIndex = Number.MAX_SAFE_INTEGER): Promise<DamagedLog> {
  const key = Buffer.from(dataKey);
  try {
    const { superblock } = await readSuperblock(device, key);
    return await Wreck.look(device, key, await readOnce(device, superblock, key), fromIndex);
  } catch (thrown) {
    key.fill(0);
    throw thrown;
  }
}

interface Segment {
  readonly head: Head;
  readonly walk: Walk;
  readonly endIndex: number;
}

class Wreck implements DamagedLog {
  readonly header: StoreHeader;
  readonly identity: Uint8Array;
  readonly checkpoint: Uint8Array | null;
  readonly checkpointIndex: number;
  readonly oldestIndex: number;
  readonly nextIndex: number;
  readonly carried: Uint8Array | null;
  readonly carryLost: boolean;
  readonly missing: readonly Gap[];
  readonly #device: Device;
  readonly #key: Buffer;
  readonly #reading: Reading;
  readonly #segments: readonly Segment[];
  readonly #reader: Reader;

  private constructor(device: Device, key: Buffer, reading: Reading, segments: readonly Segment[]) {
    const { superblock, walk, decision } = reading;
    this.#device = device;
    this.#key = key;
    this.#reading = reading;
    this.#segments = segments;
    this.header = headerOf(superblock);
    this.identity = identityOf(superblock, key);
    const run = walk?.runs.at(-1);
    const checkpoint =
      run === undefined || run.header.checkpointIndex === 0 ? null : openCheckpoint(key, superblock, run.header, run.sealed);
    this.checkpoint = checkpoint;
    this.checkpointIndex = checkpoint === null ? 1 : Math.max(1, run?.header.checkpointIndex ?? 1);
    this.oldestIndex = superblock.oldestIndex;
    this.carried = reading.carried.bytes;
    this.carryLost = decision.kind === 'damage' && decision.carryLost;
    const atEnd = decision.kind === 'damage' ? decision.missing : [];
    const inside = segments.flatMap((segment) => missingIn(segment.head, segment));
    this.missing = joinGaps([...atEnd, ...inside]).filter(({ to }) => to >= superblock.oldestIndex);
    this.nextIndex = Math.max(reading.lastIndex, this.missing.at(-1)?.to ?? 0) + 1;
    this.#reader = new Reader({
      ...{ device, superblock, dataKey: key, heads: reading.heads, newestFrames: walk?.frames ?? [] },
      ...{ nextIndex: reading.lastIndex + 1, oldestIndex: superblock.oldestIndex },
      heal: async () => null,
    });
  }

  static async look(device: Device, key: Buffer, reading: Reading, fromIndex: number): Promise<Wreck> {
    const { superblock, heads, walk, decision, lastIndex } = reading;
    const run = walk?.runs.at(-1)?.header;
    const neededIndex = Math.min(fromIndex, run?.checkpointIndex ?? fromIndex);
    const known = decision.kind === 'damage' ? decision.missing.map(({ to }) => to) : [];
    const segments: Segment[] = [];
    for (const [place, head] of heads.entries()) {
      const next = heads[place + 1];
      if (next !== undefined && next.firstIndex <= neededIndex) continue;
      const endIndex = next?.firstIndex ?? Math.max(lastIndex, ...known) + 1;
      const found = next === undefined && walk !== null ? walk : await walkOf(device, key, superblock, head);
      segments.push({ head, walk: found, endIndex });
    }
    return new Wreck(device, key, reading, segments);
  }

  async read(fromIndex: number, maxBytes: number): Promise<Frame[]> {
    return unpackedFrames(await this.#reader.readPacked(fromIndex, maxBytes));
  }

  async mend(frames: readonly Frame[]): Promise<readonly number[]> {
    if (this.#device.readOnly) throw new UkeyError('halted', 'the store was opened for reading only');
    const { superblock, heads } = this.#reading;
    const { tail } = superblock;
    const scope: MendScope = {
      ...{ device: this.#device, superblock, dataKey: this.#key, heads: () => heads },
      // A clean close, or the opening behind: it knows the tag of the last frame, wherever that ended.
      end: () => (tail.frameIndex === 0 ? null : { index: tail.frameIndex, witness: { tag: tail.frameTag, endPosition: null } }),
      write: (positionBytes, bytes) => this.#device.writeAndSync(positionBytes, bytes),
    };
    const payloads = new Map(frames.map(({ index, payload }) => [index, payload]));
    const mended: number[] = [];
    for (const segment of this.#segments) mended.push(...(await mendSegment(scope, segment.head, segment, payloads)));
    return mended;
  }

  close(): void {
    this.#key.fill(0);
  }
}

async function walkOf(device: Device, key: Buffer, superblock: Superblock, head: Head): Promise<Walk> {
  return await lendSegment([device], superblock, head.segment, ([{ bytes }]) =>
    verifiedWalk(superblock, key, head.segment, [bytes], head.runIndex - 1),
  );
}
