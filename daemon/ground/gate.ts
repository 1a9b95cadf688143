// Owns: how many of one kind of act are on their way at a time; the others wait, and those who ask take turns.
// Invariants: what waits is bounded, in all and of one who asks, and beyond that refused; whatever an act ends in, the next one begins; who asks for a
// thousand things holds up somebody else's one by no more than what is on its way, and one.
// Must not: know what is asked.
import { askingGroup } from '#ground/asking.ts';
import { FairLine } from '#ground/fair-line.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

const busyRetryMs = 200;

export interface GateOptions {
  readonly atOnce: number;
  readonly waitingMax: number;
  /** Of one who asks; left out: as many as of all. */
  readonly waitingMaxOfOne?: number;
  /** For who is refused. */
  readonly busy: string;
}

export class Gate {
  readonly #options: GateOptions;
  readonly #waiting = new FairLine<() => void>();
  #inside = 0;

  constructor(options: GateOptions) {
    this.#options = options;
  }

  /** Rejects with busy when too many wait, or as `act` does. */
  async pass<T>(act: () => Promise<T>): Promise<T> {
    if (this.#inside < this.#options.atOnce) this.#inside += 1;
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
    const { waitingMax, waitingMaxOfOne = waitingMax, busy } = this.#options;
    const group = askingGroup();
    if (this.#waiting.length >= waitingMax || this.#waiting.lengthOf(group) >= waitingMaxOfOne)
      throw new UkeyError('busy', busy, { retryAfterMs: busyRetryMs });
    return new Promise((resolve) => this.#waiting.push(group, resolve));
  }
}
