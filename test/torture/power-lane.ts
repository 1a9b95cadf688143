// Owns: one lane of the power test: stories one after the other until its share of states is reached. Also the file that a worker thread runs.
// Invariants: deterministic by seed and lane, whatever the machine's speed. Must not: share a story with another lane.
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { Scratch } from './image.ts';
import { Violations } from './part.ts';
import { emptyTally, PowerStates, type PowerTally } from './power-states.ts';
import { type Mode, PowerStory } from './power-story.ts';

export interface LaneOrder {
  readonly seed: number;
  readonly lane: number;
  /** States to reach, by mode of the mirror. */
  readonly states: Readonly<Record<Mode, number>>;
}

export interface LaneResult {
  readonly tally: PowerTally;
  readonly stories: number;
  readonly violations: number;
  readonly told: readonly string[];
}

const livesMax = 6;
/** Stories of one lane; the next lane's seeds begin behind them. */
const laneStride = 100_000;

async function tell(story: PowerStory, violations: Violations, tally: PowerTally, until: () => boolean): Promise<void> {
  await story.begin();
  const states = new PowerStates(story, violations, tally);
  for (let number = 0; number < livesMax && !until(); number += 1) {
    const life = await story.live();
    await states.of(life);
    const devices = story.images.map((image) => new Scratch(image));
    const log = await story.open(devices, 5);
    await story.verify(log, story.known, life);
    story.adopt(log, life);
  }
}

export async function runLane(order: LaneOrder, onProgress: (states: number) => void = () => undefined): Promise<LaneResult> {
  const violations = new Violations();
  const tally = emptyTally();
  let stories = 0;
  for (const mode of ['off', 'sync', 'async'] as const) {
    const goal = tally.states + order.states[mode];
    while (tally.states < goal) {
      const story = new PowerStory(order.seed + order.lane * laneStride + stories, mode);
      stories += 1;
      await tell(story, violations, tally, () => tally.states >= goal).catch((thrown: unknown) => {
        violations.add(`story ${story.seed} (${mode}) broke off: ${String(thrown)}`);
      });
      onProgress(tally.states);
    }
  }
  return { tally, stories, violations: violations.count, told: violations.told };
}

export type LaneMessage = { readonly kind: 'progress'; readonly states: number } | { readonly kind: 'done'; readonly result: LaneResult };

if (!isMainThread && parentPort !== null) {
  const port = parentPort;
  const send = (message: LaneMessage): void => port.postMessage(message);
  send({ kind: 'done', result: await runLane(workerData as LaneOrder, (states) => send({ kind: 'progress', states })) });
}
