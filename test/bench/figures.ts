// Owns: the arithmetic of measurements: medians, percentiles, and the order in which things are measured.
// Invariants: pure; nothing is averaged that has outliers, and nothing is measured once.

export function percentile(values: Iterable<number>, part: number): number {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) return Number.NaN;
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

export function median(values: Iterable<number>): number {
  return percentile(values, 0.5);
}

/** A B C, A B C, ...: what a machine does meanwhile is shared by all. Answers each one's results in the order of the rounds. */
export async function interleaved<K extends string, T>(
  rounds: number,
  parts: Readonly<Record<K, (round: number) => Promise<T>>>,
): Promise<Record<K, T[]>> {
  const names = Object.keys(parts) as K[];
  const results = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<K, T[]>;
  for (let round = 0; round < rounds; round += 1) for (const name of names) results[name].push(await parts[name](round));
  return results;
}

/** The sum of several measurements, one by one: the percentiles of a sum are not the sum of percentiles. */
export function summed(parts: readonly ArrayLike<number>[]): Float64Array {
  const length = Math.min(...parts.map((part) => part.length));
  return Float64Array.from({ length }, (_, at) => parts.reduce((sum, part) => sum + (part[at] ?? 0), 0));
}
