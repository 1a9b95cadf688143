// Owns: requests that wait for the server's acknowledgement of their batch.
// Invariants: a wait is bounded (ackWaitMs) and never holds up anybody else; its end says what is true: acknowledged or not yet. Every ledger has a
// batch of each number: what is said of one token wakes nobody who waits for another one's.

export const ackWaitMs = 20_000;

export class Deliveries {
  readonly #waiting = new Set<{ readonly token: string; readonly batchIndex: number; wake(acknowledged: boolean): void }>();
  readonly #onWait: () => void;
  #closed = false;

  /** `onWait`: somebody has begun to wait. */
  constructor(onWait: () => void) {
    this.#onWait = onWait;
  }

  /** true when the batch was acknowledged within the time. */
  wait(tokenId: Uint8Array, batchIndex: number): Promise<boolean> {
    if (this.#closed) return Promise.resolve(false);
    return new Promise((resolve) => {
      const timer = setTimeout(() => entry.wake(false), ackWaitMs);
      const entry = {
        token: nameOf(tokenId),
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

  /** Everything of this token up to and with this batch is acknowledged. */
  acknowledged(tokenId: Uint8Array, upToBatch: number): void {
    const token = nameOf(tokenId);
    for (const entry of [...this.#waiting]) if (entry.token === token && entry.batchIndex <= upToBatch) entry.wake(true);
  }

  /** This token is the one that uploads from now on: whoever waits for another one's batch need not. */
  opened(tokenId: Uint8Array): void {
    const token = nameOf(tokenId);
    for (const entry of [...this.#waiting]) if (entry.token !== token) entry.wake(false);
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

const nameOf = (tokenId: Uint8Array): string => Buffer.from(tokenId).toString('hex');
