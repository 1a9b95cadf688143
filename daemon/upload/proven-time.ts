// Owns: what time it is by our server's signature, carried on by the machine's uptime, sleep included, since it came.
// Invariants: a probe's answer, which carries our nonce, sets it; an acknowledgement may be old, so that it can only show that it is later than we thought.
import type { Clock } from '#ground/clock.ts';

export class ProvenTime {
  readonly #clock: Clock;
  /** The server's time, and our elapsedMs when it came. */
  #proof: { readonly serverTimeMs: number; readonly atElapsedMs: number } | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Null: nothing is proven. */
  get nowMs(): number | null {
    return this.#proof === null ? null : this.#proof.serverTimeMs + (this.#clock.elapsedMs() - this.#proof.atElapsedMs);
  }

  prove(serverTimeMs: number): void {
    this.#proof = { serverTimeMs, atElapsedMs: this.#clock.elapsedMs() };
  }

  isAtLeast(serverTimeMs: number): void {
    if (serverTimeMs > (this.nowMs ?? 0)) this.prove(serverTimeMs);
  }

  forget(): void {
    this.#proof = null;
  }
}
