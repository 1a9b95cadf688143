// Owns: B3, a card that takes a quarter of a second for a signature: how many invoices share one.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { type Bench, type Context, type Row, row } from './benchmark.ts';
import { wholly } from './load.ts';

const id = 'B3';
const latencyAim = 1.7;
/** Invoices per second, by tills, at 250 ms a signature. */
const rateAims: Readonly<Record<number, number>> = { 64: 150, 512: 1_200 };
const designedSignMs = 250;

async function run(context: Context): Promise<Row[]> {
  const { load, sizes } = context;
  const { slowSignMs, slowTills, slowTurns } = sizes;
  const world = await context.world('instrumented', { program: 'instrumented' });
  const most = Math.max(...slowTills);
  await load.do({ kind: 'open', pool: 'slow', path: world.files.socket, count: most, till: world.till });
  const slowFile = path.join(world.files.token, 'sign-ms');
  writeFileSync(slowFile, String(slowSignMs));
  const rows: Row[] = [];
  try {
    for (const tills of slowTills) {
      const order = { kind: 'run', pool: 'slow', tills } as const;
      wholly(await load.send({ ...order, count: tills, prefix: `b3w-${tills}-` }));
      const before = (await world.status()).store?.batches ?? 0;
      const sent = wholly(await load.send({ ...order, count: tills * slowTurns, prefix: `b3-${tills}-` }));
      const batches = ((await world.status()).store?.batches ?? 0) - before;
      const meanMs = sent.latenciesUs.reduce((sum, each) => sum + each, 0) / sent.latenciesUs.length / 1_000;
      const rateAim = slowSignMs === designedSignMs ? rateAims[tills] : undefined;
      rows.push(
        row(id, `${tills} tills, slow token: mean`, meanMs, 'ms', {
          beside: { name: 'one signature', value: slowSignMs },
          aim: `<= ${latencyAim} x`,
          met: (_, ratio) => ratio <= latencyAim,
          note: `${(sent.latenciesUs.length / batches).toFixed(0)} invoices per signature`,
        }),
        row(id, `${tills} tills, slow token`, (sent.latenciesUs.length / sent.elapsedMs) * 1_000, '/s', {
          beside: { name: 'one signature per invoice', value: 1_000 / slowSignMs },
          ...(rateAim === undefined ? {} : { aim: `>= ${rateAim}/s`, met: (value: number) => value >= rateAim }),
        }),
      );
    }
  } finally {
    writeFileSync(slowFile, '0');
    await load.do({ kind: 'shut', pool: 'slow' });
  }
  return rows;
}

export const slowToken: Bench = { id, title: 'a slow token', run };
