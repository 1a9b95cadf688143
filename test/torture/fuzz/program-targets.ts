// Owns: the targets of what the programs read from files and from each other: configuration, CSV, exports in both forms, the soft token's file,
// messages between front and holder, and what a till or a server may put into a document.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readCsv } from '#ctl/csv.ts';
import { jsonLines, type Spelling } from '#ctl/export/spelling.ts';
import { tar } from '#ctl/export/tar.ts';
import type { InputPieces } from '#ctl/input.ts';
import { receiptText } from '#ctl/receipt.ts';
import { retailColumns } from '#ctl/retail.ts';
import { parseConfig } from '#ground/config.ts';
import { decodeLeaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { documentFlaw, parsedFlaw } from '#server/document-check.ts';
import { BuiltLedger } from '#test/support/built-ledger.ts';
import { recordsOfLedger, spelled } from '#test/support/exported.ts';
import { charter, evidenceOf, hex, tokenId } from '#test/vectors/world.ts';
import { readSoftTokenFile } from '#token/soft-token-file.ts';
import { Changed, decoded, equal, type FuzzTarget, isRefusal, json, utf8 } from './target.ts';

const configText = [
  'state = "state"',
  'socket = "run/ukeyd.sock"',
  'admin_socket = "run/admin.sock"',
  '[token]',
  'soft_token = "token/key.json"',
  'flash = "token/flash.img"',
  'flash_mib = 64',
  'presence = ["token/key.json"]',
  '[mirror]',
  'mode = "sync"',
  '[upload]',
  'probe = "*/15 * * * * *"',
  '[log]',
  'level = "info"',
].join('\n');

function judgeConfig(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  return decoded(() => parseConfig(Buffer.from(input).toString('utf8'), '/base')) === null ? 'refused' : 'decoded';
}

const csvText = `${retailColumns.join(',')}\r\n536365,85123A,"WHITE ""HANGING"" HEART, T-LIGHT",6,2010-12-01 08:26:00,2.55,17850,United Kingdom\r\nC536365,85123A,A,-6,2010-12-01 08:26:00,2.55,,"Two\nlines"\n`;

/** Written again with every field in quotes, it is the same table. */
function judgeCsv(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const found = decoded(() => readCsv(Buffer.from(input).toString('utf8'), retailColumns));
  if (found === null) return 'refused';
  const quoted = found.value.map((row) => retailColumns.map((name) => `"${row[name].replaceAll('"', '""')}"`).join(','));
  equal('a table', readCsv([retailColumns.join(','), ...quoted].join('\n'), retailColumns), found.value);
  return 'decoded';
}

/** The bytes as a file that is read in pieces. */
function piecesOf(bytes: Buffer): InputPieces {
  let taken = 0;
  const cut = (length: number): Buffer => {
    taken += length;
    return bytes.subarray(taken - length, taken);
  };
  return {
    get takenBytes() {
      return taken;
    },
    peek: async (length) => bytes.subarray(taken, taken + length),
    take: async (length) => {
      if (length > bytes.length - taken) throw new UkeyError('invalid-request', 'cut off');
      return cut(length);
    },
    line: async (maxBytes) => {
      if (taken === bytes.length) return null;
      const end = bytes.indexOf(0x0a, taken);
      if (end < 0 && bytes.length - taken > maxBytes) throw new UkeyError('invalid-request', 'too long');
      const line = cut(end < 0 ? bytes.length - taken : end + 1 - taken);
      return end < 0 ? line : line.subarray(0, line.at(-2) === 0x0d ? -2 : -1);
    },
    [Symbol.dispose]: () => undefined,
  };
}

/** Each record that is given out stands in the archive as it would be written, or its bytes say what was read. */
function judgeExport(spelling: Spelling): FuzzTarget['judge'] {
  return async (input) => {
    let records = 0;
    try {
      for await (const { record, bytes } of spelling.read(piecesOf(Buffer.from(input)))) {
        records += 1;
        if (spelling.name === 'jsonl') equal('a record', JSON.parse(Buffer.from(bytes).toString('utf8')), plainRecord(record));
      }
    } catch (thrown) {
      isRefusal(thrown);
      return records > 0 ? 'decoded' : 'refused';
    }
    return 'decoded';
  };
}

function plainRecord(record: Parameters<Spelling['encode']>[0]): unknown {
  switch (record.kind) {
    case 'origin':
      return record.origin;
    case 'seal':
      return record.seal;
    case 'entry':
      return record.entry;
    case 'end':
      return { end: record.end };
  }
}

const invoice = evidenceOf(3).entry;
const parsed = decodeLeaf(invoice.leaf);
const owner = { tokenId: hex(tokenId), issuerTaxId: charter.issuer.taxId };

/** The server's quick way says "good" only where the whole reading does; neither throws. A document that is good can be printed. */
function judgeBody(input: Uint8Array): ReturnType<FuzzTarget['judge']> {
  const entry = { leaf: new Uint8Array(), body: input, parsed: { ...parsed, bodyHash: sha256(input) } };
  const [quick, whole] = [documentFlaw(entry, owner), parsedFlaw(entry, owner)];
  if ((quick === null) !== (whole === null)) throw new Changed(`the quick reading says ${quick}, the whole one ${whole}`);
  if (whole !== null) return 'refused';
  receiptText(Buffer.from(input).toString('utf8'));
  return 'decoded';
}

const softToken = {
  format: 'ukeyd embedded soft token',
  version: 1,
  kdf: 'scrypt-32768-8-1',
  kind: 'provisioned',
  serial: 'S1',
  label: 'l',
  triesLeft: 8,
  soTriesLeft: 8,
  user: { salt: 'AA==', box: 'AA==' },
  so: { salt: 'AA==', box: 'AA==' },
  publicKey: 'AA==',
  vault: 'AA==',
};

/** A folder for the one decoder that reads a file by its name; removed with the process that made it. */
function softTokenTarget(): FuzzTarget {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-fuzz-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const file = path.join(folder, 'key.json');
  const seeds = [softToken, { format: softToken.format, version: 1, kdf: softToken.kdf, kind: 'blank', serial: 'S1' }].map(json);
  const judge: FuzzTarget['judge'] = (input) => {
    writeFileSync(file, input, { mode: 0o600 });
    return decoded(() => readSoftTokenFile(file), ['token-failed']) === null ? 'refused' : 'decoded';
  };
  return { name: 'soft-token-file', form: 'text', seeds, judge };
}

export async function programTargets(): Promise<readonly FuzzTarget[]> {
  const ledger = await BuiltLedger.begin();
  ledger.invoices(2);
  ledger.add([ledger.draft({ kind: 'credit-note' }), ledger.acknowledgement(2)]);
  const { origin, records } = recordsOfLedger(ledger);
  return [
    { name: 'configuration', form: 'text', seeds: [utf8(configText)], judge: judgeConfig },
    { name: 'csv', form: 'text', seeds: [utf8(csvText)], judge: judgeCsv },
    { name: 'export-jsonl', form: 'text', seeds: [spelled(origin, records, jsonLines)], judge: judgeExport(jsonLines) },
    { name: 'export-tar', form: 'bytes', seeds: [spelled(origin, records, tar)], judge: judgeExport(tar) },
    { name: 'document-body', form: 'text', seeds: [invoice.body], judge: judgeBody },
    softTokenTarget(),
  ];
}
