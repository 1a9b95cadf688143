// Owns: fuzzing one target: corpus and seeds first, then so many mutated inputs, each judged; and what it found.
// Invariants: the same seed makes the same inputs; a slow input is judged slow only when it is slow each time it is tried; a decoder that changes the
// bytes that it was given is found too; a target of which nothing but the seeds was ever decoded is blind, which is a finding about the fuzzing.
import { inputMaxBytes, mutateBytes } from './bytes-mutation.ts';
import { mutateCbor } from './cbor-mutation.ts';
import { type Chance, chanceOf } from './chance.ts';
import { mutateText, mutateValue } from './json-mutation.ts';
import { Changed, type FuzzTarget, type Outcome } from './target.ts';

/** No input within inputMaxBytes may take longer. */
export const slowMs = 250;
const slowTries = 3;
const mutationsMax = 4;
/** Of the inputs that were decoded some are begun from again: what is deep inside a format is not reached in four steps. */
const poolMax = 64;

export type FindingKind = 'fault' | 'changed' | 'slow' | 'blind';

export interface Finding {
  readonly target: string;
  readonly kind: FindingKind;
  readonly what: string;
  /** Hex; the corpus takes it. */
  readonly input: string;
}

export interface Tally {
  inputs: number;
  decoded: number;
  refused: number;
  slowestMs: number;
  readonly findings: Finding[];
}

export const newTally = (): Tally => ({ inputs: 0, decoded: 0, refused: 0, slowestMs: 0, findings: [] });

const findingsMax = 5;

function mutated(target: FuzzTarget, from: Uint8Array, chance: Chance): Buffer {
  let input: Buffer = Buffer.from(from);
  for (let left = chance.happens(0.5) ? 1 : 1 + chance.upTo(mutationsMax); left > 0; left--) {
    if (target.form === 'bytes' || chance.happens(0.3)) input = mutateBytes(input, chance, target.seeds);
    else if (target.form === 'text') input = chance.happens(0.5) ? mutateValue(input, chance) : mutateText(input, chance);
    else input = mutateCbor(input, chance, target.seeds) ?? mutateBytes(input, chance, target.seeds);
  }
  return input.subarray(0, inputMaxBytes);
}

/** Judges one input; null: nothing is wrong. */
async function judged(
  target: FuzzTarget,
  input: Uint8Array,
  tally: Tally,
): Promise<{ outcome: Outcome | null; finding: Omit<Finding, 'target' | 'input'> | null }> {
  const given = Buffer.from(input);
  const startedMs = performance.now();
  let outcome: Outcome | null = null;
  try {
    outcome = await target.judge(given);
    tally[outcome] += 1;
  } catch (thrown) {
    const what = thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
    return { outcome, finding: { kind: thrown instanceof Changed ? 'changed' : 'fault', what } };
  }
  const tookMs = performance.now() - startedMs;
  if (!given.equals(input)) return { outcome, finding: { kind: 'changed', what: 'the decoder changed the bytes that it was given' } };
  if (tookMs > slowMs) return { outcome, finding: await againSlow(target, input, tally) };
  tally.slowestMs = Math.max(tally.slowestMs, tookMs);
  return { outcome, finding: null };
}

/** The machine may be busy; the input is slow when it never goes faster. */
async function againSlow(target: FuzzTarget, input: Uint8Array, tally: Tally): Promise<Omit<Finding, 'target' | 'input'> | null> {
  let fastestMs = Number.POSITIVE_INFINITY;
  for (let left = slowTries; left > 0; left--) {
    const startedMs = performance.now();
    await target.judge(Buffer.from(input));
    fastestMs = Math.min(fastestMs, performance.now() - startedMs);
  }
  tally.slowestMs = Math.max(tally.slowestMs, fastestMs);
  return fastestMs > slowMs ? { kind: 'slow', what: `takes ${Math.round(fastestMs)} ms at least` } : null;
}

export interface FuzzOrder {
  readonly seed: number;
  readonly inputs: number;
  /** Of this target; tried before anything else. */
  readonly corpus: readonly Uint8Array[];
  /** Called after each input, so that somebody else can see a hang. */
  readonly onInput: (index: number) => void;
}

export async function fuzz(target: FuzzTarget, order: FuzzOrder): Promise<Tally> {
  const chance = chanceOf(order.seed, target.name);
  const tally = newTally();
  const pool: Uint8Array[] = [];
  const told = new Set<string>();
  const tell = (finding: Omit<Finding, 'target' | 'input'>, input: Uint8Array): void => {
    const { kind, what } = finding;
    if (told.has(`${kind} ${what}`) || tally.findings.length >= findingsMax) return;
    told.add(`${kind} ${what}`);
    tally.findings.push({ target: target.name, kind, what, input: Buffer.from(input).toString('hex') });
  };
  const first = [...order.corpus, ...target.seeds];
  let freshDecoded = 0;
  for (let at = 0; at < first.length + order.inputs; at += 1) {
    const isFresh = at >= first.length;
    const input =
      first[at] ?? mutated(target, pool.length > 0 && chance.happens(0.3) ? chance.one(pool) : chance.one(target.seeds), chance);
    const { outcome, finding } = await judged(target, input, tally);
    tally.inputs += 1;
    if (finding !== null) tell(finding, input);
    if (isFresh && outcome === 'decoded') {
      freshDecoded += 1;
      if (pool.length < poolMax) pool.push(input);
      else pool[chance.upTo(poolMax)] = input;
    }
    order.onInput(at);
  }
  if (freshDecoded === 0) tell({ kind: 'blind', what: 'no mutated input was ever decoded' }, new Uint8Array());
  return tally;
}
