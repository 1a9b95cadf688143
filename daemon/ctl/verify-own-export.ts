// Owns: `ukeyctl verify --export FILE`: what `ukeyctl export` wrote, in either form, with public keys alone.
// Invariants: read a piece at a time, so that the file may be larger than memory; what the export cannot prove (a selection, a beginning
// that is not the ledger's) is said.
import { statSync } from 'node:fs';
import { doubt, fingerprintOf, readTrust, type Trust } from '#ctl/certificates.ts';
import type { Given } from '#ctl/command.ts';
import { endingOf, usage } from '#ctl/exit-codes.ts';
import { ExportCheck } from '#ctl/export/export-check.ts';
import { jsonLines } from '#ctl/export/spelling.ts';
import { tar } from '#ctl/export/tar.ts';
import { type InputPieces, openPieces, stdinName } from '#ctl/input.ts';
import { brokenBehind, sumsText } from '#ctl/ledger-text.ts';
import { openProgress } from '#ctl/progress.ts';
import { counted, facts, type Screen, table } from '#ctl/screen.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import type { UkeyError } from '#ipc-schema/errors.ts';
import type { ExportEnd } from '#ipc-schema/export.ts';

export async function runVerifyOwnExport(file: string, given: Given, screen: Screen): Promise<void> {
  const trust = await readTrust(given.text('authority'));
  using progress = openProgress('Verifying', file === stdinName ? null : (statSync(file, { throwIfNoEntry: false })?.size ?? null));
  using pieces = openPieces(file, '--export');
  const check = await walk(pieces, trust, (done) => progress.show(done));
  progress.end();
  answer(check, screen);
}

async function walk(pieces: InputPieces, trust: Trust, show: (doneBytes: number) => void): Promise<ExportCheck> {
  const first = (await pieces.peek(1))[0];
  if (first === undefined) throw usage('the file is empty', { field: '--export' });
  let check: ExportCheck | null = null;
  try {
    for await (const { record, bytes } of (first === 0x7b ? jsonLines : tar).read(pieces)) {
      if (check !== null) check.add(record, bytes);
      else if (record.kind === 'origin') check = new ExportCheck(record.origin, bytes, trust);
      else throw malformed('export', 'does not begin with an origin');
      show(pieces.takenBytes);
    }
    if (check?.end == null) throw malformed('export', 'is cut off: it has no end');
    return check;
  } catch (thrown) {
    throw broken(thrown, check);
  }
}

function broken(thrown: unknown, check: ExportCheck | null): UkeyError {
  const { error, exit } = endingOf(thrown);
  if (check === null || exit !== 'internal') return doubt(thrown);
  return brokenBehind(error, check.counts);
}

function answer(check: ExportCheck, screen: Screen): void {
  const { origin, token, findings, findingsCount } = check;
  const { fromBatch, toBatch, fromSequence, toSequence, kinds, asked } = origin;
  const { batches, entries, byKind, sums, head } = check.end as ExportEnd;
  const isEmpty = toSequence < fromSequence;
  const isSelection = kinds !== null;
  const authority = token.authority === null ? null : fingerprintOf(token.authority);
  const holds = findingsCount === 0;
  const value = {
    holds,
    tokenId: origin.tokenId,
    range: isEmpty ? null : { fromBatch, toBatch, fromSequence, toSequence },
    asked,
    selection: kinds,
    /** Every entry of the range is there. */
    complete: !isSelection,
    ...{ batches, entries, byKind, sums, head },
    authority,
    trusted: token.trusted,
    findings,
    findingsCount,
  };
  const said = Object.entries(byKind).map(([kind, count]) => `${count} ${kind}`);
  const gap = isSelection ? `: a selection (${kinds.join(', ')}), of which it is not proven that nothing was left out` : ', without a gap';
  const text = facts([
    ['Verdict', holds ? 'holds' : `does NOT hold: ${counted(findingsCount, 'finding')}`],
    ['From', 'an export of ukeyctl'],
    ['Token id', origin.tokenId],
    ['Range', isEmpty ? 'nothing' : `sequence ${fromSequence} to ${toSequence}, batch ${fromBatch} to ${toBatch}`],
    ['Entries', `${entries}${said.length === 0 ? '' : ` (${said.join(', ')})`}${gap}`],
    ['Head', head === null ? null : `batch ${head.batch}, seal ${head.sealHash}`],
    ['Authority', authority === null ? 'not checked' : `${authority}${token.trusted ? ', as trusted' : ''}`],
    [
      'Note',
      token.trusted ? null : 'the authority is not proven: compare the fingerprint with the published one, or name it with --authority',
    ],
  ]);
  screen.answer(value, [text, sumsText(sums), findingsText(check)].filter((part) => part !== '').join('\n'), holds ? 'done' : 'unverified');
}

function findingsText({ findings, findingsCount }: ExportCheck): string {
  if (findings.length === 0) return '';
  const rest = findingsCount - findings.length;
  const rows = findings.map(({ sequence, what }) => [String(sequence), what]);
  return table(['Sequence', 'Finding'], rows, [0]) + (rest === 0 ? '' : `and ${rest} more\n`);
}
