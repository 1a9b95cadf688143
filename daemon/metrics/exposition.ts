// Owns: the text format of Prometheus, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats): families in, text out.
// Why our own: the format is a page, and what is exposed are figures that the service has anyway; a library would keep them a second time.
// Invariants: names are checked (a wrong one is a fault of ours); label values are escaped; a family without samples is left out. Pure.
import { UkeyError } from '#ipc-schema/errors.ts';

export const expositionType = 'text/plain; version=0.0.4; charset=utf-8';

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  readonly labels: Labels;
  readonly value: number;
  /** `_bucket`, `_sum`, `_count` of a histogram. */
  readonly suffix?: string;
}

export interface Family {
  readonly name: string;
  readonly help: string;
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly samples: readonly Sample[];
}

const namePattern = /^[a-z_][a-z0-9_]*$/;

export function expositionText(families: readonly Family[]): string {
  return families
    .filter(({ samples }) => samples.length > 0)
    .map(familyText)
    .join('');
}

function familyText({ name, help, kind, samples }: Family): string {
  if (!namePattern.test(name)) throw new UkeyError('internal', `${name} is no name of a metric`);
  if ((kind === 'counter') !== name.endsWith('_total')) throw new UkeyError('internal', `only counters end in _total, and all do: ${name}`);
  const head = `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${kind}\n`;
  return head + samples.map(({ labels, value, suffix = '' }) => `${name}${suffix}${labelText(labels)} ${numberText(value)}\n`).join('');
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => {
    if (!namePattern.test(name)) throw new UkeyError('internal', `${name} is no name of a label`);
    return `${name}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;
  });
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}

function numberText(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf';
  if (value === Number.NEGATIVE_INFINITY) return '-Inf';
  return Number.isNaN(value) ? 'NaN' : String(value);
}
