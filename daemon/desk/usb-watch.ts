// Owns: what is plugged in on the USB side while no token is there, so that whoever stands before the machine is told what to do.
// Invariants: it is looked for when the token goes absent, and when somebody asks for the status, a while apart and one at a time; nobody waits for it, and
// while a token is there it is neither looked for nor told.
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { UsbSight } from '#ground/machine.ts';
import type { HolderState } from '#holder/holder.ts';

/** Between two looks. */
export const usbPauseMs = 10_000;

export interface UsbWatchParts {
  readonly clock: Clock;
  readonly log: Log;
  /** Null: the token is no USB device (the embedded soft token). */
  readonly look: (() => Promise<UsbSight | null>) | null;
}

export class UsbWatch {
  readonly #parts: UsbWatchParts;
  #isAbsent = false;
  #sight: UsbSight | null = null;
  #looking = false;
  /** Monotonic. */
  #notBeforeMs = Number.NEGATIVE_INFINITY;

  constructor(parts: UsbWatchParts) {
    this.#parts = parts;
  }

  /** Null: a token is there, or the system does not tell. */
  get sight(): UsbSight | null {
    return this.#sight;
  }

  /** Each state of the holder. */
  follow({ kind }: HolderState): void {
    const was = this.#isAbsent;
    this.#isAbsent = kind === 'absent';
    if (!this.#isAbsent) this.#sight = null;
    else if (!was) this.#look();
  }

  /** Somebody asks: what is known is told, and looked for anew where it is old. */
  refresh(): void {
    if (this.#isAbsent && this.#parts.clock.monotonicMs() >= this.#notBeforeMs) this.#look();
  }

  #look(): void {
    const { clock, log, look } = this.#parts;
    if (look === null || this.#looking) return;
    this.#looking = true;
    look()
      .then(
        (sight) => {
          if (this.#isAbsent) this.#sight = sight;
        },
        (error: unknown) => log.debug('the USB side does not tell', { why: whyOf(error) }),
      )
      .finally(() => {
        this.#looking = false;
        this.#notBeforeMs = clock.monotonicMs() + usbPauseMs;
      });
  }
}
