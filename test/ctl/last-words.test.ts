// What is told of a process's trouble: its message, without the log's form and without stacks.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { lastWordsIn, troubleIn } from '#ctl/world/last-words.ts';

test.each([
  ['nothing', '', ''],
  ['no trouble', '{"level":"info","message":"the ledger is open"}\n', ''],
  ['a line of the service', '{"level":"error","message":"no room","why":"ENOSPC","stack":"Error\\n at x"}\n', 'no room: ENOSPC'],
  [
    'a line of the server, whose why is a stack',
    '{"level":"error","event":"failed","why":"Error: full\\n    at x (y.ts:1)"}\n',
    'failed: Error: full',
  ],
  ['words before there was a log', 'ukeyd: busy: another service runs\nEnd it.\n', 'ukeyd: busy: another service runs'],
  ['a stack', 'node:fs:1\nError: ENOSPC: no space\n    at error (node:fs:2)\n', 'Error: ENOSPC: no space'],
  ['a line that was cut off', '{"level":"warn","message":"slow"}\n{"level":"err', 'slow'],
])('of %s', (_, log, said) => {
  expect(troubleIn(log)).toBe(said);
});

test('only what this run said counts, and a log that is not there is no failure', () => {
  const dir = mkdtempSync(path.join(tmpdir(), 'ukeyd-words-'));
  try {
    const file = path.join(dir, 'service.log');
    const old = '{"level":"error","message":"old"}\n';
    writeFileSync(file, old);
    expect(lastWordsIn(file, 0)).toBe('old');
    expect(lastWordsIn(file, old.length)).toBe('');
    expect(lastWordsIn(path.join(dir, 'none.log'), 0)).toContain('ENOENT');
  } finally {
    rmSync(dir, { recursive: true });
  }
});
