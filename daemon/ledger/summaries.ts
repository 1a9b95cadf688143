// Owns: what batches behind the last acknowledgement add to the backlog, as far as it is remembered: the newest, and what was read lately.
// Invariants: a memory, not a truth: what is not here is read from the FLASH; never more than summariesMax; acknowledged ones are forgotten.
import type { BatchSummary } from './batches.ts';

/** A batch is forgotten when this many were noted after it. */
export const summariesMax = 4_096;

export class Summaries {
  readonly #known = new Map<number, BatchSummary>();

  get size(): number {
    return this.#known.size;
  }

  get(batchIndex: number): BatchSummary | null {
    return this.#known.get(batchIndex) ?? null;
  }

  note(batchIndex: number, summary: BatchSummary): void {
    this.#known.delete(batchIndex); // to the end of the order in which they are forgotten
    this.#known.set(batchIndex, summary);
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= summariesMax) return;
      this.#known.delete(oldest);
    }
  }

  forgetUpTo(batchIndex: number): void {
    for (const known of this.#known.keys()) if (known <= batchIndex) this.#known.delete(known);
  }
}
