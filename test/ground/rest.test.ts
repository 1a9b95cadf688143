// When a process gives back what its work has left, and that the system gets it.
import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { quietMs, Rest, worthMs } from '#ground/rest.ts';

/** `work` is what the loop did before each look, in ms; a collection takes 70. Looks at which was collected, from 0. */
function collectedAt(work: readonly number[]): number[] {
  const found: number[] = [];
  let activeMs = 0;
  let at = 0;
  const rest = new Rest({
    activeMs: () => activeMs,
    collect: () => {
      found.push(at);
      activeMs += 70;
    },
  });
  for (at = 0; at < work.length; at += 1) {
    activeMs += work[at] ?? 0;
    rest.look();
  }
  return found;
}

test('the start is given back in the first quiet look, and then nothing until there was work', () => {
  expect(collectedAt([400, 20, 20, 20, 20])).toEqual([1]);
  expect(collectedAt([10, 10, 10])).toEqual([0]);
});

test('after work, in the first quiet look; not while it lasts', () => {
  expect(collectedAt([0, worthMs, worthMs, worthMs, quietMs - 1, 0, 0])).toEqual([0, 4]);
  expect(collectedAt([0, worthMs, quietMs, quietMs, 0])).toEqual([0, 4]);
});

test('little work is gathered until it is worth it', () => {
  const seldom = Array.from({ length: 60 }, () => 40);
  const times = collectedAt([0, ...seldom]);
  expect(times[1]).toBe(worthMs / 40);
  expect(times).toHaveLength(1 + 2); // of 60 x 40 ms
});

test.skipIf(process.platform !== 'linux')('what has died is handed to the system', () => {
  const script = `
import { readFileSync } from 'node:fs';
import { collectAll } from '#ground/rest.ts';
const ownMib = () => Number(/RssAnon:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024;
const kept = [];
for (let at = 0; at < 2_000_000; at += 1) kept[at % 100_000] = { at, more: [at] };
kept.length = 0;
globalThis.gc?.(); // nobody has it who does not ask for it
const before = ownMib();
collectAll();
console.log(JSON.stringify([before, ownMib(), typeof globalThis.gc]));`;
  const told = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  const [before, after, exposed] = JSON.parse(told.stdout) as [number, number, string];
  console.log(`own memory: ${before.toFixed(0)} -> ${after.toFixed(0)} MiB`);
  expect(after).toBeLessThan(before - 20);
  expect(exposed).toBe('undefined');
});
