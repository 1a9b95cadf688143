// Owns: the order in which logins, logouts, formatting and looks at the token take place: one at a time.
// Invariants: a bounded number of callers waits; the holder's own turns (looking, recovering), without which nothing might go on, are never refused for
// them: there is one for each look and for each call that failed. After `end` nobody begins. Must not: know what a turn does.
import { UkeyError } from '#ipc-schema/errors.ts';
import { wipe } from '#token/pin.ts';

const turnsMax = 32;
const busyRetryMs = 1_000;

export class Turns {
  #last: Promise<unknown> = Promise.resolve();
  #waiting = 0;
  #ended = false;

  /** Rejects with no-token when it has ended, busy when too many wait, or as `act` does. */
  async take<T>(act: () => Promise<T>): Promise<T> {
    if (!this.#ended && this.#waiting >= turnsMax)
      throw new UkeyError('busy', 'too many calls wait for the token', { retryAfterMs: busyRetryMs });
    this.#waiting += 1;
    try {
      return await this.takeOwn(act);
    } finally {
      this.#waiting -= 1;
    }
  }

  /** However many wait. Rejects with no-token when it has ended, or as `act` does. */
  takeOwn<T>(act: () => Promise<T>): Promise<T> {
    if (this.#ended) return Promise.reject(new UkeyError('no-token', 'the holder is closed'));
    const done = this.#last.then(act);
    this.#last = done.catch(() => undefined); // the caller has the error; the next turn only waits
    return done;
  }

  /** A turn with secrets, which are overwritten when it ends or was refused. */
  async takeWith<T>(secrets: readonly (Uint8Array | null)[], act: () => Promise<T>): Promise<T> {
    try {
      return await this.take(act);
    } finally {
      wipe(...secrets.filter((secret) => secret !== null));
    }
  }

  /** Resolves when those that were taken are over. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.#last;
  }
}
