// Owns: what a benchmark is, what it is given, and what it answers: rows of one table.
// Invariants: a row says a figure, what it is compared with in the same run, and the aim; nothing is asserted. What could not be measured is a row
// that says why.
import type { Load } from './load.ts';
import type { Machine } from './machine.ts';
import type { Requests } from './requests.ts';
import type { Sizes } from './sizes.ts';
import type { StageTime } from './stage-times.ts';
import type { World, WorldOptions } from './world.ts';

export type Unit = 'us' | 'ms' | 's' | '/s' | 'MB' | 'bytes' | 'bytes/byte' | 'failed' | 'entries';

export interface Row {
  /** B1 ... B10. */
  readonly bench: string;
  readonly what: string;
  /** Null: not measured, `note` says why. */
  readonly value: number | null;
  readonly unit: Unit;
  /** Floor or peer of the same run. */
  readonly beside: { readonly name: string; readonly value: number } | null;
  /** value / beside, where the aim is a ratio to it. */
  readonly ratio: number | null;
  /** As the design says it; empty: a figure for information. */
  readonly aim: string;
  readonly met: boolean | null;
  readonly note: string;
  /** A point of a growth chart: the same figure with so many entries in the ledger. */
  readonly growth: Growth | null;
}

export interface Growth {
  readonly series: string;
  readonly entries: number;
}

export interface Bench {
  readonly id: string;
  readonly title: string;
  /** Called before the benchmark before it: what must have idled for a while begins to. `run` does what was not done. */
  ahead?(context: Context): Promise<void>;
  run(context: Context): Promise<Row[]>;
}

export interface Context {
  readonly sizes: Sizes;
  readonly machine: Machine;
  /** On a real disk; removed afterwards. */
  readonly folder: string;
  /** PKCS#11 module; null: the embedded soft token. */
  readonly module: string | null;
  readonly requests: Requests;
  readonly load: Load;
  say(text: string): void;
  /** Stages go into a table of their own. */
  note(stages: readonly StageTime[]): void;
  /** A provisioned service with one till. One of the same name is made once, and closed after the last benchmark. */
  world(name: string, options?: Partial<WorldOptions>): Promise<World>;
  /** One with so many entries, its service stopped. */
  ledger(entries: number): Promise<World>;
}

export interface RowFacts {
  readonly beside?: { readonly name: string; readonly value: number };
  readonly aim?: string;
  /** Whether the figure is as it should be, given its ratio to `beside`. */
  met?(value: number, ratio: number): boolean;
  readonly note?: string;
  readonly growth?: Growth;
}

export function row(bench: string, what: string, value: number, unit: Unit, facts: RowFacts = {}): Row {
  const { beside = null, aim = '', met, note = '', growth = null } = facts;
  const ratio = beside === null ? null : value / beside.value;
  return { bench, what, value, unit, beside, ratio, aim, met: met === undefined ? null : met(value, ratio ?? Number.NaN), note, growth };
}

export function notMeasured(bench: string, what: string, unit: Unit, note: string): Row {
  return { bench, what, value: null, unit, beside: null, ratio: null, aim: '', met: null, note: `not measured: ${note}`, growth: null };
}
