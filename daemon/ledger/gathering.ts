// Owns: the moment after a slow token's seal in which the callers of that batch come back, so that they and those who wait already share one batch.
// Invariants: who comes, or is answered, prolongs it; it ends when for a while nobody was and did, and at the latest after a share of a signature;
// a quick token has none. At most one timer. Must not: know what is gathered.
import type { Clock } from '#ground/clock.ts';
import { gatherLongestMs, gatherMs } from './rhythm.ts';

export class Gathering {
  readonly #clock: Pick<Clock, 'monotonicMs'>;
  readonly #onEnd: () => void;
  #timer: NodeJS.Timeout | null = null;
  #quietMs = 0;
  #latestMs = 0;
  #newsSinceQuiet = false;

  constructor(clock: Pick<Clock, 'monotonicMs'>, onEnd: () => void) {
    this.#clock = clock;
    this.#onEnd = onEnd;
  }

  get isOn(): boolean {
    return this.#timer !== null;
  }

  begin(meanSignatureMs: number | null): void {
    this.end();
    this.#quietMs = gatherMs(meanSignatureMs);
    if (this.#quietMs === 0) return;
    this.#latestMs = this.#clock.monotonicMs() + gatherLongestMs(meanSignatureMs);
    this.#timer = setTimeout(() => this.#quiet(), this.#quietMs);
  }

  /** Somebody came, or was answered and may come back. */
  news(): void {
    this.#newsSinceQuiet = true;
    if (this.#timer !== null && this.#mayGoOn()) this.#timer.refresh();
  }

  /** Without a word to anybody. */
  end(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #mayGoOn(): boolean {
    return this.#clock.monotonicMs() + this.#quietMs <= this.#latestMs;
  }

  /** Timers run before input in a turn of the loop: after a turn that was long, who has come lies in the sockets still. */
  #quiet(): void {
    const timer = this.#timer;
    this.#newsSinceQuiet = false;
    setImmediate(() => {
      if (this.#timer !== timer || timer === null) return;
      if (this.#newsSinceQuiet && this.#mayGoOn()) return; // `news` has set the timer anew
      this.end();
      this.#onEnd();
    });
  }
}
