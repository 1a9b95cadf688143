// Owns: the body of an upload: batches as one message, compressed, sealed to the server's key (SPEC.md, Ticket server); and what each batch adds to the backlog,
// since they are open here anyway.
// Must not: be called with what is not durable; gathering.ts sees to that.
import { zstdCompressSync } from 'node:zlib';
import { sealTo } from '#ground/hpke.ts';
import { unpack } from '#ground/unpacking.ts';
import type { PackedBatch } from '#holder/holder.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { encodeUpload, uploadInfo } from '#ipc-schema/upstream.ts';
import { type BatchSummary, openBatch, summaryOf } from '#ledger/batches.ts';

/** Memory for what comes out, at a time. */
const chunkBytes = 512 * 1024;

export interface ToPack {
  readonly tokenId: Uint8Array;
  /** The server's, a raw point (hpke.ts). */
  readonly sealKey: Uint8Array;
  readonly batches: readonly PackedBatch[];
}

export interface PackedUpload {
  readonly body: Uint8Array;
  /** In the order of the batches. */
  readonly summaries: readonly BatchSummary[];
}

/** Blocks for as long as opening and compressing take. Throws halted for a batch that does not open. */
export async function packUpload({ tokenId, sealKey, batches }: ToPack): Promise<PackedUpload> {
  const opened: Uint8Array[] = [];
  const summaries: BatchSummary[] = [];
  for (const { batchIndex, packed } of batches) {
    const bytes = unpack(packed);
    if (bytes === null) throw new UkeyError('halted', `batch ${batchIndex} does not unpack`);
    const { leaves, sealBytes } = openBatch(batchIndex, bytes, 'views');
    opened.push(bytes);
    summaries.push(summaryOf(leaves, sealBytes));
  }
  const message = zstdCompressSync(encodeUpload({ tokenId, batches: opened }), { chunkSize: chunkBytes });
  return { body: await sealTo(sealKey, uploadInfo, message), summaries };
}
