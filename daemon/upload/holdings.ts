// Owns: what the ticket server holds of a ledger, asked by hand: its signed head, and the stored batches; and bringing it what it lacks.
// Invariants: the head counts only with the server's signature and for this ledger; batches are the server's word until whoever asked has verified
// their seals. Must not: change a ledger.
import { promisify } from 'node:util';
import { zstdCompress } from 'node:zlib';
import { sealTo } from '#ground/hpke.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { type Acknowledgement, encodeUpload, openAcknowledgement, uploadInfo } from '#ipc-schema/upstream.ts';
import type { Reads } from '#ledger/stored.ts';
import { Upstream } from './upstream.ts';

const compress = promisify(zstdCompress);
/** Batches in one question. */
const pageBatches = 64;
const pageBytes = 1024 * 1024;
const cloneAction =
  'Two copies of this token have issued. Keep both as they are and ask headquarters: which documents count is theirs to decide.';

export class Holdings {
  readonly #upstream: Upstream;
  readonly #charter: Charter;
  readonly #tokenId: Uint8Array;

  constructor(charter: Charter, tokenId: Uint8Array) {
    this.#upstream = new Upstream(charter.server);
    this.#charter = charter;
    this.#tokenId = tokenId;
  }

  /**
   * What the server has signed about its newest batch, for a batch that it should have (the oldest one that is kept). Throws offline, halted (it holds
   * another batch there: a clone), invalid-request (not our server's signature).
   */
  async head(batch: Uint8Array): Promise<Acknowledgement> {
    return await this.#send([batch]);
  }

  /** Uploads this token's batches `from` to `to`, page by page. Throws as `head` does, and offline where the server does not take them. */
  async bring(reads: Reads, from: number, to: number): Promise<void> {
    for (let next = from; next <= to; ) {
      const read = await reads.read(next, pageBytes);
      const page = read.filter(({ batchIndex }) => batchIndex <= to).slice(0, pageBatches);
      if (page.length === 0) throw new UkeyError('halted', `batch ${next} cannot be read`);
      const ack = await this.#send(page.map(({ bytes }) => bytes));
      next += page.length;
      if (ack.upToBatch < next - 1) throw new UkeyError('offline', `the ticket server holds no more than batch ${ack.upToBatch}`);
    }
  }

  async #send(batches: readonly Uint8Array[]): Promise<Acknowledgement> {
    const { sealKey, ackKey } = this.#charter.server;
    const plain = encodeUpload({ tokenId: this.#tokenId, batches });
    const answer = await this.#upstream.upload(await sealTo(Buffer.from(sealKey, 'base64'), uploadInfo, await compress(plain)));
    if (answer.kind === 'refused') {
      const why = answer.refusal?.message ?? `status ${answer.status}`;
      if (answer.refusal?.code === 'fork') throw new UkeyError('halted', `clone: ${why}`, { action: cloneAction });
      throw new UkeyError('offline', `the ticket server does not say what it holds: ${why}`);
    }
    const ack = openAcknowledgement(answer.signed, publicKeyFromSpki(Buffer.from(ackKey, 'base64')));
    if (Buffer.compare(ack.tokenId, this.#tokenId) !== 0)
      throw new UkeyError('invalid-request', 'the acknowledgement is for another token');
    return ack;
  }

  /** Batches `from` to `to`, in order, a page at a time. Throws halted where the server does not give one. */
  async *batches(from: number, to: number): AsyncGenerator<readonly Uint8Array[]> {
    for (let next = from; next <= to; ) {
      const page = await this.#upstream.batches(this.#tokenId, next, Math.min(pageBatches, to - next + 1));
      if (page.length === 0) throw new UkeyError('halted', `the ticket server does not give batch ${next}`);
      yield page;
      next += page.length;
    }
  }

  close(): void {
    this.#upstream.close();
  }
}

/** The server's history and this ledger's have parted. */
export function parted(why: string, cause?: unknown): UkeyError {
  return new UkeyError('halted', `clone: ${why}`, { action: cloneAction, cause });
}
