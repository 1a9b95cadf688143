// Owns: what is damaged in a store that does not open, in the ledger's own terms: which batches, and which sequences where their neighbours tell.
// Invariants: looks only; what cannot be told is null, never guessed. Must not: mend (mending.ts).
import { decodeBatch, decodeSeal } from '#ipc-schema/batch.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { type DamagedLog, openDamaged } from '#store/damaged-log.ts';
import type { Device } from '#store/device.ts';
import { type Damage, damageOf } from '#store/recover.ts';
import { decodeCheckpoint } from './chain.ts';
import type { MissingBatches, NamedDamage } from './holder.ts';

const mendAction =
  'Run ukeyctl store scrub: what the ticket server has acknowledged is put back from there. Or give the FLASH its mirror. Do not format or provision it.';
const carriedAction = 'Give the FLASH its mirror, or make it anew from that (ukeyctl store restore). Do not format or provision it.';

/** Any error as it is, but one that tells of damage with the batches and sequences named. `device`: to be looked at, if it still can be. */
export async function nameDamage(device: Device, dataKey: Uint8Array, thrown: unknown, anchoredBatch: number | null): Promise<unknown> {
  const damage = damageOf(thrown);
  if (damage === null || namedIn(thrown) !== null) return thrown;
  let found: NamedDamage;
  try {
    found = await surveyOf(device, dataKey, Math.min(anchoredBatch ?? Number.MAX_SAFE_INTEGER, damage.missing[0]?.from ?? 1));
  } catch {
    found = bare(damage); // what was found first still stands
  }
  if (found.missing.length === 0 && !found.carryLost) found = bare(damage);
  const action = found.missing.length > 0 ? mendAction : carriedAction;
  return new UkeyError('halted', `the store is damaged: ${damageText(found)} cannot be read`, { action, cause: found });
}

const bare = ({ missing, carryLost }: Damage): NamedDamage => ({
  ...{ kind: 'damage', isNamed: true, carryLost },
  missing: missing.map(({ from, to }) => named({ from, to, firstSequence: null, lastSequence: null })),
});

async function surveyOf(device: Device, dataKey: Uint8Array, fromIndex: number): Promise<NamedDamage> {
  const log = await openDamaged(device, dataKey, fromIndex);
  try {
    return { kind: 'damage', isNamed: true, carryLost: log.carryLost, missing: await namesOf(log) };
  } finally {
    log.close();
  }
}

export async function namesOf(log: DamagedLog): Promise<MissingBatches[]> {
  const all: MissingBatches[] = [];
  for (const { from, to } of log.missing) {
    const after = to + 1 < log.nextIndex ? await sequencesIn(log, to + 1) : null;
    all.push(named({ from, to, firstSequence: await firstSequenceAt(log, from), lastSequence: after === null ? null : after.first - 1 }));
  }
  return all;
}

async function firstSequenceAt(log: DamagedLog, batchIndex: number): Promise<number | null> {
  if (batchIndex === 1) return 1;
  if (log.checkpoint !== null && log.checkpointIndex === batchIndex) return decodeCheckpoint(log.checkpoint).chain.nextSequence;
  return (await sequencesIn(log, batchIndex - 1))?.next ?? null;
}

async function sequencesIn(log: DamagedLog, batchIndex: number): Promise<{ readonly first: number; readonly next: number } | null> {
  try {
    const [frame] = await log.read(batchIndex, 1);
    if (frame === undefined) return null;
    const { firstSequence, count } = decodeSeal(decodeBatch(frame.payload).sealBytes).seal;
    return { first: firstSequence, next: firstSequence + count };
  } catch {
    return null; // released, or a neighbour that is damaged as well
  }
}

/** What an error of this file tells of, null for any other. */
export function namedIn(thrown: unknown): NamedDamage | null {
  const damage = damageOf(thrown);
  return damage !== null && 'isNamed' in damage ? (damage as NamedDamage) : null;
}

const namesMax = 8;

/** For a person: `batch 7 (sequences 12-15), batches 9-10 (from sequence 20 on)`. */
function damageText({ missing, carryLost }: Pick<NamedDamage, 'missing' | 'carryLost'>): string {
  const parts = missing.slice(0, namesMax).map(({ text }) => text);
  if (missing.length > namesMax) parts.push(`${missing.length - namesMax} more places`);
  if (carryLost) parts.push('what the store carries along');
  return parts.join(', ');
}

const named = (batches: Omit<MissingBatches, 'text'>): MissingBatches => ({ ...batches, text: batchesText(batches) });

function batchesText({ from, to, firstSequence, lastSequence }: Omit<MissingBatches, 'text'>): string {
  const batches = from === to ? `batch ${from}` : `batches ${from}-${to}`;
  if (firstSequence === null) return lastSequence === null ? batches : `${batches} (up to sequence ${lastSequence})`;
  if (lastSequence === null) return `${batches} (from sequence ${firstSequence} on)`;
  return firstSequence === lastSequence
    ? `${batches} (sequence ${firstSequence})`
    : `${batches} (sequences ${firstSequence}-${lastSequence})`;
}
