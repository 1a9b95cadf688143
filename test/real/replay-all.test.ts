// The whole file of real sales, where it lies beside the clone: every document issued or refused for a known reason, equal to the cent.
import { existsSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { ctlEntry, jsonOf, runProgram } from '#test/support/ctl.ts';
import { makeFolder } from '#test/support/sandbox.ts';

const file = fileURLToPath(new URL('../../../shared/data/online-retail/online-retail-2010-12-to-2011-06.csv.gz', import.meta.url));
const isThere = existsSync(file);
const waitMs = 240_000;
const documents = 12_795;
const dir = makeFolder();

if (!isThere) console.warn(`SKIPPED: the replay of the whole file: ${file} is not there (docs/retail-data.md)`);

afterAll(() => rmSync(dir, { recursive: true, force: true }));

test.skipIf(!isThere)(
  'the replay of the whole file equals it to the cent',
  async () => {
    const run = await runProgram(process.execPath, [ctlEntry, 'replay', file, '--dir', dir, '--json'], { waitMs });
    expect(run.status).toBe(0);
    const { addsUp, faults, kinds, refused } = jsonOf(run) as Record<'kinds' | 'refused', { documents: number; difference?: string }[]> & {
      addsUp: boolean;
      faults: string[];
    };
    expect({ addsUp, faults }).toEqual({ addsUp: true, faults: [] });
    expect(kinds.map(({ difference }) => difference)).toEqual(['0.00', '0.00']);
    expect(refused).toMatchObject([{ reason: 'invalid-request at lines[].quantity', byFile: '0.00' }]);
    expect([...kinds, ...refused].reduce((sum, one) => sum + one.documents, 0)).toBe(documents);
  },
  waitMs,
);
