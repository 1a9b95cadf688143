// Owns: what a part of the torture run is: a name, and a run that ends in one line and in what it found.
// Invariants: all chance in a part comes from `seed`; a part that cannot run here says why in `missing` and has no violations;
// every part runs its negative control in the same run, and a control that finds nothing is a violation too.
// Must not: print anything itself but through `note`; leave processes, mounts or folders behind.

export interface TortureOptions {
  readonly seed: number;
  /** 1 for the whole run; a fraction for a look of seconds. Parts multiply their counts with it and never go below a few. */
  readonly scale: number;
  /** Progress and details: shown on the standard error stream. */
  readonly note: (text: string) => void;
}

export interface TortureResult {
  /** `key=value` pairs, without the part's name and seed. */
  readonly line: string;
  /** One sentence each, with what repeats it. Empty: all held. */
  readonly violations: readonly string[];
  /** Why this part could not run on this machine. */
  readonly missing?: string;
}

export interface TorturePart {
  /** As after `--only`: kebab-case. */
  readonly name: string;
  run(options: TortureOptions): Promise<TortureResult>;
}

/** A count of the whole run at this scale, at least `least`. */
export const scaled = (count: number, { scale }: Pick<TortureOptions, 'scale'>, least = 1): number =>
  Math.max(least, Math.round(count * scale));

/** At most so many violations are told in words; the others are counted. */
const toldMax = 20;

/** Violations are gathered here: the first ones in words, all of them counted. */
export class Violations {
  readonly #told: string[] = [];
  count = 0;

  add(text: string): void {
    this.count += 1;
    if (this.#told.length < toldMax) this.#told.push(text);
  }

  get told(): readonly string[] {
    return this.count > this.#told.length ? [...this.#told, `and ${this.count - this.#told.length} more`] : this.#told;
  }
}
