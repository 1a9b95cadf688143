// Owns: B1, one till that issues one invoice at a time, beside the sum of its floors.
import { type Bench, type Context, type Row, row } from './benchmark.ts';
import { interleaved, median, percentile, summed } from './figures.ts';
import { Echo, FloorMeter, type Floors } from './floors.ts';
import { wholly } from './load.ts';
import type { Sent } from './messages.ts';
import { measureStages } from './stage-times.ts';
import type { World } from './world.ts';

const id = 'B1';
const p50Aim = 1.5;
const p99Aim = 2.5;
const sectorBytes = 512;
/** Between two calls of the floors at a till's pace: about what an invoice takes. */
const paceMs = 1;

/** Bytes on the FLASH of one invoice alone in its batch, as this very load has them. */
export async function frameBytesOf(world: World, issue: () => Promise<number>): Promise<number> {
  const before = (await world.status()).store?.usedBytes ?? 0;
  const count = await issue();
  const after = (await world.status()).store?.usedBytes ?? 0;
  return Math.max(sectorBytes, Math.round((after - before) / count / sectorBytes) * sectorBytes);
}

async function run(context: Context): Promise<Row[]> {
  const { sizes, load, folder } = context;
  const { rounds, oneTillCount: count, warmUpCount } = sizes;
  const world = await context.world('main');
  const echo = await Echo.start(folder);
  const meter = new FloorMeter(world);
  try {
    await load.do({ kind: 'open', pool: 'till', path: world.files.socket, count: 1, till: world.till });
    await load.do({ kind: 'open', pool: 'echo', path: echo.socket, count: 1, till: null });
    const send = async (pool: 'till' | 'echo', prefix: string, many = count, pauseMs = 0): Promise<Sent> =>
      wholly(await load.send({ kind: 'run', pool, tills: 1, count: many, prefix, pauseMs }));
    const bytes = await frameBytesOf(world, async () => (await send('till', 'b1w-', warmUpCount)).latenciesUs.length);
    await send('echo', 'warm-', warmUpCount);
    const floorRounds: Floors[] = [];
    const pacedRounds: Floors[] = [];
    const pacedCount = Math.ceil(count / 4);
    const times = await interleaved(rounds, {
      echo: (round) => send('echo', `e${round}-`).then((sent) => sent.latenciesUs),
      floors: async () => {
        const floors = await meter.measure(count, bytes);
        floorRounds.push(floors);
        return floors.signUs;
      },
      echoPaced: (round) => send('echo', `ep${round}-`, pacedCount, paceMs).then((sent) => sent.latenciesUs),
      floorsPaced: async () => {
        const floors = await meter.measure(pacedCount, bytes, paceMs);
        pacedRounds.push(floors);
        return floors.signUs;
      },
      service: (round) => send('till', `b1-${round}-`).then((sent) => sent.latenciesUs),
    });
    const mirrored = world.options.mirror === 'sync';
    const sumsOf = (floors: readonly Floors[], echoes: readonly Float64Array[]): Float64Array[] =>
      floors.map(({ signUs, verifyUs, syncUs, twoSyncsUs }, round) =>
        summed([echoes[round] ?? [], signUs, verifyUs, mirrored ? twoSyncsUs : syncUs]),
      );
    const sums = sumsOf(floorRounds, times.echo);
    const pacedSums = sumsOf(pacedRounds, times.echoPaced);
    const of = (all: readonly Float64Array[], part: number): number => median(all.map((each) => percentile(each, part)));
    const syncs = mirrored ? 'two syncs at once' : 'sync';
    const floorNote = (name: keyof Floors): number =>
      of(
        floorRounds.map((floors) => floors[name]),
        0.5,
      );
    await measureStages(context, 1, sizes.oneTillCount);
    return [
      row(id, 'one till: p50', of(times.service, 0.5), 'us', {
        beside: { name: `echo + sign + verify + ${syncs}`, value: of(sums, 0.5) },
        aim: `<= ${p50Aim} x`,
        met: (_, ratio) => ratio <= p50Aim,
        note: `mirror ${world.options.mirror}`,
      }),
      row(id, 'one till: p99', of(times.service, 0.99), 'us', {
        beside: { name: 'the same sum', value: of(sums, 0.99) },
        aim: `<= ${p99Aim} x`,
        met: (_, ratio) => ratio <= p99Aim,
      }),
      row(id, 'one till: p50 beside the same sum at its own pace', of(times.service, 0.5), 'us', {
        beside: { name: `the same sum, ${paceMs} ms between two calls`, value: of(pacedSums, 0.5) },
        note: 'a loop of one call keeps the caches to itself; a till does not',
      }),
      row(id, 'floor: echo', of(times.echo, 0.5), 'us', { note: 'bare node-ipc, the same request' }),
      row(id, 'floor: sign', floorNote('signUs'), 'us', { note: 'one C_Sign of the same module and key' }),
      row(id, 'floor: verify', floorNote('verifyUs'), 'us'),
      row(id, 'floor: sync', floorNote('syncUs'), 'us', { note: `write + fdatasync of ${bytes} bytes, preallocated` }),
      row(id, 'floor: two syncs at once', floorNote('twoSyncsUs'), 'us', { note: 'FLASH and mirror' }),
    ];
  } finally {
    for (const pool of ['till', 'echo']) await load.do({ kind: 'shut', pool });
    meter.close();
    echo.close();
  }
}

export const oneTill: Bench = { id, title: 'one till, one invoice at a time', run };
