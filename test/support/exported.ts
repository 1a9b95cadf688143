// Owns: what tests of exports share: a service that gives out a built ledger, exports that are read and verified in this process, and their parts.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ExportCheck } from '#ctl/export/export-check.ts';
import { recordsOf } from '#ctl/export/records.ts';
import { jsonLines, type Spelling } from '#ctl/export/spelling.ts';
import { Tally } from '#ctl/export/tally.ts';
import { openPieces } from '#ctl/input.ts';
import { decodeSeal, sealHashOf } from '#ipc-schema/batch.ts';
import { decodeLeaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import { type ExportOrigin, type ExportRecord, exportFormat } from '#ipc-schema/export.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { chainStart, verifyBatch } from '#ipc-schema/verify.ts';
import type { BuiltLedger } from '#test/support/built-ledger.ts';
import type { Script } from '#test/support/fake-service.ts';

const pageBytes = 256 * 1024;

/** What the service answers for this ledger. `oldestBatch`: those before were released. `before`: called before each page. */
export function serving(ledger: BuiltLedger, oldestBatch = 1, before: (page: number) => void = () => undefined): Script {
  let pages = 0;
  const { certificate, authorityCertificate } = ledger.origin;
  return {
    'service.identity': () => ({
      tokenId: ledger.token.tokenId,
      certificate: certificate.toString('base64'),
      enrolmentCertificate: certificate.toString('base64'),
      authorityCertificate: authorityCertificate.toString('base64'),
      predecessors: [],
    }),
    'ledger.read': (params) => {
      pages += 1;
      before(pages);
      return pageOf(ledger, oldestBatch, params);
    },
  };
}

function pageOf({ batches }: BuiltLedger, oldestBatch: number, params: Params<'ledger.read'>): Result<'ledger.read'> {
  const { fromBatch, fromSequence, maxBytes = pageBytes } = params;
  const place = fromSequence === undefined ? -1 : batches.findIndex(({ head }) => head.nextSequence > fromSequence);
  const first = fromSequence === undefined ? (fromBatch ?? oldestBatch) : place < 0 ? batches.length + 1 : place + 1;
  if (first < oldestBatch) throw new UkeyError('not-found', 'released');
  const page: { batchIndex: number; bytes: string }[] = [];
  let bytes = 0;
  for (let at = first; at <= batches.length; at++) {
    const batch = batches[at - 1]?.bytes ?? new Uint8Array();
    bytes += batch.length;
    if (bytes > maxBytes && page.length > 0) break;
    page.push({ batchIndex: at, bytes: Buffer.from(batch).toString('base64') });
  }
  const next = first + page.length;
  return { batches: page, nextBatch: next > batches.length ? null : next, oldestBatch, newestBatch: batches.length };
}

/** A whole ledger as records, by the writer's parts. */
export function recordsOfLedger(
  ledger: BuiltLedger,
  change: Partial<ExportOrigin> = {},
): { origin: ExportOrigin; records: ExportRecord[] } {
  const { certificate, authorityCertificate } = ledger.origin;
  const origin: ExportOrigin = {
    format: exportFormat,
    tokenId: ledger.token.tokenId,
    certificates: [certificate.toString('base64')],
    authorityCertificate: authorityCertificate.toString('base64'),
    asked: {},
    kinds: null,
    fromBatch: 1,
    toBatch: ledger.batches.length,
    fromSequence: 1,
    toSequence: ledger.token.head.nextSequence - 1,
    ...change,
  };
  const records: ExportRecord[] = [];
  let head = chainStart(certificate);
  for (const { bytes } of ledger.batches) {
    const batch = verifyBatch(bytes, ledger.token.publicKey, head);
    head = batch.head;
    if (head.batchIndex >= origin.fromBatch && head.batchIndex <= origin.toBatch) records.push(...recordsOf(batch, origin));
  }
  return { origin, records };
}

/** The export of these records; the end is counted as the writer does where the records allow it. */
export function spelled(origin: ExportOrigin, records: readonly ExportRecord[], spelling: Spelling = jsonLines): Buffer {
  const tally = new Tally();
  const parts = [{ kind: 'origin', origin } as const, ...records].map((record) => spelling.encode(record, origin));
  for (const part of parts) tally.addBytes(part);
  for (const record of records) count(tally, record);
  return Buffer.concat([...parts, spelling.encode({ kind: 'end', end: tally.end() }, origin)]);
}

function count(tally: Tally, record: ExportRecord): void {
  if (record.kind === 'seal') {
    const { batchIndex, firstSequence, count: entries } = decodeSeal(Buffer.from(record.seal.seal, 'base64')).seal;
    tally.addBatch({
      batchIndex,
      nextSequence: firstSequence + entries,
      sealHash: sealHashOf(Buffer.from(record.seal.seal, 'base64')),
    });
  }
  if (record.kind === 'entry') tally.addEntry(decodeLeaf(decodeEvidence(Buffer.from(record.entry.evidence, 'base64')).leaf));
}

/** Reads and verifies; throws as the check does, or when there is no end. */
export async function verified(bytes: Uint8Array, spelling: Spelling = jsonLines): Promise<ExportCheck> {
  const directory = mkdtempSync(join(tmpdir(), 'ukey-exported-'));
  try {
    const file = join(directory, 'export');
    writeFileSync(file, bytes);
    using pieces = openPieces(file, '--export');
    let check: ExportCheck | null = null;
    for await (const { record, bytes: taken } of spelling.read(pieces)) {
      if (check !== null) check.add(record, taken);
      else if (record.kind === 'origin') check = new ExportCheck(record.origin, taken, { kind: 'none' });
      else throw new UkeyError('invalid-request', 'no origin');
    }
    if (check?.end == null) throw new UkeyError('invalid-request', 'no end');
    return check;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
