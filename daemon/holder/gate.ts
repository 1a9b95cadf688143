// Owns: how many of one kind of call are on their way to the holder process at a time; the others wait, and those who ask take turns.
// Invariants: what waits is bounded, and beyond that refused; whatever an act ends in, the next one begins; who asks for a thousand things holds up
// somebody else's one by no more than what is on its way, and one.
// Must not: know what is asked.
import { askingGroup } from '#ground/asking.ts';
import { FairLine } from '#ground/fair-line.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

const busyRetryMs = 200;

export class Gate {
  readonly #atOnce: number;
  readonly #waitingMax: number;
  readonly #waiting = new FairLine<() => void>();
  #inside = 0;

  constructor(atOnce: number, waitingMax: number) {
    this.#atOnce = atOnce;
    this.#waitingMax = waitingMax;
  }

  /** Rejects with busy when too many wait, or as `act` does. */
  async pass<T>(act: () => Promise<T>): Promise<T> {
    if (this.#inside < this.#atOnce) this.#inside += 1;
    else await this.#turn();
    try {
      return await act();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#inside -= 1;
      else next(); // takes the place that is given up here
    }
  }

  #turn(): Promise<void> {
    if (this.#waiting.length >= this.#waitingMax)
      throw new UkeyError('busy', 'too many calls wait for the token', { retryAfterMs: busyRetryMs });
    return new Promise((resolve) => this.#waiting.push(askingGroup(), resolve));
  }
}
