// Owns: how far an export that was interrupted has come: FILE.part, read and verified from its beginning to the last batch that is whole.
// Invariants: nothing of FILE.part is believed that does not hold; what stands behind the last whole batch (torn, or spoilt by a power cut)
// is written again. A file that is no export of this form is refused, and left as it is.
import { statSync } from 'node:fs';
import type { Trust } from '#ctl/certificates.ts';
import { usage } from '#ctl/exit-codes.ts';
import { ExportCheck } from '#ctl/export/export-check.ts';
import type { Spelling } from '#ctl/export/spelling.ts';
import type { Tally } from '#ctl/export/tally.ts';
import { openPieces } from '#ctl/input.ts';
import { openProgress } from '#ctl/progress.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { ExportOrigin } from '#ipc-schema/export.ts';

export interface Resumed {
  readonly origin: ExportOrigin;
  /** Bytes that hold: up to and with the last whole batch. */
  readonly keepBytes: number;
  /** Counted over them. */
  readonly tally: Tally;
  /** The end is there: only the name is missing. */
  readonly isWhole: boolean;
}

const noTrust: Trust = { kind: 'none' };
/** How an export of either form begins. */
const beginnings = { jsonl: '{"format":"ukey-export/1"', tar: 'origin.json\0' } as const;

/** null: there is nothing yet, or not even a whole origin. */
export async function readPart(part: string, spelling: Spelling): Promise<Resumed | null> {
  const size = statSync(part, { throwIfNoEntry: false })?.size;
  if (size === undefined) return null;
  using pieces = openPieces(part, '--output');
  using progress = openProgress('Checking', size);
  const start = (await pieces.peek(beginnings[spelling.name].length)).toString('latin1', 0, beginnings[spelling.name].length);
  if (!beginnings[spelling.name].startsWith(start)) {
    throw usage(`${part} is no export of the form ${spelling.name}`, {
      field: '--output',
      action: 'Name the form that it was begun with, or remove it.',
    });
  }
  let check: ExportCheck | null = null;
  let good: Resumed | null = null;
  try {
    for await (const { record, bytes } of spelling.read(pieces)) {
      if (check !== null) check.add(record, bytes);
      else if (record.kind === 'origin') check = new ExportCheck(record.origin, bytes, noTrust);
      else break;
      if (check.atBoundary || check.end !== null)
        good = { origin: check.origin, keepBytes: pieces.takenBytes, tally: check.tally, isWhole: check.end !== null };
      progress.show(pieces.takenBytes);
    }
  } catch (thrown) {
    // Cut off, or spoilt: what comes from here on is written again. A file that cannot be read is another matter.
    const { code } = asUkeyError(thrown);
    if (code !== 'invalid-request' && code !== 'too-large') throw thrown;
    if (asUkeyError(thrown).field === '--output' && asUkeyError(thrown).cause !== undefined) throw thrown;
  }
  return good;
}
