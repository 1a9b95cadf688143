// Owns: when the FLASH will be full, from what was written lately and from what acknowledgement and keep-time give back. Pure.
// How: what stands on it was written evenly between the oldest kept batch and now, more comes at the rate of the last days, and a batch is freed when
// it is acknowledged and as old as the charter wants it kept. The curve of that has three straight pieces: nothing old enough yet; the old ones
// leave; as much leaves as comes (or, without acknowledgements, nothing any more).
// Invariants: it says nothing where too little is known; a store whose last piece does not rise and that no piece fills never gets full.

/** Shorter than this, what was written says nothing about days. */
export const spanMinMs = 3_600_000;
/** What counts as "lately": a whole week, so that a Sunday is not taken for the rate. */
export const windowMs = 7 * 86_400_000;
const dayMs = 86_400_000;

export interface ForecastFacts {
  readonly nowMs: number;
  /** What documents may fill altogether, and of that what is left. */
  readonly capacityBytes: number;
  readonly freeBytes: number;
  /** When the oldest kept batch was sealed; null: none is kept. */
  readonly oldestMs: number | null;
  /** When the newest acknowledged one was that is still kept; null: none. */
  readonly ackedMs: number | null;
  /** Written within `lately.spanMs` before now. */
  readonly lately: { readonly bytes: number; readonly spanMs: number };
  readonly keepMs: number;
  /** Acknowledgements come, so that what is written now will be acknowledged as well. */
  readonly acknowledging: boolean;
}

export type Forecast =
  | { readonly kind: 'unknown' }
  /** At the present rate it never gets full. */
  | { readonly kind: 'steady' }
  /** At the present rate it is full in so many days. */
  | { readonly kind: 'fills'; readonly daysLeft: number };

export function forecastOf(facts: ForecastFacts): Forecast {
  const { lately, capacityBytes, oldestMs, nowMs, keepMs, acknowledging, ackedMs } = facts;
  if (oldestMs === null || lately.spanMs < spanMinMs || capacityBytes <= 0) return { kind: 'unknown' };
  const perMs = lately.bytes / lately.spanMs;
  const lastFreedMs = acknowledging ? nowMs : (ackedMs ?? Number.NEGATIVE_INFINITY);
  // Ends of the first two pieces, from now on. What is overdue leaves at once.
  const ends = [oldestMs, lastFreedMs].map((sealedMs) => Math.max(0, sealedMs + keepMs - nowMs));
  let afterMs = 0;
  for (const endMs of ends) {
    const fullMs = crossing(facts, perMs, afterMs, endMs);
    if (fullMs !== null) return fills(fullMs);
    afterMs = Math.max(afterMs, endMs);
  }
  if (acknowledging || perMs === 0) return { kind: 'steady' };
  const roomBytes = capacityBytes - usedAt(facts, perMs, afterMs);
  return fills(afterMs + Math.max(0, roomBytes) / perMs);
}

function fills(afterMs: number): Forecast {
  return { kind: 'fills', daysLeft: Math.floor((afterMs / dayMs) * 10) / 10 };
}

/** Bytes on the FLASH so long after now. Straight between the ends of the pieces. */
function usedAt(facts: ForecastFacts, perMs: number, afterMs: number): number {
  const usedNow = facts.capacityBytes - facts.freeBytes;
  return usedNow + perMs * afterMs - freedBy(facts, usedNow, perMs, afterMs);
}

/** What was sealed before that is old enough by then. */
function freedBy(
  { nowMs, oldestMs, ackedMs, keepMs, acknowledging }: ForecastFacts,
  usedNow: number,
  perMs: number,
  afterMs: number,
): number {
  if (oldestMs === null) return 0;
  const oldMs = nowMs + afterMs - keepMs;
  const untilMs = acknowledging ? oldMs : Math.min(oldMs, ackedMs ?? Number.NEGATIVE_INFINITY);
  if (untilMs <= oldestMs) return 0;
  if (untilMs >= nowMs) return usedNow + perMs * (untilMs - nowMs);
  return (usedNow * (untilMs - oldestMs)) / (nowMs - oldestMs);
}

/** When it is full within this piece, or null. */
function crossing(facts: ForecastFacts, perMs: number, fromMs: number, toMs: number): number | null {
  const before = usedAt(facts, perMs, fromMs);
  if (before >= facts.capacityBytes) return fromMs;
  if (toMs <= fromMs || !Number.isFinite(toMs)) return null;
  const after = usedAt(facts, perMs, toMs);
  if (after <= facts.capacityBytes) return null;
  return fromMs + ((toMs - fromMs) * (facts.capacityBytes - before)) / (after - before);
}
