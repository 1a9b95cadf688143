// Owns: B7 and B8, what grows with the ledger: the time of an invoice and the memory of the service. Measured together, because both need the same
// services on the same ledgers.
import { lookMs, startLooks } from '#ground/rest.ts';
import { type Bench, type Context, notMeasured, type Row, row } from './benchmark.ts';
import { duringExport } from './export-memory.ts';
import { interleaved, median, percentile } from './figures.ts';
import { wholly } from './load.ts';
import { type Memory, memoryOf } from './memory.ts';
import { startBare, stop } from './process.ts';
import type { World } from './world.ts';

const memory = 'B7';
const time = 'B8';
const idleAimMb = 120;
const largeAimMb = 150;
const exportAimMb = 64;
const timeAim = 1.1;
const settleMs = 1_500;
/** What a service needs to see that nobody asks for anything, and to give back what its work, or its start, has left. */
const restMs = 3 * lookMs + settleMs;
const idleMs = (startLooks + 2) * lookMs + settleMs;
const untold = 'this system does not tell it';

/** Null where the system does not tell. */
function serviceMemory({ pids }: World): Memory | null {
  return pids.holder === null ? null : memoryOf([pids.front, pids.holder]);
}

const mb = (value: number | undefined): string => (value ?? Number.NaN).toFixed(0);

function memoryRow(what: string, world: World, { aimMb, entries }: { readonly aimMb?: number; readonly entries?: number }): Row {
  const found = serviceMemory(world);
  if (found === null) return notMeasured(memory, what, 'MB', untold);
  const { onceMb, residentMb, privateMb } = found;
  const [front, holder] = privateMb;
  return row(memory, what, onceMb, 'MB', {
    ...(aimMb === undefined ? {} : { aim: `<= ${aimMb} MB`, met: (value: number) => value <= aimMb }),
    note: `front's own ${mb(front)}, holder's own ${mb(holder)}, pages of files once; resident sizes, which count those twice, add up to ${mb(residentMb)}`,
    ...(entries === undefined ? {} : { growth: { series: 'memory (MB)', entries } }),
  });
}

/** What the service cannot go below: two processes of this very Node that do nothing, counted in the same way. */
async function floorRow(): Promise<Row> {
  const what = 'floor: two bare processes of Node';
  const bare = [startBare(), startBare()];
  await pause(settleMs);
  const found = memoryOf(bare.map(({ pid }) => pid ?? 0));
  await Promise.all(bare.map(stop));
  return found === null
    ? notMeasured(memory, what, 'MB', untold)
    : row(memory, what, found.onceMb, 'MB', { note: `resident ${mb(found.residentMb)}` });
}

/** The builder leaves the index behind: a service that ends brings it up to the log, and what is measured starts as on any morning. */
async function startedAnew(world: World): Promise<void> {
  if (world.issuingSinceMs !== null) return;
  await world.start();
  await world.stop();
  await world.start();
}

async function ahead({ sizes, ledger }: Context): Promise<void> {
  for (const entries of sizes.ledgers) await startedAnew(await ledger(entries));
}

async function run(context: Context): Promise<Row[]> {
  const { sizes, load } = context;
  await ahead(context);
  const worlds: { readonly entries: number; readonly world: World }[] = [];
  for (const entries of sizes.ledgers) worlds.push({ entries, world: await context.ledger(entries) });
  const largest = worlds.at(-1)?.entries ?? 0;
  const rows: Row[] = [await floorRow()];
  for (const { world } of worlds) await pause(Math.max(0, idleMs - (performance.now() - (world.issuingSinceMs ?? 0))));
  for (const { world } of worlds.slice(0, 1)) rows.push(memoryRow('memory, idle', world, { aimMb: idleAimMb }));
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
      memoryRow(`memory, ${many} entries, at work: after ${(sizes.oneTillCount * sizes.rounds).toLocaleString('en')} more`, world, {}),
    );
  }
  await pause(restMs);
  for (const { entries, world } of worlds) {
    const aim = entries === largest ? { aimMb: largeAimMb } : {};
    rows.push(memoryRow(`memory, ${entries.toLocaleString('en')} entries, ${restMs / 1_000} s later`, world, { ...aim, entries }));
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
  const before = serviceMemory(world);
  if (before === null) return notMeasured(memory, what, 'MB', untold);
  const told = await duringExport(world, context.folder, () => serviceMemory(world)?.onceMb ?? 0);
  if (told === null) return notMeasured(memory, what, 'MB', 'ukeyctl has no command `export`');
  return row(memory, what, told.serviceMb - before.onceMb, 'MB', {
    aim: `<= ${exportAimMb} MB`,
    met: (value) => value <= exportAimMb,
    note: `largest of the service; ukeyctl itself had ${mb(told.commandMb)} MB at most; ${mb(told.exportedMb)} MB were written`,
  });
}

const pause = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));

export const growth: Bench = { id: 'B7', title: 'memory (B7) and time (B8) as the ledger grows', ahead, run };
