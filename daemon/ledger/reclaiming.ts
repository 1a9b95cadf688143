// Owns: forgetting what the charter no longer asks to be kept: asks for the times of batches, carries what is in force forward, releases.
// Invariants: one run at a time, beside the tills and never on their way; what mounting needs is carried durably before anything is released;
// documents in force are taken from the log or, where their batch is gone, from what was carried, and only as the tip names them.
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Carried, CarriedDocument, Holder } from '#holder/holder.ts';
import { renewedCertificateIn } from '#ipc-schema/admin.ts';
import { decodeSeal } from '#ipc-schema/batch.ts';
import { charterSchema } from '#ipc-schema/charter.ts';
import { decodeSign1 } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { templateSchema } from '#ipc-schema/template.ts';
import { decodeAcknowledgementBody, openAcknowledgementUnverified } from '#ipc-schema/upstream.ts';
import { decideKeeping } from './keeping.ts';
import type { Ledger } from './ledger.ts';
import type { Opened } from './opened.ts';
import { type Reads, readBatch, readBatches } from './stored.ts';
import type { Tip } from './tip.ts';

const dayMs = 86_400_000;
/** Between two looks for what may be released, unless the FLASH is full. */
export const reclaimPauseMs = 60_000;
/** Batches that are looked through for the acknowledgement of one, a chunk at a time: tills wait as long as the holder decrypts so much. */
const acknowledgementsWithin = 256;
const readChunkBytes = 64 * 1024;

/** What the FLASH keeps of the past. */
export interface Kept {
  /** First batch that can be read. */
  readonly oldestBatch: number;
  readonly carried: Carried | null;
}

interface ReclaimerParts {
  readonly holder: Holder;
  readonly clock: Clock;
  readonly log: Log;
}

/** One run at a time, and a pause between them. */
export class Reclaimer {
  readonly #parts: ReclaimerParts;
  #isRunning = false;
  /** Monotonic: not before, unless the FLASH is full. */
  #notBeforeMs = 0;

  constructor(parts: ReclaimerParts) {
    this.#parts = parts;
  }

  /** Whether something was freed. Never rejects. */
  async run({ ledger, index }: Opened): Promise<boolean> {
    const { clock, holder, log } = this.#parts;
    if (this.#isRunning || (!ledger.full && clock.monotonicMs() < this.#notBeforeMs)) return false;
    this.#isRunning = true;
    this.#notBeforeMs = clock.monotonicMs() + reclaimPauseMs;
    try {
      return (await reclaim(holder, { ledger, index }, log)) > 0;
    } catch (error) {
      // The ledger that it was for may have closed meanwhile; the next look begins anew.
      log.warn('nothing was released', { why: whyOf(error) });
      return false;
    } finally {
      this.#isRunning = false;
    }
  }
}

/** Answers how many segments were freed. Throws the holder's errors. */
async function reclaim(holder: Holder, { ledger, index }: Opened, log: Log): Promise<number> {
  const { charter, tip } = ledger;
  if (charter === null || tip.ackedBatch < ledger.kept.oldestBatch) return 0;
  const aged = await releasable(holder, ledger, charter.keepDays * dayMs);
  if (aged === null) return 0;
  // Behind a release the index alone knows the keys: what is not in its file would be sold a second time after a restart.
  if (aged > index.keptBatch) await index.flush();
  const upToBatch = Math.min(aged, index.keptBatch);
  if (upToBatch < ledger.kept.oldestBatch) return 0;
  const carried = await carriedWith(holder, tip, ledger.kept);
  if (!isSame(carried, ledger.kept.carried)) {
    await holder.carry(carried);
    ledger.keep({ ...ledger.kept, carried });
  }
  // What mounting needs is durable beside the log; a crash before the release leaves it twice.
  const { segments, oldestBatch } = await holder.release(upToBatch);
  ledger.keep({ oldestBatch, carried });
  if (segments > 0) log.info('released', { upToBatch: oldestBatch - 1, segments });
  return segments;
}

async function releasable(holder: Holder, ledger: Ledger, keepMs: number): Promise<number | null> {
  const { ackedBatch, serverTimeMs } = ledger.tip;
  const { oldestBatch } = ledger.kept;
  const sealedAtMs = new Map<number, number>();
  for (;;) {
    const step = decideKeeping({ oldestBatch, ackedBatch, keepMs, serverTimeMs, sealedAtMs });
    if (step.kind === 'keep') return null;
    if (step.kind === 'release') return step.upToBatch;
    const { sealBytes } = await readBatch(holder, step.batch);
    const atMs = decodeSeal(sealBytes).seal.sealedAtMs;
    // A seal that is later than all that the server has signed was made by a clock that was ahead: the server knows better.
    sealedAtMs.set(step.batch, atMs <= serverTimeMs ? atMs : ((await acknowledgedAtMs(holder, ledger, step.batch)) ?? atMs));
  }
}

/**
 * The server's time in the first acknowledgement that covers the batch: it was sealed before. Null: none stands near it, as in a long stretch
 * without the line; such a stretch goes with what comes behind it.
 */
async function acknowledgedAtMs(holder: Holder, { tip }: Ledger, batchIndex: number): Promise<number | null> {
  const lastBatch = Math.min(tip.nextBatch - 1, batchIndex + acknowledgementsWithin);
  if (lastBatch <= batchIndex) return null;
  for await (const { leaves, entries } of readBatches(holder, batchIndex + 1, lastBatch, readChunkBytes))
    for (const [place, { body }] of entries.entries()) {
      if (leaves[place]?.kind !== 'acknowledgement') continue;
      const { upToBatch, serverTimeMs } = openAcknowledgementUnverified(decodeAcknowledgementBody(body).signed);
      if (upToBatch >= batchIndex) return serverTimeMs;
    }
  return null;
}

/** The documents in force, signed, as they are to be carried. */
export async function carriedWith(holder: Reads, tip: Tip, kept: Kept): Promise<Carried> {
  const templates: CarriedDocument[] = [];
  for (const place of tip.templates) templates.push(await signedTemplate(holder, place, kept));
  return {
    charter: tip.charter === null ? null : await signedCharter(holder, tip.charter, kept),
    templates,
    certificate: tip.certificateBatch === null ? null : await renewedCertificate(holder, tip.certificateBatch, kept),
  };
}

async function renewedCertificate(holder: Reads, batchIndex: number, kept: Kept): Promise<CarriedDocument> {
  const known = kept.carried?.certificate ?? null;
  if (known?.batch === batchIndex) return known;
  if (batchIndex < kept.oldestBatch) throw new UkeyError('halted', `the certificate of batch ${batchIndex} was released and not carried`);
  const { leaves, entries } = await readBatch(holder, batchIndex);
  const found = entries.map(({ body }, place) => (leaves[place]?.kind === 'admin' ? renewedCertificateIn(body) : null));
  const signed = found.findLast((certificate) => certificate !== null) ?? null;
  if (signed === null) throw new UkeyError('halted', `the certificate is not in batch ${batchIndex}`);
  return { batch: batchIndex, signed };
}

async function signedCharter(holder: Reads, place: NonNullable<Tip['charter']>, kept: Kept): Promise<CarriedDocument> {
  const isIt = (signed: Uint8Array): boolean => charterSchema.parse(contentOf(signed, 'charter')).serial === place.serial;
  const { charter } = kept.carried ?? { charter: null };
  const known = charter === null ? [] : [charter];
  return await documentIn(holder, 'charter', place.batch, kept.oldestBatch, known, isIt);
}

async function signedTemplate(holder: Reads, place: Tip['templates'][number], kept: Kept): Promise<CarriedDocument> {
  const isIt = (signed: Uint8Array): boolean => {
    const { id, version } = templateSchema.parse(contentOf(signed, 'template'));
    return id === place.id && version === place.version;
  };
  return await documentIn(holder, 'template', place.batch, kept.oldestBatch, kept.carried?.templates ?? [], isIt);
}

const contentOf = (signed: Uint8Array, what: string): unknown => decodeJson(decodeSign1(signed, what).payload);

async function documentIn(
  holder: Reads,
  kind: 'charter' | 'template',
  batchIndex: number,
  oldestBatch: number,
  carried: readonly CarriedDocument[],
  isIt: (signed: Uint8Array) => boolean,
): Promise<CarriedDocument> {
  const known = carried.find((document) => document.batch === batchIndex && isIt(document.signed));
  if (known !== undefined) return known;
  if (batchIndex < oldestBatch) throw new UkeyError('halted', `the ${kind} of batch ${batchIndex} was released and not carried`);
  const batch = await readBatch(holder, batchIndex);
  for (const [place, leaf] of batch.leaves.entries()) {
    const signed = batch.entries[place]?.body;
    if (leaf.kind === kind && signed !== undefined && isIt(signed)) return { batch: batchIndex, signed };
  }
  throw new UkeyError('halted', `the ${kind} is not in batch ${batchIndex}`);
}

function isSame(a: Carried, b: Carried | null): boolean {
  const same = (one: CarriedDocument | undefined, other: CarriedDocument | undefined): boolean =>
    one === undefined || other === undefined ? one === other : one.batch === other.batch && Buffer.compare(one.signed, other.signed) === 0;
  if (b === null || a.templates.length !== b.templates.length || !same(a.charter ?? undefined, b.charter ?? undefined)) return false;
  if (!same(a.certificate ?? undefined, b.certificate ?? undefined)) return false;
  return a.templates.every((document, at) => same(document, b.templates[at]));
}
