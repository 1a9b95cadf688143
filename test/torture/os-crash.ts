// Owns: the parts `crash-at-sync` and `crash-service`: a store's process is killed at its nth fdatasync (and at its nth write), opened again
// and compared; and the same to a whole service, of which front or holder dies, whichever thread comes first to its nth sync.
// Invariants: points are counted from each start of a process, so that the low ones fall into the opening.
// Control: a caller who is told before it is durable must lose something in the same kills.
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { startServer } from '#server/serve.ts';
import { sizeFor } from '#test/store/rig.ts';
import { seededRandom } from '#test/support/seed.ts';
import { type Answered, judgeLedger, Machine, sell } from './os-machine.ts';
import { type Outcome, StoreLife } from './os-store-life.ts';
import { missingForStrace, underStrace } from './os-strace.ts';
import { scaled, type TorturePart, Violations } from './part.ts';

const segments = 8;
const steps = 5_000;

export interface KillTally {
  readonly points: number;
  readonly acked: number;
  readonly lost: number;
  readonly told: readonly string[];
}

export interface KillOrder {
  readonly seed: number;
  /** Which call kills, at which counts. */
  readonly call: 'fdatasync' | 'pwrite64';
  readonly points: readonly number[];
  readonly eager: boolean;
}

const emptyImage = (file: string): string => {
  writeFileSync(file, '', { mode: 0o600 });
  truncateSync(file, sizeFor(segments));
  return file;
};

/** Kills a store at each of the points, one without a mirror and one with it by turns. */
export async function killAtCalls(order: KillOrder): Promise<KillTally> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-crash-'));
  const random = seededRandom(order.seed);
  const draw = (): number => Math.floor(random() * 2 ** 31);
  const told = new Violations();
  let acked = 0;
  let points = 0;
  const judge = async (life: StoreLife, outcome: Outcome, where: string): Promise<void> => {
    const wrong = [...outcome.lost, ...outcome.bad];
    if (!outcome.opened && outcome.failure !== null) wrong.push(`the store does not open: ${outcome.failure}`);
    for (const what of wrong) told.add(`seed ${order.seed}, ${where}: ${what}`);
    if (wrong.length > 0) await life.begin(draw());
  };
  try {
    const lives = [new StoreLife(emptyImage(path.join(folder, 'alone')), null)];
    lives.push(new StoreLife(emptyImage(path.join(folder, 'flash')), emptyImage(path.join(folder, 'mirror'))));
    for (const life of lives) await life.begin(draw());
    for (const [place, point] of order.points.entries()) {
      const life = lives[place % lives.length];
      if (life === undefined) continue;
      const wrapping = underStrace(order.call, String(point), { kind: 'kill' });
      // Opening compares with all that was answered before, so that each point is judged by the next of the same life.
      const killed = await life.run({ seed: draw(), steps, eager: order.eager }, { wrapping });
      acked += killed.acked;
      points += killed.ended || killed.failure !== null ? 0 : 1;
      await judge(life, killed, `killed at ${order.call} ${point} or before`);
    }
    for (const life of lives) {
      const last = await life.run({ seed: draw(), steps: 0, checkSides: true });
      if (!last.ended && last.failure === null) told.add(`seed ${order.seed}: the last look did not end`);
      await judge(life, last, 'at the end');
    }
    return { points, acked, lost: told.count, told: told.told };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const upTo = (count: number, step: number): number[] => Array.from({ length: count }, (_, at) => 1 + at * step);

export const crashAtSync: TorturePart = {
  name: 'crash-at-sync',
  run: async (options) => {
    const why = missingForStrace();
    if (why !== null) return { line: '', violations: [], missing: why };
    const { seed, note } = options;
    const syncs = await killAtCalls({ seed, call: 'fdatasync', points: upTo(scaled(500, options, 10), 1), eager: false });
    note(`${syncs.points} syncs`);
    const writes = await killAtCalls({ seed: seed + 1, call: 'pwrite64', points: upTo(scaled(100, options, 10), 3), eager: false });
    note(`${writes.points} writes`);
    const control = await killAtCalls({ seed: seed + 2, call: 'pwrite64', points: upTo(10, 5), eager: true });
    const violations = [...syncs.told, ...writes.told];
    if (control.lost === 0) violations.push('the control lost nothing: the test is void');
    const lost = syncs.lost + writes.lost;
    const line = `points=${syncs.points} writes=${writes.points} acked=${syncs.acked + writes.acked} lost=${lost} control_lost=${control.lost}`;
    return { line, violations };
  },
};

const strikeWaitMs = 15_000;
/** Answers after which a point that did not strike is left. */
const salesMax = 40;

/** Between two points of a service: so that some fall into its work and not all into its opening. */
const callsBetween = 3;
const salesBetween = 6;

async function untilSold(answered: readonly Answered[], count: number): Promise<void> {
  const enough = answered.length + count;
  const giveUpAtMs = performance.now() + strikeWaitMs;
  while (answered.length < enough) {
    if (performance.now() > giveUpAtMs) throw new Error('nothing is sold any more');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Whether front or holder died at its nth sync. */
async function strikeService(machine: Machine, nth: number, answered: readonly Answered[]): Promise<boolean> {
  machine.start(underStrace('fdatasync', String(nth), { kind: 'kill' }));
  const soldBefore = answered.length;
  const giveUpAtMs = performance.now() + strikeWaitMs;
  let holders = '';
  while (performance.now() < giveUpAtMs && answered.length < soldBefore + salesMax) {
    if (!machine.isRunning) return true;
    const now = machine.holderPids.join(' ');
    if (holders !== '' && now !== holders) return true;
    holders = now;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return false;
}

export const crashService: TorturePart = {
  name: 'crash-service',
  run: async (options) => {
    const why = missingForStrace();
    if (why !== null) return { line: '', violations: [], missing: why };
    const points = scaled(20, options, 3);
    const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-crash-'));
    const server = await startServer({ directory: path.join(folder, 'server') });
    const machine = new Machine({ directory: folder });
    const answered: Answered[] = [];
    let over = false;
    try {
      machine.start();
      await machine.provision(server);
      const selling = Promise.all(['a', 'b'].map((name) => sell(machine, name, () => over, answered)));
      selling.catch((thrown: unknown) => options.note(String(thrown)));
      await machine.untilIssuing();
      let struck = 0;
      for (let point = 1; point <= points; point += 1) {
        await untilSold(answered, salesBetween);
        await machine.kill();
        struck += (await strikeService(machine, point * callsBetween, answered)) ? 1 : 0;
        await machine.kill();
        machine.start();
        await machine.untilIssuing();
        options.note(`${point} of ${points}, ${struck} struck, ${answered.length} answered`);
      }
      await untilSold(answered, salesBetween);
      over = true;
      await selling;
      await machine.stop();
      const verdict = await judgeLedger(machine, answered);
      const lost = verdict.lost + verdict.findings;
      const violations = lost + verdict.doubled > 0 ? [`seed ${options.seed}: ${JSON.stringify(verdict)}`] : [];
      if (struck === 0) violations.push('nothing was struck: the test is void');
      const line = `points=${points} struck=${struck} answered=${answered.length} lost=${lost} dup=${verdict.doubled}`;
      return { line, violations };
    } finally {
      over = true;
      await machine.kill();
      await server.close();
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
