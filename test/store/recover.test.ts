import { describe, expect, it } from 'vitest';
import {
  type CopyChoice,
  chooseCopy,
  decideHistories,
  decideTail,
  decideUnit,
  type Head,
  nameFrames,
  orderHeads,
  type TailFound,
  tailRows,
  type UnitFound,
  unitRows,
} from '#store/recover.ts';
import type { CopyState, Superblock } from '#store/superblock.ts';

function copyOf(name: string, store: number, counter: number): CopyState {
  const bytes = Buffer.alloc(128);
  bytes[40] = store;
  bytes.write(name, 100);
  return { kind: 'valid', bytes, superblock: { updateCounter: counter } as Superblock };
}

const states: Readonly<Record<string, CopyState>> = {
  blank: { kind: 'blank' },
  foreign: { kind: 'foreign' },
  newer: { kind: 'newer-format', version: 2 },
  damaged: { kind: 'damaged' },
  old: copyOf('old', 1, 5),
  new: copyOf('new', 1, 6),
  twin: copyOf('twin', 1, 6),
  stranger: copyOf('stranger', 2, 9),
};

describe('choosing a superblock', () => {
  const names = Object.keys(states);
  const combinations = names.flatMap((a) => names.flatMap((b) => names.flatMap((c) => names.map((d) => [a, b, c, d]))));
  const choose = (four: readonly string[]): CopyChoice => chooseCopy(four.map((name) => states[name] ?? { kind: 'blank' }));

  it('follows its table for every combination of four copies', () => {
    expect(combinations).toHaveLength(8 ** 4);
    for (const four of combinations) {
      const has = (...some: string[]): boolean => some.some((name) => four.includes(name));
      const count = (name: string): number => four.filter((one) => one === name).length;
      const choice = choose(four);
      const label = four.join(' ');
      if (has('newer')) expect(choice.kind, label).toBe('newer-format');
      else if (has('stranger') && has('old', 'new', 'twin')) expect(choice.kind, label).toBe('damage');
      else if (has('old', 'new', 'twin', 'stranger')) {
        const first = four.find((one) => one === 'new' || one === 'twin');
        const tied = count('new') === count('twin') ? first : count('new') > count('twin') ? 'new' : 'twin';
        const expected = has('stranger') ? 'stranger' : has('new', 'twin') ? tied : 'old';
        const stale = four.flatMap((one, place) => (one === expected ? [] : [place]));
        expect(choice, label).toMatchObject({ kind: 'chosen', stale });
        const chosen = states[expected ?? ''];
        if (choice.kind === 'chosen' && chosen?.kind === 'valid') expect(choice.superblock, label).toBe(chosen.superblock);
      } else if (has('damaged')) expect(choice.kind, label).toBe('damage');
      else expect(choice.kind, label).toBe(has('foreign') ? 'foreign' : 'empty');
    }
  });
});

describe('ordering segments', () => {
  const head = (segment: number, runIndex: number, firstIndex: number, oldestRun = 1): Head => ({
    segment,
    runIndex,
    firstIndex,
    oldestRun,
    carryFrameBytes: 0,
  });

  it('finds every missing segment but the newest, for every subset of a log of six segments', () => {
    const all = [0, 1, 2, 3, 4, 5].map((segment) => head(segment, segment + 1, segment * 10 + 1));
    for (let subset = 0; subset < 64; subset += 1) {
      const seen = all.filter((one) => (subset >> one.segment) & 1);
      const { heads, holesBefore } = orderHeads([...seen].reverse(), 6);
      expect(heads).toEqual(seen);
      const expected = seen.flatMap((one, place) => (one.segment === (seen[place - 1]?.segment ?? -1) + 1 ? [] : [place]));
      expect(holesBefore, `subset ${subset}`).toEqual(expected);
    }
  });

  it('goes round the ring and takes reclaimed segments for no damage', () => {
    const heads = [head(4, 5, 41), head(5, 6, 51), head(0, 7, 61, 5)];
    expect(orderHeads([heads[2], heads[0], heads[1]] as Head[], 6)).toEqual({ heads, holesBefore: [] });
    expect(orderHeads(heads.slice(1), 6).holesBefore).toEqual([0]);
    expect(orderHeads(heads.slice(1), 6, 6)).toEqual({ heads: heads.slice(1), holesBefore: [] });
  });

  it('keeps exactly what the newest release point keeps, whatever is left of the segments before it', () => {
    // A ring of six after nine segments: segments 3, 4, 5, 0, 1, 2 hold runs 4 to 9.
    const ring = [3, 4, 5, 0, 1, 2].map((segment, place) => head(segment, place + 4, place * 10 + 31));
    for (let promised = 4; promised <= 9; promised += 1) {
      for (let subset = 1; subset < 64; subset += 1) {
        const seen = ring.filter((_, place) => (subset >> place) & 1);
        const kept = seen.filter((one) => one.runIndex >= promised);
        const { heads, holesBefore } = orderHeads(seen, 6, promised);
        expect(heads).toEqual(kept);
        const expected = kept.flatMap((one, place) => (one.runIndex === (kept[place - 1]?.runIndex ?? promised - 1) + 1 ? [] : [place]));
        expect(holesBefore, `promised ${promised} subset ${subset}`).toEqual(expected);
      }
    }
  });

  it('knows a store without any head', () => {
    expect(orderHeads([], 6)).toEqual({ heads: [], holesBefore: [] });
  });
});

describe('deciding where the log ends', () => {
  const choices = {
    gaps: [
      [],
      [{ from: 2, to: 2 }],
      [
        { from: 2, to: 2 },
        { from: 4, to: 6 },
      ],
    ],
    lastIndex: [0, 7],
    started: [false, true],
    lostRun: [null, { runIndex: 3, ordinal: 1, index: 8 }, { runIndex: 3, ordinal: 2, index: 9 }, { runIndex: 4, ordinal: 9, index: 16 }],
    promisedIndex: [0, 6, 7, 8, 12],
    carryLost: [false, true],
    tornBytes: [0, 1536],
  };
  const all: TailFound[] = choices.gaps.flatMap((gaps) =>
    choices.lastIndex.flatMap((lastIndex) =>
      choices.started.flatMap((started) =>
        choices.lostRun.flatMap((lostRun) =>
          choices.promisedIndex.flatMap((promisedIndex) =>
            choices.carryLost.flatMap((carryLost) =>
              choices.tornBytes.map((tornBytes) => ({ gaps, lastIndex, started, lostRun, promisedIndex, carryLost, tornBytes })),
            ),
          ),
        ),
      ),
    ),
  );

  it('takes damage for damage and nothing else, for every combination of facts', () => {
    expect(all).toHaveLength(3 * 2 * 2 * 4 * 5 * 2 * 2);
    for (const found of all) {
      const decision = decideTail(found);
      const label = JSON.stringify(found);
      const lostFrames = new Set<number>();
      for (const gap of found.gaps) for (let index = gap.from; index <= gap.to; index += 1) lostFrames.add(index);
      const reach = Math.max(found.promisedIndex, (found.lostRun?.ordinal ?? 0) > 1 ? (found.lostRun?.index ?? 0) : 0);
      for (let index = found.lastIndex + 1; index <= reach; index += 1) lostFrames.add(index);
      if (lostFrames.size > 0 || found.carryLost) {
        expect(decision, label).toMatchObject({ kind: 'damage', carryLost: found.carryLost });
        const named = new Set<number>();
        if (decision.kind === 'damage') for (const gap of decision.missing) for (let i = gap.from; i <= gap.to; i += 1) named.add(i);
        for (const index of lostFrames) expect(named.has(index), `${label} names ${index}`).toBe(true);
      } else if (!found.started) expect(decision, label).toEqual({ kind: 'empty', tornBytes: found.tornBytes });
      else expect(decision, label).toEqual({ kind: 'tail', lastIndex: found.lastIndex, tornBytes: found.tornBytes });
    }
  });

  it('needs each row of its table', () => {
    for (const row of tailRows) {
      const others = tailRows.filter((other) => other !== row);
      const differs = all.some((found) => {
        const without = others.find((other) => other.when(found));
        return JSON.stringify(without?.decision(found)) !== JSON.stringify(decideTail(found));
      });
      expect(differs, row.name).toBe(true);
    }
  });

  it('names frames for a person', () => {
    expect(
      nameFrames([
        { from: 7, to: 7 },
        { from: 9, to: 12 },
      ]),
    ).toBe('7, 9-12');
  });
});

describe('one frame on FLASH and mirror', () => {
  const all = (['valid', 'broken', 'missing'] as const).flatMap((flash) =>
    (['off', 'valid', 'other', 'broken', 'missing'] as const).flatMap((mirror) =>
      [false, true].map((behind): UnitFound => ({ flash, mirror, behind })),
    ),
  );

  it('is taken from who has it, cut only when nobody has it and nothing follows, for every combination', () => {
    expect(all).toHaveLength(3 * 5 * 2);
    for (const found of all) {
      const { flash, mirror, behind } = found;
      const decision = decideUnit(found);
      const label = JSON.stringify(found);
      if (flash === 'valid') expect(decision, label).toBe(mirror === 'off' || mirror === 'valid' ? 'keep' : 'heal-mirror');
      else if (mirror === 'valid') expect(decision, label).toBe('heal-flash');
      else if (behind) expect(decision, label).toBe('damage');
      else expect(decision, label).toBe(flash === 'broken' || mirror === 'broken' ? 'cut' : 'end');
    }
  });

  it('needs each row of its table', () => {
    for (const row of unitRows) {
      const others = unitRows.filter((other) => other !== row);
      expect(
        all.some((found) => others.find((other) => other.when(found))?.decision !== decideUnit(found)),
        row.name,
      ).toBe(true);
    }
  });
});

describe('the ends of FLASH and mirror', () => {
  it('are never shortened, for every combination', () => {
    const flags = [false, true];
    let discards = 0;
    for (const flashKept of flags) {
      for (const mirrorKept of flags) {
        for (const flashLeads of flags) {
          for (const mirrorLonger of flags) {
            const decision = decideHistories({ flashKept, mirrorKept, flashLeads, mirrorLonger });
            if (flashKept && mirrorKept) expect(decision).toBe('go-on');
            // What only the mirror has is given up in this one case.
            else if (flashKept && flashLeads && !mirrorLonger) discards += decision === 'discard-mirror' ? 1 : 0;
            else expect(decision).toBe('halt');
          }
        }
      }
    }
    expect(discards).toBe(1);
  });
});
