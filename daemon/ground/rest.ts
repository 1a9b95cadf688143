// Owns: what a process of the service does once it has hardly anything to do: it gives back the memory that its work has left behind.
// V8 keeps the pages of what has died for more work, however long none comes; only a collection "as a last resort" hands them to the system. That takes
// the time of some dozen sales, so it comes where nobody is likely to wait, and after at least as much work as makes it a small part.
// Invariants: the little that a process does all the time (it looks after a token, it answers a screen) is no work: the quietest of the looks of the last
// minute says how much it is, as far as it is little.
import { performance } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

export const lookMs = 3_000;
/** The first looks belong to the start, which goes on behind the doors' opening: they only learn what is quiet. */
export const startLooks = 6;
/** A look that found less work was quiet: a till that sells something each second is. */
export const quietMs = 30;
/** What may be done all the time without being work. */
export const habitMaxMs = 60;
export const habitLooks = 20;
/** Work since the last collection that is worth the next one. */
export const worthMs = 500;

export interface RestParts {
  /** How long the event loop was not idle since the process began, in ms; only grows. */
  activeMs(): number;
  collect(): void;
}

export class Rest {
  readonly #parts: RestParts;
  #looks = 0;
  #seenMs = 0;
  #lastMs: number[] = [];
  /** A start is worth it, however short it was. */
  #workMs = worthMs;

  constructor(parts: RestParts) {
    this.#parts = parts;
  }

  /** Called every lookMs. */
  look(): void {
    const activeMs = this.#parts.activeMs();
    const sinceMs = activeMs - this.#seenMs;
    this.#seenMs = activeMs;
    this.#lastMs = [...this.#lastMs.slice(1 - habitLooks), sinceMs];
    this.#looks += 1;
    if (this.#looks <= startLooks) return;
    const workMs = sinceMs - Math.min(habitMaxMs, ...this.#lastMs);
    this.#workMs += workMs;
    if (workMs >= quietMs || this.#workMs < worthMs) return;
    this.#parts.collect();
    this.#seenMs = this.#parts.activeMs(); // the collection was no work
    this.#workMs = 0;
  }
}

/** From now on, until the process ends; keeps none alive. Where V8 cannot be asked, `onFailed` hears why, once. */
export function restWhenQuiet(onFailed: (error: unknown) => void): void {
  const rest = new Rest({ activeMs: () => performance.eventLoopUtilization().active, collect: collectAll });
  const timer = setInterval(() => {
    try {
      rest.look();
    } catch (error) {
      clearInterval(timer);
      onFailed(error);
    }
  }, lookMs).unref();
}

let collector: NodeJS.GCFunction | null = null;

/** Collects what V8 can, and hands back what it does not need now. */
export function collectAll(): void {
  collector ??= v8Collector();
  collector({ type: 'major', execution: 'sync', flavor: 'last-resort' });
}

/** Node has no other way to it than V8's flag, which a context heeds when it is made. It goes again: what is compiled under other flags is not found in a compile cache. */
function v8Collector(): NodeJS.GCFunction {
  setFlagsFromString('--expose-gc');
  try {
    return runInNewContext('gc') as NodeJS.GCFunction;
  } finally {
    setFlagsFromString('--no-expose-gc');
  }
}
