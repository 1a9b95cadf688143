// Owns: turning what the holder gives back (encoded batches) into entries, index rows and evidence.
// Invariants: reads only; what it returns is as it was written, byte for byte.

import type { Holder, StoredBatch } from '#holder/holder.ts';
import type { ByteStrings } from '#ipc-schema/cbor.ts';
import { entryKinds, isFiscal, type Leaf } from '#ipc-schema/entry.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Evidence } from '#ipc-schema/evidence.ts';
import { buildTree, inclusionPath, leafHash } from '#ipc-schema/merkle.ts';
import { type OpenBatch, openBatch } from './batches.ts';
import { type IndexRow, keyHashOf } from './lookup.ts';

/** What reading a ledger needs of a holder. */
export type Reads = Pick<Holder, 'read'>;

/** One committed entry, with what proves it. */
export interface Committed {
  readonly leaf: Leaf;
  readonly body: Uint8Array;
  readonly batchIndex: number;
  readonly evidence: Evidence;
}

/** Reads on their way or waiting to be looked at: on a busy machine each waits for its processes and threads several times. */
const readsAhead = 3;

/**
 * Reads batches one after the other, a bounded amount at a time, the next amounts while the caller works on this one. Ends after `lastBatch`.
 * `byteStrings`: views for a caller that keeps nothing of a batch.
 */
export async function* readBatches(
  holder: Reads,
  fromBatch: number,
  lastBatch: number,
  chunkBytes: number,
  byteStrings: ByteStrings = 'copies',
): AsyncGenerator<OpenBatch> {
  const reading = new ReadAhead(holder, fromBatch, lastBatch, chunkBytes);
  let next = fromBatch;
  try {
    for (let stored = await reading.take(); stored !== null; stored = await reading.take()) {
      if (stored.length === 0) throw new UkeyError('halted', `batch ${next} cannot be read`);
      for (const { batchIndex, bytes } of stored) {
        if (batchIndex !== next) throw new UkeyError('halted', `batch ${batchIndex} came where ${next} was asked for`);
        if (batchIndex > lastBatch) return;
        yield openBatch(batchIndex, bytes, byteStrings);
        next += 1;
      }
    }
  } finally {
    reading.stop();
  }
}

/** Each read begins where the one before it ended. */
class ReadAhead {
  readonly #holder: Reads;
  readonly #lastBatch: number;
  readonly #chunkBytes: number;
  /** Null: there is nothing more. */
  readonly #coming: Promise<readonly StoredBatch[] | null>[] = [];
  /** Where the next read begins. */
  #place: Promise<number>;
  #stopped = false;

  constructor(holder: Reads, fromBatch: number, lastBatch: number, chunkBytes: number) {
    this.#holder = holder;
    this.#lastBatch = lastBatch;
    this.#chunkBytes = chunkBytes;
    this.#place = Promise.resolve(fromBatch);
  }

  take(): Promise<readonly StoredBatch[] | null> {
    while (this.#coming.length < readsAhead) this.#readOn();
    return this.#coming.shift() ?? Promise.resolve(null);
  }

  stop(): void {
    this.#stopped = true;
  }

  #readOn(): void {
    const begin = this.#place;
    const stored = begin.then((from) => (from > this.#lastBatch || this.#stopped ? null : this.#holder.read(from, this.#chunkBytes)));
    this.#place = stored.then(async (batches) =>
      (batches?.length ?? 0) === 0 ? this.#lastBatch + 1 : (await begin) + (batches?.length ?? 0),
    );
    // Told when it is taken; a caller that stops early never asks.
    stored.catch(() => undefined);
    this.#place.catch(() => undefined);
    this.#coming.push(stored);
  }
}

export async function readBatch(holder: Reads, batchIndex: number): Promise<OpenBatch> {
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

interface RequestMark {
  readonly request?: { readonly terminal?: unknown; readonly key?: unknown; readonly digest?: unknown };
  readonly corrects?: { readonly number?: unknown };
}

const textOrNull = (value: unknown): string | null => (typeof value === 'string' ? value : null);

/** The index row of an entry that is only known from the log; `corrects` is left to be found by the number that the document names. */
export interface RowFromLog {
  readonly row: Omit<IndexRow, 'corrects'>;
  readonly correctedNumber: string | null;
}

export function rowFromLog(batch: OpenBatch, place: number): RowFromLog {
  const { leaf, body } = committedAtBare(batch, place);
  const base = { sequence: leaf.sequence, batch: batch.batchIndex, place, kind: entryKinds[leaf.kind], number: leaf.number };
  if (!isFiscal(leaf.kind)) return { row: { ...base, terminal: null, keyHash: null, digest: null }, correctedNumber: null };
  const document = marksOf(leaf.kind, body);
  const terminal = textOrNull(document.request?.terminal);
  const key = textOrNull(document.request?.key);
  const keyHash = terminal === null || key === null ? null : keyHashOf(terminal, key);
  return {
    row: { ...base, terminal, keyHash, digest: textOrNull(document.request?.digest) },
    correctedNumber: textOrNull(document.corrects?.number),
  };
}

const requestMember = Buffer.from('"request":{');

/**
 * Millions of documents are read when an index is made anew, and only their last member is wanted. It stands last because our writer puts it there; where
 * what follows the mark is not the end of the document, the whole is parsed. Inside of a text the mark cannot stand: its quotes would be escaped.
 */
function marksOf(kind: Leaf['kind'], body: Uint8Array): RequestMark {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const at = kind === 'invoice' ? bytes.lastIndexOf(requestMember) : -1;
  if (at > 0) {
    try {
      return JSON.parse(`{${bytes.toString('utf8', at)}`) as RequestMark;
    } catch {
      // The member of something inside: the whole document says which is which.
    }
  }
  return JSON.parse(bytes.toString('utf8')) as RequestMark;
}

function committedAtBare(batch: OpenBatch, place: number): { readonly leaf: Leaf; readonly body: Uint8Array } {
  const leaf = batch.leaves[place];
  const entry = batch.entries[place];
  if (leaf === undefined || entry === undefined) throw new UkeyError('halted', `batch ${batch.batchIndex} has no entry ${place}`);
  return { leaf, body: entry.body };
}

/** The row outlives the document, so that its key is never used for another one. */
export function released({ number, sequence }: IndexRow): UkeyError {
  const what = number === null ? `sequence ${sequence}` : `${number} (sequence ${sequence})`;
  return new UkeyError('not-found', `${what} was issued, acknowledged and released from the token`, {
    action: 'It is kept at the ticket server: ask there. Do not issue it again.',
  });
}
