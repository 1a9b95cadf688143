// Owns: the last look at everything: the ticket server's whole ledger with public keys alone, the store with the token alone, one against the other,
// and both against what tills were answered.
import { LedgerCheck } from '#ctl/ledger-check.ts';
import { openStore, remainderOf } from '#ctl/verify-store.ts';
import { decodeBatch } from '#ipc-schema/batch.ts';
import { decodeLeaf, isFiscal } from '#ipc-schema/entry.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { decodeUpload, paths, uploadMaxBatches } from '#ipc-schema/upstream.ts';
import type { RunningServer } from '#server/serve.ts';
import { HttpsClient } from '#test/support/server-rig.ts';
import { type Machine, machinePin } from '#test/torture/os-machine.ts';
import { type Book, hashOf } from './shop.ts';

export interface FinalVerdict {
  /** Answered, and not at the server, or there otherwise. */
  readonly lost: number;
  /** Keys that two documents bear. */
  readonly doubled: number;
  /** Holes, and whatever else does not hold in server or store. */
  readonly gaps: number;
  /** Batches that server and store do not have alike. */
  readonly different: number;
  readonly documents: number;
  readonly batches: number;
  readonly releasedBatches: number;
  readonly told: readonly string[];
}

const toldMax = 10;

interface ServersLedger {
  readonly check: LedgerCheck;
  readonly hashes: readonly string[];
  /** Hash of each document by its request's key. */
  readonly documents: ReadonlyMap<string, string>;
  readonly doubled: number;
}

export async function finalCheck(machine: Machine, server: RunningServer, tokenId: string, book: Book): Promise<FinalVerdict> {
  const told: string[] = [];
  const servers = await readServer(server, tokenId);
  for (const { sequence, what } of servers.check.result().findings) told.push(`server, sequence ${sequence}: ${what}`);
  let lost = 0;
  for (const [key, hash] of book.answered) {
    if (servers.documents.get(key) === hash) continue;
    lost += 1;
    told.push(`${key} was answered and ${servers.documents.has(key) ? 'is another document' : 'is not'} at the server`);
  }
  const store = await openStore(
    { module: null, softTokenPath: `${machine.port}/key.json`, flashPath: machine.flash },
    Buffer.from(machinePin),
    (what) => told.push(what),
  );
  try {
    const { certificate } = store.mount.signers[0];
    const check = new LedgerCheck({ certificate, authorityCertificate: store.mount.authorityCertificate, ...(await remainderOf(store)) });
    let different = 0;
    for await (const { batchIndex, bytes } of store.batches()) {
      check.add(bytes);
      const atServer = servers.hashes[batchIndex - 1];
      // What only acknowledges is not uploaded until something else is.
      const isFine = atServer === undefined ? !holdsDocument(bytes) : atServer === hex(sha256(bytes));
      if (isFine) continue;
      different += 1;
      told.push(`batch ${batchIndex} is not the same in store and server`);
    }
    const { findings, findingsCount } = check.result();
    for (const { sequence, what } of findings) told.push(`store, sequence ${sequence}: ${what}`);
    return {
      ...{ lost, doubled: servers.doubled, gaps: servers.check.result().findingsCount + findingsCount, different },
      documents: servers.documents.size + servers.doubled,
      batches: store.mount.nextBatch - 1,
      releasedBatches: store.mount.oldestBatch - 1,
      told: told.slice(0, toldMax),
    };
  } finally {
    await store.close();
  }
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const holdsDocument = (bytes: Uint8Array): boolean => decodeBatch(bytes).entries.some(({ leaf }) => isFiscal(decodeLeaf(leaf).kind));

async function readServer(server: RunningServer, tokenId: string): Promise<ServersLedger> {
  const client = new HttpsClient(server.url, server.authorityCertificate);
  try {
    const certificate = (await client.ask(`${paths.tokens}/${tokenId}/certificate`)).body;
    const check = new LedgerCheck({ certificate, authorityCertificate: server.authorityCertificate });
    const hashes: string[] = [];
    const documents = new Map<string, string>();
    let doubled = 0;
    for (;;) {
      const page = await client.ask(`${paths.tokens}/${tokenId}/batches?from=${hashes.length + 1}&limit=${uploadMaxBatches}`);
      if (page.status !== 200) break;
      for (const bytes of decodeUpload(page.body).batches) {
        hashes.push(hex(sha256(bytes)));
        for (const { parsed, body } of check.add(bytes).entries) {
          if (!isFiscal(parsed.kind)) continue;
          const document = Buffer.from(body).toString('utf8');
          const { key } = (JSON.parse(document) as { request: { key: string } }).request;
          doubled += documents.has(key) ? 1 : 0;
          documents.set(key, hashOf(document));
        }
      }
    }
    return { check, hashes, documents, doubled };
  } finally {
    client.close();
  }
}
