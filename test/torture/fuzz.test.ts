// A look at what `npm run torture -- --only fuzz-decoders --only fuzz-socket` does at length: every decoder and the tills' door under mutated input,
// the corpus of what once failed, and the controls that must be found. UKEYD_SEED repeats a run.
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { seedOf } from '#test/support/seed.ts';
import { fuzzDecoders, missedControls } from './fuzz-decoders.ts';
import { fuzzSocket, socketLine } from './fuzz-socket.ts';

const inputs = 250;
const frames = 2_500;
const controlInputs = 5_000;

test('every decoder takes what it writes, refuses the rest, and never hangs', { timeout: 120_000 }, async () => {
  const seed = seedOf();
  const targets: string[] = [];
  const { tally, hung } = await fuzzDecoders({ seed, inputs, note: (text) => targets.push(text.split(':')[0] ?? '') });
  const { inputs: tried, decoded, slowestMs } = tally;
  console.log(`seed=${seed} decoders=${targets.length} inputs=${tried} decoded=${decoded} slowest_ms=${Math.ceil(slowestMs)}`);
  // A decoder that is fuzzed for so short a time may stay blind by bad luck; the whole run must not.
  expect(tally.findings.filter(({ kind }) => kind !== 'blind')).toEqual([]);
  expect(hung).toBeNull();
  expect(targets.length).toBeGreaterThanOrEqual(44);
  const corpus = JSON.parse(readFileSync(new URL('./fuzz/corpus.json', import.meta.url), 'utf8')) as { target: string }[];
  expect(corpus.filter(({ target }) => !targets.includes(target))).toEqual([]);
});

test('a decoder with a fault, with two spellings, or that hangs is found', { timeout: 60_000 }, async () => {
  expect(missedControls(await fuzzDecoders({ seed: seedOf(), inputs: controlInputs, controls: true, hangMs: 1_000 }))).toEqual([]);
});

test('a real service under mutated frames answers, issues what was said and nothing else', { timeout: 120_000 }, async () => {
  const seed = seedOf();
  const run = await fuzzSocket(seed, frames, () => undefined);
  console.log(`seed=${seed} ${socketLine(run)}`);
  expect(run.changed).toEqual([]);
  expect(run).toMatchObject({ alive: true, crashes: 0, faults: 0, lost: 0, doubled: 0, isControlFound: true });
  expect(run.issued).toBeGreaterThan(10);
});
