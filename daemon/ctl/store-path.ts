// Owns: whether a path that was typed can be a FLASH, a mirror or an image at all.
// Invariants: only looked at. What is a store, and what is wrong with it, is not decided here.
import { type Stats, statSync } from 'node:fs';
import { usage } from '#ctl/exit-codes.ts';
import { systemText } from '#ground/state-fault.ts';

export const storePathAction = 'Name a FLASH (block device), a mirror or an image of one.';

/** `reader`: who will read it; what this user may not look at, the service may. Throws usage, naming the option. */
export function refuseNoStore(path: string, option: string, reader: 'ukeyctl' | 'service'): void {
  const refused = (why: string, cause?: unknown): Error => usage(`${path} ${why}`, { field: option, action: storePathAction, cause });
  let stats: Stats;
  try {
    stats = statSync(path);
  } catch (cause) {
    if (reader === 'service' && (cause as NodeJS.ErrnoException).code === 'EACCES') return;
    throw refused(`cannot be read: ${systemText(cause)}`, cause);
  }
  if (stats.isDirectory()) throw refused('is a folder');
  if (!stats.isFile() && !stats.isBlockDevice()) throw refused('is neither a file nor a block device');
}
