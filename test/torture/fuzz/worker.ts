// Owns: the thread that fuzzes: one target after the other, and a counter that moves with each input, so that whoever started it sees a hang.
import { readFileSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { contractTargets } from './contract-targets.ts';
import { controlTargets } from './control-targets.ts';
import { fuzz } from './fuzzing.ts';
import { programTargets } from './program-targets.ts';
import { serverTargets } from './server-targets.ts';
import { signedTargets } from './signed-targets.ts';
import { storeTargets } from './store-targets.ts';
import type { FuzzTarget } from './target.ts';
import type { FuzzTask } from './task.ts';

interface Kept {
  readonly target: string;
  readonly input: string;
}

const corpus = JSON.parse(readFileSync(new URL('./corpus.json', import.meta.url), 'utf8')) as readonly Kept[];

async function run({ seed, inputs, controls, beat, only }: FuzzTask): Promise<void> {
  const beats = new Int32Array(beat);
  const all: readonly FuzzTarget[] = controls
    ? controlTargets
    : [...contractTargets, ...signedTargets, ...storeTargets, ...(await programTargets()), ...(await serverTargets())];
  const targets = only === null ? all : all.filter(({ name }) => name === only);
  for (const target of targets) {
    parentPort?.postMessage({ kind: 'begun', target: target.name });
    const own = corpus.filter((kept) => kept.target === target.name).map((kept) => Buffer.from(kept.input, 'hex'));
    // A judgement that waits for nothing would keep the message back: the counter needs no turn of the loop.
    const tally = await fuzz(target, { seed, inputs, corpus: own, onInput: () => void Atomics.add(beats, 0, 1) });
    parentPort?.postMessage({ kind: 'ended', target: target.name, tally });
  }
  parentPort?.postMessage({ kind: 'done' });
}

await run(workerData as FuzzTask);
