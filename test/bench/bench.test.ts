// The plumbing of `npm run bench`, with tiny counts: everything can be measured, nothing is judged.
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { type Row, row } from './benchmark.ts';
import { growthCharts } from './chart.ts';
import { withTable } from './documents.ts';
import { interleaved, median, percentile, summed } from './figures.ts';
import { memoryOf, memoryOfPages, pagesOf } from './memory.ts';
import { startBare } from './process.ts';
import { benches, measure } from './run.ts';
import { sizes } from './sizes.ts';
import { stagesOf } from './stages.ts';
import { markdownTable, stagesTable } from './table.ts';

const waitMs = 240_000;
const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-bench-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('a run with tiny counts', () => {
  test(
    'measures every benchmark on a real service, and each row is a figure or says why not',
    async () => {
      const said: string[] = [];
      const results = await measure({ sizes: sizes.tiny, only: [], folder, module: null, data: null, say: (text) => said.push(text) });
      expect(results.failures, said.join('\n')).toEqual([]);
      expect(new Set(results.stages.map(({ tills }) => tills))).toEqual(new Set([1, sizes.tiny.manyTills]));
      const measured = new Set(results.rows.map(({ bench }) => bench));
      expect([...benches.map(({ id }) => id), 'B8'].filter((id) => !measured.has(id))).toEqual([]);
      for (const { what, value, note } of results.rows) {
        if (value === null) expect(note, what).toMatch(/^not measured: ./);
        else expect(Number.isFinite(value), what).toBe(true);
      }
    },
    waitMs,
  );

  test('refuses a benchmark that there is not', async () => {
    const options = { sizes: sizes.tiny, only: ['B11'], folder, module: null, data: null, say: () => undefined };
    await expect(measure(options)).rejects.toThrow('B11');
  });
});

describe('memory', () => {
  const mapping = (at: string, file: string, rssKb: number, ownKb: number): string =>
    `${at}000-${at}fff r-xp 00000000 ${file}\nRss: ${rssKb} kB\nPss: 1 kB\nAnonymous: ${ownKb} kB\n`;
  const node = '08:01 77                  /usr/lib/ukeyd/bin/node';

  test('counts a page of a file once, and what a process has written to for each', () => {
    const front = pagesOf(mapping('aa', node, 3_000, 0) + mapping('ab', node, 500, 500) + mapping('ac', '00:00 0', 2_000, 2_000));
    const holder = pagesOf(mapping('aa', node, 4_000, 0) + mapping('ac', '00:00 0', 1_000, 1_000));
    const { onceMb, residentMb, privateMb } = memoryOfPages([front, holder]);
    expect(privateMb).toEqual([2.56, 1.024]);
    expect(residentMb).toBeCloseTo(10_500 * 0.001024, 6);
    expect(onceMb).toBeCloseTo((2_500 + 1_000 + 4_000) * 0.001024, 6);
  });

  test.skipIf(process.platform !== 'linux')('of two processes of Node is less than the sum of their resident sizes', async () => {
    const [one, two] = [startBare(), startBare()];
    try {
      // Just begun, they share nothing yet.
      const shared = (): number => {
        const found = memoryOf([one.pid ?? 0, two.pid ?? 0]);
        return found === null || found.onceMb <= 0 ? 0 : found.residentMb - found.onceMb;
      };
      await expect.poll(shared, { timeout: 10_000 }).toBeGreaterThan(0);
      expect(memoryOf([0])).toBeNull();
    } finally {
      for (const each of [one, two]) each.kill('SIGKILL');
    }
  });
});

describe('figures', () => {
  test('are medians and percentiles, and sums are made one by one', () => {
    expect(median([5, 1, 9])).toBe(5);
    expect(
      percentile(
        Array.from({ length: 100 }, (_, at) => at + 1),
        0.99,
      ),
    ).toBe(100);
    expect(Number.isNaN(median([]))).toBe(true);
    expect([
      ...summed([
        [1, 2, 3],
        [10, 20],
      ]),
    ]).toEqual([11, 22]);
  });

  test('are measured in turns', async () => {
    const order: string[] = [];
    const note = (name: string) => async (round: number) => void order.push(`${name}${round}`);
    await interleaved(2, { a: note('a'), b: note('b') });
    expect(order).toEqual(['a0', 'b0', 'a1', 'b1']);
  });
});

describe('the table', () => {
  const rows: readonly Row[] = [
    row('B1', 'one | two', 150, 'us', { beside: { name: 'floor', value: 100 }, aim: '<= 1.2 x', met: (_, ratio) => ratio <= 1.2 }),
    row('B5', 'mount', 30, 'ms', { growth: { series: 'mount (ms)', entries: 1_000 } }),
    row('B5', 'mount', 31, 'ms', { growth: { series: 'mount (ms)', entries: 100_000 } }),
  ];

  test('says ratio, absolute numbers and whether the aim was met', () => {
    expect(markdownTable(rows).split('\n')[2]).toBe('| B1 | one \\| two | 150 µs | 100 µs floor | 1.50 | <= 1.2 x | not met |');
  });

  test('of stages has a column for each load and process', () => {
    const stages = [
      { tills: 1, stage: 'sign', front: 0, holder: 40 },
      { tills: 64, stage: 'sign', front: 0, holder: 1.25 },
    ];
    expect(stagesTable(stages).split('\n')[2]).toBe('| sign | 0.0 | 40.0 | 0.0 | 1.3 |');
    expect(stagesTable([])).toBe('');
  });

  test('takes the place of the one before it, between its marks', () => {
    const page = 'before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter';
    expect(withTable(page, 'new')).toBe('before\n<!-- bench: begin -->\nnew\n<!-- bench: end -->\nafter');
    expect(() => withTable('no marks', 'new')).toThrow();
  });

  test('is drawn where a figure was taken at several sizes', () => {
    const svg = growthCharts(rows);
    expect(svg.match(/<circle /g)?.length).toBe(2);
    expect(svg).toContain('mount (ms)');
    expect(growthCharts(rows.slice(0, 1))).toBe('');
  });
});

test('a profile is told by stages: native time is its caller’s, and nothing is lost', () => {
  const frame = (functionName: string, url: string) => ({ functionName, url });
  const stages = stagesOf({
    nodes: [
      { id: 1, callFrame: frame('(root)', ''), children: [2, 4, 5] },
      { id: 2, callFrame: frame('makeDraft', 'file:///x/daemon/desk/draft.ts'), children: [3] },
      { id: 3, callFrame: frame('stringify', '') },
      { id: 4, callFrame: frame('(garbage collector)', '') },
      { id: 5, callFrame: frame('(idle)', '') },
    ],
    samples: [2, 3, 4, 5],
    timeDeltas: [1_000, 2_000, 4_000, 8_000],
  });
  expect(stages).toMatchObject({ template: 3, garbage: 4, idle: 8 });
  expect(Object.values(stages).reduce((sum, ms) => sum + ms, 0)).toBe(15);
});
