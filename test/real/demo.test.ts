// What a new user sees first, and the replay, as processes: they must add up, and say so by their exit status.
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ctlEntry, jsonOf, runProgram } from '#test/support/ctl.ts';
import { makeFolder } from '#test/support/sandbox.ts';

const dayFile = new URL('../data/retail-day.csv', import.meta.url).pathname;
const waitMs = 60_000;
const folders: string[] = [];

function folder(): string {
  const dir = makeFolder();
  folders.push(dir);
  return dir;
}

/** Longer than a command of ukeyctl may otherwise take in tests. */
const run = (...args: string[]) => runProgram(process.execPath, [ctlEntry, ...args], { waitMs });

afterAll(() => {
  for (const dir of folders) rmSync(dir, { recursive: true, force: true });
});

test(
  'the demonstration issues a day, lets it wait for the line, and accounts for all of it',
  async () => {
    const demo = await run('demo', '--exit', '--module', 'none', '--dir', folder(), '--json');
    expect(demo.stderr).toContain('CUT');
    expect(demo.stderr).toContain('BACK');
    expect(demo.status).toBe(0);
    const { addsUp, times } = jsonOf(demo) as {
      addsUp: boolean;
      times: { name: string; issued: number; waited: number; acknowledged: number }[];
    };
    expect(addsUp).toBe(true);
    expect(times.map(({ name }) => name)).toEqual(['before the cut', 'line cut', 'line back']);
    expect(times.reduce((sum, { issued }) => sum + issued, 0)).toBe(166);
    expect(times.every(({ issued, acknowledged }) => issued === acknowledged)).toBe(true);
    expect(times[1]?.waited).toBe(times[1]?.issued);
  },
  waitMs,
);

test(
  'a replay equals the file to the cent, also when it is repeated',
  async () => {
    const dir = folder();
    const args = ['replay', dayFile, '--module', 'none', '--dir', dir, '--json'];
    for (const repeated of [0, 166]) {
      const replay = await run(...args);
      expect(replay.status).toBe(0);
      expect(jsonOf(replay)).toMatchObject({
        addsUp: true,
        faults: [],
        repeated,
        kinds: [
          { name: 'invoices', documents: 143, byFile: '47748.38', byAnswers: '47748.38', difference: '0.00' },
          { name: 'credit notes', documents: 23, byFile: '1541.10', byAnswers: '1541.10', difference: '0.00' },
        ],
        refused: [{ reason: 'invalid-request at lines[].quantity', documents: 1, byFile: '0.00' }],
        verdict: { holds: true, pending: 0 },
      });
    }
  },
  waitMs,
);

test('a file that is not of this form is wrong use, with its line', async () => {
  const file = path.join(folder(), 'broken.csv');
  writeFileSync(file, 'InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n1,2,3\n');
  const replay = await run('replay', file, '--json');
  expect(replay.status).toBe(2);
  expect(jsonOf(replay)).toMatchObject({ error: { field: 'line 2' } });
});
