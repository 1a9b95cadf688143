import { describe, expect, it } from 'vitest';
import { decideReclaim, type KeptSegment } from '#store/reclaim.ts';

/** Every ring of up to four segments whose segments hold 0, 1 or 2 frames each. */
function rings(): KeptSegment[][] {
  const all: KeptSegment[][] = [[]];
  const grow = (segments: KeptSegment[], firstIndex: number): void => {
    all.push(segments);
    if (segments.length === 4) return;
    for (const held of [0, 1, 2]) grow([...segments, { runIndex: segments.length + 3, firstIndex: firstIndex + held }], firstIndex + held);
  };
  grow([{ runIndex: 2, firstIndex: 4 }], 4);
  return all;
}

describe('reclaiming', () => {
  it('frees exactly the whole segments below the release point, for every small ring', () => {
    let cases = 0;
    let moved = 0;
    for (const segments of rings()) {
      for (let upToIndex = 0; upToIndex <= 14; upToIndex += 1) {
        for (const checkpointIndex of [0, 4, 6, 9, 14]) {
          for (const carryPlace of [null, ...segments.keys()]) {
            for (const carryFits of [true, false]) {
              cases += 1;
              const { freed, moveCarry } = decideReclaim({ segments, upToIndex, checkpointIndex, carryPlace, carryFits });
              const lastOf = (place: number): number => (segments[place + 1]?.firstIndex ?? Number.POSITIVE_INFINITY) - 1;
              const label = JSON.stringify({ segments, upToIndex, checkpointIndex, carryPlace, carryFits });
              if (moveCarry) moved += 1;
              // Never the newest, never a frame that was not released, never one that mounting reads.
              expect(freed, label).toBeLessThanOrEqual(Math.max(0, segments.length - 1));
              for (let place = 0; place < freed; place += 1) {
                expect(lastOf(place), label).toBeLessThanOrEqual(upToIndex);
                expect(lastOf(place), label).toBeLessThan(Math.max(1, checkpointIndex));
              }
              // What is carried is moved or stays.
              expect(moveCarry, label).toBe(carryPlace !== null && carryPlace < freed);
              if (moveCarry) expect(carryFits, label).toBe(true);
              // As much as may be: the next one has a reason to stay.
              if (freed + 1 < segments.length) {
                const stays = lastOf(freed) > upToIndex || lastOf(freed) >= Math.max(1, checkpointIndex);
                expect(stays || (carryPlace === freed && !carryFits), label).toBe(true);
              }
            }
          }
        }
      }
    }
    expect(cases).toBeGreaterThan(20_000);
    expect(moved).toBeGreaterThan(500);
  });
});
