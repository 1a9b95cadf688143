// Shows: at most so many at a time, in order, and nobody left behind whatever an act ends in.
import { expect, test } from 'vitest';
import { Gate } from '#holder/gate.ts';
import { codeOf } from '#test/support/holder-rig.ts';

test('so many at a time, the others in the order in which they came', async () => {
  const gate = new Gate(2, 10);
  const begun: number[] = [];
  const ends: (() => void)[] = [];
  const acts = [0, 1, 2, 3].map((at) =>
    gate.pass(() => {
      begun.push(at);
      return new Promise<void>((resolve) => ends.push(resolve));
    }),
  );
  await Promise.resolve();
  expect(begun).toEqual([0, 1]);
  for (let at = 0; at < 4; at += 1) {
    await expect.poll(() => ends.length).toBeGreaterThan(at);
    ends[at]?.();
    await acts[at];
  }
  expect(begun).toEqual([0, 1, 2, 3]);
});

test('an act that fails gives its place to the next', async () => {
  const gate = new Gate(1, 10);
  const failing = gate.pass(() => Promise.reject(new Error('no')));
  const next = gate.pass(async () => 'done');
  await expect(failing).rejects.toThrow();
  expect(await next).toBe('done');
});

test('too many that wait are told busy', async () => {
  const gate = new Gate(1, 1);
  const first = gate.pass(() => new Promise<void>((resolve) => setTimeout(resolve, 20)));
  const second = gate.pass(async () => undefined);
  expect(await codeOf(gate.pass(async () => undefined))).toBe('busy');
  await Promise.all([first, second]);
});
