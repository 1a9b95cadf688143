// Owns: the soak: a shop with tills, a service in a process of its own, a ticket server behind a line, and one trouble after another; then the last
// look at everything (final-check.ts).
// Invariants: what happens comes from the seed, when it happens does not; processes are ended only in the first part, so that in the rest one and the
// same process shows whether its memory stays flat; all that was begun is ended, whatever comes.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { startServer } from '#server/serve.ts';
import { TcpProxy } from '#test/support/tcp-proxy.ts';
import { chanceOf } from '#test/torture/fuzz/chance.ts';
import { Machine } from '#test/torture/os-machine.ts';
import { type FinalVerdict, finalCheck } from './final-check.ts';
import { type Growth, MemoryWatch } from './memory.ts';
import { Book, keepTill } from './shop.ts';
import { type Shop, type Trouble, troubles } from './troubles.ts';

const tillNames = ['a', 'b', 'c', 'd'];
/** Small, so that the ring goes round within minutes. */
const flashMib = 16;
/** Of the whole time, how long processes are ended, and from when on memory is watched. */
const killShare = 0.5;
const memoryShare = 0.6;
const sampleMs = 1_000;
const drainWaitMs = 120_000;
const fault = 'a request ended in a fault';

export interface SoakOptions {
  readonly seed: number;
  readonly minutes: number;
  /** Quiet between two troubles, at most. */
  readonly quietMs: number;
  readonly note: (text: string) => void;
}

export interface SoakReport {
  readonly seed: number;
  readonly minutes: number;
  readonly book: Book;
  readonly verdict: FinalVerdict;
  /** How often each happened. */
  readonly happened: ReadonlyMap<string, number>;
  readonly memory: Readonly<Record<'front' | 'holder', Growth | null>>;
  /** Faults of the service's own, by its log. */
  readonly faults: number;
  readonly usedPercentMax: number;
}

export async function soak(options: SoakOptions): Promise<SoakReport> {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-soak-'));
  const server = await startServer({ directory: path.join(directory, 'server') });
  const line = await TcpProxy.open(server.port);
  const machine = new Machine({ directory, flashMib, probe: '* * * * * *' });
  const shop: Shop = {
    ...{ directory, machine, line, server, chance: chanceOf(options.seed, 'troubles'), book: new Book() },
    startServer: () => startServer({ directory: path.join(directory, 'server'), port: server.port }),
  };
  try {
    machine.start();
    await machine.provision(server, {}, { serverUrl: `https://127.0.0.1:${line.port}`, keepDays: 0 });
    await machine.untilIssuing();
    return await run(shop, options);
  } finally {
    await machine.kill();
    await shop.server.close();
    await line.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

async function run(shop: Shop, options: SoakOptions): Promise<SoakReport> {
  const { machine, book } = shop;
  const { seed, minutes, note } = options;
  const happened = new Map<string, number>();
  const watch = new MemoryWatch();
  let over = false;
  let troubleCount = 0;
  const tills = Promise.all(
    tillNames.map((name) =>
      keepTill({ machine, name, book, chance: chanceOf(seed, name), isOver: () => over, troubleCount: () => troubleCount }),
    ),
  );
  // Awaited at the end: a till that gives up before must not end this process without cleaning up.
  tills.catch((thrown: unknown) => note(String(thrown)));
  const sampling = setInterval(() => watch.sample(machine), sampleMs);
  let usedPercentMax = 0;
  try {
    for await (const trouble of program(shop, minutes, options.quietMs)) {
      troubleCount += 1;
      await trouble.run(shop);
      troubleCount += 1;
      happened.set(trouble.name, (happened.get(trouble.name) ?? 0) + 1);
      usedPercentMax = Math.max(usedPercentMax, (await machine.status()).store?.usedPercent ?? 0);
      note(`${trouble.name}: ${book.answered.size} answered, ${book.wrong.length} wrong`);
    }
  } finally {
    over = true;
    clearInterval(sampling);
    await tills;
  }
  const memory = { front: watch.growth('front', minutes * memoryShare), holder: watch.growth('holder', minutes * memoryShare) };
  const tokenId = await drained(machine);
  await machine.stop();
  const verdict = await finalCheck(machine, shop.server, tokenId, book);
  const faults = readFileSync(machine.logFile, 'utf8').split(fault).length - 1;
  return { seed, minutes, book, verdict, happened, memory, faults, usedPercentMax };
}

/** All troubles in an order that is drawn, again and again, until the time is over. */
async function* program(shop: Shop, minutes: number, quietMs: number): AsyncGenerator<Trouble> {
  const startedMs = performance.now();
  const share = (): number => (performance.now() - startedMs) / (minutes * 60_000);
  let deck: Trouble[] = [];
  while (share() < 1) {
    await new Promise((resolve) => setTimeout(resolve, shop.chance.upTo(quietMs)));
    if (share() > killShare) deck = deck.filter(({ kills }) => !kills);
    if (deck.length === 0) deck = troubles.filter(({ kills }) => !kills || share() <= killShare);
    const at = shop.chance.upTo(deck.length);
    const [trouble] = deck.splice(at, 1);
    if (trouble !== undefined) yield trouble;
  }
}

/** The ledger's name, once all of it has gone up. */
async function drained(machine: Machine): Promise<string> {
  const giveUpAtMs = performance.now() + drainWaitMs;
  return await machine.withAdmin(async (admin) => {
    for (;;) {
      const { pending, lastError } = await admin.call('backlog.status', {});
      if (pending === 0) return (await admin.call('service.identity', {})).tokenId;
      if (performance.now() > giveUpAtMs) throw new Error(`the backlog does not drain: ${lastError}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  });
}
