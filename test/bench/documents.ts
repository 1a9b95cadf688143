// Owns: putting a run's table and charts into docs/: between marks, so that what people write around them stays.
import { readFileSync, writeFileSync } from 'node:fs';
import type { Row } from './benchmark.ts';
import { growthCharts } from './chart.ts';
import { type Machine, machineText } from './machine.ts';
import { markdownTable } from './table.ts';

const begin = '<!-- bench: begin -->';
const end = '<!-- bench: end -->';
const page = new URL('../../docs/performance.md', import.meta.url);
const chartFile = new URL('../../docs/performance-growth.svg', import.meta.url);

/** Replaces what stands between the marks. Throws where they are missing. */
export function withTable(text: string, block: string): string {
  const from = text.indexOf(begin);
  const to = text.indexOf(end);
  if (from < 0 || to < from) throw new Error('docs/performance.md has lost its marks');
  return `${text.slice(0, from + begin.length)}\n${block}\n${text.slice(to)}`;
}

export function writeDocuments(rows: readonly Row[], machine: Machine, when: string): void {
  const charts = growthCharts(rows);
  if (charts !== '') writeFileSync(chartFile, charts);
  const block = [`Measured ${when.slice(0, 10)} on ${machineText(machine)}.`, '', markdownTable(rows)].join('\n');
  writeFileSync(page, withTable(readFileSync(page, 'utf8'), block));
}
