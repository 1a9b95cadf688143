// Who holds memory and places for uploads, and who gives way.
import { expect, test } from 'vitest';
import { pieceBytes, UploadBodies, type UploadBody } from '#server/upload-bodies.ts';

/** Two places, and room for a thousand bytes in ten pieces: 3560 in all. */
function bodiesOf() {
  let nowMs = 0;
  const gone: string[] = [];
  const bodies = new UploadBodies(2, 1_000 + 10 * pieceBytes, () => nowMs);
  const begin = (name: string): UploadBody => bodies.begin(() => gone.push(name));
  const pass = (ms: number): void => {
    nowMs += ms;
  };
  return { bodies, gone, begin, pass };
}

test('a place is taken by what is whole alone, and is free when that has ended', () => {
  const { bodies, begin } = bodiesOf();
  const [one, two, three, four] = [begin('one'), begin('two'), begin('three'), begin('four')];
  expect(bodies.isFull).toBe(false);
  expect([bodies.takePlace(one, 0), bodies.takePlace(two, 0)]).toEqual([true, true]);
  expect(bodies.isFull).toBe(true);
  expect(bodies.takePlace(three, 0)).toBe(false);
  bodies.end(one);
  bodies.end(one);
  expect(bodies.isFull).toBe(false);
  expect(bodies.takePlace(four, 0)).toBe(true);
});

test('where a piece would be too much, what has held the most for the longest gives way', () => {
  const { bodies, gone, begin, pass } = bodiesOf();
  const [small, old] = [begin('small'), begin('old')];
  bodies.hold(small, 10);
  bodies.hold(old, 400);
  pass(10_000);
  const young = begin('young');
  bodies.hold(young, 500);
  expect(gone).toEqual([]);
  pass(10);
  bodies.hold(young, 1_700);
  expect(gone).toEqual(['old']);
  bodies.hold(old, 1_000_000); // of one that was told already
  bodies.hold(small, 10);
  expect(gone).toEqual(['old']);
  bodies.hold(young, 1_000_000);
  expect(gone).toEqual(['old', 'young']);
});

test('what is whole never gives way, and holds its bytes but no pieces', () => {
  const { bodies, gone, begin, pass } = bodiesOf();
  const whole = begin('whole');
  for (let piece = 0; piece < 9; piece += 1) bodies.hold(whole, 100);
  expect(bodies.takePlace(whole, 900)).toBe(true);
  pass(1_000_000);
  const late = begin('late');
  for (let piece = 0; piece < 9; piece += 1) bodies.hold(late, 10);
  expect(gone).toEqual([]);
  bodies.hold(late, 1_000);
  expect(gone).toEqual(['late']);
  bodies.end(late);
  bodies.end(whole);
  const next = begin('next');
  bodies.hold(next, 1_000);
  expect(gone).toEqual(['late']);
});
