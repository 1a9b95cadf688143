// Owns: where the time of an invoice goes: CPU profiles of front and holder while a load runs, told by stages of the route.
// Invariants: measured on a service with instruments beside the one that the figures are of; a profile costs time itself, so the stages say shares.
import { readFileSync, rmSync } from 'node:fs';
import process from 'node:process';
import type { Context } from './benchmark.ts';
import { median } from './figures.ts';
import { stagesFile } from './instruments.ts';
import { wholly } from './load.ts';
import { type Stage, stageNames } from './stages.ts';

const fileWaitMs = 20_000;
const lookMs = 20;
/** Both profilers have begun by then. */
const beginMs = 150;

/** Microseconds per invoice. */
export interface StageTime {
  readonly tills: number;
  /** A stage of the route, or what a call took from beginning to end. */
  readonly stage: string;
  readonly front: number | null;
  readonly holder: number | null;
}

interface Told {
  readonly cpu: Readonly<Record<Stage, number>>;
  readonly waits: Readonly<Record<string, { readonly ms: number; readonly count: number }>>;
}

/** The same load as the benchmark's. Nothing is told where the system does not show the holder. */
export async function measureStages(context: Context, tills: number, count: number): Promise<void> {
  const { load, sizes } = context;
  const world = await context.world('instrumented', { program: 'instrumented' });
  const pool = 'staged';
  await load.do({ kind: 'open', pool, path: world.files.socket, count: tills, till: world.till });
  try {
    wholly(await load.send({ kind: 'run', pool, tills, count: Math.max(tills, sizes.warmUpCount), prefix: `stw-${tills}-` }));
    const { front, holder } = world.pids;
    if (holder === null) return;
    const signal = (): void => {
      for (const pid of [front, holder]) process.kill(pid, 'SIGUSR2');
    };
    signal();
    await pause(beginMs);
    const sent = wholly(await load.send({ kind: 'run', pool, tills, count, prefix: `st-${tills}-` }));
    signal();
    const ofFront = await toldIn(stagesFile(world.files.state, 'front'));
    const ofHolder = await toldIn(stagesFile(world.files.token, 'holder'));
    const each = (ms: number): number => (ms * 1_000) / count;
    context.note([
      ...stageNames
        .filter((stage) => stage !== 'idle' && stage !== 'instruments')
        .map((stage) => ({ tills, stage, front: each(ofFront.cpu[stage]), holder: each(ofHolder.cpu[stage]) })),
      ...Object.entries(ofHolder.waits).map(([what, { ms }]) => ({
        tills,
        stage: `${what}, from call to answer`,
        front: null,
        holder: each(ms),
      })),
      { tills, stage: 'p50 of the till with instruments on', front: median(sent.latenciesUs), holder: null },
    ]);
  } finally {
    await load.do({ kind: 'shut', pool });
  }
}

async function toldIn(file: string): Promise<Told> {
  const endMs = performance.now() + fileWaitMs;
  for (;;) {
    try {
      const told = JSON.parse(readFileSync(file, 'utf8')) as Told;
      rmSync(file);
      return told;
    } catch (thrown) {
      if (performance.now() > endMs) throw new Error('the profile was not written', { cause: thrown });
      await pause(lookMs);
    }
  }
}

const pause = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));
