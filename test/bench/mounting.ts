// Owns: B5, opening a ledger of many entries, and making its index anew.
import { type Bench, type Context, type Row, row } from './benchmark.ts';
import { mountOnce } from './builder.ts';
import { median } from './figures.ts';

const id = 'B5';
const mountAimMs = 1_000;
const rebuildAim = 60_000;
/** What a mount of the largest may take longer than one of the smallest: nothing that grows with the entries. */
const growthAim = 1.5;
const mounts = 3;

async function run(context: Context): Promise<Row[]> {
  const rows: Row[] = [];
  let smallestMs = Number.NaN;
  for (const entries of context.sizes.ledgers) {
    const world = await context.ledger(entries);
    const rebuilt = await mountOnce(world, true);
    const opened: number[] = [];
    for (let at = 0; at < mounts; at += 1) opened.push((await mountOnce(world, false)).mountMs);
    const mountMs = median(opened);
    if (Number.isNaN(smallestMs)) smallestMs = mountMs;
    const many = entries.toLocaleString('en');
    rows.push(
      row(id, `mount, ${many} entries`, mountMs, 'ms', {
        aim: `<= ${mountAimMs / 1_000} s`,
        met: (value) => value <= mountAimMs,
        note: `login with the PIN included; then ${rebuilt.foldMs.toFixed(0)} ms for the tip`,
        growth: { series: 'mount (ms)', entries },
      }),
      row(id, `index rebuilt, ${many} entries`, (rebuilt.entries / rebuilt.indexMs) * 1_000, '/s', {
        aim: `>= ${rebuildAim}/s`,
        met: (value) => value >= rebuildAim,
        growth: { series: 'index rebuild (entries/s)', entries },
      }),
    );
    if (entries === context.sizes.ledgers.at(-1))
      rows.push(
        row(id, `mount, ${many} entries, beside the smallest ledger`, mountMs, 'ms', {
          beside: { name: `mount, ${context.sizes.ledgers[0]?.toLocaleString('en')} entries`, value: smallestMs },
          aim: `not growing: <= ${growthAim} x`,
          met: (_, ratio) => ratio <= growthAim,
        }),
      );
  }
  return rows;
}

export const mounting: Bench = { id, title: 'mounting and rebuilding the index', run };
