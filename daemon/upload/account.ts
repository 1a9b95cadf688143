// Owns: what probes and uploads came to: for the status, and as counts for the metrics.
// Invariants: counts only grow while the process runs; times are wall time, for people.
import { randomBytes } from 'node:crypto';

export interface UploadReport {
  readonly lastAttemptMs: number | null;
  readonly lastError: string | null;
  /** The server's sentence, once it has refused what is uploaded refusalsMax times; until its next acknowledgement. */
  readonly refusedFor: string | null;
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

/** By which an upload is found again in the server's log. */
export const uploadName = (): string => `u-${randomBytes(8).toString('hex')}`;

export class Account {
  #report: UploadReport = { lastAttemptMs: null, lastError: null, refusedFor: null, parked: [] };
  #counts: UploadCounts = { probesProven: 0, probesFailed: 0, acknowledged: 0, refused: 0, failed: 0, lastContactMs: null };

  get report(): UploadReport {
    return this.#report;
  }

  get counts(): UploadCounts {
    return this.#counts;
  }

  note(facts: Partial<UploadReport>): void {
    this.#report = { ...this.#report, ...facts };
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
