// Owns: the deadline of a line of calls that the holder process begins one after the other: those of the token, those of the devices.
// Invariants: only the call at the head is timed, from the moment it became the head: a call is never blamed for those before
// it; a head that passes its allowance hangs. Answers that lie unread in a stalled parent's own channel are
// taken in before anybody is blamed.
// Must not: kill anything; `onHung` does.

export class Lane {
  readonly #onHung: (what: string) => void;
  readonly #waiting = new Map<number, { readonly what: string; readonly allowanceMs: number }>();
  #head: number | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(onHung: (what: string) => void) {
    this.#onHung = onHung;
  }

  get length(): number {
    return this.#waiting.size;
  }

  begin(id: number, what: string, allowanceMs: number): void {
    this.#waiting.set(id, { what, allowanceMs });
    if (this.#head === null) this.#next();
  }

  end(id: number): void {
    if (this.#waiting.delete(id) && this.#head === id) this.#next();
  }

  clear(): void {
    this.#waiting.clear();
    this.#next();
  }

  #next(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const head = this.#waiting.entries().next().value;
    this.#head = head?.[0] ?? null;
    if (head === undefined) return;
    const [id, { what, allowanceMs }] = head;
    this.#timer = setTimeout(() => this.#expire(id, what), allowanceMs);
  }

  #expire(id: number, what: string): void {
    // Timers run before input in a turn of the loop: after a stall of our own the answer may be there already.
    setImmediate(() => {
      if (this.#head === id) this.#onHung(what);
    });
  }
}
