// installers/setup.mjs in a small clone of its own, with an npm that is played: what it does, how often, and what it says when it fails.
import { spawnSync } from 'node:child_process';
import { appendFileSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
// @ts-expect-error: plain JavaScript on purpose, it runs before there is a compiler
import { diagnose } from '../../installers/setup.mjs';

const setupFile = new URL('../../installers/setup.mjs', import.meta.url).pathname;
/** The clock of a slow test machine; the real figure is about 100 ms, most of it Node's own start. */
const quietMaxMs = 1_000;

let clone: string;

/** Installs what setup looks for: Node, and two addons that load, or do not. */
const playedNpm = `
const fs = require('node:fs'), path = require('node:path');
fs.appendFileSync('npm-calls.txt', process.argv.slice(2).join(' ') + '\\n');
const failure = 'npm-fails.txt';
if (fs.existsSync(failure)) { process.stderr.write(fs.readFileSync(failure)); process.exit(1); }
const write = (file, text) => { fs.mkdirSync(path.dirname(file), { recursive: true }); fs.writeFileSync(file, text); };
fs.rmSync('node_modules', { recursive: true, force: true });
fs.mkdirSync('node_modules/node/bin', { recursive: true });
fs.symlinkSync(process.execPath, 'node_modules/node/bin/node');
for (const [name, file] of [['sqlite3', 'node_sqlite3.node'], ['pkcs11js', 'pkcs11.node']]) {
  write('node_modules/' + name + '/package.json', '{"main":"index.js"}');
  write('node_modules/' + name + '/index.js', fs.existsSync('addon-broken.txt') ? 'throw new Error("GLIBC_9.99 not found")' : '');
  write('node_modules/' + name + '/build/Release/' + file, '');
}
`;

beforeEach(() => {
  clone = mkdtempSync(path.join(tmpdir(), 'ukeyd-setup-'));
  mkdirSync(path.join(clone, 'installers'));
  copyFileSync(setupFile, path.join(clone, 'installers', 'setup.mjs'));
  write('package-lock.json', '{"lockfileVersion":3}');
  write('npm-cli.cjs', playedNpm);
});

afterEach(() => rmSync(clone, { recursive: true, force: true }));

function write(name: string, text: string): void {
  writeFileSync(path.join(clone, name), text);
}

function setup(...args: string[]): { status: number | null; stdout: string; stderr: string; tookMs: number } {
  const startedMs = performance.now();
  const done = spawnSync(process.execPath, [path.join(clone, 'installers', 'setup.mjs'), ...args], {
    cwd: clone,
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], npm_execpath: path.join(clone, 'npm-cli.cjs') },
  });
  return { status: done.status, stdout: done.stdout, stderr: done.stderr, tookMs: performance.now() - startedMs };
}

function npmCalls(): string[] {
  const file = path.join(clone, 'npm-calls.txt');
  return existsSync(file) ? readFileSync(file, 'utf8').trimEnd().split('\n') : [];
}

describe('setup', () => {
  test('installs once, as the lockfile says, and is quiet and quick after that', () => {
    const first = setup();
    expect(first.stderr).toContain('Set up');
    expect(first.status).toBe(0);
    expect(npmCalls()).toEqual([expect.stringMatching(/^ci /)]);
    const second = setup();
    expect(second).toMatchObject({ status: 0, stdout: '', stderr: '' });
    expect(second.tookMs).toBeLessThan(quietMaxMs);
    expect(npmCalls().length).toBe(1);
  });

  test('installs again when the lockfile changes, or when what was built is gone', () => {
    setup();
    appendFileSync(path.join(clone, 'package-lock.json'), '\n');
    expect(setup().status).toBe(0);
    expect(npmCalls().length).toBe(2);
    rmSync(path.join(clone, 'node_modules', 'sqlite3', 'build'), { recursive: true });
    expect(setup().status).toBe(0);
    expect(npmCalls().length).toBe(3);
  });

  test('takes over what npm has installed already, when it is what the lockfile says', () => {
    const packages = (version: string) =>
      JSON.stringify({
        packages: { '': {}, 'node_modules/sqlite3': { version }, 'node_modules/odd': { version: '1.0.0', optional: true } },
      });
    write('package-lock.json', packages('6.0.1'));
    setup();
    const installed = JSON.stringify({ packages: { 'node_modules/sqlite3': { version: '6.0.1' } } });
    write('node_modules/.package-lock.json', installed);
    rmSync(path.join(clone, 'node_modules', '.ukeyd-setup'));
    expect(setup()).toMatchObject({ status: 0, stderr: '' });
    expect(npmCalls().length).toBe(1);
    write('package-lock.json', packages('6.0.2'));
    expect(setup().status).toBe(0);
    expect(npmCalls().length).toBe(2);
  });

  test('does it again after a failure, and says in its last line what to do', () => {
    write('npm-fails.txt', 'npm error code EUSAGE\nnpm error not in sync\n');
    const failed = setup();
    expect(failed.status).toBe(1);
    expect(failed.stderr).toContain('npm error not in sync');
    expect(failed.stderr.trimEnd().split('\n').at(-1)).toContain('npm install');
    expect(failed.stderr).not.toMatch(/^\s+at /m);
    rmSync(path.join(clone, 'npm-fails.txt'));
    expect(setup().status).toBe(0);
    expect(npmCalls().length).toBe(2);
  });

  test('names an addon that was installed and does not load', () => {
    write('addon-broken.txt', '');
    const failed = setup();
    expect(failed.status).toBe(1);
    expect(failed.stderr).toContain('GLIBC_9.99');
    expect(failed.stderr.trimEnd().split('\n').at(-1)).toContain('sqlite3');
    rmSync(path.join(clone, 'addon-broken.txt'));
    expect(setup().status).toBe(0);
  });

  test('a clone without a lockfile is told so', () => {
    rmSync(path.join(clone, 'package-lock.json'));
    const failed = setup();
    expect(failed.status).toBe(1);
    expect(failed.stderr).toContain('package-lock.json');
  });

  test('--run goes on with the installed Node, its arguments and its exit status', () => {
    write('script.mjs', 'console.log(process.execPath, ...process.argv.slice(2)); process.exitCode = 7;');
    const ran = setup('--run', path.join(clone, 'script.mjs'), 'demo', '--exit');
    expect(ran.stdout.trim().endsWith('demo --exit')).toBe(true);
    expect(ran.status).toBe(7);
  });
});

describe('what a failed install means', () => {
  test.each([
    ['npm error code ENOTFOUND', /registry/],
    ['gyp ERR! stack Error: not found: make', /native addon/i],
    ['gyp ERR! stack FetchError: request to https://nodejs.org/download failed, ENOTFOUND', /nodedir|native addon/i],
    ['npm error ENOSPC: no space left on device', /disk/],
    ['npm error EACCES: permission denied', /owner/],
    ['something else', /above/],
  ])('%s', (output, said) => {
    const sentence = (diagnose as (text: string) => string)(output);
    expect(sentence).toMatch(said);
    expect(sentence).not.toContain('\n');
  });
});
