// Owns: B2, 64 tills at once, beside the echo with as many requests on their way and beside SQLCipher with one transaction per invoice.
import { type Bench, type Context, notMeasured, type Row, row } from './benchmark.ts';
import { interleaved, median, percentile } from './figures.ts';
import { Echo } from './floors.ts';
import { type Load, wholly } from './load.ts';
import type { Sent } from './messages.ts';
import { type ProcessorTime, processorTimeOf, timeBetween } from './processor-time.ts';
import { sqlCipher } from './sqlcipher.ts';
import { measureStages } from './stage-times.ts';
import { figure } from './table.ts';
import type { World } from './world.ts';

const id = 'B2';
const rateAim = 8_000;
const echoShareAim = 0.25;
const sqlCipherAim = 2;

async function run(context: Context): Promise<Row[]> {
  const { sizes, load, folder } = context;
  const { rounds, manyTills: tills, manyTillsCount: count } = sizes;
  const world = await context.world('main');
  const echo = await Echo.start(folder);
  try {
    await load.do({ kind: 'open', pool: 'tills', path: world.files.socket, count: tills, till: world.till });
    await load.do({ kind: 'open', pool: 'echoes', path: echo.socket, count: tills, till: null });
    const send = async (pool: 'tills' | 'echoes', prefix: string, many = count): Promise<Sent> =>
      wholly(await load.send({ kind: 'run', pool, tills, count: many, prefix }));
    const keep = await load.send({
      kind: 'run',
      pool: 'tills',
      tills,
      count: Math.ceil(count / 4),

      prefix: 'b2w-',
      keep: true,
    });
    await send('echoes', 'warm-', Math.ceil(count / 4));
    const peer = await sqlCipher(folder, wholly(keep).documents);
    const perSecond = (sent: Sent): number => (sent.latenciesUs.length / sent.elapsedMs) * 1_000;
    const latencies: number[] = [];
    const shares: (Shares | null)[] = [];
    const rates = await interleaved(rounds, {
      echo: (round) => send('echoes', `e2-${round}-`).then(perSecond),
      sqlCipher: async () => (peer.kind === 'absent' ? Number.NaN : (await peer.run(count)).perSecond),
      service: async (round) => {
        const before = timesOf(world, load);
        const sent = await send('tills', `b2-${round}-`);
        shares.push(sharesBetween(before, timesOf(world, load), count));
        latencies.push(percentile(sent.latenciesUs, 0.99));
        return perSecond(sent);
      },
    });
    await measureStages(context, tills, count);
    const service = median(rates.service);
    const processors = context.machine.cores;
    return [
      row(id, `${tills} tills: durable invoices`, service, '/s', {
        aim: `>= ${rateAim}/s`,
        met: (value) => value >= rateAim,
        note: `mirror ${world.options.mirror}; p99 ${(median(latencies) / 1_000).toFixed(1)} ms`,
      }),
      row(id, 'share of the bare echo', service, '/s', {
        beside: { name: `node-ipc echo, ${tills} on their way`, value: median(rates.echo) },
        aim: `>= ${echoShareAim} x`,
        met: (_, ratio) => ratio >= echoShareAim,
      }),
      peer.kind === 'absent'
        ? notMeasured(id, 'beside SQLCipher', '/s', peer.why)
        : row(id, 'beside SQLCipher', service, '/s', {
            beside: { name: `SQLCipher ${peer.version}, WAL, FULL`, value: median(rates.sqlCipher) },
            aim: `>= ${sqlCipherAim} x`,
            met: (_, ratio) => ratio >= sqlCipherAim,
            note: 'one transaction per invoice, no IPC, no signature',
          }),
      processorRow(
        shares.filter((each) => each !== null),
        processors,
      ),
    ];
  } finally {
    for (const pool of ['tills', 'echoes']) await load.do({ kind: 'shut', pool });
    echo.close();
  }
}

/** Of one invoice. */
interface Shares {
  readonly front: ProcessorTime;
  readonly holder: ProcessorTime;
  readonly load: ProcessorTime;
}

/** Null where the system does not tell. */
function timesOf({ pids }: World, { pid }: Load): Shares | null {
  const [front, holder, load] = [pids.front, pids.holder ?? 0, pid].map(processorTimeOf);
  return front == null || holder == null || load == null ? null : { front, holder, load };
}

function sharesBetween(before: Shares | null, after: Shares | null, count: number): Shares | null {
  if (before === null || after === null) return null;
  const of = (name: keyof Shares): ProcessorTime => timeBetween(before[name], after[name], count);
  return { front: of('front'), holder: of('holder'), load: of('load') };
}

/** What an invoice takes of the machine, which no order of the same work gets below. */
function processorRow(shares: readonly Shares[], processors: number): Row {
  const what = 'processor time of an invoice, all processes';
  if (shares.length === 0) return notMeasured(id, what, 'us', 'this system does not tell');
  const of = (time: (one: Shares) => number): number => median(shares.map(time));
  const all = of(({ front, holder, load }) => front.allUs + holder.allUs + load.allUs);
  const parts = [
    `front ${us(of(({ front }) => front.allUs))}, of which its main thread ${us(of(({ front }) => front.mainUs))}`,
    `which waited another ${us(of(({ front }) => front.mainWaitedUs))} for a processor`,
    `holder ${us(of(({ holder }) => holder.allUs))}`,
    `the load ${us(of(({ load }) => load.allUs))}`,
  ];
  const most = Math.round((processors * 1_000_000) / all).toLocaleString('en');
  return row(id, what, all, 'us', { note: `${parts.join('; ')}; ${processors} processors that never idle would do ${most}/s` });
}

const us = (value: number): string => figure(value, 'us');

export const manyTills: Bench = { id, title: 'many tills at once', run };
