// Owns: a line in which groups take turns: inside a group first come, first served; of the groups each has one, then goes to the end.
// Invariants: a group of a thousand holds up another's first by no more than one of its own.
// Must not: know what waits.

export class FairLine<T> {
  /** In the order in which they are next; none is empty. */
  readonly #groups = new Map<string, T[]>();
  #length = 0;

  get length(): number {
    return this.#length;
  }

  lengthOf(group: string): number {
    return this.#groups.get(group)?.length ?? 0;
  }

  push(group: string, one: T): void {
    this.#length += 1;
    const before = this.#groups.get(group);
    if (before === undefined) this.#groups.set(group, [one]);
    else before.push(one);
  }

  /** Whose turn it is; undefined: nobody waits. */
  shift(): T | undefined {
    const first = this.#groups.entries().next().value;
    if (first === undefined) return undefined;
    const [group, waiting] = first;
    const next = waiting.shift();
    this.#length -= 1;
    this.#groups.delete(group);
    if (waiting.length > 0) this.#groups.set(group, waiting); // to the end
    return next;
  }

  clear(): void {
    this.#groups.clear();
    this.#length = 0;
  }
}
