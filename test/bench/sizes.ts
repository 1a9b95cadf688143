// Owns: how much is measured: `full`, `quick` (two minutes) and `tiny` (to see that the plumbing holds, within seconds).

export interface Sizes {
  readonly name: 'tiny' | 'quick' | 'full';
  readonly rounds: number;
  /** B1, B8: invoices of a round, one at a time. */
  readonly oneTillCount: number;
  readonly warmUpCount: number;
  /** B2: invoices of a round, and tills. */
  readonly manyTillsCount: number;
  readonly manyTills: number;
  /** B3. */
  readonly slowSignMs: number;
  readonly slowTills: readonly number[];
  /** Rounds of signatures that each till waits through. */
  readonly slowTurns: number;
  /** B4: entries written one per batch, and as many batches. */
  readonly wearBatches: number;
  /** B5, B7, B8 and the charts: entries of the ledgers, ascending. */
  readonly ledgers: readonly number[];
  /** B6. */
  readonly backlog: number;
  /** B9: starts. */
  readonly starts: number;
  /** B10: waiting when the network comes back, and how long the cable is out at least. */
  readonly pending: number;
  readonly outMs: number;
  /** Of an image, before what it shall hold. */
  readonly leastFlashMib: number;
}

export const sizes: Readonly<Record<Sizes['name'], Sizes>> = {
  tiny: {
    name: 'tiny',
    rounds: 2,
    oneTillCount: 10,
    warmUpCount: 5,
    manyTillsCount: 40,
    manyTills: 8,
    slowSignMs: 20,
    slowTills: [4, 8],
    slowTurns: 2,
    wearBatches: 4,
    ledgers: [40, 80],
    backlog: 60,
    starts: 1,
    pending: 20,
    outMs: 200,
    leastFlashMib: 16,
  },
  quick: {
    name: 'quick',
    rounds: 3,
    oneTillCount: 200,
    warmUpCount: 200,
    manyTillsCount: 2_000,
    manyTills: 64,
    slowSignMs: 250,
    slowTills: [64, 512],
    slowTurns: 4,
    wearBatches: 50,
    ledgers: [1_000, 10_000],
    backlog: 10_000,
    starts: 2,
    pending: 1_000,
    outMs: 1_000,
    leastFlashMib: 32,
  },
  full: {
    name: 'full',
    rounds: 11,
    oneTillCount: 1_000,
    warmUpCount: 1_000,
    manyTillsCount: 10_000,
    manyTills: 64,
    slowSignMs: 250,
    slowTills: [64, 512],
    slowTurns: 20,
    wearBatches: 500,
    ledgers: [1_000, 100_000, 1_000_000],
    backlog: 100_000,
    starts: 9,
    pending: 1_000,
    outMs: 5_000,
    leastFlashMib: 64,
  },
};
