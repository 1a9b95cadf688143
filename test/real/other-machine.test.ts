// A token that is pulled from one computer and plugged into another goes on there with its whole ledger and backlog, and comes back: what the
// first computer still has of it (mirror, index) is old by then, and is never taken for newer.
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Client } from '#ipc-schema/client.ts';
import { type RunningServer, startServer } from '#server/serve.ts';
import { sale } from '#test/support/rig.ts';
import { seededRandom, seedOf } from '#test/support/seed.ts';
import { type Answered, judgeLedger, Machine } from '#test/torture/os-machine.ts';

let folder: string;
let server: RunningServer;
let machines: Machine[];
beforeEach(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-machines-'));
  server = await startServer({ directory: path.join(folder, 'server') });
  machines = [];
});
afterEach(async () => {
  for (const machine of machines) await machine.kill();
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

function newMachine(name: string): Machine {
  const directory = path.join(folder, name);
  mkdirSync(directory);
  const machine = new Machine({ directory });
  machines.push(machine);
  return machine;
}

async function sell(till: Client, name: string, count: number, answered: Answered[]): Promise<void> {
  const keys = Array.from({ length: count }, (_, at) => `${name}-${at}`);
  const answers = await Promise.all(keys.map((key) => till.issue(sale(key))));
  for (const [at, answer] of answers.entries()) answered.push({ key: keys[at] ?? '', answer });
}

/** The same key is the same invoice, whoever is asked. */
async function expectSame(till: Client, answered: readonly Answered[]): Promise<void> {
  const again = await Promise.all(answered.map(({ key }) => till.issue(sale(key))));
  for (const [at, answer] of again.entries()) {
    const before = answered[at]?.answer;
    expect(answer).toMatchObject({ number: before?.number, sequence: before?.sequence, document: before?.document, repeated: true });
  }
}

const indexOf = (machine: Machine): string | undefined =>
  readdirSync(machine.state).find((name) => name.startsWith('index') && !name.endsWith('-journal') && !name.endsWith('-wal'));

const numberOf = ({ answer }: Answered): number => Number(answer.number.split('-')[1]);

test('another computer goes on with the ledger, and the first one takes it back', { timeout: 120_000 }, async () => {
  const home = newMachine('home');
  const away = newMachine('away');
  const answered: Answered[] = [];
  home.start();
  await home.provision(server);
  // Until both computers have had the token nothing may leave it.
  const { port } = server;
  await server.close();
  const homeTill = await home.till();
  await sell(homeTill, 'home', 40, answered);
  await expectSame(homeTill, answered);
  const { backlog: left } = await home.status();
  expect(left?.pending).toBeGreaterThanOrEqual(40);

  home.plugInto(away);
  await home.until(({ standing }) => standing === 'no-token');
  away.start();
  const there = await away.untilIssuing();
  expect(there.backlog?.pending).toBe(left?.pending);
  // It has no mirror of this token yet: it makes one, and an index.
  expect(there.store?.mirrorState).toMatchObject({ remade: true, failure: null });
  expect(indexOf(away)).toBeDefined();
  const awayTill = await away.till();
  await expectSame(awayTill, answered);
  await sell(awayTill, 'away', 40, answered);
  server = await startServer({ directory: path.join(folder, 'server'), port });
  expect(await away.withAdmin((admin) => admin.call('backlog.flush', {}))).toMatchObject({ pending: 0 });
  await sell(awayTill, 'later', 5, answered);
  awayTill.close();

  away.plugInto(home);
  await away.until(({ standing }) => standing === 'no-token');
  const back = await home.untilIssuing();
  // Its mirror was old: it was brought up, nothing of the FLASH was taken back.
  expect(back.store?.mirrorState).toMatchObject({ healedFlash: 0, failure: null });
  expect((back.store?.mirrorState?.healedMirror ?? 0) > 0 || back.store?.mirrorState?.remade).toBe(true);
  // What the server has acknowledged elsewhere is not sent again.
  expect(back.backlog?.pending).toBeLessThan(40);
  await expectSame(homeTill, answered);
  await sell(homeTill, 'home-again', 10, answered);
  homeTill.close();
  expect([...answered].map(numberOf).sort((a, b) => a - b)).toEqual(Array.from({ length: 95 }, (_, at) => at + 1));
  await home.stop();
  await away.stop();
  const verdict = await judgeLedger(home, answered);
  console.log(`machines=2 answered=${answered.length} lost=${verdict.lost} dup=${verdict.doubled} findings=${verdict.findings}`);
  expect(verdict).toEqual({ lost: 0, doubled: 0, findings: 0, documents: 95 });
});

test('a second computer that is killed again and again while it makes its index', { timeout: 180_000 }, async () => {
  const seed = seedOf();
  const random = seededRandom(seed);
  const home = newMachine('home');
  const answered: Answered[] = [];
  home.start();
  await home.provision(server);
  const homeTill = await home.till();
  for (let round = 0; round < 4; round += 1) await sell(homeTill, `round-${round}`, 250, answered);
  homeTill.close();
  await home.stop();

  const away = newMachine('away');
  home.plugInto(away);
  const sizes: number[] = [];
  for (let kill = 0; kill < 6; kill += 1) {
    if (kill % 3 === 0) rmSync(away.state, { recursive: true, force: true });
    away.start();
    const file = await indexBegun(away);
    await new Promise((resolve) => setTimeout(resolve, random() * 60));
    await away.kill();
    if (file !== null) sizes.push(statSync(file).size);
  }
  away.start();
  await away.untilIssuing();
  const awayTill = await away.till();
  await expectSame(awayTill, answered);
  await sell(awayTill, 'away', 5, answered);
  awayTill.close();
  await away.stop();
  const wholeBytes = statSync(path.join(away.state, indexOf(away) ?? '')).size;
  const early = sizes.filter((bytes) => bytes < wholeBytes).length;
  const verdict = await judgeLedger(away, answered);
  console.log(
    `kills=6 early=${early} answered=${answered.length} lost=${verdict.lost} dup=${verdict.doubled} findings=${verdict.findings} seed=${seed}`,
  );
  expect(early).toBeGreaterThan(0);
  expect(verdict).toEqual({ lost: 0, doubled: 0, findings: 0, documents: 1_005 });
});

/** The file of the index, as soon as it is there. */
async function indexBegun(machine: Machine): Promise<string | null> {
  const giveUpAtMs = performance.now() + 20_000;
  while (performance.now() < giveUpAtMs) {
    try {
      const name = indexOf(machine);
      if (name !== undefined) return path.join(machine.state, name);
    } catch {
      // The state folder is not there yet.
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return null;
}
