// Owns: calls that come at once share one making of what they ask for.
// Invariants: one is made at a time; nobody gets what was begun before it was asked for, so an answer is never older than its question.

/** The same as `make`, which may run less often than it is asked for. */
export function sharing<T>(make: () => Promise<T>): () => Promise<T> {
  let current: Promise<T> | null = null;
  let next: Promise<T> | null = null;
  const begin = (): Promise<T> => {
    next = null;
    const made = (async () => await make())(); // one that throws at once has failed like any other
    const ended = (): void => {
      if (next === null) current = null;
    };
    current = made;
    made.then(ended, ended);
    return made;
  };
  return () => {
    if (current === null) return begin();
    next ??= current.then(begin, begin);
    return next;
  };
}
