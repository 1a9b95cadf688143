// Owns: somebody with nothing but what everybody may read at the ticket server, and the batches that he was given or has seen: he uploads them.
import { encodeUpload, entryListSchema, mediaTypes, paths } from '#ipc-schema/upstream.ts';
import { pack, sealTo } from '#test/support/sealed-upload.ts';
import { HttpsClient, type Reply } from '#test/support/server-rig.ts';

/** `tokenId` in hex. */
export async function strangerUploads(
  server: { readonly url: string; readonly authorityCertificate: Uint8Array },
  tokenId: string,
  batches: readonly Uint8Array[],
): Promise<Reply> {
  const client = new HttpsClient(server.url, server.authorityCertificate);
  try {
    const entries = await client.ask(`${paths.tokens}/${tokenId}/entries?from=1`);
    const charter = entryListSchema.parse(JSON.parse(entries.body.toString('utf8'))).entries.find(({ kind }) => kind === 'charter');
    const [, sealKey = ''] = /"sealKey":"([^"]+)"/.exec(Buffer.from(charter?.body ?? '', 'base64').toString('latin1')) ?? [];
    const upload = pack(encodeUpload({ tokenId: Buffer.from(tokenId, 'hex'), batches }));
    return await client.ask(paths.batches, { body: await sealTo(Buffer.from(sealKey, 'base64'), upload), type: mediaTypes.upload });
  } finally {
    client.close();
  }
}
