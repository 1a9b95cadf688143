// Shows: deadlines of a lane of calls, and the bounds of what a driver prints.
import { setTimeout } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Chatter, lineMaxChars, linesMax } from '#holder/chatter.ts';
import { Lane } from '#holder/lane.ts';

describe('a lane', () => {
  let hung: string[];
  let lane: Lane;
  beforeEach(() => {
    hung = [];
    lane = new Lane((what) => hung.push(what));
  });
  afterEach(() => lane.clear());

  test('blames the call at its head when its allowance is over', async () => {
    lane.begin(1, 'first', 20);
    lane.begin(2, 'second', 20);
    await expect.poll(() => hung).toEqual(['first']);
  });

  test('gives each call its allowance from when it became the head', async () => {
    for (const id of [1, 2, 3, 4]) lane.begin(id, `${id}`, 100);
    for (const id of [1, 2, 3, 4]) {
      await setTimeout(60);
      lane.end(id);
    }
    expect(hung).toEqual([]);
    expect(lane.length).toBe(0);
  });

  test('keeps the head where a later call ends first', async () => {
    lane.begin(1, 'first', 60);
    lane.begin(2, 'second', 1_000);
    await setTimeout(20);
    lane.end(2);
    await expect.poll(() => hung).toEqual(['first']);
  });

  test('takes an answer that lies unread after a stall of our own before it blames', async () => {
    lane.begin(1, 'first', 20);
    const { port1, port2 } = new MessageChannel();
    port2.on('message', () => lane.end(1));
    port1.postMessage('the answer');
    const untilMs = performance.now() + 60;
    while (performance.now() < untilMs); // our own loop stalls past the deadline
    await setTimeout(20);
    port1.close();
    expect(hung).toEqual([]);
  });

  test('that was cleared blames nobody', async () => {
    lane.begin(1, 'first', 10);
    lane.clear();
    await setTimeout(40);
    expect(hung).toEqual([]);
  });
});

describe('chatter', () => {
  const lines: string[] = [];
  let nowMs = 0;
  const take = (chatter: Chatter, ...texts: string[]): string[] => {
    lines.length = 0;
    for (const text of texts) chatter.take(text);
    return [...lines];
  };
  const make = (): Chatter =>
    new Chatter(
      (line) => lines.push(line),
      () => nowMs,
    );

  test('becomes lines, wherever it was cut', () => {
    expect(take(make(), 'one\ntw', 'o\n', '\n  three  \nfour')).toEqual(['one', 'two', 'three']);
  });

  test('has bounded lines without control characters', () => {
    const [long = '', next] = take(make(), 'x'.repeat(lineMaxChars), 'y'.repeat(10_000), 'z\n\u001b[31mred\n');
    expect(long.length).toBe(lineMaxChars);
    expect(next).toBe('[31mred');
  });

  test('has a bounded number of lines in a time, and says what was left out', () => {
    const chatter = make();
    const flood = 'again\n'.repeat(linesMax + 5);
    expect(take(chatter, flood)).toHaveLength(linesMax);
    nowMs += 60_000;
    expect(take(chatter, 'later\n')).toEqual(['(5 lines left out)', 'later']);
  });
});
