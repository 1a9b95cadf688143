// Owns: requests that wait for the server's acknowledgement of their batch.
// Invariants: a wait is bounded (ackWaitMs) and never holds up anybody else; its end says what is true: acknowledged or not yet.

export const ackWaitMs = 20_000;

export class Deliveries {
  readonly #waiting = new Set<{ readonly batchIndex: number; wake(acknowledged: boolean): void }>();
  readonly #onWait: () => void;
  #closed = false;

  /** `onWait`: somebody has begun to wait. */
  constructor(onWait: () => void) {
    this.#onWait = onWait;
  }

  /** true when the batch was acknowledged within the time. */
  wait(batchIndex: number): Promise<boolean> {
    if (this.#closed) return Promise.resolve(false);
    return new Promise((resolve) => {
      const timer = setTimeout(() => entry.wake(false), ackWaitMs);
      const entry = {
        batchIndex,
        wake: (acknowledged: boolean): void => {
          clearTimeout(timer);
          this.#waiting.delete(entry);
          resolve(acknowledged);
        },
      };
      this.#waiting.add(entry);
      this.#onWait();
    });
  }

  /** Everything up to and with this batch is acknowledged. */
  acknowledged(upToBatch: number): void {
    for (const entry of [...this.#waiting]) if (entry.batchIndex <= upToBatch) entry.wake(true);
  }

  /** Nobody need wait any longer: the line is down. */
  giveUp(): void {
    for (const entry of [...this.#waiting]) entry.wake(false);
  }

  /** Nobody waits from now on: the service closes. */
  close(): void {
    this.#closed = true;
    this.giveUp();
  }
}
