// Owns: `ukeyctl export`: a range of the ledger as a file (docs/export.md), streamed from the service, with what proves it.
// Invariants: nothing is written that does not hold; memory does not grow with the range; the range is fixed at the beginning, and an
// export that was interrupted ends with the same bytes as one that was not.
import { holding } from '#ctl/certificates.ts';
import type { Command, Given } from '#ctl/command.ts';
import { serviceOptions, withService } from '#ctl/connection.ts';
import { endAs, usage } from '#ctl/exit-codes.ts';
import { LedgerKeys } from '#ctl/export/keys.ts';
import { LedgerPages } from '#ctl/export/ledger-pages.ts';
import { checkPlace, openSink, partOf, type Sink } from '#ctl/export/part-file.ts';
import { findRange } from '#ctl/export/range.ts';
import { isChosen, recordsOf } from '#ctl/export/records.ts';
import { type Resumed, readPart } from '#ctl/export/resumed.ts';
import { jsonLines, type Spelling } from '#ctl/export/spelling.ts';
import { Tally } from '#ctl/export/tally.ts';
import { tar } from '#ctl/export/tar.ts';
import { stdinName } from '#ctl/input.ts';
import { openProgress } from '#ctl/progress.ts';
import { counted, facts, type Screen } from '#ctl/screen.ts';
import { decodeBatch, decodeSeal } from '#ipc-schema/batch.ts';
import { type EntryKind, entryKinds } from '#ipc-schema/entry.ts';
import { type ExportAsked, type ExportOrigin, type ExportRecord, exportAskedSchema, exportFormat } from '#ipc-schema/export.ts';
import type { Result } from '#ipc-schema/methods.ts';
import { check } from '#ipc-schema/schema.ts';
import { type ChainHead, chainStart, verifyBatch } from '#ipc-schema/verify.ts';

const spellings = { jsonl: jsonLines, tar } as const;

export const exportCommand: Command = {
  kind: 'command',
  name: 'export',
  summary: 'a range of the ledger with its evidence, as JSON Lines or TAR',
  options: [
    ...serviceOptions,
    { flags: '--output <file>', description: 'where to; - is stdout' },
    { flags: '--format <form>', description: 'jsonl or tar (default: jsonl)' },
    { flags: '--from <sequence>', description: 'begin with this entry (default: the oldest that the token keeps)' },
    { flags: '--from-number <number>', description: 'begin with the document of this number' },
    { flags: '--since <time>', description: 'begin with what was issued at this time or later: 2026-03-01, or 2026-03-01T08:00:00Z' },
    { flags: '--to <sequence>', description: 'end with this entry (default: the newest at this moment)' },
    { flags: '--until <time>', description: 'only what was issued before this time' },
    { flags: '--kind <kinds>', description: `only entries of these kinds: ${Object.keys(entryKinds).join(', ')}, with commas` },
    { flags: '--resume', description: 'go on with an export that was interrupted; the rest of the command as it was' },
  ],
  examples: [
    'export --output ledger.jsonl',
    'export --since 2026-03-01 --until 2026-04-01 --format tar --output march.tar',
    'export --from 10001 --kind invoice,credit-note --output - | erp-import',
    'export --output ledger.jsonl --resume',
  ],
  run: runExport,
};

/** What the command line says. */
interface Order {
  readonly file: string;
  readonly spelling: Spelling;
  readonly asked: ExportAsked;
  readonly kinds: readonly EntryKind[] | null;
  readonly resume: boolean;
}

async function runExport(given: Given, screen: Screen): Promise<void> {
  const order = orderOf(given, screen);
  checkPlace(order.file, order.resume);
  const before = order.resume ? await readPart(partOf(order.file), order.spelling) : null;
  if (before !== null) checkSame(order, before.origin);
  const isResumable = order.file !== stdinName;
  using _interruption = onInterruption(() => {
    if (isResumable) screen.note('interrupted: go on by the same command with --resume');
  });
  await withService(given, screen, async (service) => {
    const pages = new LedgerPages(service, (what) => screen.note(what));
    const identity = await pages.ask('service.identity', {});
    if (before !== null && identity.tokenId !== before.origin.tokenId)
      throw usage('what was begun is of another token', { field: '--resume', action: 'Name the service that it was begun with.' });
    const origin = before?.origin ?? (await originOf(pages, identity, order, screen));
    await writeOut({ order, origin, before, pages, screen });
  });
}

function orderOf(given: Given, screen: Screen): Order {
  const file = given.needText('output');
  if (file === stdinName && screen.json)
    throw usage('--json answers on stdout, where the export goes', { field: '--json', action: 'Name a file with --output.' });
  const form = given.text('format') ?? 'jsonl';
  if (form !== 'jsonl' && form !== 'tar') throw usage('--format is jsonl or tar', { field: '--format' });
  return { file, spelling: spellings[form], asked: askedOf(given), kinds: kindsOf(given), resume: given.flag('resume') };
}

function askedOf(given: Given): ExportAsked {
  if (['from', 'fromNumber', 'since'].filter((name) => given.text(name) !== undefined).length > 1)
    throw usage('--from, --from-number and --since exclude each other', { field: '--from' });
  if (given.text('to') !== undefined && given.text('until') !== undefined)
    throw usage('--to and --until exclude each other', { field: '--to' });
  const fromNumber = given.text('fromNumber');
  const asked = {
    ...sequenceOf(given, 'from'),
    ...(fromNumber === undefined ? {} : { fromNumber }),
    ...timeOf(given, 'since'),
    ...sequenceOf(given, 'to'),
    ...timeOf(given, 'until'),
  };
  try {
    return check(exportAskedSchema, asked);
  } catch (thrown) {
    throw endAs('usage', thrown);
  }
}

function sequenceOf(given: Given, name: 'from' | 'to'): Partial<Record<'from' | 'to', number>> {
  const value = given.text(name);
  if (value === undefined) return {};
  if (!/^[1-9]\d{0,14}$/.test(value)) throw usage(`--${name} is not a whole number from 1`, { field: `--${name}` });
  return { [name]: Number(value) };
}

function timeOf(given: Given, name: 'since' | 'until'): Partial<Record<'since' | 'until', string>> {
  const value = given.text(name);
  if (value === undefined) return {};
  const instant = /^\d{4}-\d{2}-\d{2}$/.test(value) ? `${value}T00:00:00Z` : value;
  if (!/T.*(?:Z|[+-]\d{2}:\d{2})$/.test(instant) || Number.isNaN(Date.parse(instant)))
    throw usage(`--${name} is neither a date (then midnight UTC) nor an instant as 2026-03-01T08:00:00Z`, { field: `--${name}` });
  if (!isOfCalendar(instant)) throw usage(`--${name} is no date: its month has no such day`, { field: `--${name}` });
  return { [name]: instant };
}

/** JavaScript takes the 31st of November for the 1st of December. */
function isOfCalendar(instant: string): boolean {
  const [date = ''] = instant.split('T');
  return new Date(`${date}T00:00:00Z`).toISOString().startsWith(date);
}

function kindsOf(given: Given): readonly EntryKind[] | null {
  const value = given.text('kind');
  if (value === undefined) return null;
  const all = Object.keys(entryKinds) as EntryKind[];
  const wanted = value.split(',').map((name) => name.trim());
  const unknown = wanted.find((name) => !all.some((kind) => kind === name));
  if (unknown !== undefined) throw usage(`--kind knows ${all.join(', ')}`, { field: '--kind' });
  // In one order, so that the same command has the same bytes.
  return all.filter((kind) => wanted.includes(kind));
}

/** The rest of the command must be as it was: what is there is a beginning of that export alone. */
function checkSame({ asked, kinds }: Order, origin: ExportOrigin): void {
  const was = JSON.stringify([origin.asked, origin.kinds]);
  if (was === JSON.stringify([asked, kinds])) return;
  throw usage(`what was begun is another export: ${JSON.stringify({ ...origin.asked, kinds: origin.kinds })}`, {
    field: '--resume',
    action: 'Give the options that it was begun with, or name another file.',
  });
}

async function originOf(pages: LedgerPages, identity: Result<'service.identity'>, order: Order, screen: Screen): Promise<ExportOrigin> {
  const { oldestBatch, ...range } = await findRange(pages, order.asked);
  const isFromOldest = range.fromBatch === oldestBatch && order.asked.from === undefined && order.asked.fromNumber === undefined;
  if (oldestBatch > 1 && isFromOldest) {
    screen.note(
      `note: begins with sequence ${range.fromSequence} (batch ${oldestBatch}): what was before was acknowledged and released; the ticket server has it`,
    );
  }
  const { tokenId, authorityCertificate } = identity;
  const { asked, kinds } = order;
  return {
    format: exportFormat,
    ...{ tokenId, certificates: certificatesOf(identity), authorityCertificate, asked },
    kinds: kinds === null ? null : [...kinds],
    fromBatch: range.fromBatch,
    toBatch: range.toBatch,
    fromSequence: range.fromSequence,
    toSequence: range.toSequence,
  };
}

/** The enrolment certificate first; then one of each key, and the newest of the key in force at the end. */
function certificatesOf({ certificate, enrolmentCertificate, predecessors }: Result<'service.identity'>): string[] {
  return [...new Set([enrolmentCertificate, ...predecessors.map((one) => one.certificate), certificate])];
}

interface Work {
  readonly order: Order;
  readonly origin: ExportOrigin;
  readonly before: Resumed | null;
  readonly pages: LedgerPages;
  readonly screen: Screen;
}

async function writeOut({ order, origin, before, pages, screen }: Work): Promise<void> {
  const tally = before?.tally ?? new Tally();
  const sink = await openSink(order.file, before === null && !order.resume ? null : (before?.keepBytes ?? 0));
  const spell = (record: ExportRecord): Uint8Array => order.spelling.encode(record, origin);
  try {
    if (before === null) await writeCounted(sink, tally, [spell({ kind: 'origin', origin })]);
    if (before?.isWhole !== true) {
      await writeBatches({ origin, pages, tally, sink, spell });
      await sink.write(spell({ kind: 'end', end: tally.end() }));
    }
    await sink.finish();
  } finally {
    await sink.close();
  }
  answer(order, origin, tally, screen);
}

interface Writing {
  readonly origin: ExportOrigin;
  readonly pages: LedgerPages;
  readonly tally: Tally;
  readonly sink: Sink;
  spell(record: ExportRecord): Uint8Array;
}

/** From the batch behind those that are written. */
async function writeBatches({ origin, pages, tally, sink, spell }: Writing): Promise<void> {
  const { fromBatch, toBatch } = origin;
  const next = (tally.head?.batchIndex ?? fromBatch - 1) + 1;
  const keys = new LedgerKeys(origin, { kind: 'none' });
  using progress = openProgress('Exporting', toBatch - fromBatch + 1);
  for await (const page of pages.pages(next, toBatch)) {
    const out: Uint8Array[] = [];
    for (const bytes of page) {
      const head = tally.head ?? (fromBatch === 1 ? chainStart(keys.certificate) : headBefore(bytes));
      const batch = await holding(() => verifyBatch(bytes, keys.next(decodeBatch(bytes).sealBytes), head, keys.tokenId));
      tally.addBatch(batch.head);
      for (const record of recordsOf(batch, origin)) out.push(spell(record));
      for (const { parsed } of batch.entries.filter((entry) => isChosen(origin, entry))) tally.addEntry(parsed);
    }
    await writeCounted(sink, tally, out);
    progress.show(tally.batches);
  }
}

async function writeCounted(sink: Sink, tally: Tally, parts: readonly Uint8Array[]): Promise<void> {
  const bytes = Buffer.concat(parts);
  tally.addBytes(bytes);
  await sink.write(bytes);
}

/** What the first batch of the range names as its predecessor, under the KEY's signature, which is checked with it. */
function headBefore(firstBatch: Uint8Array): ChainHead {
  const { seal } = decodeSeal(decodeBatch(firstBatch).sealBytes);
  return { batchIndex: seal.batchIndex - 1, nextSequence: seal.firstSequence, sealHash: seal.previousSealHash };
}

function answer({ file }: Order, origin: ExportOrigin, tally: Tally, screen: Screen): void {
  const { batches, entries, byKind, sums, head } = tally.end();
  const { fromBatch, toBatch, fromSequence, toSequence, kinds } = origin;
  const isEmpty = toSequence < fromSequence;
  const range = isEmpty ? null : { fromBatch, toBatch, fromSequence, toSequence };
  const said = Object.entries(byKind).map(([kind, count]) => `${count} ${kind}`);
  const text = facts([
    ['Output', file === stdinName ? 'stdout' : file],
    ['Range', isEmpty ? 'nothing' : `sequence ${fromSequence} to ${toSequence}, batch ${fromBatch} to ${toBatch}`],
    ['Entries', `${counted(entries, 'entry', 'entries')}${said.length === 0 ? '' : ` (${said.join(', ')})`}`],
    ['Selection', kinds === null ? null : `only ${kinds.join(', ')}`],
    ...sums.map((one): [string, string] => [
      'Sum',
      `${one.currency} ${one.invoiceTotal} of ${counted(one.invoices, 'invoice')}, ${one.creditNoteTotal} of ${counted(one.creditNotes, 'credit note')}`,
    ]),
    ['Head', head === null ? null : `batch ${head.batch}, seal ${head.sealHash}`],
  ]);
  if (file === stdinName) screen.note(text.trimEnd());
  else screen.answer({ output: file, range, kinds, batches, entries, byKind, sums, head }, text);
}

/** SIGINT and SIGTERM end the process as ever, after a word: whatever was cut off is found by --resume. */
function onInterruption(tell: () => void): Disposable {
  const signals = ['SIGINT', 'SIGTERM'] as const;
  const end = (signal: NodeJS.Signals): void => {
    tell();
    stop();
    process.kill(process.pid, signal);
  };
  const stop = (): void => {
    for (const signal of signals) process.off(signal, end);
  };
  for (const signal of signals) process.on(signal, end);
  return { [Symbol.dispose]: stop };
}
