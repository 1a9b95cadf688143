// Shows: at most so many at a time, in order, and nobody left behind whatever an act ends in.
import { expect, test } from 'vitest';
import { during } from '#ground/asking.ts';
import { Gate } from '#ground/gate.ts';
import { codeOf } from '#test/support/holder-rig.ts';

const gateOf = (atOnce: number, waitingMax: number): Gate => new Gate({ atOnce, waitingMax, busy: 'too many' });

test('so many at a time, the others in the order in which they came', async () => {
  const gate = gateOf(2, 10);
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
  const gate = gateOf(1, 10);
  const failing = gate.pass(() => Promise.reject(new Error('no')));
  const next = gate.pass(async () => 'done');
  await expect(failing).rejects.toThrow();
  expect(await next).toBe('done');
});

test('too many that wait are told busy', async () => {
  const gate = gateOf(1, 1);
  const first = gate.pass(() => new Promise<void>((resolve) => setTimeout(resolve, 20)));
  const second = gate.pass(async () => undefined);
  expect(await codeOf(gate.pass(async () => undefined))).toBe('busy');
  await Promise.all([first, second]);
});

test('those who ask take turns: who asks for much lets in who asks for one thing', async () => {
  const gate = gateOf(2, 1_000);
  const begun: string[] = [];
  const asked = (group: string, name: string): Promise<void> =>
    during({ connection: 1, id: 1, place: 1, group }, () =>
      gate.pass(async () => {
        begun.push(name);
        await new Promise((resolve) => setImmediate(resolve));
      }),
    );
  const greedy = Array.from({ length: 100 }, (_, at) => asked('till greedy', `greedy ${at}`));
  const others = [asked('till modest', 'modest'), gate.pass(async () => void begun.push('the service'))];
  await Promise.all([...greedy, ...others]);
  expect(begun.slice(0, 5)).toEqual(['greedy 0', 'greedy 1', 'greedy 2', 'modest', 'the service']);
  expect(begun.slice(-1)).toEqual(['greedy 99']);
});

test('one who asks may have so many in line; somebody else still gets in', async () => {
  const gate = new Gate({ atOnce: 1, waitingMax: 4, waitingMaxOfOne: 2, busy: 'too many' });
  const asked = (group: string): Promise<string> =>
    during({ connection: 1, id: 1, place: 1, group }, () => codeOf(gate.pass(() => new Promise((resolve) => setTimeout(resolve, 5)))));
  const greedy = [1, 2, 3, 4].map(() => asked('till greedy'));
  const modest = asked('admin');
  expect((await Promise.all(greedy)).filter((code) => code === 'busy')).toHaveLength(1);
  expect(await modest).not.toBe('busy');
});
