// Owns: how figures are read: one table as text for the screen and as Markdown for the documents.
// Invariants: pure; a ratio stands beside the absolute numbers that it is made of; an aim that is not met says so in words.
import type { Row } from './benchmark.ts';
import type { StageTime } from './stage-times.ts';

const headings = ['#', 'measured', 'figure', 'beside', 'ratio', 'aim', ''] as const;

export function figure(value: number, unit: Row['unit']): string {
  if (Number.isNaN(value)) return '-';
  const digits = unit === 'bytes/byte' ? 2 : Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : 1;
  const text = value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return unit === '/s' ? `${text}/s` : `${text} ${unit === 'us' ? 'µs' : unit}`;
}

function cells(row: Row): string[] {
  const { bench, what, value, unit, beside, ratio, aim, met, note } = row;
  const verdict = met === null ? '' : met ? 'met' : 'not met';
  return [
    bench,
    note === '' || value === null ? what : `${what} (${note})`,
    value === null ? row.note : figure(value, unit),
    beside === null ? '' : `${figure(beside.value, unit)} ${beside.name}`,
    ratio === null ? '' : ratio.toFixed(2),
    aim,
    verdict,
  ];
}

const tableLine = (texts: readonly string[]): string => `| ${texts.map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`;

export function markdownTable(rows: readonly Row[]): string {
  return [tableLine(headings), tableLine(headings.map(() => '---')), ...rows.map((row) => tableLine(cells(row)))].join('\n');
}

/** Stages down, loads and processes across; empty text when none were measured. */
export function stagesTable(times: readonly StageTime[]): string {
  const loads = [...new Set(times.map(({ tills }) => tills))];
  if (loads.length === 0) return '';
  const stages = [...new Set(times.map(({ stage }) => stage))];
  const across = loads.flatMap((tills) => [`front, ${tills} at once`, `holder, ${tills} at once`]);
  const lines = stages.map((stage) => {
    const found = loads.flatMap((tills) => {
      const time = times.find((each) => each.tills === tills && each.stage === stage);
      return [time?.front ?? null, time?.holder ?? null];
    });
    return tableLine([stage, ...found.map((us) => (us === null ? '' : us.toFixed(1)))]);
  });
  const heads = ['stage, µs per invoice', ...across];
  return [tableLine(heads), tableLine(heads.map(() => '---')), ...lines].join('\n');
}

export function textTable(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const [bench = '', what = '', value = '', beside = '', ratio = '', aim = '', verdict = ''] = cells(row);
    const compared = [
      beside === '' ? '' : `beside ${beside}`,
      ratio === '' ? '' : `ratio ${ratio}`,
      aim === '' ? '' : `aim ${aim}`,
      verdict,
    ];
    return `${bench.padEnd(4)} ${value.padStart(14)}  ${[what, ...compared.filter((text) => text !== '')].join('; ')}`;
  });
  return lines.join('\n');
}
