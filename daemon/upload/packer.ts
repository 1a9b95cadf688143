// Owns: where an upload is packed: a small one here, a large one in a thread of its own (packing-thread.ts), so that a backlog takes neither the event
// loop nor the heap in which tills are served.
// Invariants: the thread is started when it is first wanted and ended when nothing was for a while, so that a service without a backlog has none; one
// that fails is told, and costs time and nothing else: what it had is packed here.
import { Worker } from 'node:worker_threads';
import { apart } from '#ground/asking.ts';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { type PackedUpload, packUpload, type ToPack } from './packing.ts';

export interface ToPackingThread {
  readonly id: number;
  readonly toPack: ToPack;
}

export type FromPackingThread =
  | { readonly id: number; readonly packed: PackedUpload }
  | { readonly id: number; readonly failed: { readonly code: ErrorCode; readonly message: string } };

/** What tills may wait for: some milliseconds of work. */
export const hereMaxBytes = 256 * 1024;
const idleMs = 10_000;
/** The shipped program is compiled: then the thread stands beside it as .js. */
const threadUrl = new URL(import.meta.url.endsWith('.ts') ? './packing-thread.ts' : './packing-thread.js', import.meta.url);

export interface PackerOptions {
  readonly hereMaxBytes?: number;
  /** Told why a thread could not be used; what it had is packed all the same. */
  readonly onFailed?: (cause: unknown) => void;
}

export class Packer {
  readonly #hereMaxBytes: number;
  readonly #onFailed: (cause: unknown) => void;
  #worker: Worker | null = null;
  readonly #waiting = new Map<number, PromiseWithResolvers<FromPackingThread | null>>();
  #nextId = 1;
  #idle: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(options: PackerOptions = {}) {
    this.#hereMaxBytes = options.hereMaxBytes ?? hereMaxBytes;
    this.#onFailed = options.onFailed ?? (() => undefined);
  }

  /** Whether a thread runs, for tests. */
  get hasThread(): boolean {
    return this.#worker !== null;
  }

  /** Throws halted for a batch that does not open. */
  async pack(toPack: ToPack): Promise<PackedUpload> {
    const plainBytes = toPack.batches.reduce((sum, { packed }) => sum + packed.plainBytes, 0);
    if (plainBytes <= this.#hereMaxBytes || this.#closed) return await packUpload(toPack);
    const answer = await this.#ask(toPack);
    if (answer === null) return await packUpload(toPack);
    if ('failed' in answer) throw new UkeyError(answer.failed.code, answer.failed.message);
    return answer.packed;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#end();
  }

  /** Null: the thread has failed. */
  async #ask(toPack: ToPack): Promise<FromPackingThread | null> {
    if (this.#idle !== null) clearTimeout(this.#idle);
    this.#idle = null;
    const id = this.#nextId++;
    const waiting = Promise.withResolvers<FromPackingThread | null>();
    this.#waiting.set(id, waiting);
    try {
      const copy = ownCopy(toPack);
      this.#worker ??= apart(() => this.#start());
      this.#worker.postMessage({ id, toPack: copy.toPack } satisfies ToPackingThread, [copy.memory]);
      return await waiting.promise;
    } catch (cause) {
      this.#onFailed(cause); // the system has no thread left for it
      return null;
    } finally {
      this.#waiting.delete(id);
      if (this.#waiting.size === 0 && !this.#closed) this.#idle = setTimeout(() => void this.#end(), idleMs).unref();
    }
  }

  #start(): Worker {
    const worker = new Worker(threadUrl, { execArgv: [] });
    worker.on('message', (answer: FromPackingThread) => this.#waiting.get(answer.id)?.resolve(answer));
    worker.on('error', (cause) => this.#failed(worker, cause));
    worker.on('exit', (status) => this.#failed(worker, new Error(`the thread ended with ${status}`)));
    worker.unref(); // it keeps nothing alive: what waits for it does
    return worker;
  }

  #failed(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return; // told already, or ended by us
    this.#onFailed(cause);
    this.#letGo();
  }

  #letGo(): void {
    this.#worker = null;
    for (const waiting of this.#waiting.values()) waiting.resolve(null);
  }

  async #end(): Promise<void> {
    if (this.#idle !== null) clearTimeout(this.#idle);
    const worker = this.#worker;
    if (worker === null) return;
    this.#letGo();
    await worker.terminate();
  }
}

/** The batches in one piece of memory of their own: cloning a view would clone all that it is a part of. */
function ownCopy(toPack: ToPack): { readonly toPack: ToPack; readonly memory: ArrayBuffer } {
  const memory = new Uint8Array(toPack.batches.reduce((sum, { packed }) => sum + packed.bytes.length, 0));
  let filledBytes = 0;
  const batches = toPack.batches.map(({ batchIndex, packed }) => {
    memory.set(packed.bytes, filledBytes);
    const bytes = memory.subarray(filledBytes, filledBytes + packed.bytes.length);
    filledBytes += bytes.length;
    return { batchIndex, packed: { ...packed, bytes } };
  });
  const { tokenId, sealKey } = toPack;
  return { toPack: { tokenId: new Uint8Array(tokenId), sealKey: new Uint8Array(sealKey), batches }, memory: memory.buffer };
}
