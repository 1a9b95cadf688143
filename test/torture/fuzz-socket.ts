// Owns: the part `fuzz-socket`: mutated frames from many connections at the tills' door of a real service, in a process of its own, while an ordinary
// till goes on. The service may not end, have a fault of its own, grow, lose, double, or issue anything else than what was said.
// Invariants: what the connections say comes from the seed; when it arrives does not.
// Control: an answer to a request in which one word was changed afterwards must be told from an honest one.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { startServer } from '#server/serve.ts';
import { sale } from '#test/support/rig.ts';
import { chanceOf } from './fuzz/chance.ts';
import { converse, type Door, type Said, whyOther } from './fuzz/conversation.ts';
import { type Answered, judgeLedger, Machine } from './os-machine.ts';
import { scaled, type TorturePart, Violations } from './part.ts';

const framesWhole = 400_000;
const conversationsAtOnce = 12;
const rssGrowthMaxMb = 32;
/** Memory is measured when caches and compiled code have settled. */
const warmShare = 0.4;
const aliveWaitMs = 10_000;
const fault = 'a request ended in a fault';

const rssMb = (pid: number): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024;

export interface SocketFuzz {
  readonly frames: number;
  readonly answers: number;
  readonly issued: number;
  readonly alive: boolean;
  readonly crashes: number;
  readonly faults: number;
  readonly changed: readonly string[];
  readonly lost: number;
  readonly doubled: number;
  readonly rssGrowthMb: number;
  readonly isControlFound: boolean;
}

export async function fuzzSocket(seed: number, framesWanted: number, note: (text: string) => void): Promise<SocketFuzz> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-fuzz-'));
  const server = await startServer({ directory: path.join(folder, 'server') });
  const machine = new Machine({ directory: folder, flashMib: 512, probe: '* * * * * *' });
  try {
    machine.start();
    await machine.provision(server);
    await machine.untilIssuing();
    const door: Door = { path: machine.tillSocket, terminal: 'fuzz', secret: await machine.secretOf('fuzz') };
    return await assault(machine, door, seed, framesWanted, note);
  } finally {
    await machine.kill();
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function assault(
  machine: Machine,
  door: Door,
  seed: number,
  framesWanted: number,
  note: (text: string) => void,
): Promise<SocketFuzz> {
  const { pid } = machine;
  const answered: Answered[] = [];
  const total: Said = { frames: 0, answers: 0, refusals: 0, issued: [], changed: [] };
  const till = await machine.till('till-1');
  let over = false;
  let alive = true;
  const ordinary = (async (): Promise<void> => {
    for (let count = 0; !over; count += 1) {
      const key = `ordinary-${count}`;
      answered.push({ key, answer: await till.issue(sale(key), { deadlineMs: aliveWaitMs }) });
    }
  })().catch((thrown: unknown) => {
    alive = false;
    note(`the ordinary till: ${String(thrown)}`);
  });
  let warmMb: number | null = null;
  let next = 0;
  const speaker = async (): Promise<void> => {
    while (total.frames < framesWanted && alive) {
      const name = `f${next++}`;
      const said = await converse(door, name, chanceOf(seed, name));
      total.frames += said.frames;
      total.answers += said.answers;
      total.issued.push(...said.issued);
      total.changed.push(...said.changed);
      if (warmMb === null && total.frames > framesWanted * warmShare) warmMb = rssMb(pid);
      if (next % 2_000 === 0) note(`${total.frames} frames, ${total.issued.length} issued, ${rssMb(pid).toFixed(0)} MB`);
    }
  };
  await Promise.all(Array.from({ length: conversationsAtOnce }, speaker));
  over = true;
  await ordinary;
  till.close();
  const crashes = machine.isRunning && machine.pid === pid ? 0 : 1;
  const rssGrowthMb = crashes === 0 ? rssMb(pid) - (warmMb ?? 0) : 0;
  await machine.stop();
  const verdict = await judgeLedger(machine, [...answered, ...total.issued]);
  return {
    frames: total.frames,
    answers: total.answers,
    issued: total.issued.length,
    alive: alive && answered.length > 0,
    crashes,
    faults: readFileSync(machine.logFile, 'utf8').split(fault).length - 1,
    changed: total.changed,
    lost: verdict.lost + verdict.findings,
    doubled: verdict.doubled,
    rssGrowthMb,
    isControlFound: controlFound(total),
  };
}

/** An honest pair, and the same with another quantity in what was asked. */
function controlFound({ issued }: Said): boolean {
  const document = issued.find(({ answer }) => answer.document?.includes('"quantity":"6"'))?.answer.document;
  if (document === undefined) return false;
  const { request, lines } = JSON.parse(document) as {
    request: { key: string };
    lines: { sku: string; description: string; quantity: string; unitPrice: string }[];
  };
  const asked = lines.map(({ description, quantity, unitPrice, sku }) => ({ description, quantity, unitPrice, sku }));
  const frame = (text: string): Buffer => Buffer.from(text, 'utf8');
  const honest = JSON.stringify({
    type: 'ukey',
    data: { jsonrpc: '2.0', id: 1, method: 'invoice.issue', params: { key: request.key, lines: asked } },
  });
  const other = honest.replace('"quantity":"6"', '"quantity":"60"');
  return whyOther(1, document, [frame(honest)]) === null && whyOther(1, document, [frame(other)]) !== null;
}

export function socketLine(run: SocketFuzz): string {
  return (
    `frames=${run.frames} answers=${run.answers} issued=${run.issued} alive=${run.alive ? 'all' : 'no'} silently_changed=${run.changed.length} ` +
    `crashes=${run.crashes} faults=${run.faults} lost=${run.lost} dup=${run.doubled} rss_growth_mb=${Math.max(0, run.rssGrowthMb).toFixed(0)} control_found=${run.isControlFound ? 1 : 0}`
  );
}

export const fuzzSocketPart: TorturePart = {
  name: 'fuzz-socket',
  run: async (options) => {
    const { seed, note } = options;
    const run = await fuzzSocket(seed, scaled(framesWhole, options, 2_000), note);
    const told = new Violations();
    for (const what of run.changed) told.add(`seed ${seed}, ${what}`);
    if (!run.alive) told.add('the ordinary till was not answered');
    if (run.crashes + run.faults > 0) told.add(`${run.crashes} crashes and ${run.faults} faults of the service`);
    if (run.lost + run.doubled > 0) told.add(`${run.lost} lost or found in the ledger, ${run.doubled} doubled`);
    if (run.rssGrowthMb > rssGrowthMaxMb) told.add(`the service grew by ${run.rssGrowthMb.toFixed(0)} MB`);
    if (!run.isControlFound) told.add('the control was not told from an honest answer: the test is void');
    return { line: socketLine(run), violations: told.told };
  },
};
