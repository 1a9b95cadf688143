// Owns: what `status` tells, from an open log and the sealer before it. Pure.
// Invariants: signatures count over all openings of one holder; of the store the last known figures stay when it is shut.
import type { MirrorMode, StoreUsage } from '#store/store.ts';
import type { HolderStatus, MirrorStatus } from './holder.ts';
import type { SealerFigures } from './sealer.ts';

export interface Figures extends SealerFigures {
  readonly usage: StoreUsage;
  /** Why the mirror is not used, or null. */
  readonly mirrorFailure: string | null;
}

const unknown = { capacityBytes: 0, freeBytes: 0, bytesWritten: 0 };

export function statusBefore(storePath: string, mirrorMode: MirrorMode | null): HolderStatus {
  const mirror = mirrorMode === null ? null : { mode: mirrorMode, behindBytes: 0, failure: null };
  const health = { signatures: 0, meanSignMs: null, signFailures: 0, lastFailure: null, selfTestAtMs: null, restarts: 0 };
  return { ...health, storePath, sizeBytes: 0, usedBytes: 0, usedPercent: 0, ...unknown, mirror };
}

export function statusWith(before: HolderStatus, figures: Figures): HolderStatus {
  const { signatures, meanSignMs, signFailures, usage, mirrorFailure } = figures;
  const { sizeBytes, usedBytes, percentUsed, capacityBytes, freeBytes, bytesWritten } = usage;
  return {
    ...before,
    signatures: before.signatures + signatures,
    meanSignMs,
    signFailures: before.signFailures + signFailures,
    lastFailure: figures.lastFailure ?? before.lastFailure,
    selfTestAtMs: figures.selfTestAtMs ?? before.selfTestAtMs,
    sizeBytes,
    usedBytes,
    usedPercent: percentUsed,
    capacityBytes,
    freeBytes,
    bytesWritten,
    mirror: before.mirror === null ? null : mirrorStatus(before.mirror, usage, mirrorFailure),
  };
}

function mirrorStatus(before: MirrorStatus, usage: StoreUsage, mirrorFailure: string | null): MirrorStatus {
  const { mirror } = usage;
  if (mirror === null) return { ...before, behindBytes: 0, failure: mirrorFailure ?? 'it is not in use' };
  return { mode: mirror.mode, behindBytes: mirror.behindBytes, failure: mirror.failed ? 'a write to it failed' : null };
}
