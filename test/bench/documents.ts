// Owns: putting a run's table and charts into docs/: between marks, so that what people write around them stays.
import { readFileSync, writeFileSync } from 'node:fs';
import { growthCharts } from './chart.ts';
import { machineText } from './machine.ts';
import type { Results } from './run.ts';
import { markdownTable, stagesTable } from './table.ts';

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

export function writeDocuments({ rows, stages, machine, token, when }: Results): void {
  const charts = growthCharts(rows);
  if (charts !== '') writeFileSync(chartFile, charts);
  const block = [
    `Measured ${when.slice(0, 10)} on ${machineText(machine)}; token: ${token}.`,
    markdownTable(rows),
    stagesTable(stages),
    ...(charts === '' ? [] : ['![growth with the number of entries](performance-growth.svg)']),
  ];
  writeFileSync(page, withTable(readFileSync(page, 'utf8'), block.join('\n\n')));
}
