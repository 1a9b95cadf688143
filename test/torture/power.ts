// Owns: `power`: over a million states in which a cut can leave a short life of a store, each opened and compared.
// Invariants: two lanes in worker threads; the control (nothing was synced) must lose data in the same run.
import { Worker } from 'node:worker_threads';
import { scaled, type TortureOptions, type TorturePart, type TortureResult } from './part.ts';
import type { LaneMessage, LaneOrder, LaneResult } from './power-lane.ts';
import type { PowerTally } from './power-states.ts';

const lanes = 2;
const statesOf = { off: 1_004_000, sync: 9000, async: 9000 } as const;
const progressEvery = 100_000;

function startLane(order: LaneOrder, onStates: (states: number) => void): Promise<LaneResult> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./power-lane.ts', import.meta.url), { workerData: order });
    worker.on('message', (message: LaneMessage) => {
      if (message.kind === 'progress') onStates(message.states);
      else resolve(message.result);
    });
    worker.on('error', reject);
    worker.on('exit', (code) => reject(new Error(`lane ${order.lane} ended with ${code}`)));
  });
}

async function run(options: TortureOptions): Promise<TortureResult> {
  const share = (states: number): number => Math.ceil(scaled(states, options, 60) / lanes);
  const states = { off: share(statesOf.off), sync: share(statesOf.sync), async: share(statesOf.async) };
  const reached = new Map<number, number>();
  let told = 0;
  const results = await Promise.all(
    Array.from({ length: lanes }, (_, lane) =>
      startLane({ seed: options.seed, lane, states }, (now) => {
        reached.set(lane, now);
        const sum = [...reached.values()].reduce((a, b) => a + b, 0);
        if (sum >= told + progressEvery) {
          told = sum;
          options.note(`${sum} states`);
        }
      }),
    ),
  );
  const sum = (name: keyof PowerTally): number => results.reduce((total, { tally }) => total + tally[name], 0);
  const violations = results.flatMap((result) => [...result.told]);
  const found = results.reduce((total, result) => total + result.violations, 0);
  const controlLost = sum('controlLost');
  if (controlLost === 0) violations.push('void: the control (nothing synced) lost nothing');
  const stories = results.reduce((total, result) => total + result.stories, 0);
  return {
    line:
      `states=${sum('states')} stories=${stories} cuts_between=${sum('moments')} gone_on=${sum('goneOn')} cut_again=${sum('cutAgain')} ` +
      `violations=${found} control_states=${sum('controlStates')} control_lost=${controlLost}`,
    violations,
  };
}

export const power: TorturePart = { name: 'power', run };
