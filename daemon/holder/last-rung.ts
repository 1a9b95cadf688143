// Owns: when a holder process has tried all it can with its module, so that only a new process may help: the last rung of the ladder.
// The rungs below: login again, a new session, C_Finalize and C_Initialize (token/token-session.ts; each look at an absent token does the last).
// Invariants: a token that is not there is no reason, however long it stays away; nor is what no module said. A good look or signature forgets
// what failed before it.
import { asUkeyError, type UkeyError } from '#ipc-schema/errors.ts';
import { reactionOf } from '#token/ckr.ts';

/** In a row. */
const failedLooksMax = 6;
const failedSignaturesMax = 3;

export class LastRung {
  readonly #giveUp: (reason: string) => void;
  #failedLooks = 0;

  constructor(giveUp: (reason: string) => void) {
    this.#giveUp = giveUp;
  }

  looked(): void {
    this.#failedLooks = 0;
  }

  lookFailed(thrown: unknown): void {
    const reaction = reactionOf(thrown);
    const { code, message } = asUkeyError(thrown);
    this.#failedLooks = reaction === null || code === 'no-token' ? 0 : this.#failedLooks + 1;
    if (reaction === 'restart' || this.#failedLooks >= failedLooksMax) this.#giveUp(message);
  }

  /** `inARow`: signatures that failed since the last good one. */
  signatureFailed(error: UkeyError, inARow: number): void {
    if (reactionOf(error) === 'restart' || inARow >= failedSignaturesMax) this.#giveUp(error.message);
  }
}
