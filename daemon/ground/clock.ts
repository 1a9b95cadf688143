// Owns: the times of the product. Wall time is only data; waits are monotonic, and ages are besides measured through the machine's sleep.
// Tests pass a step clock with the same shape; nothing else reads Date or performance.
import os from 'node:os';

export interface Clock {
  /** Milliseconds since 1970, UTC: what is printed and sealed. May jump. */
  wallMs(): number;
  /** Milliseconds that only ever go forward: what waits and back-off are measured in. */
  monotonicMs(): number;
  /** Milliseconds that go forward while the machine sleeps too, in coarse steps: by which ages are measured, and a proven time is carried on. */
  elapsedMs(): number;
}

/** Asking the system for its uptime takes a while, and every invoice asks; it is as coarse as this anyway. */
const uptimeStepMs = 20;
let uptimeMs = 0;
let uptimeAskedMs = Number.NEGATIVE_INFINITY;

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  elapsedMs: () => {
    const nowMs = performance.now();
    if (nowMs - uptimeAskedMs >= uptimeStepMs) {
      uptimeMs = os.uptime() * 1_000;
      uptimeAskedMs = nowMs;
    }
    return uptimeMs;
  },
};
