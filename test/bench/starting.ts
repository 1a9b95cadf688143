// Owns: B9, from the start of the process to the first issued invoice: with the embedded soft token and PIN from a file, as a shop starts in the morning.
import { rmSync } from 'node:fs';
import path from 'node:path';
import { type Bench, type Context, type Row, row } from './benchmark.ts';
import { interleaved, median } from './figures.ts';
import type { Environment } from './process.ts';

const id = 'B9';
const aimMs = 600;

async function run(context: Context): Promise<Row[]> {
  const { sizes, load } = context;
  const world = await context.world('starting', { module: null });
  await world.stop();
  const cache = path.join(world.files.folder, 'compile-cache');
  let starts = 0;
  const start = async (environment: Environment): Promise<number> => {
    starts += 1;
    const first = load.send({ kind: 'first', path: world.files.socket, till: world.till, prefix: `b9-${starts}-` });
    const startMs = performance.timeOrigin + performance.now();
    world.launch(environment);
    const { atMs } = await first;
    await world.stop();
    return (atMs[0] ?? Number.NaN) - startMs;
  };
  await start({ NODE_COMPILE_CACHE: cache }); // fills the cache
  const times = await interleaved(sizes.starts, {
    cached: () => start({ NODE_COMPILE_CACHE: cache }),
    plain: () => start({ NODE_COMPILE_CACHE: undefined }),
  });
  rmSync(cache, { recursive: true, force: true });
  await world.start();
  return [
    row(id, 'process start to first invoice', median(times.cached), 'ms', {
      aim: `<= ${aimMs} ms`,
      met: (value) => value <= aimMs,
      note: 'soft token, PIN file, compile cache as a second start finds it; the programs as they are shipped',
    }),
    row(id, 'the same without a compile cache', median(times.plain), 'ms'),
  ];
}

export const starting: Bench = { id, title: 'start', run };
