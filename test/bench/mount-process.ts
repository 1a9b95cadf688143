// Owns: opening a ledger as the service does, step by step and timed: the holder's mount, the fold of the tip, the index.
// Invariants: the service does not run; the holder is the production's own, in its own process; only the index is written.
import process from 'node:process';
import { silentLog } from '#ground/log.ts';
import type { HolderConfig } from '#holder/configuration.ts';
import { startHolder } from '#holder/parent.ts';
import { Lookup } from '#ledger/lookup.ts';
import { openIndex, readLedger } from '#ledger/mounting.ts';

export interface MountQuestion {
  readonly config: HolderConfig;
  readonly pin: string;
  readonly indexFile: string;
  /** Delete the index first. */
  readonly rebuild: boolean;
}

export interface Mounted {
  readonly entries: number;
  /** Login with the PIN, data key, recovery of the log, mirror compared. */
  readonly mountMs: number;
  /** Checkpoint and what came after it; charter and templates. */
  readonly foldMs: number;
  readonly indexMs: number;
}

const lookMs = 5;

async function mounted({ config, pin, indexFile, rebuild }: MountQuestion): Promise<Mounted> {
  if (rebuild) Lookup.remove(indexFile);
  const holder = startHolder({ config, events: { onState: () => undefined }, onChatter: (line) => process.stderr.write(`${line}\n`) });
  try {
    while (holder.state().kind !== 'locked') await new Promise((resolve) => setTimeout(resolve, lookMs));
    const startMs = performance.now();
    const mount = await holder.login(Buffer.from(pin, 'utf8'), false);
    const mountedMs = performance.now();
    const { tip } = await readLedger(holder, mount);
    const foldedMs = performance.now();
    const { lookup } = await openIndex(indexFile, holder, mount, silentLog);
    const indexedMs = performance.now();
    await lookup.close();
    return { entries: tip.nextSequence - 1, mountMs: mountedMs - startMs, foldMs: foldedMs - mountedMs, indexMs: indexedMs - foldedMs };
  } finally {
    await holder.close();
  }
}

process.once('message', (question: MountQuestion) => {
  mounted(question).then(
    (answer) => process.send?.(answer, undefined, undefined, () => process.exit(0)),
    (thrown: unknown) => {
      process.stderr.write(`mounting failed: ${thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)}\n`);
      process.exit(1);
    },
  );
});
