import { expect, test } from 'vitest';
import { openLog, whyOf } from '#ground/log.ts';
import { lineLog } from '#server/log.ts';

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
