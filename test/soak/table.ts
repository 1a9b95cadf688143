// Owns: what a soak says at its end: the table, and what of it is a violation.
import type { Growth } from './memory.ts';
import type { SoakReport } from './soak.ts';

/** A process may rise by so much in the time that it is watched. */
const risenMaxMb = 24;
/** Caches, pools and the collector need some ten thousand sales to settle: what a younger process rises by is told and not judged. */
const judgedMinutes = 30;
/** What no process of the service comes to, whatever its age. */
const occupiedMaxMb = 400;

const percentile = (values: readonly number[], share: number): string => {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0).toFixed(1);
};

const memoryText = (growth: Growth | null): string =>
  growth === null
    ? 'not watched long enough'
    : `${growth.startMb.toFixed(0)} -> ${growth.endMb.toFixed(0)}, ${growth.mbPerMinute.toFixed(2)} a minute`;

export function soakTable({ seed, minutes, book, verdict, happened, memory, faults, usedPercentMax }: SoakReport): string {
  const latency = (values: readonly number[]): string => `${percentile(values, 0.5)} / ${percentile(values, 0.99)} of ${values.length}`;
  const rows: readonly (readonly [string, string])[] = [
    ['seed, minutes', `${seed}, ${minutes}`],
    [
      'documents',
      `${verdict.documents} in ${verdict.batches} batches, ${verdict.releasedBatches} of them released; the FLASH ${usedPercentMax} % full at most`,
    ],
    ['of them credit notes; repeated; looked up', `${book.credited}; ${book.repeated}; ${book.looked}`],
    ['troubles', [...happened].map(([name, count]) => `${name} ${count}`).join(', ')],
    ['passing refusals; of released documents', `${book.refused}; ${book.released}`],
    ['issuing, p50 / p99 ms, quiet', latency(book.calmMs)],
    ['issuing, p50 / p99 ms, in all', latency(book.tookMs)],
    ['memory of the service, MB', memoryText(memory.front)],
    ['memory of the holder, MB', memoryText(memory.holder)],
    ['answered wrongly; faults of the service', `${book.wrong.length}; ${faults}`],
    ['store against server', `different=${verdict.different}`],
    ['ledger', `lost=${verdict.lost} dup=${verdict.doubled} gaps=${verdict.gaps}`],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}

export function violationsOf({ book, verdict, memory, faults, seed, minutes }: SoakReport): string[] {
  const violations = [...book.wrong.slice(0, 10), ...verdict.told].map((what) => `seed ${seed}: ${what}`);
  const { lost, doubled, gaps, different } = verdict;
  if (lost + doubled + gaps + different > 0)
    violations.push(`seed ${seed}: lost=${lost} dup=${doubled} gaps=${gaps} different=${different}`);
  if (faults > 0) violations.push(`seed ${seed}: ${faults} faults of the service`);
  for (const [name, growth] of Object.entries(memory)) {
    if (growth === null) continue;
    const { risenMb, endMb } = growth;
    if (minutes >= judgedMinutes && risenMb > risenMaxMb) violations.push(`seed ${seed}: the ${name} grew by ${risenMb.toFixed(0)} MB`);
    if (endMb > occupiedMaxMb) violations.push(`seed ${seed}: the ${name} occupies ${endMb.toFixed(0)} MB`);
  }
  return violations;
}
