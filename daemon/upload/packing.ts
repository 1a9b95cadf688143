// Owns: the body of an upload: batches as one message, compressed, sealed to the server's key (3-formats §3.4).
// Must not: be called with what is not durable; gathering.ts sees to that.
import { promisify } from 'node:util';
import { zstdCompress } from 'node:zlib';
import { sealTo } from '#ground/hpke.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { encodeUpload, uploadInfo } from '#ipc-schema/upstream.ts';

const compress = promisify(zstdCompress);
/** Memory for what comes out, at a time: each is a trip to another thread. */
const chunkBytes = 512 * 1024;

export async function packUpload(tokenId: Uint8Array, { server }: Charter, batches: readonly Uint8Array[]): Promise<Uint8Array> {
  return await sealTo(
    Buffer.from(server.sealKey, 'base64'),
    uploadInfo,
    await compress(encodeUpload({ tokenId, batches }), { chunkSize: chunkBytes }),
  );
}
