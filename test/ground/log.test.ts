import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { apart, during } from '#ground/asking.ts';
import { openLog, openProcessLog, whyOf } from '#ground/log.ts';
import { LogFile } from '#ground/log-file.ts';
import { duringRequest, lineLog } from '#server/log.ts';

const chunkBytes = 7;

/** A stream that fails while `isFull`, and takes a few bytes at a time. */
class Fickle {
  isFull = false;
  /** Bytes that fit before it fails. */
  roomBytes = Number.POSITIVE_INFINITY;
  text = '';
  write = (bytes: Uint8Array): number => {
    if (this.isFull || this.roomBytes <= 0) throw Object.assign(new Error('no space left'), { code: 'ENOSPC' });
    const taken = bytes.subarray(0, Math.min(chunkBytes, this.roomBytes));
    this.roomBytes -= taken.length;
    this.text += Buffer.from(taken).toString('latin1');
    return taken.length;
  };
}

const openers = {
  'the service': (write: Fickle['write']) => {
    const log = openLog({ level: 'info', format: 'json' }, write);
    return (message: string) => log.info(message);
  },
  'the ticket server': (write: Fickle['write']) => {
    const log = lineLog(write);
    return (message: string) => log('info', message);
  },
};

test.each(Object.entries(openers))(
  'the log of %s outlives a stream that cannot be written, and says how many lines were lost',
  (_name, open) => {
    const stream = new Fickle();
    const say = open(stream.write);
    say('first');
    stream.isFull = true;
    for (let at = 0; at < 100; at += 1) say(`lost ${at}`);
    stream.isFull = false;
    say('again');
    say('last');
    const lines = stream.text.trimEnd().split('\n');
    expect(lines.length).toBe(4);
    const parsed = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect([parsed[2]?.['lostCount'], parsed[2]?.['count']]).toContain(100);
  },
);

test.each(Object.entries(openers))('a line of %s that was torn does not spoil the next', (_name, open) => {
  const stream = new Fickle();
  const say = open(stream.write);
  stream.roomBytes = 10;
  say('torn');
  stream.roomBytes = Number.POSITIVE_INFINITY;
  say('whole');
  const [, whole] = stream.text.split('\n');
  expect(() => JSON.parse(whole ?? '')).not.toThrow();
});

test('a reason is told once, however often it is passed on', () => {
  const cause = new Error('socket hang up');
  const wrapped = new Error('the server cannot be reached: socket hang up', { cause: new Error('socket hang up', { cause }) });
  expect(whyOf(wrapped)).toBe('the server cannot be reached: socket hang up');
  expect(whyOf(new Error('a', { cause: new Error('b', { cause: new Error('a') }) }))).toBe('a: b');
  expect(whyOf('no error')).toBe('no error');
});

const linesOf = (write: (put: (bytes: Uint8Array) => number) => void): Record<string, unknown>[] => {
  const stream = new Fickle();
  write(stream.write);
  return stream.text
    .trimEnd()
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
};

test('what is below the level is not told, and the level may change', () => {
  const lines = linesOf((write) => {
    const log = openLog({ level: 'warn', format: 'json' }, write);
    log.info('not told');
    log.setLevel('debug');
    log.debug('told');
    log.setLevel('error');
    log.warn('not told');
  });
  expect(lines).toMatchObject([{ level: 'debug', message: 'told' }]);
});

test('a line that a request causes bears its name; what is done for all bears none, and a name that is not plain is not repeated', async () => {
  const stream = new Fickle();
  const log = openLog({ level: 'info', format: 'json' }, stream.write);
  await during({ connection: 3, id: 'sale-17', place: 5, group: 'till till-1' }, async () => {
    await new Promise((resolve) => setImmediate(resolve));
    log.info('caused');
    apart(() => log.info('apart'));
  });
  during({ connection: 3, id: 'To: Wilhelmina', place: 6, group: 'till till-1' }, () => log.info('masked'));
  log.info('nobody');
  const lines = stream.text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines.map((line) => [line['message'], line['request']])).toEqual([
    ['caused', '3:sale-17'],
    ['apart', undefined],
    ['masked', '3:#6'],
    ['nobody', undefined],
  ]);
});

test('as text, what came from outside makes no line of its own, moves no cursor and turns no text around', () => {
  const stream = new Fickle();
  const log = openLog({ level: 'info', format: 'text' }, stream.write);
  const controls = [...Array(0x20).keys(), ...Array.from({ length: 0x21 }, (_, at) => 0x7f + at)];
  const evil = `a${String.fromCharCode(...controls, 0x2028, 0x2029, 0x202e)}z`;
  log.info(`said ${evil}`, { client: evil, [evil]: 1 });
  log.info('r\u00e9sum\u00e9 \u20ac', { path: 'C:\\x' });
  const [line, plain, ...rest] = Buffer.from(stream.text, 'latin1').toString('utf8').split('\n');
  expect(rest).toEqual(['']);
  expect(line).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/u);
  expect(line).toContain('client=a\\u0000\\u0001');
  expect(line).toContain('\\u000a');
  expect(line).toContain('\\u001b');
  expect(line).toContain('\\u009f\\u2028\\u2029\\u202ez');
  expect(plain).toMatch(/ info {2}r\u00e9sum\u00e9 \u20ac path=C:\\x$/u);
});

test("a sender's name for its upload is carried into the server's lines, if it is plain", () => {
  const lines = linesOf((write) => {
    const log = lineLog(write);
    duringRequest('u-0011', () => log('info', 'named'));
    duringRequest('a b\n', () => log('info', 'masked'));
    log('info', 'nobody');
  });
  expect(lines.map((line) => line['request'])).toEqual(['u-0011', undefined, undefined]);
});

describe('a log file', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-log-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  test('is bounded in size and in number, and no line is cut', () => {
    const file = new LogFile({ path: path.join(folder, 'a.log'), fileBytes: 1_000, files: 3 });
    for (let at = 0; at < 200; at += 1) file.write(Buffer.from(`${JSON.stringify({ at, filler: 'x'.repeat(40) })}\n`));
    const names = readdirSync(folder).sort();
    expect(names).toEqual(['a.log', 'a.log.1', 'a.log.2']);
    const seen = names.toReversed().flatMap((name) => {
      const text = readFileSync(path.join(folder, name), 'utf8');
      expect(text.length).toBeLessThanOrEqual(1_000);
      return text.trimEnd().split('\n');
    });
    const numbers = seen.map((line) => (JSON.parse(line) as { at: number }).at);
    expect(numbers).toEqual(numbers.map((_, at) => 200 - numbers.length + at));
    expect(numbers.length).toBeGreaterThan(20);
  });

  test('goes on where it was', () => {
    const options = { path: path.join(folder, 'a.log'), fileBytes: 20, files: 2 };
    new LogFile(options).write(Buffer.from('0123456789\n'));
    new LogFile(options).write(Buffer.from('0123456789\n'));
    expect(readdirSync(folder).sort()).toEqual(['a.log', 'a.log.1']);
  });

  test('that cannot be written is refused at the start', () => {
    const options = { path: path.join(folder, 'none', 'a.log'), fileBytes: 1_000, files: 3 };
    expect(() => new LogFile(options)).toThrow(expect.objectContaining({ code: 'invalid-request', field: 'log.file' }));
  });

  test('is what the configuration names', () => {
    const file = path.join(folder, 'a.log');
    openProcessLog({ level: 'info', format: 'auto', file, file_mib: 1, files: 2 }).info('hello');
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ level: 'info', message: 'hello' });
  });
});

test('to the journal each line begins with its priority', async () => {
  const script = `
    const { fstatSync } = await import('node:fs');
    const { dev, ino } = fstatSync(2);
    process.env.JOURNAL_STREAM = dev + ':' + ino;
    const { openLog } = await import(${JSON.stringify(path.resolve(import.meta.dirname, '../../daemon/ground/log.ts'))});
    const log = openLog({ level: 'debug', format: 'auto' });
    log.error('a'); log.warn('b'); log.info('c'); log.debug('d');`;
  const { stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  const lines = stderr.trimEnd().split('\n');
  expect(lines.map((line) => line.slice(0, 3))).toEqual(['<3>', '<4>', '<6>', '<7>']);
  expect(lines.map((line) => (JSON.parse(line.slice(3)) as { message: string }).message)).toEqual(['a', 'b', 'c', 'd']);
});
