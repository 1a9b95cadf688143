// Owns: the part `fuzz-decoders`: mutated inputs for every decoder that a stranger, a file, a device or another process can reach. None may throw
// anything but its own refusal, hang, or take one thing for another: what is decoded is written again as the very same.
// Invariants: decoders run in a thread, so that one that hangs is seen, named and ended; everything that ever failed stands in fuzz/corpus.json and
// is tried first.
// Control: decoders with known faults (fuzz/control-targets.ts), each of which must be found.
import { Worker } from 'node:worker_threads';
import { type Finding, newTally, type Tally } from './fuzz/fuzzing.ts';
import type { FuzzNews, FuzzTask } from './fuzz/task.ts';
import { scaled, type TorturePart, Violations } from './part.ts';

/** Mutated inputs of each target in a whole run. */
const inputsPerTarget = 200_000;
const controlInputs = 20_000;
/** An input that takes longer than this has hung: the slowest decoder needs milliseconds. */
const hangMs = 15_000;
const controlHangMs = 2_000;
const lookMs = 250;

export interface FuzzRun {
  readonly targets: number;
  readonly tally: Tally;
  /** Target and input that never ended, or null. */
  readonly hung: string | null;
}

export interface FuzzRunOptions {
  readonly seed: number;
  readonly inputs: number;
  readonly controls?: boolean;
  readonly only?: string;
  readonly hangMs?: number;
  readonly note?: (text: string) => void;
}

/** Runs the targets in a thread. Throws what the thread itself died of. */
export async function fuzzDecoders(options: FuzzRunOptions): Promise<FuzzRun> {
  const beat = new SharedArrayBuffer(4);
  const task: FuzzTask = {
    seed: options.seed,
    inputs: options.inputs,
    controls: options.controls ?? false,
    beat,
    only: options.only ?? null,
  };
  const worker = new Worker(new URL('./fuzz/worker.ts', import.meta.url), { workerData: task });
  const total = newTally();
  let targets = 0;
  let current = '';
  let currentFrom = 0;
  const beats = new Int32Array(beat);
  return await new Promise<FuzzRun>((resolve, reject) => {
    let seen = -1;
    let seenMs = performance.now();
    const end = (hung: string | null): void => {
      clearInterval(watch);
      void worker.terminate().then(() => resolve({ targets, tally: total, hung }), reject);
    };
    const watch = setInterval(() => {
      const now = Atomics.load(beats, 0);
      if (now !== seen || current === '') {
        seen = now;
        seenMs = performance.now();
      } else if (performance.now() - seenMs > (options.hangMs ?? hangMs)) end(`${current}, input ${now - currentFrom}`);
    }, lookMs);
    worker.on('message', (news: FuzzNews) => {
      switch (news.kind) {
        case 'begun':
          current = news.target;
          currentFrom = Atomics.load(beats, 0);
          break;
        case 'ended':
          targets += 1;
          add(total, news.tally);
          options.note?.(
            `${news.target}: ${news.tally.inputs} inputs, ${news.tally.decoded} decoded, slowest ${news.tally.slowestMs.toFixed(1)} ms`,
          );
          break;
        case 'done':
          end(null);
      }
    });
    worker.on('error', (thrown) => {
      clearInterval(watch);
      reject(thrown);
    });
  });
}

function add(total: Tally, one: Tally): void {
  total.inputs += one.inputs;
  total.decoded += one.decoded;
  total.refused += one.refused;
  total.slowestMs = Math.max(total.slowestMs, one.slowestMs);
  total.findings.push(...one.findings);
}

const ofKind = (findings: readonly Finding[], kind: Finding['kind']): number => findings.filter((finding) => finding.kind === kind).length;

/** What the control must have found: each fault by its own decoder. */
export function missedControls({ tally, hung }: FuzzRun): string[] {
  const found = (target: string, kind: Finding['kind']): boolean =>
    tally.findings.some((one) => one.target === target && one.kind === kind);
  return [
    ...(found('control-fault', 'fault') ? [] : ['a decoder that throws what it should not']),
    ...(found('control-json', 'changed') ? [] : ['a reader that changes what it reads']),
    ...(found('control-spelling', 'changed') ? [] : ['a reader that takes two spellings']),
    ...(hung?.startsWith('control-hang') === true ? [] : ['a decoder that hangs']),
  ];
}

export const fuzzDecodersPart: TorturePart = {
  name: 'fuzz-decoders',
  run: async (options) => {
    const { seed, note } = options;
    const run = await fuzzDecoders({ seed, inputs: scaled(inputsPerTarget, options, 200), note });
    const control = await fuzzDecoders({ seed, inputs: controlInputs, controls: true, hangMs: controlHangMs });
    const { findings, inputs, decoded, slowestMs } = run.tally;
    const told = new Violations();
    for (const { target, kind, what, input } of findings)
      told.add(`${kind}: ${target}: ${what}; keep in fuzz/corpus.json: ${input.slice(0, 4_000)}`);
    if (run.hung !== null) told.add(`hang: ${run.hung}, seed ${seed}`);
    const missed = missedControls(control);
    for (const what of missed) told.add(`the control did not find ${what}: the test is void`);
    const line =
      `decoders=${run.targets} inputs=${inputs} decoded=${decoded} faults=${ofKind(findings, 'fault')} changed=${ofKind(findings, 'changed')} ` +
      `slow=${ofKind(findings, 'slow')} hangs=${run.hung === null ? 0 : 1} blind=${ofKind(findings, 'blind')} slowest_ms=${Math.ceil(slowestMs)} control_found=${4 - missed.length}/4`;
    return { line, violations: told.told };
  },
};
