// Owns: B6, sending a backlog to the ticket server while a till goes on issuing.
import { type Bench, type Context, type Row, row } from './benchmark.ts';
import { fill } from './builder.ts';
import { drainingOverPostgres } from './draining-postgres.ts';
import { percentile } from './figures.ts';
import { wholly } from './load.ts';
import type { Sent } from './messages.ts';

const id = 'B6';
const rateAim = 10_000;
const p99Aim = 2;
const perBatch = 64;
const drainWaitMs = 600_000;
/** What one till adds between two looks does not count as a backlog. */
const nearlyEmpty = 50;
/** A till that serves people, not a loop. */
const pauseMs = 5;
const quietMs = 3_000;

async function run(context: Context): Promise<Row[]> {
  const { sizes, load, requests } = context;
  const world = await context.world('draining');
  await world.stop();
  await fill(world, requests.typical, { entries: sizes.backlog, perBatch, prefix: 'b6-' });
  await world.start();
  await load.do({ kind: 'open', pool: 'drain', path: world.files.socket, count: 1, till: world.till });
  const begin = { kind: 'begin', pool: 'drain', tills: 1, pauseMs } as const;
  await load.do({ ...begin, prefix: 'b6q-' });
  await pause(Math.min(quietMs, sizes.backlog));
  const quiet = wholly(await load.send({ kind: 'end' }));
  const pending = (await world.status()).backlog?.pending ?? 0;
  await load.do({ ...begin, prefix: 'b6d-' });
  const startMs = performance.now();
  world.lineUp();
  // A till does not know; the timetable would look by itself within its interval.
  await world.admin.call('backlog.flush', {}, { timeoutMs: drainWaitMs });
  const left = await world.until(({ backlog }) => (backlog?.pending ?? 0) <= nearlyEmpty, drainWaitMs);
  const elapsedMs = performance.now() - startMs;
  const draining = wholly(await load.send({ kind: 'end' }));
  await load.do({ kind: 'shut', pool: 'drain' });
  world.lineDown();
  await world.stop();
  const sent = pending + draining.latenciesUs.length - (left.backlog?.pending ?? 0);
  const p99 = (each: Sent): number => percentile(each.latenciesUs, 0.99);
  return [
    row(id, `backlog of ${pending.toLocaleString('en')} to the server`, (sent / elapsedMs) * 1_000, '/s', {
      aim: `>= ${rateAim}/s`,
      met: (value) => value >= rateAim,
      note: 'loopback TLS, SQLite, until it is acknowledged; the server in a process of its own, which gives way',
    }),
    row(id, 'issuing p99 while draining', p99(draining), 'us', {
      beside: { name: 'p99 without', value: p99(quiet) },
      aim: `<= ${p99Aim} x`,
      met: (_, ratio) => ratio <= p99Aim,
      note: `one till, ${pauseMs} ms between invoices; the server on the same cores and disk`,
    }),
    await drainingOverPostgres(context, id, rateAim),
  ];
}

const pause = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));

export const draining: Bench = { id, title: 'draining a backlog', run };
