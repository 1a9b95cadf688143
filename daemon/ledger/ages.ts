// Owns: how old a document is, measured by a clock that never jumps, though it carries only a wall time. Pure.
// How: marks say which wall time was printed at which instant of that clock; a new one is made where the wall clock has left the line of the last.
// Invariants: a clock that jumps, either way, changes no age; where more than one answer is possible the greater age is given (a limit locks
// rather too early); at most marksMax marks, the oldest go first.

interface Mark {
  readonly wallMs: number;
  readonly elapsedMs: number;
}

const marksMax = 64;
const driftMs = 1_000;

export class Ages {
  #marks: Mark[] = [];

  /** Now `wallMs` is what would be printed (never less than what was printed before). */
  note(wallMs: number, elapsedMs: number): void {
    const last = this.#marks.at(-1);
    // A clock that was set back prints the same time until it has caught up: the first instant stands for all of them.
    if (last !== undefined && wallMs <= last.wallMs) return;
    if (last !== undefined && Math.abs(wallMs - last.wallMs - (elapsedMs - last.elapsedMs)) < driftMs) return;
    this.#marks.push({ wallMs, elapsedMs });
    if (this.#marks.length > marksMax) this.#marks.shift();
  }

  /** Age of what was printed with `wallMs`. Something must have been noted before. */
  ageMs(wallMs: number, elapsedMs: number): number {
    const at = Math.max(
      0,
      this.#marks.findLastIndex((mark) => mark.wallMs <= wallMs),
    );
    const mark = this.#marks[at];
    if (mark === undefined) return 0;
    // Before the first mark it was printed by an earlier run: all that is known is the distance by the wall clock of then.
    let bornMs = mark.elapsedMs + (wallMs - mark.wallMs);
    const [before, after] = [this.#marks[at - 1], this.#marks[at + 1]];
    if (after !== undefined) bornMs = Math.min(bornMs, after.elapsedMs);
    // The same time was printed before the clock was set back, and long after: the first counts.
    if (before !== undefined && wallMs === mark.wallMs) bornMs = Math.min(bornMs, before.elapsedMs + (wallMs - before.wallMs));
    return Math.max(0, elapsedMs - bornMs);
  }

  /** Nothing waits any more: what comes is measured from anew. */
  clear(): void {
    this.#marks = [];
  }
}
