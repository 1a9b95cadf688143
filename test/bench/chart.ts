// Owns: growth charts as SVG: a figure over the number of entries, both scales logarithmic where the figures are far apart.
// Invariants: pure; readable on light and dark pages; every point carries its number.
import type { Row } from './benchmark.ts';

const width = 420;
const height = 220;
const margin = { left: 64, right: 24, top: 36, bottom: 40 };

interface Point {
  readonly entries: number;
  readonly value: number;
}

/** One chart per series of the rows, side by side; empty text when there is nothing that grows. */
export function growthCharts(rows: readonly Row[]): string {
  const series = new Map<string, Point[]>();
  for (const { growth, value } of rows) {
    if (growth === null || value === null) continue;
    series.set(growth.series, [...(series.get(growth.series) ?? []), { entries: growth.entries, value }]);
  }
  if (series.size === 0) return '';
  const charts = [...series].map(([name, points], at) => chart(name, points, (at % 2) * width, Math.floor(at / 2) * height));
  const size = `width="${2 * width}" height="${Math.ceil(series.size / 2) * height}"`;
  const style = 'text{font:12px sans-serif;fill:#777}path{fill:none;stroke:#3b82c4;stroke-width:2}circle{fill:#3b82c4}line{stroke:#999}';
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size}><style>${style}</style>\n${charts.join('\n')}\n</svg>\n`;
}

function chart(name: string, points: readonly Point[], left: number, top: number): string {
  const sorted = [...points].sort((a, b) => a.entries - b.entries);
  const x = scale(
    sorted.map(({ entries }) => Math.log10(entries)),
    margin.left,
    width - margin.right,
  );
  const most = Math.max(...sorted.map(({ value }) => value));
  const bottom = height - margin.bottom;
  // From zero: what does not grow shall look flat.
  const y = (value: number): number => bottom - (most === 0 ? 0 : (value / most) * (bottom - margin.top));
  const places = sorted.map((point) => ({ ...point, x: x(Math.log10(point.entries)), y: y(point.value) }));
  const line = places.map((place, at) => `${at === 0 ? 'M' : 'L'}${place.x.toFixed(1)} ${place.y.toFixed(1)}`).join(' ');
  const marks = places.map(
    (place) =>
      `<circle cx="${place.x.toFixed(1)}" cy="${place.y.toFixed(1)}" r="4"/>` +
      `<text x="${place.x.toFixed(1)}" y="${(place.y - 10).toFixed(1)}" text-anchor="middle">${shortNumber(place.value)}</text>` +
      `<text x="${place.x.toFixed(1)}" y="${bottom + 18}" text-anchor="middle">${shortNumber(place.entries)}</text>`,
  );
  const axis = `<line x1="${margin.left - 20}" y1="${bottom}" x2="${width - margin.right + 10}" y2="${bottom}"/>`;
  return `<g transform="translate(${left} ${top})"><text x="12" y="16">${name}, by entries in the ledger</text>${axis}<path d="${line}"/>${marks.join('')}</g>`;
}

function scale(values: readonly number[], from: number, to: number): (value: number) => number {
  const least = Math.min(...values);
  const span = Math.max(...values) - least;
  return (value) => (span === 0 ? (from + to) / 2 : from + ((value - least) / span) * (to - from));
}

function shortNumber(value: number): string {
  if (value >= 1_000_000) return `${Number((value / 1_000_000).toPrecision(3))} M`;
  if (value >= 10_000) return `${Number((value / 1_000).toPrecision(3))} k`;
  return Number(value.toPrecision(3)).toLocaleString('en');
}
