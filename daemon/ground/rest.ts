// Owns: what a process of the service does once it has nothing to do: it gives back the memory that its work has left behind.
// V8 keeps the pages of what has died for more work, however long none comes; only a collection "as a last resort" hands them to the system. That takes
// the time of some dozen sales, so it comes where nobody is likely to wait, and after at least as much work as makes it a small part.
// Invariants: one collection for each stretch of work, in the first quiet look behind it.
import { performance } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

export const lookMs = 5_000;
/** A look that found less work behind it was quiet: a till that sells something each second is. */
export const quietMs = 50;
/** Work since the last collection that is worth the next one. */
export const worthMs = 1_000;

export interface RestParts {
  /** How long the event loop was not idle since the process began, in ms; only grows. */
  activeMs(): number;
  collect(): void;
}

export class Rest {
  readonly #parts: RestParts;
  #seenMs = 0;
  /** Null: a start is worth it, however short it was. */
  #restedMs: number | null = null;

  constructor(parts: RestParts) {
    this.#parts = parts;
  }

  /** Called every lookMs. */
  look(): void {
    const activeMs = this.#parts.activeMs();
    const isQuiet = activeMs - this.#seenMs < quietMs;
    this.#seenMs = activeMs;
    if (!isQuiet || (this.#restedMs !== null && activeMs - this.#restedMs < worthMs)) return;
    this.#parts.collect();
    this.#seenMs = this.#parts.activeMs(); // the collection was no work
    this.#restedMs = this.#seenMs;
  }
}

/** From now on, until the process ends; keeps none alive. */
export function restWhenQuiet(): void {
  const rest = new Rest({ activeMs: () => performance.eventLoopUtilization().active, collect: collectAll });
  setInterval(() => rest.look(), lookMs).unref();
}

let collector: NodeJS.GCFunction | null = null;

/** Collects what V8 can, and hands back what it does not need now. */
export function collectAll(): void {
  collector ??= v8Collector();
  collector({ type: 'major', execution: 'sync', flavor: 'last-resort' });
}

/** Node has no other way to it than V8's flag, which each context reads when it is made. */
function v8Collector(): NodeJS.GCFunction {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as NodeJS.GCFunction;
}
