// Owns: in which order what has arrived is handled: groups of callers take turns, and one turn of the loop handles only so much.
// Invariants: who comes while there is time, and before whom nobody of their group waits, is handled at once; inside a group it is first come, first
// served; a group of a thousand gets no more than a group of one. Sockets are read in between, so that newcomers get into the line.
// Must not: know what is handled.
import { FairLine } from '#ground/fair-line.ts';

export interface Member {
  /** Handles some of what has arrived. It may come to wait again meanwhile. */
  turn(): void;
}

export interface RotaOptions {
  /** What one turn of the loop may take of the service's time; the member that passes it is the last. */
  readonly sliceMs: number;
  nowMs(): number;
}

export class Rota {
  readonly #options: RotaOptions;
  readonly #line = new FairLine<Member>();
  #spentMs = 0;
  #isQueued = false;
  #isStopped = false;

  constructor(options: RotaOptions) {
    this.#options = options;
  }

  /** False: it waits for its turn. */
  comes(group: string, member: Member): boolean {
    if (this.#spentMs >= this.#options.sliceMs || this.#line.lengthOf(group) > 0) {
      this.waits(group, member);
      return false;
    }
    this.#queue(); // which gives the next turn of the loop its time
    this.#take(member);
    return true;
  }

  waits(group: string, member: Member): void {
    this.#line.push(group, member);
    this.#queue();
  }

  /** Nobody gets a turn any more. */
  stop(): void {
    this.#isStopped = true;
    this.#line.clear();
  }

  #queue(): void {
    if (this.#isQueued) return;
    this.#isQueued = true;
    setImmediate(() => this.#goRound());
  }

  #goRound(): void {
    this.#isQueued = false;
    this.#spentMs = 0;
    // No more turns than there are waiting: whoever has had theirs and comes again does so behind what the sockets bring.
    for (let turns = this.#line.length; turns > 0 && this.#spentMs < this.#options.sliceMs; turns -= 1) {
      const member = this.#line.shift();
      if (member !== undefined) this.#take(member);
    }
    if (this.#line.length > 0) this.#queue();
  }

  #take(member: Member): void {
    if (this.#isStopped) return;
    const startMs = this.#options.nowMs();
    member.turn();
    this.#spentMs += this.#options.nowMs() - startMs;
  }
}
