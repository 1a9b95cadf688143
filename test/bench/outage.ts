// Owns: B10, the cable out and in again while tills go on issuing.
import { type Bench, type Context, type Row, row } from './benchmark.ts';
import { percentile } from './figures.ts';
import type { Sent } from './messages.ts';

const id = 'B10';
const tills = 4;
const pauseMs = 10;
const waitMs = 120_000;
const probeSeconds = 2;
const probeMs = probeSeconds * 1_000;
const backAimMs = probeMs + 1_000;
/** What the tills add between two looks. */
const nearlyEmpty = 20;

async function run(context: Context): Promise<Row[]> {
  const { sizes, load } = context;
  const world = await context.world('outage', { probeSeconds });
  world.lineUp();
  await world.until(({ standing }) => standing === 'issuing-online', waitMs);
  await load.do({ kind: 'open', pool: 'outage', path: world.files.socket, count: tills, till: world.till });
  const begin = { kind: 'begin', pool: 'outage', tills, pauseMs } as const;
  await load.do({ ...begin, prefix: 'b10a-' });
  await pause(sizes.outMs);
  const online = await load.send({ kind: 'end' });
  await load.do({ ...begin, prefix: 'b10b-' });
  const cutMs = performance.now();
  world.lineDown();
  await world.until(({ standing }) => standing === 'issuing-offline', waitMs);
  const noticedMs = performance.now() - cutMs;
  await pause(sizes.outMs);
  const { backlog } = await world.until((status) => (status.backlog?.pending ?? 0) >= sizes.pending, waitMs);
  const pending = backlog?.pending ?? 0;
  const backMs = performance.now();
  world.lineUp();
  await world.until((status) => (status.backlog?.pending ?? 0) <= nearlyEmpty, waitMs);
  const emptyMs = performance.now() - backMs;
  const across = await load.send({ kind: 'end' });
  await load.do({ kind: 'shut', pool: 'outage' });
  await world.stop();
  const p99 = (sent: Sent): number => percentile(sent.latenciesUs, 0.99);
  const failed = Object.values(across.failures).reduce((sum, count) => sum + count, 0);
  return [
    row(id, `network back to backlog empty, ${pending.toLocaleString('en')} pending`, emptyMs, 'ms', {
      aim: `<= one probe interval + 1 s (${backAimMs} ms)`,
      met: (value) => value <= backAimMs,
      note: `probes every ${probeSeconds} s`,
    }),
    row(id, 'cable out to issuing-offline', noticedMs, 'ms', {
      aim: `<= one probe interval (${probeMs} ms)`,
      met: (value) => value <= probeMs,
    }),
    row(id, 'p99 of the tills across both', p99(across), 'us', {
      beside: { name: 'p99 online before', value: p99(online) },
      note: `${tills} tills, ${pauseMs} ms between invoices`,
    }),
    row(id, 'failed requests across both', failed, 'failed', {
      aim: 'none',
      met: (value) => value === 0,
      note: `of ${across.latenciesUs.length.toLocaleString('en')}; ${Object.keys(across.failures).join(', ')}`,
    }),
  ];
}

const pause = (forMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, forMs));

export const outage: Bench = { id, title: 'network out and back', run };
