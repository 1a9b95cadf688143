// Owns: the part `door-load`: one ordinary till at a real service, alone and beside an attack on the same door, by turns: a thousand idle connections,
// two hundred that send a byte a second, frames without an end, readers that do not read, one greedy till, and a flood of connections.
// Invariants: attackers are a process of their own; a figure is a ratio of the same run, from all rounds together; where it is too large more rounds
// are added: a busy machine is slow once, a service that suffers is slow each time. No request of the ordinary till may fail.
import { type ChildProcess, fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Client } from '#ipc-schema/client.ts';
import { startServer } from '#server/serve.ts';
import { sale } from '#test/support/rig.ts';
import { Machine } from './os-machine.ts';
import { scaled, type TorturePart, Violations } from './part.ts';

export const attackNames = ['idle', 'loris', 'endless', 'deaf', 'greedy', 'flood'] as const;
export type Attack = (typeof attackNames)[number];

export interface AttackOrder {
  readonly attack: Attack;
  readonly path: string;
  readonly terminal: string;
  readonly secret: string;
}

/** An ordinary till's p99 beside an attack, as a multiple of its p99 alone. */
export const ratioMax = 3;
const tries = 3;
const rounds = 4;
const salesPerRound = 100;
const warmUps = 400;
/** Sales that are not counted while the service clears away what the attack before has left. */
const afterwards = 40;
const saleWaitMs = 20_000;
const mirrorWaitMs = 60_000;
const pauseMs = 2;

export interface DoorLoad {
  readonly ratios: Readonly<Partial<Record<Attack, number>>>;
  readonly aloneP99Ms: number;
  readonly failed: readonly string[];
}

interface Door {
  readonly machine: Machine;
  readonly till: Client;
  readonly failed: string[];
  count: number;
}

const percentile = (values: readonly number[], share: number): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
};

/** How long each sale took, one after the other. */
async function sell(door: Door, sales: number): Promise<number[]> {
  const tookMs: number[] = [];
  for (let left = sales; left > 0; left -= 1) {
    const key = `ordinary-${door.count++}`;
    const fromMs = performance.now();
    try {
      // No repetition: what fails here has failed.
      await door.till.call('invoice.issue', sale(key), { timeoutMs: saleWaitMs });
      tookMs.push(performance.now() - fromMs);
    } catch (thrown) {
      door.failed.push(`${key}: ${String(thrown)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  return tookMs;
}

async function begin(order: AttackOrder): Promise<ChildProcess> {
  const attacker = fork(new URL('./door-attacker.ts', import.meta.url), { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  await new Promise<void>((resolve, reject) => {
    attacker.once('message', () => resolve());
    attacker.once('exit', (code) => reject(new Error(`the attacker ended with ${code}`)));
    attacker.send(order);
  });
  return attacker;
}

function end(attacker: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    attacker.once('exit', () => resolve());
    attacker.kill('SIGKILL');
  });
}

/** How long sales took, alone and beside the attack. */
interface Taken {
  readonly alone: number[];
  readonly among: number[];
}

const ratioOf = ({ alone, among }: Taken): number => percentile(among, 0.99) / percentile(alone, 0.99);

/** Adds to what was taken: a p99 of few sales is one sale. */
async function measure(door: Door, attack: Attack, sales: number, { alone, among }: Taken): Promise<void> {
  const terminal = `attacker-${attack}`;
  const secret = Buffer.from(await door.machine.secretOf(terminal)).toString('hex');
  for (let round = 0; round < rounds; round += 1) {
    await sell(door, afterwards);
    alone.push(...(await sell(door, sales)));
    const attacker = await begin({ attack, path: door.machine.tillSocket, terminal, secret });
    try {
      among.push(...(await sell(door, sales)));
    } finally {
      await end(attacker);
    }
  }
}

export async function loadDoor(attacks: readonly Attack[], sales: number, note: (text: string) => void): Promise<DoorLoad> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-door-'));
  const server = await startServer({ directory: path.join(folder, 'server') });
  const machine = new Machine({ directory: folder, flashMib: 512, probe: '* * * * * *' });
  try {
    machine.start();
    await machine.provision(server);
    await machine.untilIssuing();
    // Beside tills a mirror is made with all the disk's might: neither side of a comparison may have it.
    await machine.until(({ store }) => store?.mirrorState?.failure === null, mirrorWaitMs);
    const door: Door = { machine, till: await machine.till('till-1'), failed: [], count: 0 };
    await sell(door, warmUps);
    const ratios: Partial<Record<Attack, number>> = {};
    let aloneP99Ms = 0;
    for (const attack of attacks) {
      const taken: Taken = { alone: [], among: [] };
      for (let left = tries; left > 0 && !(ratioOf(taken) <= ratioMax); left -= 1) {
        await measure(door, attack, sales, taken);
        const [aloneMs, amongMs] = [percentile(taken.alone, 0.99), percentile(taken.among, 0.99)];
        aloneP99Ms = Math.max(aloneP99Ms, aloneMs);
        note(`${attack}: p99 alone ${aloneMs.toFixed(1)} ms, beside it ${amongMs.toFixed(1)} ms, of ${taken.alone.length} sales each`);
      }
      ratios[attack] = ratioOf(taken);
    }
    door.till.close();
    return { ratios, aloneP99Ms, failed: door.failed };
  } finally {
    await machine.kill();
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

export function doorLine({ ratios, aloneP99Ms, failed }: DoorLoad): string {
  const each = attackNames.flatMap((attack) => (ratios[attack] === undefined ? [] : [`${attack}=${ratios[attack].toFixed(1)}x`]));
  const worst = Math.max(...Object.values(ratios));
  return `${each.join(' ')} normal_p99=${worst.toFixed(1)}x alone_p99_ms=${aloneP99Ms.toFixed(1)} failed=${failed.length}`;
}

export const doorLoad: TorturePart = {
  name: 'door-load',
  run: async (options) => {
    const load = await loadDoor(attackNames, scaled(salesPerRound, options, 25), options.note);
    const told = new Violations();
    for (const what of load.failed) told.add(`a sale of the ordinary till failed: ${what}`);
    for (const attack of attackNames) {
      const ratio = load.ratios[attack] ?? 0;
      if (ratio > ratioMax) told.add(`beside ${attack} the ordinary till's p99 is ${ratio.toFixed(1)} times what it is alone`);
    }
    return { line: doorLine(load), violations: told.told };
  },
};
