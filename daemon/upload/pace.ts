// Owns: how often is uploaded while tills go on issuing: at once after a pause, else together with what is committed within paceMs.
// A hundred sales a second would otherwise be a hundred uploads and a hundred acknowledgement entries a second, all of them in the tills' way.
// Invariants: nothing waits longer than paceMs; a full upload, and whoever waits for the acknowledgement (`hurry`), waits for nothing.
import type { Clock } from '#ground/clock.ts';
import { uploadMaxBatches } from '#ipc-schema/upstream.ts';

export const paceMs = 200;

export class Pace {
  readonly #clock: Clock;
  readonly #onDue: () => void;
  #notBeforeMs = Number.NEGATIVE_INFINITY;
  /** Also for what is committed while an upload is under way: that one may not hold it. */
  #isHurried = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(clock: Clock, onDue: () => void) {
    this.#clock = clock;
    this.#onDue = onDue;
  }

  /** `onDue` will tell. */
  get isWaiting(): boolean {
    return this.#timer !== null;
  }

  /** Whether so many batches go now; if not, `onDue` tells when they may. */
  mayGo(batches: number): boolean {
    const leftMs = this.#notBeforeMs - this.#clock.monotonicMs();
    if (leftMs <= 0 || batches >= uploadMaxBatches || this.#isHurried) {
      this.#isHurried = false;
      return true;
    }
    this.#timer ??= setTimeout(() => this.hurry(), leftMs);
    return false;
  }

  sent(): void {
    this.#notBeforeMs = this.#clock.monotonicMs() + paceMs;
  }

  hurry(): void {
    this.close();
    this.#isHurried = true;
    this.#onDue();
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
