// How Node is started for the service: what the flags do, and that everything which starts it says them.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { frontFlags, holderFlags, nodeEnvironment } from '#ground/runtime.ts';
import { commandText } from '../../installers/staging.ts';

const root = path.resolve(import.meta.dirname, '../..');
const text = (file: string): string => readFileSync(path.join(root, file), 'utf8');
const mib = 1024 * 1024;

/** Committed for the young generation once much of what was made has survived for a while, in MiB. */
function youngMib(flags: readonly string[]): number {
  const script = `
const kept = [];
for (let at = 0; at < 3_000_000; at += 1) kept[at % 200_000] = { at, more: [at] };
const young = require('node:v8').getHeapSpaceStatistics().find((space) => space.space_name === 'new_space');
console.log(young.space_size);`;
  return Number(spawnSync(process.execPath, [...flags, '-e', script], { encoding: 'utf8' }).stdout) / mib;
}

test('the young generation stays small, that of the holder smaller, and without the flags it does not', () => {
  expect(youngMib(holderFlags)).toBeGreaterThan(0);
  expect(youngMib(holderFlags)).toBeLessThanOrEqual(4);
  expect(youngMib(frontFlags)).toBeLessThanOrEqual(32);
  expect(youngMib([])).toBeGreaterThan(32);
});

test('whatever starts the service says the flags', () => {
  const flags = frontFlags.join(' ');
  const starters = ['package.json', 'service-files/launchd/ukeyd.plist', 'service-files/windows/ukeyd.xml', 'installers/macos-pkg.sh'];
  expect(starters.filter((file) => !text(file).includes(flags))).toEqual([]);
});

test('the installed command says them too, and leaves the environment to who has set it; the others are plain', () => {
  const said = (environment: NodeJS.ProcessEnv): string => {
    const script = commandText('ukeyd', 'daemon/main.js').replace(
      'exec /usr/lib/ukeyd/bin/node',
      'echo $MALLOC_ARENA_MAX $MALLOC_MMAP_THRESHOLD_',
    );
    return spawnSync('sh', ['-c', script, 'ukeyd', '--config', 'a b'], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'], ...environment },
    }).stdout;
  };
  const rest = `${frontFlags.join(' ')} /usr/lib/ukeyd/daemon/main.js --config a b\n`;
  expect(said({})).toBe(`${Object.values(nodeEnvironment).join(' ')} ${rest}`);
  expect(said({ MALLOC_ARENA_MAX: '7' })).toMatch(/^7 /);
  expect(commandText('ukeyctl', 'daemon/ctl.js')).toBe('#!/bin/sh\nexec /usr/lib/ukeyd/bin/node /usr/lib/ukeyd/daemon/ctl.js "$@"\n');
});
