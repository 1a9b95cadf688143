// When a process gives back what its work has left, and that the system gets it.
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { habitLooks, habitMaxMs, quietMs, Rest, startLooks, worthMs } from '#ground/rest.ts';

const collectionMs = 70;

/** `work` is what the loop did before each look, in ms. Looks at which was collected, from 0. */
function collectedAt(work: readonly number[]): number[] {
  const found: number[] = [];
  let activeMs = 0;
  let at = 0;
  const rest = new Rest({
    activeMs: () => activeMs,
    collect: () => {
      found.push(at);
      activeMs += collectionMs;
    },
  });
  for (at = 0; at < work.length; at += 1) {
    activeMs += work[at] ?? 0;
    rest.look();
  }
  return found;
}

const looks = (count: number, workMs: number): number[] => Array.from({ length: count }, () => workMs);
/** A start; its last look is quiet. */
const start = [400, ...looks(startLooks - 1, 0)];

test('the start is given back in the first quiet look behind it, and then nothing until there was work', () => {
  expect(collectedAt([...start, ...looks(10, 0)])).toEqual([startLooks]);
  expect(collectedAt([...start, quietMs, 0, 0])).toEqual([startLooks + 1]);
});

test('after work, in the first quiet look; not while it lasts', () => {
  expect(collectedAt([...start, 0, ...looks(3, worthMs), quietMs - 1, 0, 0])).toEqual([startLooks, startLooks + 4]);
  expect(collectedAt([...start, 0, worthMs, quietMs, quietMs, 0])).toEqual([startLooks, startLooks + 4]);
});

test('little work is gathered until it is worth it', () => {
  const now = looks(90, 0).flatMap(() => [25, 0]);
  const [, second, ...more] = collectedAt([...start, 0, ...now]);
  expect(second).toBe(startLooks + 1 + 2 * (worthMs / 25 - 1));
  expect(more).toHaveLength(Math.floor((90 * 25) / worthMs) - 1);
});

test('the little that a process does all the time is no work, also where it begins later', () => {
  expect(collectedAt([600, ...looks(200, habitMaxMs)])).toEqual([startLooks]);
  expect(collectedAt([...start, ...looks(20, 0), worthMs, ...looks(40, habitMaxMs)])).toEqual([
    startLooks,
    startLooks + 20 + habitLooks - 1,
  ]);
});

test('nothing is collected while tills are served without a pause, also right behind the start', () => {
  expect(collectedAt([600, ...looks(200, 4_500)])).toEqual([]);
  expect(collectedAt([600, ...looks(200, habitMaxMs + quietMs)])).toEqual([]);
});

/** What a process with these flags prints. */
function told(flags: readonly string[], script: string): unknown {
  const { stdout, stderr } = spawnSync(process.execPath, [...flags, '--input-type=module', '-e', script], { encoding: 'utf8' });
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

test.skipIf(process.platform !== 'linux')('what has died is handed to the system, which an ordinary collection does not do', () => {
  const [before, ordinary, after] = told(
    ['--expose-gc'],
    `import { readFileSync } from 'node:fs';
import { collectAll } from '#ground/rest.ts';
const ownMib = () => Number(/RssAnon:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024;
const kept = [];
for (let at = 0; at < 2_000_000; at += 1) kept[at % 100_000] = { at, more: [at] };
kept.length = 0;
const before = ownMib();
gc();
const ordinary = ownMib();
collectAll();
console.log(JSON.stringify([before, ordinary, ownMib()]));`,
  ) as [number, number, number];
  console.log(
    `own memory: ${before.toFixed(0)} MiB, after an ordinary collection ${ordinary.toFixed(0)}, after this one ${after.toFixed(0)}`,
  );
  expect(after).toBeLessThan(ordinary - 20);
});

test('nothing else in the process gets the collector, and its compile cache stays good', () => {
  const script = `import { cachedDataVersionTag } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { collectAll } from '#ground/rest.ts';
const before = cachedDataVersionTag();
collectAll();
const same = cachedDataVersionTag() === before;
collectAll();
console.log(JSON.stringify([same, typeof gc, runInNewContext('typeof gc')]));`;
  expect(told([], script)).toEqual([true, 'undefined', 'undefined']);
});
