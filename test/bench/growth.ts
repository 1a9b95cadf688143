// Owns: B7 and B8, what grows with the ledger: the time of an invoice and the memory of the service. Measured together, because both need the same
// services on the same ledgers.
import { type Bench, type Context, notMeasured, type Row, row } from './benchmark.ts';
import { duringExport } from './export-memory.ts';
import { interleaved, median, percentile } from './figures.ts';
import { wholly } from './load.ts';
import { type Memory, memoryOf } from './machine.ts';
import type { World } from './world.ts';

const memory = 'B7';
const time = 'B8';
const idleAimMb = 120;
const largeAimMb = 150;
const exportAimMb = 64;
const timeAim = 1.1;
const settleMs = 1_500;
const untold = 'this system does not tell it';

interface ServiceMemory {
  readonly front: Memory;
  readonly holder: Memory;
}

/** Null where the system does not tell. */
function memoriesOf(world: World): ServiceMemory | null {
  const { pids } = world;
  const front = memoryOf(pids.front);
  const holder = pids.holder === null ? null : memoryOf(pids.holder);
  return front === null || holder === null ? null : { front, holder };
}

const residentOf = ({ front, holder }: ServiceMemory): number => front.residentMb + holder.residentMb;

function memoryRow(what: string, world: World, aimMb: number | null, entries: number | null): Row {
  const memories = memoriesOf(world);
  if (memories === null) return notMeasured(memory, what, 'MB', untold);
  const { front, holder } = memories;
  const text = ({ residentMb, privateMb }: Memory): string => `${residentMb.toFixed(0)}, of that private ${privateMb.toFixed(0)}`;
  return row(memory, what, residentOf(memories), 'MB', {
    ...(aimMb === null ? {} : { aim: `<= ${aimMb} MB`, met: (value: number) => value <= aimMb }),
    note: `resident: front ${text(front)}; holder ${text(holder)}`,
    ...(entries === null ? {} : { growth: { series: 'resident memory (MB)', entries } }),
  });
}

async function run(context: Context): Promise<Row[]> {
  const { sizes, load } = context;
  const worlds: { readonly entries: number; readonly world: World }[] = [];
  for (const entries of sizes.ledgers) worlds.push({ entries, world: await context.ledger(entries) });
  const largest = worlds.at(-1)?.entries ?? 0;
  const rows: Row[] = [];
  for (const { world } of worlds) await world.start();
  await pause(settleMs);
  for (const { entries, world } of worlds) {
    const isSmallest = entries === worlds[0]?.entries;
    if (isSmallest) rows.push(memoryRow('memory, idle', world, idleAimMb, null));
  }
  const parts: Record<string, (round: number) => Promise<Float64Array>> = {};
  for (const { entries, world } of worlds) {
    const pool = `growth-${entries}`;
    await load.do({ kind: 'open', pool, path: world.files.socket, count: 1, till: world.till });
    const order = { kind: 'run', pool, tills: 1 } as const;
    wholly(await load.send({ ...order, count: sizes.warmUpCount, prefix: 'b8w-' }));
    parts[entries] = async (round) => wholly(await load.send({ ...order, count: sizes.oneTillCount, prefix: `b8-${round}-` })).latenciesUs;
  }
  const times = await interleaved(sizes.rounds, parts);
  const p50 = (entries: number): number => median((times[entries] ?? []).map((each) => percentile(each, 0.5)));
  const smallest = worlds[0]?.entries ?? 0;
  for (const { entries, world } of worlds) {
    const many = entries.toLocaleString('en');
    rows.push(
      row(time, `one till, ${many} entries: p50`, p50(entries), 'us', {
        beside: { name: `the same, ${smallest.toLocaleString('en')} entries`, value: p50(smallest) },
        ...(entries === largest ? { aim: `<= ${timeAim} x`, met: (_: number, ratio: number) => ratio <= timeAim } : {}),
        growth: { series: 'one till, p50 (us)', entries },
      }),
      memoryRow(
        `memory, ${many} entries, after ${(sizes.oneTillCount * sizes.rounds).toLocaleString('en')} more`,
        world,
        entries === largest ? largeAimMb : null,
        entries,
      ),
    );
  }
  const large = worlds.at(-1)?.world;
  if (large !== undefined) rows.push(await exportRow(context, large));
  for (const { entries, world } of worlds) {
    await load.do({ kind: 'shut', pool: `growth-${entries}` });
    await world.stop();
  }
  return rows.sort((a, b) => a.bench.localeCompare(b.bench));
}

async function exportRow(context: Context, world: World): Promise<Row> {
  const what = 'memory, more during a full export';
  const before = memoriesOf(world);
  if (before === null) return notMeasured(memory, what, 'MB', untold);
  const told = await duringExport(world, context.folder, () => {
    const now = memoriesOf(world);
    return now === null ? 0 : residentOf(now);
  });
  if (told === null) return notMeasured(memory, what, 'MB', 'ukeyctl has no command `export`');
  return row(memory, what, told.serviceMb - residentOf(before), 'MB', {
    aim: `<= ${exportAimMb} MB`,
    met: (value) => value <= exportAimMb,
    note: `largest of the service; ukeyctl itself had ${told.commandMb.toFixed(0)} MB at most; ${told.exportedMb.toFixed(0)} MB were written`,
  });
}

const pause = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));

export const growth: Bench = { id: 'B7', title: 'memory (B7) and time (B8) as the ledger grows', run };
