import { expect, test } from 'vitest';
import { afterOutcome, backOffMs, failuresToDown, type LinkState, unknownLink } from '#upload/probe.ts';

const up: LinkState = { link: 'up', failuresInRow: 0 };
const shaken: LinkState = { link: 'up', failuresInRow: 1 };
const down: LinkState = { link: 'down', failuresInRow: 2 };
const unknownShaken: LinkState = { link: 'unknown', failuresInRow: 1 };

test.each([
  [unknownLink, 'proof', 'up', 0, false],
  [unknownShaken, 'proof', 'up', 0, false],
  [up, 'proof', 'up', 0, false],
  [shaken, 'proof', 'up', 0, false],
  [down, 'proof', 'up', 0, false],
  [unknownLink, 'failure', 'unknown', 1, true],
  [unknownShaken, 'failure', 'down', 2, false],
  [up, 'failure', 'up', 1, true],
  [shaken, 'failure', 'down', 2, false],
  [down, 'failure', 'down', 2, false],
] as const)('%j after a %s is %s', (state, outcome, link, failuresInRow, probeSoon) => {
  expect(afterOutcome(state, outcome)).toEqual({ link, failuresInRow, probeSoon });
});

test('one failure alone never takes the line down, and a proof forgets all of them', () => {
  let state: LinkState = unknownLink;
  for (let round = 0; round < 20; round += 1) {
    state = afterOutcome(state, 'proof');
    for (let failure = 1; failure < failuresToDown; failure += 1) {
      state = afterOutcome(state, 'failure');
      expect(state.link).toBe('up');
    }
  }
});

test('waits double from half a second to a minute, with a jitter of a half', () => {
  const nearlyOne = 1 - Number.EPSILON;
  expect([0, 1, 2, 3, 7, 8, 100].map((attempt) => backOffMs(attempt, nearlyOne))).toEqual([500, 1000, 2000, 4000, 60000, 60000, 60000]);
  expect([0, 1, 8].map((attempt) => backOffMs(attempt, 0))).toEqual([250, 500, 30000]);
});
