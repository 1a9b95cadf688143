// Owns: what probes and uploads came to: for the status, and as counts for the metrics.
// Invariants: counts only grow while the process runs; times are wall time, for people.
import { randomBytes } from 'node:crypto';

export interface UploadReport {
  readonly lastAttemptMs: number | null;
  readonly lastError: string | null;
  /** The server's sentence, once it has refused what is uploaded refusalsMax times; until its next acknowledgement. */
  readonly refusedFor: string | null;
  /** What keeps our own side from reading what waits, or from taking its acknowledgement in; until the server's next acknowledgement. */
  readonly heldUpBy: string | null;
  readonly parked: readonly number[];
}

export interface UploadCounts {
  readonly probesProven: number;
  readonly probesFailed: number;
  /** Uploads by how they ended; one that was not answered has failed. */
  readonly acknowledged: number;
  readonly refused: number;
  readonly failed: number;
  /** When our server proved itself last, by a probe or an acknowledgement; null: not since the start. */
  readonly lastContactMs: number | null;
}

const parkedMax = 1_000;
/** Refusals in a row, with no acknowledgement between, until a person is asked: one may be a moment of the server's, or an answer to old news. */
export const refusalsMax = 3;

/** By which an upload is found again in the server's log. */
export const uploadName = (): string => `u-${randomBytes(8).toString('hex')}`;

export class Account {
  #report: UploadReport = { lastAttemptMs: null, lastError: null, refusedFor: null, heldUpBy: null, parked: [] };
  #counts: UploadCounts = { probesProven: 0, probesFailed: 0, acknowledged: 0, refused: 0, failed: 0, lastContactMs: null };
  /** In a row, that waiting does not mend. */
  #refusals = 0;

  get report(): UploadReport {
    return this.#report;
  }

  get counts(): UploadCounts {
    return this.#counts;
  }

  note(facts: Partial<UploadReport>): void {
    this.#report = { ...this.#report, ...facts };
  }

  /** In its own words, for good as far as it says. */
  refused(sentence: string): void {
    this.#refusals += 1;
    if (this.#refusals >= refusalsMax) this.note({ refusedFor: sentence });
  }

  /** What was uploaded is acknowledged, or it is another one's turn: nobody needs to act. */
  goesOn(): void {
    this.#refusals = 0;
    this.note({ refusedFor: null, heldUpBy: null });
  }

  park(sequences: readonly number[]): void {
    this.note({ parked: [...new Set([...this.#report.parked, ...sequences])].slice(-parkedMax) });
  }

  count(what: 'probesProven' | 'probesFailed' | 'acknowledged' | 'refused' | 'failed'): void {
    this.#counts = { ...this.#counts, [what]: this.#counts[what] + 1 };
  }

  /** Our server has proven itself by it. */
  proven(what: 'probesProven' | 'acknowledged', atMs: number): void {
    this.count(what);
    this.#counts = { ...this.#counts, lastContactMs: atMs };
  }
}
