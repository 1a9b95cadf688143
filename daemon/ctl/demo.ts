// Owns: `ukeyctl demo`, which is `npm start`: a sandbox, one bundled day of real sales through its socket, with the line cut in the middle,
// and what came of it: issued, waited, acknowledged, how long each took.
// Invariants: it talks to the service as a till does; a run that was broken off is finished by the next under the same keys, a finished
// one is followed by a new day on the same ledger; what it says at the end was read back from token and server.
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from '#ctl/command.ts';
import { writeFile } from '#ctl/output-file.ts';
import { openProgress } from '#ctl/progress.ts';
import { receiptText } from '#ctl/receipt.ts';
import { accountsOf, accountsText } from '#ctl/replay/accounts.ts';
import { durationsOf, durationText } from '#ctl/replay/figures.ts';
import { type Sale, sell } from '#ctl/replay/selling.ts';
import { AckWatch, drained, openTill } from '#ctl/replay/tills.ts';
import { type RetailInvoice, readRetail } from '#ctl/retail.ts';
import { counted, type Screen, table } from '#ctl/screen.ts';
import { type StopSignal, stopSignal } from '#ctl/stop-signal.ts';
import { inWorld } from '#ctl/world/running.ts';
import type { WorldVerdict } from '#ctl/world/verify-world.ts';
import type { World } from '#ctl/world/world.ts';
import type { Client } from '#ipc-schema/client.ts';
import { check, z } from '#ipc-schema/schema.ts';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..');
const dayFile = path.join(root, 'test', 'data', 'retail-day.csv');
/** In the clone, or, where the program is installed, at home. */
const defaultDir = import.meta.url.endsWith('.ts') ? path.join(root, '.state', 'demo') : path.join(homedir(), 'ukeyd-demo');
/** A busy till, and slow enough to watch. */
const paceMs = 40;
/** Share of the day that is sold before the line is cut, and before it is back. */
const cutAt = 1 / 3;
const backAt = 2 / 3;
/** Lines of an invoice that is nice to look at. */
const shownMaxLines = 5;

export const demo: Command = {
  kind: 'command',
  name: 'demo',
  summary: 'see it work: a day of real sales, an outage in the middle (npm start)',
  options: [
    { flags: '--dir <folder>', description: 'state of the sandbox (default: .state/demo in a clone, else ~/ukeyd-demo)' },
    { flags: '--module <library>', description: 'as of sandbox' },
    { flags: '--exit', description: 'end after the table instead of staying up' },
  ],
  examples: ['demo', 'demo --exit', 'demo --module none --dir /tmp/demo'],
  async run(given, screen) {
    const stop = stopSignal();
    const dir = given.text('dir') ?? defaultDir;
    screen.note(existsSync(dir) ? `Going on with the sandbox in ${dir}` : `Making a sandbox in ${dir}`);
    await inWorld({ dir, module: given.text('module'), note: (text) => screen.note(text) }, stop, async (world) => {
      await show(world, screen, stop);
      if (given.flag('exit') || stop.isGiven()) return;
      screen.note(whatNext(world, dir));
      await stop.given;
    });
  },
};

async function show(world: World, screen: Screen, stop: StopSignal): Promise<void> {
  const facts = world.facts();
  screen.note(`Token: ${facts.module}. Service: process ${facts.daemonPid}. Ticket server: ${facts.serverUrl}`);
  const invoices = readRetail(readFileSync(dayFile, 'utf8'));
  const runs = new RunMemory(path.join(world.layout.dir, 'demo.json'));
  const till = await openTill(facts, screen);
  const watch = await AckWatch.open(facts, screen);
  try {
    const day = await sellDay({ world, screen, invoices, till, watch, keyPrefix: runs.keyPrefix, stop });
    if (stop.isGiven()) return;
    runs.finish();
    const { verifyWorld } = await import('#ctl/world/verify-world.ts');
    const verdict = await verifyWorld(world.layout, world.memory, world.serverUrl);
    await report({ screen, invoices, till, watch, day, verdict });
  } finally {
    watch.close();
    till.close();
  }
}

interface Day {
  readonly sales: readonly Sale[];
  readonly cutAtMs: number;
  readonly backAtMs: number;
}

interface DayParts {
  readonly world: World;
  readonly screen: Screen;
  readonly invoices: readonly RetailInvoice[];
  readonly till: Client;
  readonly watch: AckWatch;
  readonly keyPrefix: string;
  readonly stop: StopSignal;
}

async function sellDay({ world, screen, invoices, till, watch, keyPrefix, stop }: DayParts): Promise<Day> {
  screen.note(`Selling a day of a real shop: ${counted(invoices.length, 'document')} through the local socket`);
  const cutTurn = Math.floor(invoices.length * cutAt);
  const backTurn = Math.floor(invoices.length * backAt);
  let cutAtMs = Number.NaN;
  let backAtMs = Number.NaN;
  let done = 0;
  using bar = openProgress('Issuing', invoices.length);
  const before = async (turn: number): Promise<void> => {
    if (turn === cutTurn) {
      await world.cutLine();
      cutAtMs = performance.now();
      bar.end();
      screen.note(`${turn} issued: the line to the ticket server is CUT; the till goes on`);
    }
    if (turn === backTurn) {
      await world.restoreLine();
      backAtMs = performance.now();
      bar.end();
      screen.note(`${turn} issued, ${watch.waiting} wait on the token: the line is BACK`);
    }
  };
  const { template } = world.facts();
  const sales = await sell({
    ...{ invoices, tills: [till], inFlight: 1, template, keyPrefix, paceMs, before },
    onSale: () => bar.show(++done),
    isOver: () => stop.isGiven(),
  });
  bar.end();
  if (stop.isGiven()) return { sales, cutAtMs, backAtMs };
  using waiting = openProgress('Acknowledged', sales.length);
  await drained(till, (pending) => waiting.show(Math.max(0, sales.length - pending)));
  await watch.refresh();
  return { sales, cutAtMs, backAtMs };
}

interface ReportParts {
  readonly screen: Screen;
  readonly invoices: readonly RetailInvoice[];
  readonly till: Client;
  readonly watch: AckWatch;
  readonly day: Day;
  readonly verdict: WorldVerdict;
}

async function report({ screen, invoices, till, watch, day, verdict }: ReportParts): Promise<void> {
  const accounts = accountsOf(invoices, day.sales);
  const { colours, widthColumns } = screen;
  const number = shownNumber(day);
  const shown = number === null ? null : await till.call('invoice.get', { number });
  const receipt = shown?.document === undefined ? '' : receiptText(shown.document, { qr: shown.qr, colours, widthColumns });
  const rows = timesOf(day, watch);
  const faults = [...accounts.faults, ...verdict.differences];
  const agreement =
    faults.length === 0
      ? `Read back from the token and from the server: ${verdict.equalBatches} batches equal, every seal, path and sum verified.`
      : `Something does NOT add up:\n${faults.map((fault) => `  ${fault}`).join('\n')}`;
  const text = [receipt, timesText(rows), accountsText(accounts), agreement].join('\n');
  screen.answer({ addsUp: faults.length === 0, faults, times: rows }, text, faults.length === 0 ? 'done' : 'unverified');
}

interface TimesRow {
  readonly name: string;
  readonly issued: number;
  readonly acknowledged: number;
  /** Acknowledged only after the line was back, although issued before. */
  readonly waited: number;
  /** Middle, p99 and slowest, in milliseconds: until the till was answered, and from then until the server had acknowledged. */
  readonly answer: readonly number[];
  readonly acknowledgement: readonly number[];
}

function timesOf({ sales, cutAtMs, backAtMs }: Day, watch: AckWatch): TimesRow[] {
  const issued = sales.filter(({ outcome }) => outcome.kind === 'issued' && !outcome.issued.repeated);
  const ackedAtMs = ({ outcome }: Sale): number | null => (outcome.kind === 'issued' ? watch.ackedAtMs(outcome.issued.number) : null);
  const row = (name: string, those: readonly Sale[]): TimesRow => {
    const acked = those.flatMap((sale) => {
      const at = ackedAtMs(sale);
      return at === null ? [] : [{ at, answeredAtMs: sale.answeredAtMs }];
    });
    return {
      name,
      issued: those.length,
      waited: acked.filter(({ at, answeredAtMs }) => answeredAtMs < backAtMs && at > backAtMs).length,
      acknowledged: acked.length,
      answer: spread(those.map(({ tookMs }) => tookMs)),
      acknowledgement: spread(acked.map(({ at, answeredAtMs }) => Math.max(0, at - answeredAtMs))),
    };
  };
  return [
    row(
      'before the cut',
      issued.filter(({ answeredAtMs }) => answeredAtMs < cutAtMs),
    ),
    row(
      'line cut',
      issued.filter(({ answeredAtMs }) => answeredAtMs >= cutAtMs && answeredAtMs < backAtMs),
    ),
    row(
      'line back',
      issued.filter(({ answeredAtMs }) => answeredAtMs >= backAtMs),
    ),
  ];
}

function spread(valuesMs: readonly number[]): number[] {
  const durations = durationsOf(valuesMs);
  return durations === null ? [] : [durations.p50Ms, durations.p99Ms, durations.maxMs];
}

function timesText(rows: readonly TimesRow[]): string {
  const three = (values: readonly number[]): string => values.map(durationText).join(' / ');
  const cells = rows.map((row) => [
    ...[row.name, String(row.issued), String(row.waited), String(row.acknowledged)],
    ...[three(row.answer), three(row.acknowledgement)],
  ]);
  return table(
    ['', 'issued', 'waited', 'acknowledged', 'answered in (p50 / p99 / max)', 'acknowledged after (p50 / p99 / max)'],
    cells,
    [1, 2, 3, 4, 5],
  );
}

/** A small invoice that was issued while the line was cut; any, when there is none. */
function shownNumber({ sales, cutAtMs, backAtMs }: Day): string | null {
  const numbers = (those: readonly Sale[]): string[] =>
    those.flatMap(({ outcome }) => (outcome.kind === 'issued' ? [outcome.issued.number] : []));
  const nice = sales.filter(
    ({ invoice, answeredAtMs }) =>
      invoice.kind === 'invoice' &&
      invoice.rows.length > 1 &&
      invoice.rows.length <= shownMaxLines &&
      answeredAtMs >= cutAtMs &&
      answeredAtMs < backAtMs,
  );
  return numbers(nice)[0] ?? numbers(sales)[0] ?? null;
}

/** Which day of the sandbox this is; a key is used once per day. */
class RunMemory {
  readonly #file: string;
  readonly #finished: number;

  constructor(file: string) {
    this.#file = file;
    this.#finished = existsSync(file)
      ? check(z.strictObject({ finished: z.int().min(0) }), JSON.parse(readFileSync(file, 'utf8'))).finished
      : 0;
  }

  get keyPrefix(): string {
    return `day-${this.#finished + 1}/`;
  }

  finish(): void {
    writeFile(this.#file, `${JSON.stringify({ finished: this.#finished + 1 })}\n`, '--dir');
  }
}

function whatNext(world: World, dir: string): string {
  const { layout } = world;
  const shownDir = path.relative(process.cwd(), dir) || '.';
  const at = shownDir.startsWith('..') ? dir : shownDir;
  const ctl = 'npm run -s ukeyctl --';
  return [
    '',
    'It stays up until Ctrl-C. In another terminal, try:',
    `  ${ctl} status --socket ${layout.adminSocket}`,
    `  ${ctl} sandbox --dir ${at} link down        (and up)`,
    `  ${ctl} sandbox --dir ${at} token unplug     (and plug)`,
    `  ${ctl} sandbox --dir ${at} verify`,
    `  kill -9 ${world.facts().daemonPid}    (the service comes back by itself)`,
    `  python3 docs/till.py ${layout.socket} till-1 ${layout.secretFile}`,
    `The ticket server shows what it has at ${world.serverUrl}/`,
  ].join('\n');
}
