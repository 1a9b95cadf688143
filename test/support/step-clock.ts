// Owns: a clock that a test moves: wall and monotonic time together (`pass`), or the wall alone (`jump`). `ticking`: it goes on by itself besides.
import type { Clock } from '#ground/clock.ts';

export class StepClock implements Clock {
  #wallMs: number;
  #monotonicMs = 1_000;
  #sleptMs = 0;
  readonly #startMs: number | null;

  constructor(wallMs: number = Date.parse('2030-03-04T05:06:07Z'), ticking = false) {
    this.#wallMs = wallMs;
    this.#startMs = ticking ? performance.now() : null;
  }

  wallMs(): number {
    return Math.floor(this.#wallMs + this.#tickedMs());
  }

  monotonicMs(): number {
    return this.#monotonicMs + this.#tickedMs();
  }

  elapsedMs(): number {
    return this.monotonicMs() + this.#sleptMs;
  }

  #tickedMs(): number {
    return this.#startMs === null ? 0 : performance.now() - this.#startMs;
  }

  pass(ms: number): void {
    this.#wallMs += ms;
    this.#monotonicMs += ms;
  }

  /** The machine sleeps: monotonic time stands still. */
  sleep(ms: number): void {
    this.#wallMs += ms;
    this.#sleptMs += ms;
  }

  /** Somebody sets the clock. */
  jump(ms: number): void {
    this.#wallMs += ms;
  }
}
