// Owns: B6 over PostgreSQL: the same backlog to a ticket server over PostgreSQL and to one over SQLite, by turns and without a till.
// PostgreSQL is one of the bench's own (test/support/postgres.ts), as it is installed but for its size; every commit is synced, as always.

import { PostgresServer, postgresPrograms } from '#test/support/postgres.ts';
import { type Context, notMeasured, type Row, row } from './benchmark.ts';
import { fill } from './builder.ts';
import { interleaved, median } from './figures.ts';
import type { World } from './world.ts';

const turns = 2;
const perBatch = 64;
const drainWaitMs = 600_000;
const what = 'backlog to the server, PostgreSQL';

export async function drainingOverPostgres(context: Context, id: string, rateAim: number): Promise<Row> {
  const programs = postgresPrograms();
  if (programs === null) return notMeasured(id, what, '/s', 'PostgreSQL is not installed');
  const postgres = await PostgresServer.make(programs);
  try {
    const worlds = [
      await context.world('draining-sqlite'),
      await context.world('draining-postgres', { databaseUrl: postgres.newDatabase() }),
    ] as const;
    for (const world of worlds) await world.stop();
    const { sqlite, onPostgres } = await interleaved(turns, {
      sqlite: async (turn) => await drain(context, worlds[0], turn),
      onPostgres: async (turn) => await drain(context, worlds[1], turn),
    });
    return row(id, what, median(onPostgres), '/s', {
      beside: { name: 'SQLite, by turns', value: median(sqlite) },
      aim: `>= ${rateAim}/s`,
      met: (value) => value >= rateAim,
      note: 'no till meanwhile; each server in a process of its own, which gives way',
    });
  } finally {
    await postgres.remove();
  }
}

/** Invoices a second, until all are acknowledged. The service is stopped before and after. */
async function drain(context: Context, world: World, turn: number): Promise<number> {
  const entries = Math.ceil(context.sizes.backlog / turns);
  await fill(world, context.requests.typical, { entries, perBatch, prefix: `b6-${turn}-` });
  await world.start();
  const pending = (await world.status()).backlog?.pending ?? 0;
  const startMs = performance.now();
  world.lineUp();
  await world.admin.call('backlog.flush', {}, { timeoutMs: drainWaitMs });
  await world.until(({ backlog }) => backlog?.pending === 0, drainWaitMs);
  const elapsedMs = performance.now() - startMs;
  world.lineDown();
  await world.stop();
  return (pending / elapsedMs) * 1_000;
}
