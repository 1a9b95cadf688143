// A look at `npm run torture -- --only door-load`: beside a thousand idle connections and a client that never reads, an ordinary till of a real
// service fails nothing and is not slowed beyond three times. The rest of the attacks on one door, in this process: test/ipc/crowd.test.ts.
import { expect, test } from 'vitest';
import { doorLine, loadDoor, ratioMax } from './door-load.ts';

const sales = 60;

test('an ordinary till beside idle and deaf connections', { timeout: 240_000 }, async () => {
  const load = await loadDoor(['idle', 'deaf'], sales, () => undefined);
  console.log(doorLine(load));
  expect(load.failed).toEqual([]);
  for (const ratio of Object.values(load.ratios)) expect(ratio).toBeLessThanOrEqual(ratioMax);
});
