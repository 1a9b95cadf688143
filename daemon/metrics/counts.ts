// Owns: what is counted while tills are served: requests by method and code, and of each token documents, batches and how long commits took.
// Invariants: counting is an addition in memory and never throws, whoever asks for the figures or nobody; labels come from closed tables, so that no
// caller makes them grow.
import type { ErrorCode } from '#ipc-schema/errors.ts';
import type { Labels, Sample } from './exposition.ts';

/** Values in buckets, as Prometheus wants them: each bucket also counts what is in the smaller ones. */
export class Histogram {
  readonly #bounds: readonly number[];
  /** By the smallest bound that fits; the last: above all. */
  readonly #counts: number[];
  #sum = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = new Array<number>(bounds.length + 1).fill(0);
  }

  observe(value: number): void {
    let at = 0;
    while (at < this.#bounds.length && value > (this.#bounds[at] ?? 0)) at += 1;
    this.#counts[at] = (this.#counts[at] ?? 0) + 1;
    this.#sum += value;
  }

  samples(labels: Labels): Sample[] {
    let count = 0;
    const buckets = [...this.#bounds, Number.POSITIVE_INFINITY].map((bound, at) => {
      count += this.#counts[at] ?? 0;
      const le = bound === Number.POSITIVE_INFINITY ? '+Inf' : String(bound);
      return { suffix: '_bucket', labels: { ...labels, le }, value: count };
    });
    return [...buckets, { suffix: '_sum', labels, value: this.#sum }, { suffix: '_count', labels, value: count }];
  }
}

/** From a fast soft token to a slow card with a slow disk. */
const secondsBounds = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const entriesBounds = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/** What callers asked, and how it went. */
export class RequestCounts {
  readonly #counts = new Map<string, Map<string, number>>();
  /** Of invoice.issue that was answered, not refused: from the request's arrival to its answer, so with `wait` also the server's part. */
  readonly issueSeconds = new Histogram(secondsBounds);

  answered(method: string, code: ErrorCode | null, tookMs: number): void {
    const codes = this.#counts.get(method) ?? new Map<string, number>();
    if (codes.size === 0) this.#counts.set(method, codes);
    const name = code ?? 'ok';
    codes.set(name, (codes.get(name) ?? 0) + 1);
    if (code === null && method === 'invoice.issue') this.issueSeconds.observe(tookMs / 1_000);
  }

  samples(): Sample[] {
    return [...this.#counts].flatMap(([method, codes]) => [...codes].map(([code, value]) => ({ labels: { method, code }, value })));
  }
}

/** What became durable on one token. */
export class TokenCounts {
  readonly #issued = new Map<string, number>();
  readonly batchEntries = new Histogram(entriesBounds);
  readonly commitSeconds = new Histogram(secondsBounds);

  /** `kinds`: of the batch's entries. */
  committed(kinds: Iterable<string>, commitMs: number): void {
    let entries = 0;
    for (const kind of kinds) {
      entries += 1;
      this.#issued.set(kind, (this.#issued.get(kind) ?? 0) + 1);
    }
    this.batchEntries.observe(entries);
    this.commitSeconds.observe(commitMs / 1_000);
  }

  samples(labels: Labels): Sample[] {
    return [...this.#issued].map(([kind, value]) => ({ labels: { ...labels, kind }, value }));
  }
}
