// Owns: the decision what a probe's or upload's outcome means for the link, with hysteresis. Pure.
// Invariants: only a proof (our server's signature over our nonce, or its signed acknowledgement) makes the link `up`; one failure alone never
// makes it `down`: it asks for another probe soon; so that a lost packet neither flaps the standing nor delays a till.
import type { Link } from '#ipc-schema/status.ts';

/** Failures in a row that take the link down. */
export const failuresToDown = 2;

export interface LinkState {
  readonly link: Link;
  readonly failuresInRow: number;
}

export const unknownLink: LinkState = { link: 'unknown', failuresInRow: 0 };

export interface LinkDecision extends LinkState {
  /** Probe again at once (after a short monotonic wait) instead of at the next time of the timetable. */
  readonly probeSoon: boolean;
}

export function afterOutcome(state: LinkState, outcome: 'proof' | 'failure'): LinkDecision {
  if (outcome === 'proof') return { link: 'up', failuresInRow: 0, probeSoon: false };
  const failuresInRow = Math.min(state.failuresInRow + 1, failuresToDown);
  const down = failuresInRow >= failuresToDown;
  return { link: down ? 'down' : state.link, failuresInRow, probeSoon: !down };
}

/** Wait before try `attempt` (from 0): doubling from baseMs, at most capMs, times a jitter of 0.5 to 1.0 (`random` in [0, 1)). */
export function backOffMs(attempt: number, random: number): number {
  const baseMs = 500;
  const capMs = 60_000;
  return Math.round(Math.min(capMs, baseMs * 2 ** Math.min(attempt, 16)) * (0.5 + random / 2));
}

/** A refusal of what was sent, that sending it again does not mend: not "later" (408, 425, 429), and not trouble of the server's own (5xx). */
export function isForGood(status: number): boolean {
  return status >= 400 && status < 500 && status !== 408 && status !== 425 && status !== 429;
}
