// Owns: turning what the holder gives back (encoded batches) into entries, index rows, evidence and summaries.
// Invariants: reads only; what it returns is as it was written, byte for byte; a batch that does not decode is `halted`, never skipped.

import type { Holder } from '#holder/holder.ts';
import { type Batch, decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import { decodeLeaf, entryKinds, isFiscal, type Leaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Evidence } from '#ipc-schema/evidence.ts';
import { buildTree, inclusionPath, leafHash } from '#ipc-schema/merkle.ts';
import { money, zero } from '#ipc-schema/money.ts';
import { type IndexRow, keyHashOf } from './lookup.ts';

/** One committed entry, with what proves it. */
export interface Committed {
  readonly leaf: Leaf;
  readonly body: Uint8Array;
  readonly batchIndex: number;
  readonly evidence: Evidence;
}

export interface OpenBatch extends Batch {
  readonly batchIndex: number;
  readonly leaves: readonly Leaf[];
}

/** What a batch adds to the backlog. */
export interface BatchSummary {
  readonly count: number;
  readonly amount: string;
  readonly oldestMs: number | null;
  readonly sealHash: Uint8Array;
}

export function openBatch(batchIndex: number, bytes: Uint8Array): OpenBatch {
  try {
    const batch = decodeBatch(bytes);
    return { ...batch, batchIndex, leaves: batch.entries.map((entry) => decodeLeaf(entry.leaf)) };
  } catch (cause) {
    throw new UkeyError('halted', `batch ${batchIndex} on the FLASH does not decode`, { cause });
  }
}

/** Reads batches one after the other, a bounded amount at a time. Ends after `lastBatch`. */
export async function* readBatches(holder: Holder, fromBatch: number, lastBatch: number, chunkBytes: number): AsyncGenerator<OpenBatch> {
  let next = fromBatch;
  while (next <= lastBatch) {
    const stored = await holder.read(next, chunkBytes);
    if (stored.length === 0) throw new UkeyError('halted', `batch ${next} cannot be read`);
    for (const { batchIndex, bytes } of stored) {
      if (batchIndex !== next) throw new UkeyError('halted', `batch ${batchIndex} came where ${next} was asked for`);
      if (batchIndex > lastBatch) return;
      yield openBatch(batchIndex, bytes);
      next += 1;
    }
  }
}

export async function readBatch(holder: Holder, batchIndex: number): Promise<OpenBatch> {
  for await (const batch of readBatches(holder, batchIndex, batchIndex, 1)) return batch;
  throw new UkeyError('halted', `batch ${batchIndex} cannot be read`);
}

export function committedAt(batch: OpenBatch, place: number): Committed {
  const leaf = batch.leaves[place];
  const entry = batch.entries[place];
  if (leaf === undefined || entry === undefined) throw new UkeyError('halted', `batch ${batch.batchIndex} has no entry ${place}`);
  const tree = buildTree(batch.entries.map((each) => leafHash(each.leaf)));
  const evidence = {
    leaf: entry.leaf,
    index: place,
    count: batch.entries.length,
    path: inclusionPath(tree, place),
    sealBytes: batch.sealBytes,
  };
  return { leaf, body: entry.body, batchIndex: batch.batchIndex, evidence };
}

export function summaryOf(leaves: readonly Leaf[], sealBytes: Uint8Array): BatchSummary {
  const fiscal = leaves.filter((leaf) => isFiscal(leaf.kind));
  return {
    count: fiscal.length,
    amount: fiscal.reduce((sum, leaf) => sum.plus(money(leaf.total ?? '0')), zero).toFixed(),
    oldestMs: fiscal[0]?.issuedAtMs ?? null,
    sealHash: sealHashOf(sealBytes),
  };
}

interface RequestMark {
  readonly request?: { readonly terminal?: unknown; readonly key?: unknown; readonly digest?: unknown };
}

const textOrNull = (value: unknown): string | null => (typeof value === 'string' ? value : null);

/** The index row of an entry that is only known from the log. `resolve` finds the sequence of the document that a credit note names. */
export async function rowFromLog(batch: OpenBatch, place: number, resolve: (number: string) => Promise<number | null>): Promise<IndexRow> {
  const { leaf, body } = committedAtBare(batch, place);
  const base = { sequence: leaf.sequence, batch: batch.batchIndex, place, kind: entryKinds[leaf.kind], number: leaf.number };
  if (!isFiscal(leaf.kind)) return { ...base, terminal: null, keyHash: null, digest: null, corrects: null };
  const document = JSON.parse(Buffer.from(body).toString('utf8')) as RequestMark & { readonly corrects?: { readonly number?: unknown } };
  const terminal = textOrNull(document.request?.terminal);
  const key = textOrNull(document.request?.key);
  const original = textOrNull(document.corrects?.number);
  return {
    ...base,
    terminal,
    keyHash: terminal === null || key === null ? null : keyHashOf(terminal, key),
    digest: textOrNull(document.request?.digest),
    corrects: original === null ? null : await resolve(original),
  };
}

function committedAtBare(batch: OpenBatch, place: number): { readonly leaf: Leaf; readonly body: Uint8Array } {
  const leaf = batch.leaves[place];
  const entry = batch.entries[place];
  if (leaf === undefined || entry === undefined) throw new UkeyError('halted', `batch ${batch.batchIndex} has no entry ${place}`);
  return { leaf, body: entry.body };
}
