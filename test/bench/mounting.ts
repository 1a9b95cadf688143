// Owns: B5, opening a ledger of many entries, and making its index anew.
import { type Bench, type Context, type Row, row } from './benchmark.ts';
import { mountOnce } from './builder.ts';
import { median } from './figures.ts';

const id = 'B5';
const mountAimMs = 1_000;
const rebuildAim = 60_000;
/**
 * What a mount of the largest may take longer than one of the ledger before it, on a FLASH of the same size: nothing that grows with the entries. Every opening
 * compares the last 16 MiB of FLASH and mirror byte by byte; the smallest ledger of a full run has not so much.
 */
const growthAim = 1.5;
const mounts = 3;

async function run(context: Context): Promise<Row[]> {
  const rows: Row[] = [];
  let before = { entries: 0, mountMs: Number.NaN };
  const largest = context.sizes.ledgers.at(-1);
  for (const entries of context.sizes.ledgers) {
    const world = await context.ledger(entries);
    const rebuilt = await mountOnce(world, true);
    const opened: number[] = [];
    for (let at = 0; at < mounts; at += 1) opened.push((await mountOnce(world, false)).mountMs);
    const mountMs = median(opened);
    const many = entries.toLocaleString('en');
    rows.push(
      row(id, `mount, ${many} entries`, mountMs, 'ms', {
        aim: `<= ${mountAimMs / 1_000} s`,
        met: (value) => value <= mountAimMs,
        note: `FLASH of ${world.options.flashMib.toLocaleString('en')} MiB; login with the PIN included; then ${rebuilt.foldMs.toFixed(0)} ms for the tip`,
        growth: { series: 'mount (ms)', entries },
      }),
      row(id, `index rebuilt, ${many} entries`, (rebuilt.entries / rebuilt.indexMs) * 1_000, '/s', {
        // The smaller ones show what it costs to begin.
        ...(entries === largest ? { aim: `>= ${rebuildAim}/s`, met: (value: number) => value >= rebuildAim } : {}),
        growth: { series: 'index rebuild (entries/s)', entries },
      }),
    );
    if (entries === largest)
      rows.push(
        row(id, `mount, ${many} entries, beside a smaller ledger`, mountMs, 'ms', {
          beside: { name: `mount, ${before.entries.toLocaleString('en')} entries`, value: before.mountMs },
          aim: `not growing: <= ${growthAim} x`,
          met: (_, ratio) => ratio <= growthAim,
        }),
      );
    before = { entries, mountMs };
  }
  return rows;
}

export const mounting: Bench = { id, title: 'mounting and rebuilding the index', run };
