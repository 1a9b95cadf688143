// Owns: whether an export holds: a fold over its records, with the authority's and the token's public keys alone.
// Proven: every seal of the range and that each follows the one before it; every entry's place under its seal, its body, and what its line says of it;
// that no sequence is missing (of a selection by kind: only that none comes twice or out of order); counts, sums and the hash at the end.
// Invariants: memory does not grow with the ledger; what it cannot prove it does not say. What is sealed rightly and still wrong is a finding.
// Must not: use anything of the writer but the counting.
import type { CheckedToken, Trust } from '#ctl/certificates.ts';
import { readChecked } from '#ctl/document-check.ts';
import { LedgerKeys } from '#ctl/export/keys.ts';
import { Tally } from '#ctl/export/tally.ts';
import { type Seal, sealHashOf } from '#ipc-schema/batch.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { decodeLeaf, isFiscal, type Leaf } from '#ipc-schema/entry.ts';
import { unreachable } from '#ipc-schema/errors.ts';
import { decodeEvidence } from '#ipc-schema/evidence.ts';
import {
  bodyOfExport,
  type ExportEnd,
  type ExportEntry,
  type ExportOrigin,
  type ExportRecord,
  type ExportSeal,
} from '#ipc-schema/export.ts';
import { leafHash, rootFromPath, sha256 } from '#ipc-schema/merkle.ts';
import { verifySeal } from '#ipc-schema/verify.ts';

export interface ExportFinding {
  readonly sequence: number;
  readonly what: string;
}

export const exportFindingsMax = 100;

const same = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && Buffer.compare(a, b) === 0;

/** The batch that is being read. */
interface OpenBatch {
  readonly seal: Seal;
  readonly sealBytes: Uint8Array;
  /** Entries that are still to come. */
  left: number;
  /** The next sequence may not be below this. */
  next: number;
}

export class ExportCheck {
  readonly origin: ExportOrigin;
  readonly findings: ExportFinding[] = [];
  findingsCount = 0;
  readonly #keys: LedgerKeys;
  #tally = new Tally();
  #batch: OpenBatch | null = null;
  #end: ExportEnd | null = null;

  /** Throws invalid-request when the certificates do not hold, or the range contradicts itself. */
  constructor(origin: ExportOrigin, bytes: Uint8Array, trust: Trust) {
    this.origin = origin;
    this.#keys = new LedgerKeys(origin, trust);
    const isEmpty = origin.toSequence < origin.fromSequence;
    if (isEmpty !== origin.toBatch < origin.fromBatch) throw malformed('export', 'has a range that contradicts itself');
    this.#tally.addBytes(bytes);
  }

  /** The newest key's certificate, as it was checked. */
  get token(): CheckedToken {
    return this.#keys.token;
  }

  /** A copy of what was counted: for whoever goes on behind it. */
  get tally(): Tally {
    return this.#tally.copy();
  }

  get end(): ExportEnd | null {
    return this.#end;
  }

  /** Whether a batch ended here: the next record is a seal or the end. */
  get atBoundary(): boolean {
    return this.#end === null && (this.#batch === null || this.#batch.left === 0);
  }

  get counts(): { readonly batches: number; readonly entries: number } {
    return { batches: this.#tally.batches, entries: this.#tally.entries };
  }

  /** The next record and its bytes. Throws invalid-request when it does not hold or does not follow. */
  add(record: ExportRecord, bytes: Uint8Array): void {
    if (this.#end !== null) throw malformed('export', 'goes on behind its end');
    switch (record.kind) {
      case 'origin':
        throw malformed('export', 'has a second origin');
      case 'seal':
        this.#addSeal(record.seal);
        break;
      case 'entry':
        this.#addEntry(record.entry);
        break;
      case 'end':
        this.#addEnd(record.end);
        return;
      default:
        unreachable(record);
    }
    this.#tally.addBytes(bytes);
  }

  #addSeal({ batch, seal: text, entries }: ExportSeal): void {
    const { fromBatch, toBatch, fromSequence, toSequence, kinds } = this.origin;
    const { head } = this.#tally;
    this.#closeBatch();
    const sealBytes = Buffer.from(text, 'base64');
    const seal = verifySeal(sealBytes, this.#keys.next(sealBytes), this.#keys.tokenId);
    const what = `batch ${batch}`;
    if (seal.batchIndex !== batch || batch !== (head?.batchIndex ?? fromBatch - 1) + 1 || batch > toBatch)
      throw malformed(what, 'stands where another one was expected');
    const before = head?.sealHash ?? (batch === 1 ? sha256(this.#keys.certificate) : null);
    if (before !== null && !same(seal.previousSealHash, before)) throw malformed(what, 'does not follow the seal before it');
    if (head !== null && seal.firstSequence !== head.nextSequence) throw malformed(what, 'leaves a gap in the sequence');
    const nextSequence = seal.firstSequence + seal.count;
    const [first, last] = [Math.max(seal.firstSequence, fromSequence), Math.min(nextSequence - 1, toSequence)];
    if (first > last) throw malformed(what, 'has nothing of the range');
    if (batch === fromBatch && first !== fromSequence) throw malformed(what, 'begins behind the beginning of the range');
    if (entries > last - first + 1 || (kinds === null && entries !== last - first + 1))
      throw malformed(what, 'has another number of entries than its seal says');
    this.#tally.addBatch({ batchIndex: batch, nextSequence, sealHash: sealHashOf(sealBytes) });
    this.#batch = { seal, sealBytes, left: entries, next: first };
  }

  #closeBatch(): void {
    if (this.#batch !== null && this.#batch.left > 0) throw malformed(`batch ${this.#batch.seal.batchIndex}`, 'lacks an entry');
    this.#batch = null;
  }

  #addEntry(entry: ExportEntry): void {
    const open = this.#batch;
    const what = `entry ${entry.sequence}`;
    if (open === null || open.left === 0) throw malformed(what, 'belongs to no batch');
    const { kinds, toSequence } = this.origin;
    const { seal } = open;
    const isNext = kinds === null ? entry.sequence === open.next : entry.sequence >= open.next && kinds.includes(entry.kind);
    if (!isNext || entry.sequence > Math.min(toSequence, seal.firstSequence + seal.count - 1))
      throw malformed(what, 'stands where another one was expected');
    const body = bodyOfExport(entry);
    const leaf = proven(entry, open);
    compare(entry, leaf);
    if (!same(leaf.bodyHash, sha256(body))) throw malformed(what, 'has another body than its leaf says');
    if (isFiscal(leaf.kind)) this.#readDocument(leaf, body);
    open.left -= 1;
    open.next = entry.sequence + 1;
    this.#tally.addEntry(leaf);
  }

  #readDocument(leaf: Leaf, body: Uint8Array): void {
    const reading = readChecked(leaf, body, this.origin.tokenId);
    for (const what of reading.kind === 'unreadable' ? [reading.why] : reading.faults) {
      this.findingsCount += 1;
      if (this.findings.length < exportFindingsMax) this.findings.push({ sequence: leaf.sequence, what });
    }
  }

  #addEnd(end: ExportEnd): void {
    this.#closeBatch();
    const { toBatch, fromBatch, toSequence } = this.origin;
    const { head } = this.#tally;
    if ((head?.batchIndex ?? fromBatch - 1) !== toBatch) throw malformed('export', 'ends before its range');
    if (head !== null && head.nextSequence <= toSequence) throw malformed('export', 'lacks the end of its range');
    const counted = this.#tally.end();
    if (end.sha256 !== counted.sha256) throw malformed('export', 'has other bytes than its end says');
    if (JSON.stringify(end) !== JSON.stringify(counted)) throw malformed('export', 'has other counts or sums than its end says');
    this.#end = counted;
  }
}

/** The leaf of the evidence, whose place under the seal is proven; the seal is. */
function proven({ sequence, evidence: text }: ExportEntry, { seal, sealBytes }: OpenBatch): Leaf {
  const what = `entry ${sequence}`;
  const { leaf, index, count, path, sealBytes: own } = decodeEvidence(Buffer.from(text, 'base64'));
  if (!same(own, sealBytes)) throw malformed(what, 'has the evidence of another batch');
  if (count !== seal.count || sequence !== seal.firstSequence + index) throw malformed(what, 'has evidence of another place');
  const root = rootFromPath(leafHash(leaf), index, count, path);
  if (root === null || !same(root, seal.root)) throw malformed(what, 'has a path that does not lead to the sealed root');
  return decodeLeaf(leaf);
}

/** What stands beside the evidence for programs that do not read it must be what it proves. */
function compare(entry: ExportEntry, leaf: Leaf): void {
  const pairs: readonly (readonly [name: string, inLine: unknown, inLeaf: unknown])[] = [
    ['sequence', entry.sequence, leaf.sequence],
    ['number', entry.number, leaf.number],
    ['kind', entry.kind, leaf.kind],
    ['issuedAt', entry.issuedAt, new Date(leaf.issuedAtMs).toISOString()],
    ['currency', entry.currency, leaf.currency],
    ['total', entry.total, leaf.total],
    ['taxTotal', entry.taxTotal, leaf.taxTotal],
  ];
  for (const [name, inLine, inLeaf] of pairs)
    if (inLine !== inLeaf) throw malformed(`entry ${entry.sequence}`, `says another ${name} than its evidence`);
}
