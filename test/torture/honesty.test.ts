// The seeded bugs of `npm run torture -- --only honesty` must fit the code as it stands: a change that moves what one of them replaces is told here.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { seededBugs } from './honesty-bugs.ts';

const root = path.resolve(import.meta.dirname, '../..');

test('there are at least twenty seeded bugs, each with a name of its own', () => {
  expect(seededBugs.length).toBeGreaterThanOrEqual(20);
  expect(new Set(seededBugs.map((bug) => bug.name)).size).toBe(seededBugs.length);
});

test.each(seededBugs)('$name: what it replaces stands once in $file, and its test is there', ({ file, find, replace, test: guard }) => {
  expect(readFileSync(path.join(root, file), 'utf8').split(find)).toHaveLength(2);
  expect(replace).not.toBe(find);
  expect(existsSync(path.join(root, 'test', guard))).toBe(true);
});
