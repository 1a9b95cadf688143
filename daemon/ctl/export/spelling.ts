// Owns: what the two forms of an export have in common: records to bytes, and bytes to records again; and the form `jsonl`.
// Invariants: the bytes of a record depend on it and on the origin alone, so that an export that was interrupted goes on with the very bytes.
import type { InputPieces } from '#ctl/input.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { decodeExportRecord, type ExportOrigin, type ExportRecord, encodeExportRecord, exportLineMaxBytes } from '#ipc-schema/export.ts';

/** A record and the bytes that it was read from. */
export interface Spelled {
  readonly record: ExportRecord;
  readonly bytes: Uint8Array;
}

export interface Spelling {
  readonly name: 'jsonl' | 'tar';
  encode(record: ExportRecord, origin: ExportOrigin): Uint8Array;
  /** Throws invalid-request where the bytes are not records, or end within one. A record is not verified. */
  read(pieces: InputPieces): AsyncGenerator<Spelled>;
}

export const jsonLines: Spelling = {
  name: 'jsonl',
  encode: (record) => Buffer.from(`${encodeExportRecord(record)}\n`, 'utf8'),
  read: readLines,
};

async function* readLines(pieces: InputPieces): AsyncGenerator<Spelled> {
  for (;;) {
    const from = pieces.takenBytes;
    const line = await pieces.line(exportLineMaxBytes);
    if (line === null) return;
    if (pieces.takenBytes - from !== line.length + 1) throw malformed('export', 'ends within a line');
    yield { record: decodeExportRecord(line), bytes: Buffer.concat([line, lineEnd]) };
  }
}

const lineEnd = Buffer.from('\n');
