// Owns: reading a ledger from an opened token: the checkpoint and what came after it, the charter and templates in force, the index brought up to date.
// Invariants: nothing is written to the token; charter and templates are believed only under the authority's key that the token's identity names.
// An index that can be neither used nor made is no reason to stop: it is then kept in memory.
// Errors: halted when the log does not fold; the holder's where it cannot be read.
import { type KeyObject, X509Certificate } from 'node:crypto';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, Mount } from '#holder/holder.ts';
import { openCharter } from '#ipc-schema/charter.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { checkRenewal } from '#ipc-schema/signers.ts';
import { openTemplate } from '#ipc-schema/template.ts';
import { catchUp, rewind } from './catch-up.ts';
import { daysToTell } from './certificate-term.ts';
import { askIndex, type Beyond, beyondLog, isSpoilt } from './index-witness.ts';
import type { Ledger, OpenLedger } from './ledger.ts';
import { Lookup } from './lookup.ts';
import { carriedWith } from './reclaiming.ts';
import { type Reads, readBatches } from './stored.ts';
import { decodeTip, emptyTip, type Tip, withBatchEnd, withEntry } from './tip.ts';

const chunkBytes = 1024 * 1024;
const progressLogMs = 10_000;
const inMemory = ':memory:';
const rowsPerCopy = 10_000;

export async function readLedger(holder: Reads, mount: Mount): Promise<OpenLedger> {
  try {
    const tip = await foldTip(holder, mount);
    const authorityKey = new X509Certificate(mount.authorityCertificate).publicKey;
    const signed = await carriedWith(holder, tip, mount);
    const charter = signed.charter === null ? null : openCharter(signed.charter.signed, authorityKey);
    const templates = signed.templates.map((template) => openTemplate(template.signed, authorityKey));
    return { mount, tip, charter, templates, certificate: certificateIn(mount, signed.certificate?.signed ?? null, authorityKey) };
  } catch (error) {
    const known = asUkeyError(error, 'halted');
    if (known.code !== 'invalid-request') throw known;
    throw new UkeyError('halted', `the ledger does not read: ${known.message}`, { cause: error });
  }
}

/** Of the key in force. A renewed one is committed only when it is right; one that is not is no reason to stop: the one before it holds. */
function certificateIn({ certificate, tokenId }: Mount, renewed: Uint8Array | null, authorityKey: KeyObject): Uint8Array {
  if (renewed === null) return certificate;
  try {
    checkRenewal(renewed, certificate, tokenId, authorityKey);
    return renewed;
  } catch {
    return certificate;
  }
}

export interface IndexFound {
  readonly lookup: Lookup;
  /** The newest batch that the index has and the log lacks, which was durable once; null: none, and it has all that the mount holds. */
  readonly lost: number | null;
}

/** The index of a ledger. `path`: its file. `onProgress`: how many of the kept batches are in it. */
export async function openIndex(
  path: string,
  holder: Holder,
  mount: Mount,
  log: Log,
  onProgress: (done: number, total: number) => void = () => undefined,
): Promise<IndexFound> {
  let toldMs = performance.now();
  const total = Math.max(1, mount.nextBatch - mount.oldestBatch);
  const tell = (batch: number): void => {
    const done = batch - mount.oldestBatch + 1;
    onProgress(done, total);
    if (performance.now() - toldMs < progressLogMs) return;
    toldMs = performance.now();
    log.info('the ledger is being read anew', { done, total });
  };
  const fill = async (file: string): Promise<IndexFound> => {
    const lookup = await Lookup.open(file);
    try {
      const beyond = await beyondLog(lookup, holder, mount);
      const lost = lostBy(beyond, mount);
      if (lost !== null) return { lookup, lost };
      if (beyond !== null) await rewind(lookup, mount);
      const entries = await catchUp(lookup, holder, mount, tell);
      if (entries > 0) log.info('the index has caught up', { entries });
      return { lookup, lost: null };
    } catch (error) {
      await lookup.close();
      throw error;
    }
  };
  let failure: unknown;
  try {
    return await fill(path);
  } catch (error) {
    failure = faultOfIndex(error);
  }
  if (isSpoilt(failure)) {
    log.warn('the index is made anew', { why: whyOf(failure) });
    try {
      Lookup.remove(path);
      return await fill(path);
    } catch (error) {
      failure = faultOfIndex(error);
    }
  } else {
    // A full disk, a lock, a right that is missing: the file is kept, and still tells what the log has lost.
    const lost = await askKept(path, holder, mount, log);
    if (lost !== null) return { lookup: await Lookup.open(inMemory), lost };
  }
  log.error('the index cannot be kept on disk and is kept in memory', { why: whyOf(failure) });
  const found = await fill(inMemory);
  if (mount.oldestBatch > 1)
    await copyReleased(path, found.lookup, mount).catch((error: unknown) =>
      log.error('the keys of documents that the FLASH no longer keeps are not known', { why: whyOf(error) }),
    );
  return found;
}

/** What the log has released stands in the file alone: without it a released key would be new. */
async function copyReleased(file: string, to: Lookup, { oldestBatch }: Mount): Promise<void> {
  const head = await to.head();
  const kept = await Lookup.openToRead(file);
  try {
    if (head === null || (await kept.head())?.tokenId !== head.tokenId) return;
    for (let last = 0; ; ) {
      const rows = await kept.rowsBefore(oldestBatch, last, rowsPerCopy);
      if (rows.length === 0) return;
      await to.write(rows, head);
      last = rows.at(-1)?.sequence ?? last;
    }
  } finally {
    await kept.close();
  }
}

/** Throws what is the log's or the token's fault. */
function faultOfIndex(error: unknown): unknown {
  if (error instanceof UkeyError && error.code !== 'internal') throw error;
  return error;
}

/** The newest batch that the log has lost; null: it lost acknowledgements alone, or nothing. */
function lostBy(beyond: Beyond | null, { nextBatch }: Mount): number | null {
  return beyond === null || beyond.newestWeightyBatch < nextBatch ? null : beyond.newestWeightyBatch;
}

/** The batch that the log has lost, by an index that cannot be written to; null: none that it could tell of. */
async function askKept(path: string, holder: Holder, mount: Mount, log: Log): Promise<number | null> {
  try {
    return lostBy(await askIndex(path, holder, mount), mount);
  } catch (error) {
    log.warn('the index on disk cannot be asked what it knows', { why: whyOf(faultOfIndex(error)) });
    return null;
  }
}

async function foldTip(holder: Reads, mount: Mount): Promise<Tip> {
  let tip = mount.checkpoint === null ? emptyTip : decodeTip(mount.checkpoint);
  if (tip.nextBatch !== mount.checkpointBatch)
    throw new UkeyError('halted', `the checkpoint is of batch ${tip.nextBatch}, its place is ${mount.checkpointBatch}`);
  for await (const batch of readBatches(holder, mount.checkpointBatch, mount.nextBatch - 1, chunkBytes)) {
    for (const [place, entry] of batch.entries.entries()) {
      const leaf = batch.leaves[place];
      if (leaf === undefined) throw new UkeyError('halted', `batch ${batch.batchIndex} has no leaf ${place}`);
      tip = withEntry(tip, leaf, entry);
    }
    tip = withBatchEnd(tip);
  }
  if (tip.nextSequence !== mount.nextSequence)
    throw new UkeyError('halted', `the fold ends at sequence ${tip.nextSequence}, the seals at ${mount.nextSequence}`);
  return tip;
}

/** For the log. `nowMs`: wall clock. */
export function tellOpened(log: Log, { mount, tip, certificateTerm }: Ledger, nowMs: number): void {
  tellMirror(log, mount);
  log.info('the ledger is open', { entries: tip.nextSequence - 1, batches: tip.nextBatch - 1, tornBytes: mount.tornBytes });
  const daysLeft = daysToTell(certificateTerm, nowMs);
  if (daysLeft !== null) log.warn("the token's certificate ends", { until: new Date(certificateTerm.untilMs).toISOString(), daysLeft });
}

/** What was put right is worth a person's look: a device begins to fail. */
function tellMirror(log: Log, { mirror }: Mount): void {
  if (mirror === null) return;
  const { remade, healedFlash, healedMirror, discarded } = mirror;
  if (remade) log.info('the mirror was made anew', { segments: healedMirror });
  else if (healedFlash > 0 || healedMirror > 0 || discarded)
    log.warn('FLASH and mirror were healed', { healedFlash, healedMirror, discarded });
}
