// Owns: putting right a segment of FLASH and mirror from what either of them has whole.
// Invariants: bytes are taken from one side to the other only where they carry a valid tag of this store. Every write here puts at a place
// what belongs there, so a crash in between leaves each header and frame whole on the side that had it. A page that cannot be read is written only
// where it is known what stood there: what hides for a moment is not lost yet.
// Must not: append, or decide which of two histories rules (join.ts).
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import { isBlank, pageBytes, runHeaderBytes, segmentPosition, view } from './format.ts';
import { verifiedWalk } from './mount.ts';
import { decideUnit, type UnitState } from './recover.ts';
import { lendSegment, type Salvaged } from './salvage.ts';
import type { Superblock } from './superblock.ts';
import type { Walk } from './walk.ts';

export interface Pair {
  readonly flash: Device;
  /** Null: there is none, and only reading is done. */
  readonly mirror: Device | null;
}

export interface HealOptions {
  readonly together: boolean;
  readonly inspect?: (onFlash: Salvaged) => void;
}

interface Unit {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly side: number;
  /** Null for a run header or carried bytes. */
  readonly index: number | null;
}

export interface SegmentHealed {
  readonly walk: Walk;
  /** Frames that this side does not have whole; 0 stands for a run header or what is carried. */
  readonly flashDamaged: readonly number[];
  readonly mirrorDamaged: readonly number[];
  /** Whether anything was written to the FLASH, also where all that counts was whole. */
  readonly flashTouched: boolean;
}

function unitsOf(walk: Walk): Unit[] {
  const units: Unit[] = walk.frames.map(({ offset, frameBytes, side, header }) => ({
    offset,
    lengthBytes: frameBytes,
    side,
    index: header.index,
  }));
  for (const { offset, side, carrySide, header } of walk.runs) {
    units.push({ offset, lengthBytes: runHeaderBytes, side, index: null });
    const { carryFrameBytes } = header;
    if (carryFrameBytes > 0) units.push({ offset: offset + runHeaderBytes, lengthBytes: carryFrameBytes, side: carrySide, index: null });
  }
  return units.sort((a, b) => a.offset - b.offset);
}

function stateOf(given: Uint8Array, right: Uint8Array): UnitState {
  if (view(given).equals(right)) return 'valid';
  return isBlank(given) ? 'missing' : 'broken';
}

/** Bytes to be put on one side, joined where they touch, so that a mirror far behind gets long writes. */
class Patches {
  readonly #parts: { at: number; pieces: Uint8Array[]; end: number }[] = [];

  get isEmpty(): boolean {
    return this.#parts.length === 0;
  }

  add(at: number, bytes: Uint8Array): void {
    const last = this.#parts.at(-1);
    if (last !== undefined && last.end === at) {
      last.pieces.push(bytes);
      last.end += bytes.length;
    } else this.#parts.push({ at, pieces: [bytes], end: at + bytes.length });
  }

  async write(device: Device, base: number): Promise<void> {
    for (const { at, pieces } of this.#parts) await device.writeAndSync(base + at, Buffer.concat(pieces));
  }
}

/**
 * Pages that cannot be read are written again as well: that is when a disk gives them another place. Only where it is known what they hold: no frame is
 * missing, and the log goes on behind them, or `witness`, which has all that was answered, shows the very same.
 */
function patchUnreadable(
  { unreadable }: Salvaged,
  units: readonly Unit[],
  sides: readonly Uint8Array[],
  walk: Walk,
  witness: Salvaged | null,
): Patches {
  const patches = new Patches();
  if (walk.gaps.length > 0 || walk.lostRun !== null) return patches;
  const last = units.at(-1);
  const passedBytes = last === undefined ? 0 : last.offset + last.lengthBytes;
  for (const at of unreadable) {
    const page = Buffer.alloc(pageBytes);
    for (const { offset, lengthBytes, side } of units) {
      const from = Math.max(at, offset);
      const to = Math.min(at + pageBytes, offset + lengthBytes);
      if (from < to) page.set((sides[side] ?? page).subarray(from, to), from - at);
    }
    const isShown = witness !== null && !witness.unreadable.includes(at) && page.equals(witness.bytes.subarray(at, at + pageBytes));
    if (isShown || at + pageBytes <= passedBytes) patches.add(at, page);
  }
  return patches;
}

/**
 * Reads a segment on both sides as one, and with `heal` writes to each what only the other has whole. `aboveRunIndex`: runs up to
 * it are remains of an older life of the segment. `together`: both were written to by the same openings. `inspect` looks before anything is written.
 */
export async function healSegment(
  pair: Pair,
  superblock: Superblock,
  dataKey: Uint8Array,
  segment: number,
  aboveRunIndex: number,
  heal: boolean,
  { together, inspect }: HealOptions = { together: true },
): Promise<SegmentHealed> {
  const { flash, mirror } = pair;
  const healed = async (onFlash: Salvaged, onMirror: Salvaged | null): Promise<SegmentHealed> => {
    inspect?.(onFlash);
    return await healSides({ pair, superblock, dataKey, segment, aboveRunIndex, heal, together, onFlash, onMirror });
  };
  if (mirror === null) return await lendSegment([flash], superblock, segment, ([onFlash]) => healed(onFlash, null));
  return await lendSegment([flash, mirror], superblock, segment, ([onFlash, onMirror]) => healed(onFlash, onMirror));
}

interface Sides {
  readonly pair: Pair;
  readonly superblock: Superblock;
  readonly dataKey: Uint8Array;
  readonly segment: number;
  readonly aboveRunIndex: number;
  readonly heal: boolean;
  readonly together: boolean;
  readonly onFlash: Salvaged;
  readonly onMirror: Salvaged | null;
}

async function healSides(parts: Sides): Promise<SegmentHealed> {
  const { pair, superblock, dataKey, segment, aboveRunIndex, heal, together, onFlash, onMirror } = parts;
  const { flash, mirror } = pair;
  const base = segmentPosition(superblock, segment);
  const sides = onMirror === null ? [onFlash.bytes] : [onFlash.bytes, onMirror.bytes];
  const walk = verifiedWalk(superblock, dataKey, segment, sides, aboveRunIndex);
  const units = unitsOf(walk);
  const damaged: { flash: number[]; mirror: number[] } = { flash: [], mirror: [] };
  const toFlash = new Patches();
  const toMirror = new Patches();
  for (const { offset, lengthBytes, side, index } of units) {
    const right = (sides[side] ?? onFlash.bytes).subarray(offset, offset + lengthBytes);
    const on = (bytes: Uint8Array): UnitState => stateOf(bytes.subarray(offset, offset + lengthBytes), right);
    const decision = decideUnit({ flash: on(onFlash.bytes), mirror: onMirror === null ? 'off' : on(onMirror.bytes), behind: true });
    switch (decision) {
      case 'keep':
        break;
      case 'heal-flash':
        damaged.flash.push(index ?? 0);
        toFlash.add(offset, right);
        break;
      case 'heal-mirror':
        damaged.mirror.push(index ?? 0);
        toMirror.add(offset, right);
        break;
      case 'damage':
      case 'cut':
      case 'end':
        throw new UkeyError('internal', `a valid unit at ${offset} is judged ${decision}`);
      default:
        unreachable(decision);
    }
  }
  const again = patchUnreadable(onFlash, units, sides, walk, together ? onMirror : null);
  const heals = heal && mirror !== null && onMirror !== null;
  if (heals) {
    // The mirror first gives, then takes: a crash anywhere leaves each unit whole on the side that had it. Whole pages go first: who writes
    // a part of one that cannot be read would have to read it.
    await again.write(flash, base);
    await toFlash.write(flash, base);
    await patchUnreadable(onMirror, units, sides, walk, null).write(mirror, base);
    await toMirror.write(mirror, base);
  }
  const flashTouched = heals && !(toFlash.isEmpty && again.isEmpty);
  return { walk, flashDamaged: damaged.flash, mirrorDamaged: damaged.mirror, flashTouched };
}

/** Throws `halted` where not all of it can be read, unless it may have holes: zeros, which are damage when they are read. */
export async function copySegment(from: Device, to: Device, superblock: Superblock, segment: number, mayHaveHoles = false): Promise<void> {
  const position = segmentPosition(superblock, segment);
  await lendSegment(
    [from],
    superblock,
    segment,
    ([
      {
        bytes,
        unreadable: [first],
      },
    ]) => {
      if (first !== undefined && !mayHaveHoles) throw new UkeyError('halted', `${from.path} cannot be read at ${position + first}`);
      return to.writeAndSync(position, bytes);
    },
  );
}
