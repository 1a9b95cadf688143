// Owns: the tills of the soak: invoices, credit notes, repetitions and look-ups at a shop's pace, through whatever happens to the service; and the book
// of what they were answered.
// Invariants: a sale whose end is unknown is repeated with its key until it is known; what was answered once is compared each time it is answered
// again; the book keeps hashes, so that hours fit into memory.
import { createHash } from 'node:crypto';
import type { Client } from '#ipc-schema/client.ts';
import { asUkeyError, type ErrorCode } from '#ipc-schema/errors.ts';
import type { Issued } from '#ipc-schema/issued.ts';
import type { Params } from '#ipc-schema/methods.ts';
import { sale } from '#test/support/rig.ts';
import type { Chance } from '#test/torture/fuzz/chance.ts';
import type { Machine } from '#test/torture/os-machine.ts';

const pauseMaxMs = 60;
const saleWaitMs = 120_000;
const lookWaitMs = 5_000;
const againMs = 50;
/** Of one till, of its latest: from them it credits, repeats and looks up. */
const recentMax = 200;
/** Answered in times of trouble: it was not done, it may be done later. */
const passing: readonly ErrorCode[] = [
  'busy',
  'no-token',
  'locked',
  'halted',
  'token-failed',
  'store-full',
  'unknown-outcome',
  'internal',
  'offline',
];

const sleep = (waitMs: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, waitMs));
export const hashOf = (document: string): string => createHash('sha256').update(document).digest('base64');

export class Book {
  /** Hash of the document, by the request's key. */
  readonly answered = new Map<string, string>();
  /** Of requests that were answered at the first attempt, in milliseconds. */
  readonly tookMs: number[] = [];
  /** Of those, such as were made while nothing was wrong. */
  readonly calmMs: number[] = [];
  credited = 0;
  repeated = 0;
  looked = 0;
  /** Looked up or repeated, and released from the FLASH meanwhile. */
  released = 0;
  refused = 0;
  /** Tills only make new sales. */
  isForgetting = false;
  /** Requests on their way that are about an earlier sale. */
  aboutEarlier = 0;
  /** Sales that were made before the last time that all was forgotten are no more repeated. */
  forgotten = 0;
  readonly wrong: string[] = [];

  /** Nobody asks about an earlier sale any more when it returns. */
  async forget(): Promise<void> {
    this.isForgetting = true;
    this.forgotten += 1;
    while (this.aboutEarlier > 0) await sleep(againMs);
  }

  take(key: string, { document = '' }: Issued): void {
    const before = this.answered.get(key);
    const hash = hashOf(document);
    if (before !== undefined && before !== hash) this.wrong.push(`${key} was answered with two documents`);
    this.answered.set(key, hash);
  }
}

interface Sold {
  readonly key: string;
  readonly number: string;
  isCredited: boolean;
}

export interface TillParts {
  readonly machine: Machine;
  readonly name: string;
  readonly chance: Chance;
  readonly book: Book;
  readonly isOver: () => boolean;
  /** Changes with each trouble that begins or ends; odd while there is one. */
  readonly troubleCount: () => number;
}

export async function keepTill(parts: TillParts): Promise<void> {
  const { machine, name, isOver } = parts;
  const client = await machine.till(`till-${name}`);
  try {
    await new Till(client, parts).sellUntil(isOver);
  } finally {
    client.close();
  }
}

class Till {
  readonly #client: Client;
  readonly #parts: TillParts;
  readonly #recent: Sold[] = [];
  #count = 0;

  constructor(client: Client, parts: TillParts) {
    this.#client = client;
    this.#parts = parts;
  }

  async sellUntil(isOver: () => boolean): Promise<void> {
    const { chance, book } = this.#parts;
    let forgotten = book.forgotten;
    while (!isOver()) {
      if (forgotten !== book.forgotten) this.#recent.length = 0;
      forgotten = book.forgotten;
      const drawn = chance.upTo(100);
      const sold = this.#recent.length === 0 ? null : chance.one(this.#recent);
      if (sold === null || drawn < 72 || book.isForgetting) await this.#sell();
      else await this.#ask(sold, drawn);
      await sleep(chance.upTo(pauseMaxMs));
    }
  }

  async #ask(sold: Sold, drawn: number): Promise<void> {
    const { book } = this.#parts;
    book.aboutEarlier += 1;
    try {
      if (drawn < 82) await this.#credit(sold);
      else if (drawn < 92) await this.#repeat(sold);
      else await this.#look(sold);
    } finally {
      book.aboutEarlier -= 1;
    }
  }

  async #sell(): Promise<void> {
    const key = `${this.#parts.name}-${this.#count++}`;
    const answer = await this.#issue(sale(key));
    if (answer === null) return;
    this.#recent.push({ key, number: answer.number, isCredited: false });
    if (this.#recent.length > recentMax) this.#recent.shift();
  }

  /** One of the lines' articles comes back. */
  async #credit(sold: Sold): Promise<void> {
    if (sold.isCredited) return;
    sold.isCredited = true;
    const key = `${this.#parts.name}-${this.#count++}-credit`;
    const lines = [{ description: 'WHITE METAL LANTERN', quantity: '1', unitPrice: '3.39', sku: '71053' }];
    const answer = await this.#issue({
      key,
      template: 'retail',
      kind: 'credit-note',
      lines,
      corrects: { number: sold.number, reason: 'returned' },
    });
    if (answer !== null) this.#parts.book.credited += 1;
  }

  async #repeat({ key }: Sold): Promise<void> {
    const answer = await this.#issue(sale(key));
    if (answer === null) return;
    this.#parts.book.repeated += 1;
    if (!answer.repeated) this.#parts.book.wrong.push(`${key} was issued twice`);
  }

  async #look({ key }: Sold): Promise<void> {
    const { book } = this.#parts;
    try {
      book.take(key, await this.#client.call('invoice.get', { key }, { timeoutMs: lookWaitMs }));
      book.looked += 1;
    } catch (thrown) {
      this.#refused(thrown, `${key} looked up`);
    }
  }

  /** Until its end is known. Null: what it is about was released. */
  async #issue(request: Params<'invoice.issue'>): Promise<Issued | null> {
    const { book, troubleCount, isOver } = this.#parts;
    for (let attempt = 1; ; attempt += 1) {
      const [before, startedMs] = [troubleCount(), performance.now()];
      try {
        const answer = await this.#client.issue(request, { deadlineMs: saleWaitMs });
        const tookMs = performance.now() - startedMs;
        if (attempt === 1) book.tookMs.push(tookMs);
        if (attempt === 1 && before === troubleCount() && before % 2 === 0) book.calmMs.push(tookMs);
        book.take(request.key, answer);
        return answer;
      } catch (thrown) {
        if (!this.#refused(thrown, `${request.key} issued`)) return null;
        if (isOver() && attempt > saleWaitMs / againMs) throw thrown;
        await sleep(againMs);
      }
    }
  }

  /** Whether it is worth another attempt. */
  #refused(thrown: unknown, what: string): boolean {
    const { book } = this.#parts;
    const { code, message } = asUkeyError(thrown);
    if (code === 'not-found') book.released += 1;
    else if (passing.includes(code)) {
      book.refused += 1;
      return true;
    } else book.wrong.push(`${what}: ${code}: ${message}`);
    return false;
  }
}
