// Owns: what happens to a shop in the soak, one trouble at a time: each begins, lasts, and ends with a service that issues again.
// Invariants: a trouble that does not end by itself within its wait is thrown: the service did not heal. Those that end a process say so, so that
// the soak can leave it alone while it watches its memory.
import { readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import type { RunningServer } from '#server/serve.ts';
import { ctl } from '#test/support/ctl.ts';
import type { TcpProxy } from '#test/support/tcp-proxy.ts';
import type { Chance } from '#test/torture/fuzz/chance.ts';
import { type Machine, machinePin } from '#test/torture/os-machine.ts';
import type { Book } from './shop.ts';

export interface Shop {
  readonly directory: string;
  readonly machine: Machine;
  readonly line: TcpProxy;
  server: RunningServer;
  /** On the same port, with the same data. */
  startServer(): Promise<RunningServer>;
  readonly chance: Chance;
  readonly book: Book;
}

export interface Trouble {
  readonly name: string;
  /** Ends the service or its holder. */
  readonly kills: boolean;
  run(shop: Shop): Promise<void>;
}

const exportWaitMs = 120_000;
const exportTries = 5;
const sleep = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));
const between = (chance: Chance, fromMs: number, toMs: number): number => fromMs + chance.upTo(toMs - fromMs);

async function withLine(shop: Shop, state: 'down' | 'silent'): Promise<void> {
  shop.line.state = state;
  shop.line.hangUp();
  await sleep(between(shop.chance, 500, 3_000));
  shop.line.state = 'up';
  shop.line.hangUp();
}

async function startAgain({ machine }: Shop): Promise<void> {
  machine.start();
  await machine.untilIssuing();
}

/** The whole ledger that the FLASH keeps, as a file, and what a stranger says about it. */
async function exportAndVerify({ directory, machine, chance }: Shop): Promise<void> {
  const form = chance.one(['jsonl', 'tar']);
  const file = path.join(directory, `export.${form}`);
  const socket = path.join(machine.directory, 'run/admin.sock');
  const runs = [
    ['export', '--socket', socket, '--format', form, '--output', file, '--json'],
    ['verify', '--export', file, '--json'],
  ];
  for (const args of runs) {
    let { status, stdout, stderr } = await ctl(args, { waitMs: exportWaitMs });
    // Its beginning may be released while it is written: then it is said, and begun again.
    for (let left = exportTries; left > 1 && status !== 0 && stdout.includes('"code":"not-found"'); left -= 1) {
      rmSync(`${file}.part`, { force: true });
      ({ status, stdout, stderr } = await ctl(args, { waitMs: exportWaitMs }));
    }
    if (status !== 0) throw new Error(`ukeyctl ${args[0]} ended with ${status}: ${stdout.slice(0, 500)} ${stderr.slice(-500)}`);
  }
  rmSync(file);
}

export const troubles: readonly Trouble[] = [
  { name: 'line-cut', kills: false, run: (shop) => withLine(shop, 'down') },
  { name: 'line-silent', kills: false, run: (shop) => withLine(shop, 'silent') },
  {
    name: 'server-restart',
    kills: false,
    run: async (shop) => {
      await shop.server.close();
      await sleep(between(shop.chance, 200, 2_000));
      shop.server = await shop.startServer();
    },
  },
  {
    name: 'unplug',
    kills: false,
    run: async ({ machine, chance }) => {
      machine.unplug();
      await machine.until(({ standing }) => standing === 'no-token');
      await sleep(between(chance, 100, 1_000));
      machine.plug();
      await machine.untilIssuing();
    },
  },
  {
    name: 'logout',
    kills: false,
    run: async ({ machine }) => {
      await machine.withAdmin(async (admin) => {
        await admin.call('session.logout', {});
        await admin.call('session.login', { pin: machinePin });
      });
      await machine.untilIssuing();
    },
  },
  { name: 'export', kills: false, run: exportAndVerify },
  {
    name: 'kill-service',
    kills: true,
    run: async (shop) => {
      await shop.machine.kill();
      await startAgain(shop);
    },
  },
  {
    name: 'kill-holder',
    kills: true,
    run: async ({ machine }) => {
      for (const pid of machine.holderPids) process.kill(pid, 'SIGKILL');
      await sleep(100);
      await machine.untilIssuing();
    },
  },
  {
    name: 'restart',
    kills: true,
    run: async (shop) => {
      await shop.machine.stop();
      await startAgain(shop);
    },
  },
  {
    name: 'index-deleted',
    kills: true,
    run: async (shop) => {
      // A key of a released document is known to the index alone (ARCHITECTURE.md): whoever deletes it must not repeat such keys.
      await shop.book.forget();
      await shop.machine.stop();
      const { state } = shop.machine;
      for (const name of readdirSync(state)) if (/^index-.*\.sqlite/.test(name)) rmSync(path.join(state, name));
      await startAgain(shop);
      shop.book.isForgetting = false;
    },
  },
];
