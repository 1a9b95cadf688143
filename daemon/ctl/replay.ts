// Owns: `ukeyctl replay FILE`: a whole file of real sales goes through a sandbox's socket, and everything must add up at the end.
// Checked: every document has one outcome; refused are exactly those that are no sale; the sums equal the file's to the cent; what the
// token holds and what the server holds are the same, batch by batch, and amount to what the tills were told.
// Invariants: a sandbox that it made is stopped and removed, also where a signal ends it, unless something does not add up: then it is kept
// and named.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { gunzipSync } from 'node:zlib';
import type { Command } from '#ctl/command.ts';
import { endingAs, usage } from '#ctl/exit-codes.ts';
import { readInput } from '#ctl/input.ts';
import { openProgress } from '#ctl/progress.ts';
import { type Accounts, accountsOf, accountsText } from '#ctl/replay/accounts.ts';
import { type Durations, durationsOf, durationText } from '#ctl/replay/figures.ts';
import { type Sale, sell } from '#ctl/replay/selling.ts';
import { drained, openTill } from '#ctl/replay/tills.ts';
import { centsOfText, centsText, type RetailInvoice, readRetail } from '#ctl/retail.ts';
import { counted, type Screen } from '#ctl/screen.ts';
import { type StopSignal, stopSignal } from '#ctl/stop-signal.ts';
import type { WorldVerdict } from '#ctl/world/verify-world.ts';
import { World, type WorldFacts } from '#ctl/world/world.ts';
import { decodeUtf8 } from '#ipc-schema/json.ts';

const fileMaxBytes = 256 * 1024 * 1024;
const defaultTills = 8;
const tillsMax = 64;
/** Requests that each till keeps open. */
const perTill = 4;
/** As of a process that SIGINT ended. */
const interruptedStatus = 130;
const gzipMagic = [0x1f, 0x8b] as const;

export const replay: Command = {
  kind: 'command',
  name: 'replay',
  summary: 'send a file of real sales through a sandbox and see that everything adds up',
  arguments: [{ name: '<file>', description: 'CSV of the Online Retail data set, also gzipped (docs/retail-data.md)' }],
  options: [
    { flags: '--dir <folder>', description: 'sandbox to use and keep (default: one that is removed at the end)' },
    { flags: '--module <library>', description: 'as of sandbox' },
    { flags: '--tills <count>', description: `connections at once (default: ${defaultTills})` },
  ],
  examples: [
    'replay test/data/retail-day.csv',
    'replay online-retail.csv.gz --tills 16',
    'replay day.csv --dir /tmp/shop --module none --json',
  ],
  async run(given, screen) {
    const file = given.needArgument(0);
    const invoices = await readFile(file);
    const tills = tillCount(given.text('tills'));
    const kept = given.text('dir');
    const stop = stopSignal();
    const dir = kept ?? mkdtempSync(path.join(tmpdir(), 'ukeyd-replay-'));
    const report = await replayIn({ dir, module: given.text('module'), tills, invoices, screen, stop });
    if (report === null) {
      if (kept === undefined) rmSync(dir, { recursive: true, force: true });
      process.exit(interruptedStatus); // tills that still wait for an answer would keep it alive
    }
    if (kept === undefined) {
      if (report.addsUp) rmSync(dir, { recursive: true, force: true });
      else screen.note(`The sandbox is kept in ${dir}`);
    }
    screen.answer(plainReport(report), reportText(file, invoices, report), report.addsUp ? 'done' : 'unverified');
  },
};

interface ReplayParts {
  readonly dir: string;
  readonly module: string | undefined;
  readonly tills: number;
  readonly invoices: readonly RetailInvoice[];
  readonly screen: Screen;
  readonly stop: StopSignal;
}

interface ReplayReport {
  readonly addsUp: boolean;
  readonly module: string;
  readonly accounts: Accounts;
  readonly verdict: WorldVerdict;
  readonly faults: readonly string[];
  readonly seconds: number;
  readonly answers: Durations | null;
}

/** Null: a signal came before its end. Nothing of the sandbox runs afterwards. */
async function replayIn(parts: ReplayParts): Promise<ReplayReport | null> {
  const { dir, module, screen, stop } = parts;
  const world = await World.claim({ dir, module, note: (text) => screen.note(text) });
  try {
    return await Promise.race([replayThrough(world, parts), stop.given.then(() => null)]);
  } catch (thrown) {
    if (stop.isGiven()) return null; // what fails because it was stopped is no failure
    throw thrown;
  } finally {
    await world.close();
  }
}

async function replayThrough(world: World, { tills, invoices, screen }: ReplayParts): Promise<ReplayReport> {
  await world.start();
  const facts = world.facts();
  screen.note(`${counted(invoices.length, 'document')} through ${counted(tills, 'till')} into ${facts.module}`);
  const { sales, seconds } = await sellAll(facts, tills, invoices, screen);
  const { verifyWorld } = await import('#ctl/world/verify-world.ts');
  const verdict = await verifyWorld(world.layout, world.memory, world.serverUrl);
  const accounts = accountsOf(invoices, sales);
  const faults = [...accounts.faults, ...verdict.differences, ...ledgerFaults(sales, verdict)];
  return {
    addsUp: faults.length === 0,
    module: facts.module,
    accounts,
    verdict,
    faults,
    seconds,
    answers: durationsOf(sales.map(({ tookMs }) => tookMs)),
  };
}

async function sellAll(
  facts: WorldFacts,
  count: number,
  invoices: readonly RetailInvoice[],
  screen: Screen,
): Promise<{ sales: Sale[]; seconds: number }> {
  const tills = await Promise.all(Array.from({ length: count }, () => openTill(facts, screen)));
  try {
    const startedMs = performance.now();
    using selling = openProgress('Issuing', invoices.length);
    let done = 0;
    const sales = await sell({
      invoices,
      tills,
      inFlight: count * perTill,
      template: facts.template,
      keyPrefix: '',
      paceMs: 0,
      onSale: () => selling.show(++done),
    });
    const seconds = (performance.now() - startedMs) / 1_000;
    selling.end();
    const [till] = tills;
    using waiting = openProgress('Acknowledged', sales.length);
    if (till !== undefined) await drained(till, (pending) => waiting.show(Math.max(0, sales.length - pending)));
    return { sales, seconds };
  } finally {
    for (const till of tills) till.close();
  }
}

/** The ledger as it was read back against what the tills were told. A sandbox that held documents before holds more. */
export function ledgerFaults(sales: readonly Sale[], { store }: WorldVerdict): string[] {
  const issued = sales.flatMap(({ invoice, outcome }) =>
    outcome.kind === 'issued' ? [{ kind: invoice.kind, total: outcome.issued.total }] : [],
  );
  const sums = store.sums[0];
  const held = { invoice: sums?.invoices ?? 0, 'credit-note': sums?.creditNotes ?? 0 };
  if (held.invoice + held['credit-note'] > issued.length) return [];
  const totals = { invoice: sums?.invoiceTotal ?? '0', 'credit-note': sums?.creditNoteTotal ?? '0' };
  return (['invoice', 'credit-note'] as const).flatMap((kind) => {
    const those = issued.filter((one) => one.kind === kind);
    const told = those.reduce((sum, one) => sum + centsOfText(one.total), 0n);
    const found = centsOfText(withCents(totals[kind]));
    if (those.length !== held[kind])
      return [`the ledger holds ${held[kind]} documents of kind ${kind}, the tills were told of ${those.length}`];
    return told === found ? [] : [`the ledger's ${kind} total ${centsText(found)} is not the ${centsText(told)} that the tills were told`];
  });
}

/** `12` and `12.5` as `12.00` and `12.50`. */
function withCents(sum: string): string {
  const [whole = '', fraction = ''] = sum.split('.');
  return `${whole}.${fraction.padEnd(2, '0')}`;
}

async function readFile(file: string): Promise<RetailInvoice[]> {
  const bytes = await readInput(file, '<file>', fileMaxBytes);
  return await endingAs('usage', () => {
    const isZipped = gzipMagic.every((byte, at) => bytes[at] === byte);
    return readRetail(decodeUtf8(isZipped ? gunzipSync(bytes, { maxOutputLength: fileMaxBytes }) : bytes));
  });
}

function tillCount(text: string | undefined): number {
  if (text === undefined) return defaultTills;
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > tillsMax)
    throw usage(`--tills is a whole number from 1 to ${tillsMax}`, { field: '--tills' });
  return count;
}

function reportText(file: string, invoices: readonly RetailInvoice[], report: ReplayReport): string {
  const { accounts, verdict, faults, seconds, answers } = report;
  const lines = invoices.reduce((sum, { rows }) => sum + rows.length, 0);
  const speed = `${(invoices.length / seconds).toFixed(0)} documents/s`;
  return [
    `${path.basename(file)}: ${counted(invoices.length, 'document')}, ${counted(lines, 'line')}; token: ${report.module}`,
    accountsText(accounts),
    `Answered in ${durationText(answers?.p50Ms ?? 0)} (middle), ${durationText(answers?.p99Ms ?? 0)} (p99), ${durationText(answers?.maxMs ?? 0)} (slowest); ${seconds.toFixed(1)} s in all, ${speed}.`,
    verdict.holds
      ? `Server = ledger: ${verdict.equalBatches} batches equal, ${verdict.store.pending} documents not acknowledged.`
      : 'Server and ledger do NOT agree.',
    report.addsUp ? 'Everything adds up.' : `DOES NOT ADD UP:\n${faults.map((fault) => `  ${fault}`).join('\n')}`,
  ].join('\n');
}

/** JSON has no big integers: amounts as text. */
function plainReport({ accounts, verdict, ...report }: ReplayReport): object {
  const amount = centsText;
  return {
    ...report,
    kinds: accounts.kinds.map(({ name, documents, byFile, byAnswers }) => ({
      name,
      documents,
      byFile: amount(byFile),
      byAnswers: amount(byAnswers),
      difference: amount(byAnswers - byFile),
    })),
    refused: accounts.refused.map(({ reason, documents, cents }) => ({ reason, documents, byFile: amount(cents) })),
    repeated: accounts.repeated,
    creditsByNumber: accounts.creditsByNumber,
    creditsExternal: accounts.creditsExternal,
    givenAway: accounts.givenAway,
    verdict: { holds: verdict.holds, equalBatches: verdict.equalBatches, pending: verdict.store.pending, sums: verdict.store.sums },
  };
}
