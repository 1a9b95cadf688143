// Owns: callers that wait a moment for something that is on its way.
// Invariants: nobody waits longer than graceMs; all are woken together, and then no timer is left.

/** How long a caller waits while the token is being opened again, before it is told. */
export const graceMs = 4_000;

export class WaitingRoom {
  readonly #waiting = new Set<() => void>();

  /** Resolves at the next `wake`, or after graceMs. */
  wait(): Promise<void> {
    return new Promise((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, graceMs);
      this.#waiting.add(wake);
    });
  }

  wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}
