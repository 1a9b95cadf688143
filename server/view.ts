// Owns: what the server shows of what it stores: tokens, entries with their evidence (computed from the stored batch), runs of batches.
// Invariants: evidence is made from the exact bytes that were verified when they came; answers are bounded in entries and in bytes.
import { decodeBatch, decodeSeal } from '#ipc-schema/batch.ts';
import { decodeLeaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { encodeEvidence } from '#ipc-schema/evidence.ts';
import { buildTree, inclusionPath, leafHash } from '#ipc-schema/merkle.ts';
import { type EntryView, encodeUpload, type TokenView, uploadMaxBatches } from '#ipc-schema/upstream.ts';
import type { Alarm, Database, EntryQuery, TokenState } from './database.ts';

export const entriesMaxCount = 200;
export const tokensMaxCount = 500;
/** Bodies in one answer, and bytes of batches; one entry or batch always goes. */
const answerMaxBytes = 4 * 1024 * 1024;

export function tokenView(token: TokenState): TokenView {
  return {
    tokenId: token.tokenId,
    serial: token.serial,
    issuer: token.issuerTaxId,
    upToBatch: token.head.batchIndex,
    lastSequence: token.head.nextSequence - 1,
    invoices: token.documents,
    lastContact: token.lastContactMs === null ? null : new Date(token.lastContactMs).toISOString(),
    alarm: token.alarm === null ? null : alarmView(token.alarm),
  };
}

function alarmView({ kind, batchIndex, detail, raisedAtMs }: Alarm): NonNullable<TokenView['alarm']> {
  return { kind, batchIndex, raisedAt: new Date(raisedAtMs).toISOString(), detail };
}

/** Entries in the order of their sequences; fewer than `limit` when the next would make the answer too large. */
export async function entryViews(database: Database, tokenId: string, query: EntryQuery, limit: number): Promise<EntryView[]> {
  const views: EntryView[] = [];
  let opened: OpenedBatch | null = null;
  let bodyBytes = 0;
  for (const { sequence, batchIndex } of await database.findEntries(tokenId, query, Math.min(limit, entriesMaxCount))) {
    if (opened === null || opened.batchIndex !== batchIndex) opened = await openBatch(database, tokenId, batchIndex);
    const entry = opened.entries[sequence - opened.firstSequence];
    if (entry === undefined) throw new UkeyError('internal', `sequence ${sequence} is not in its batch`);
    bodyBytes += entry.body.length;
    if (views.length > 0 && bodyBytes > answerMaxBytes) break;
    views.push(entryView(opened, tokenId, sequence));
  }
  return views;
}

interface OpenedBatch extends ReturnType<typeof decodeBatch> {
  readonly batchIndex: number;
  readonly firstSequence: number;
  readonly tree: ReturnType<typeof buildTree>;
}

async function openBatch(database: Database, tokenId: string, batchIndex: number): Promise<OpenedBatch> {
  const stored = await database.findBatch(tokenId, batchIndex);
  if (stored === null) throw new UkeyError('internal', `batch ${batchIndex} is not there`);
  const batch = decodeBatch(stored.bytes);
  const { firstSequence } = decodeSeal(batch.sealBytes).seal;
  return { ...batch, batchIndex, firstSequence, tree: buildTree(batch.entries.map((entry) => leafHash(entry.leaf))) };
}

function entryView(batch: OpenedBatch, tokenId: string, sequence: number): EntryView {
  const index = sequence - batch.firstSequence;
  const entry = batch.entries[index];
  if (entry === undefined) throw new UkeyError('internal', `sequence ${sequence} is not in its batch`);
  const { kind, number, issuedAtMs, currency, total, taxTotal } = decodeLeaf(entry.leaf);
  const path = inclusionPath(batch.tree, index);
  const evidence = encodeEvidence({ leaf: entry.leaf, index, count: batch.entries.length, path, sealBytes: batch.sealBytes });
  return {
    tokenId,
    sequence,
    batchIndex: batch.batchIndex,
    kind,
    number,
    issuedAt: new Date(issuedAtMs).toISOString(),
    currency,
    total,
    taxTotal,
    leaf: Buffer.from(entry.leaf).toString('base64'),
    body: Buffer.from(entry.body).toString('base64'),
    evidence: Buffer.from(evidence).toString('base64'),
  };
}

/** Consecutive stored batches in the form of an upload (upstream.ts), or null when there is none at `fromBatch`. */
export async function batchRun(database: Database, tokenId: string, fromBatch: number, limit: number): Promise<Uint8Array | null> {
  const batches: Uint8Array[] = [];
  let bytes = 0;
  for (let batchIndex = fromBatch; batches.length < Math.min(limit, uploadMaxBatches); batchIndex++) {
    const stored = await database.findBatch(tokenId, batchIndex);
    bytes += stored?.bytes.length ?? 0;
    if (stored === null || (batches.length > 0 && bytes > answerMaxBytes)) break;
    batches.push(stored.bytes);
  }
  return batches.length === 0 ? null : encodeUpload({ tokenId: Buffer.from(tokenId, 'hex'), batches });
}
