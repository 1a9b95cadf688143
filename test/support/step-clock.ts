// Owns: a clock that a test moves: wall and monotonic time together (`pass`), or the wall alone (`jump`).
import type { Clock } from '#ground/clock.ts';

export class StepClock implements Clock {
  #wallMs: number;
  #monotonicMs = 1_000;

  constructor(wallMs: number = Date.parse('2030-03-04T05:06:07Z')) {
    this.#wallMs = wallMs;
  }

  wallMs(): number {
    return this.#wallMs;
  }

  monotonicMs(): number {
    return this.#monotonicMs;
  }

  pass(ms: number): void {
    this.#wallMs += ms;
    this.#monotonicMs += ms;
  }

  /** Somebody sets the clock. */
  jump(ms: number): void {
    this.#wallMs += ms;
  }
}
