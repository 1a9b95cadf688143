// Shows: terminals take turns, however many connections each has, and one turn of the loop handles only so much.
import { expect, test } from 'vitest';
import { type Member, Rota } from '#ipc/rota.ts';

const loopTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Members that take `costMs` each and say who they are. */
function rotaOf(sliceMs: number) {
  const state = { nowMs: 0, handled: [] as string[] };
  const rota = new Rota({ sliceMs, nowMs: () => state.nowMs });
  const member = (name: string, costMs: number, then: (self: Member) => void = () => undefined): Member => {
    const self: Member = {
      turn: () => {
        state.handled.push(name);
        state.nowMs += costMs;
        then(self);
      },
    };
    return self;
  };
  return { rota, state, member };
}

test('who comes alone is handled at once', () => {
  const { rota, state, member } = rotaOf(5);
  expect(rota.comes('a', member('a1', 1))).toBe(true);
  expect(rota.comes('b', member('b1', 1))).toBe(true);
  expect(state.handled).toEqual(['a1', 'b1']);
});

test('a terminal with many connections gets no more turns than one with a single one', async () => {
  const { rota, state, member } = rotaOf(10);
  expect(rota.comes('greedy', member('g0', 10))).toBe(true); // all the time there is
  for (let at = 1; at <= 9; at += 1) expect(rota.comes('greedy', member(`g${at}`, 5))).toBe(false);
  expect(rota.comes('modest', member('m1', 1))).toBe(false);
  expect(rota.comes('admin', member('a1', 1))).toBe(false);
  await loopTurn();
  expect(state.handled.slice(1)).toEqual(['g1', 'm1', 'a1', 'g2']); // and no more in this turn of the loop
  await loopTurn();
  expect(state.handled.slice(5)).toEqual(['g3', 'g4']);
});

test('who comes while others of its group wait goes behind them, also where time is left', async () => {
  const { rota, state, member } = rotaOf(5);
  rota.waits('a', member('a1', 1));
  expect(rota.comes('a', member('a2', 1))).toBe(false);
  expect(rota.comes('b', member('b1', 1))).toBe(true);
  await loopTurn();
  expect(state.handled).toEqual(['b1', 'a1', 'a2']);
});

test('who has had a turn and waits again lets the sockets be read first', async () => {
  const { rota, state, member } = rotaOf(100);
  let left = 3;
  const again = member('a1', 1, (self) => {
    left -= 1;
    if (left > 0) rota.waits('a', self);
  });
  rota.waits('a', again);
  await loopTurn();
  expect(state.handled).toEqual(['a1']);
  await loopTurn();
  await loopTurn();
  expect(state.handled).toEqual(['a1', 'a1', 'a1']);
});

test('nobody has a turn when it has stopped', async () => {
  const { rota, state, member } = rotaOf(5);
  rota.waits('a', member('a1', 1));
  rota.stop();
  rota.comes('b', member('b1', 1));
  await loopTurn();
  expect(state.handled).toEqual([]);
});
