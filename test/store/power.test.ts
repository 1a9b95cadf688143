// A slice of the power part of `npm run torture`: all states in which a cut can leave short lives of a store, each opened and compared.
// The control, in which nothing was synced, must lose data in the same run.
import { expect, it } from 'vitest';
import { seedOf } from '#test/support/seed.ts';
import { runLane } from '#test/torture/power-lane.ts';

const states = { off: 6000, sync: 120, async: 120 };

it('no state that a power cut can leave loses, changes or invents anything', { timeout: 240_000 }, async () => {
  const seed = seedOf();
  const { tally, told, violations, stories } = await runLane({ seed, lane: 0, states });
  console.log(
    `seed=${seed} states=${tally.states} stories=${stories} violations=${violations} control_states=${tally.controlStates} control_lost=${tally.controlLost}`,
  );
  expect(told).toEqual([]);
  expect(tally.states).toBeGreaterThanOrEqual(states.off + states.sync + states.async);
  expect(tally.cutAgain).toBeGreaterThan(100);
  expect(tally.controlLost).toBeGreaterThan(0);
});
