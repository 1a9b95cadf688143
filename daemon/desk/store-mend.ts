// Owns: the errand store.mend: batches are put back from the ticket server's copies into a store that damage keeps from opening.
// Invariants: a copy is believed only with a seal of this ledger's key, in its place between the batches beside it; written it is only as the very bytes
// that stood there (the holder sees to it). Nothing is cut: what cannot be put back keeps the ledger closed, and the standing says of each batch why.
// It may be repeated after any failure. Must not: give a batch up.
import { X509Certificate } from 'node:crypto';
import type { Log } from '#ground/log.ts';
import type { DamagedLedger, Holder, MendStep, MissingBatches, StoredBatch } from '#holder/holder.ts';
import { decodeBatch, decodeSeal, sealHashOf } from '#ipc-schema/batch.ts';
import { type Charter, openCharter } from '#ipc-schema/charter.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { signersBefore } from '#ipc-schema/signers.ts';
import { isOtherHash, otherBatch } from '#ipc-schema/spelling.ts';
import { signersOf, succeedBy } from '#ipc-schema/succession.ts';
import { type ChainHead, verifyNext } from '#ipc-schema/verify.ts';
import type { Custody } from '#ledger/custody.ts';
import { carriedWith } from '#ledger/reclaiming.ts';
import { type Reads, readBatch, readBatches } from '#ledger/stored.ts';
import { decodeTip, emptyTip, type Tip, withEntry } from '#ledger/tip.ts';
import { Holdings, parted } from '#upload/holdings.ts';
import { askHolder } from './resume-step.ts';
import type { UnattendedLogin } from './unattended-login.ts';

export interface StoreMendParts {
  readonly holder: Holder;
  readonly custody: Custody;
  readonly unattended: UnattendedLogin | null;
  readonly log: Log;
}

/** Of one place that is damaged: it is written in one step. */
const gapMaxBytes = 128 * 1024 * 1024;
const chunkBytes = 1024 * 1024;

const mirrorAction = 'Give the FLASH its mirror, or make it anew from that (ukeyctl store restore).';
const lossAction =
  `${mirrorAction} Without a mirror these batches are lost for good if the FLASH is given up; until somebody decides that, keep it as it is: ` +
  "they are not cut. Compare the tills' receipts, and ask headquarters for another token.";
const againAction = 'Restore the connection to the ticket server, then run ukeyctl store scrub again.';

export async function mendStore(parts: StoreMendParts, params: Params<'store.mend'>): Promise<Result<'store.mend'>> {
  const { holder, custody, unattended } = parts;
  const state = holder.state();
  if (custody.ledger !== null)
    throw new UkeyError('invalid-request', 'the ledger is open: store.check mends it', { action: 'Run ukeyctl store scrub.' });
  if (state.kind !== 'halted' || state.damage === undefined) {
    await custody.use(); // says why not
    throw new UkeyError('invalid-request', 'no damage keeps this ledger from opening', { action: 'Nothing is to be done.' });
  }
  if (params.pin === undefined)
    throw new UkeyError('locked', state.reason, { action: 'Give the PIN: the store is looked at as a login does.' });
  unattended?.suspend();
  try {
    const pin = Buffer.from(params.pin, 'utf8');
    const answer = await holder.resume({ kind: 'survey', pin, useLastTry: params.useLastTry === true, fromBatch: null });
    const mended = answer.kind === 'surveyed' ? await mend(parts, answer.damage) : [];
    await custody.use(); // the ledger is read before the answer
    return { standing: custody.standing().standing, mended: [...mended] };
  } finally {
    unattended?.resume();
  }
}

/** The ledger is open afterwards; else the token is logged out, and the standing says what is known. */
async function mend(parts: StoreMendParts, damage: DamagedLedger): Promise<readonly number[]> {
  const { holder, log } = parts;
  const mended: number[] = [];
  try {
    const left = await putBack(holder, damage, mended);
    if (mended.length > 0)
      log.warn('damaged batches were put back from the ticket server', { first: mended[0] ?? 0, count: mended.length });
    if (left !== null) throw left;
    await askHolder(holder, { kind: 'open' }, 'opened');
    return mended;
  } catch (thrown) {
    const error = asUkeyError(thrown);
    if (holder.state().kind === 'halted') await leave(holder, damage, error, log);
    throw error;
  }
}

async function leave(holder: Holder, damage: DamagedLedger, { message: reason, action }: UkeyError, log: Log): Promise<void> {
  const { kind, isNamed, missing, carryLost } = damage;
  const step: MendStep = { kind: 'leave', reason, action, damage: { kind, isNamed, missing, carryLost } };
  // Where the token has gone meanwhile its own state tells more.
  await holder.resume(step).catch((error: unknown) => log.debug('the damaged store was left', { why: asUkeyError(error).message }));
}

/** Null: all that keeps the ledger from opening is back. Else what is left, and why. Throws offline. */
async function putBack(holder: Holder, damage: DamagedLedger, mended: number[]): Promise<UkeyError | null> {
  if (damage.missing.length === 0 && damage.carryLost) return carriedLost();
  const reads: Reads = {
    read: async (fromBatch, maxBytes) => [...(await askHolder(holder, { kind: 'readDamaged', fromBatch, maxBytes }, 'batches')).batches],
  };
  const charter = await charterOf(reads, damage);
  if (charter === null)
    return new UkeyError('halted', `${told(damage)}; with them the charter, which names the ticket server, is gone`, {
      action: mirrorAction,
    });
  const server = new Holdings(charter, damage.tokenId);
  try {
    const { upToBatch } = await server.head(await knownBatch(reads, damage));
    let rest = damage;
    for (const place of damage.missing) {
      if (place.to > upToBatch) continue;
      const batches = await fetched(server, reads, damage, place);
      const answer = await askHolder(holder, { kind: 'mend', batches, fromBatch: null }, 'mended');
      mended.push(...answer.batches);
      rest = answer.damage;
    }
    return leftOver(rest, upToBatch);
  } catch (thrown) {
    const error = asUkeyError(thrown);
    if (error.code !== 'offline') throw error;
    throw new UkeyError('offline', `${told(damage)}; the ticket server cannot be asked: ${error.message}`, {
      action: againAction,
      cause: error,
    });
  } finally {
    server.close();
  }
}

function leftOver({ missing, carryLost }: DamagedLedger, upToBatch: number): UkeyError | null {
  const unacknowledged = missing.filter(({ to }) => to > upToBatch);
  const unproven = missing.filter(({ to }) => to <= upToBatch);
  const parts: string[] = [];
  if (unacknowledged.length > 0)
    parts.push(
      `${texts(unacknowledged)} cannot be read, and the ticket server has acknowledged no further than batch ${upToBatch}: nobody else has them`,
    );
  if (unproven.length > 0)
    parts.push(
      `${texts(unproven)} cannot be read and are at the ticket server, but cannot be put back: the header of their run is gone, or this version packs them to other bytes than stood there`,
    );
  if (parts.length === 0) return carryLost ? carriedLost() : null;
  return new UkeyError('halted', `the store is damaged: ${parts.join('; ')}`, {
    action: unacknowledged.length > 0 ? lossAction : mirrorAction,
  });
}

const carriedLost = (): UkeyError =>
  new UkeyError('halted', 'the store is damaged: what it carries along cannot be read, and no batch brings that back', {
    action: mirrorAction,
  });

const texts = (missing: readonly MissingBatches[]): string => missing.map(({ text }) => text).join(', ');
const told = ({ missing }: DamagedLedger): string => `the store is damaged: ${texts(missing)} cannot be read`;

/** The charter in force at the checkpoint, or the first one behind it; null where it cannot be read. */
async function charterOf(reads: Reads, damage: DamagedLedger): Promise<Charter | null> {
  const authorityKey = new X509Certificate(damage.authorityCertificate).publicKey;
  try {
    const tip = await tipWithCharter(reads, damage);
    const { charter } = await carriedWith(reads, { ...tip, templates: [], certificateBatch: null }, damage);
    return charter === null ? null : openCharter(charter.signed, authorityKey);
  } catch {
    return null; // the batch that brought it is damaged as well
  }
}

async function tipWithCharter(reads: Reads, { checkpoint, before, missing, nextBatch }: DamagedLedger): Promise<Tip> {
  let tip = checkpoint === null ? emptyTip : decodeTip(checkpoint);
  if (tip.charter !== null) return tip;
  const end = missing.find(({ to }) => to >= before.nextBatch)?.from ?? nextBatch;
  for await (const { leaves, entries } of readBatches(reads, before.nextBatch, end - 1, chunkBytes))
    for (const [at, leaf] of leaves.entries()) {
      const entry = entries[at];
      if (entry !== undefined) tip = withEntry(tip, leaf, entry);
      if (tip.charter !== null) return tip;
    }
  return tip;
}

/** One that the server should have, to ask by. */
async function knownBatch(reads: Reads, { oldestBatch, missing }: DamagedLedger): Promise<Uint8Array> {
  const [first] = missing;
  const candidates = [oldestBatch, (first?.from ?? 1) - 1].filter(
    (batch) => batch >= oldestBatch && !missing.some(({ from, to }) => batch >= from && batch <= to),
  );
  for (const batch of candidates) {
    const [found] = await reads.read(batch, 1);
    if (found !== undefined) return found.bytes;
  }
  throw new UkeyError('halted', 'the FLASH holds no batch that the ticket server could know', { action: mirrorAction });
}

/** What stood in one place, each verified behind the one before it, and the last one before the one that is there. */
async function fetched(server: Holdings, reads: Reads, damage: DamagedLedger, place: MissingBatches): Promise<StoredBatch[]> {
  const {
    signers: [first, ...others],
    authorityCertificate,
  } = damage;
  const authorityKey = new X509Certificate(authorityCertificate).publicKey;
  const known = signersOf(
    first.certificate,
    others.flatMap(({ succession }) => (succession === null ? [] : [succession])),
    authorityKey,
  );
  const succeed = succeedBy(authorityKey);
  let signers = signersBefore(known, place.from);
  let head = await headBefore(reads, damage, place.from);
  const batches: StoredBatch[] = [];
  let bytesInAll = 0;
  for await (const page of server.batches(place.from, place.to))
    for (const bytes of page) {
      const next = verified(bytes, signers, head, succeed);
      batches.push({ batchIndex: next.batch.seal.batchIndex, bytes });
      signers = next.signers;
      head = next.batch.head;
      bytesInAll += bytes.length;
      if (bytesInAll > gapMaxBytes)
        throw new UkeyError('too-large', `${place.text}: too much is missing in one place`, { action: mirrorAction });
    }
  if (place.to + 1 < damage.nextBatch && !damage.missing.some(({ from }) => from === place.to + 1)) {
    const { seal } = decodeSeal((await readBatch(reads, place.to + 1)).sealBytes);
    const last = batches.at(-1);
    // The newest one of the server may be there in a spelling that somebody else has sent: this ledger's own seal says which one it was.
    const other = last === undefined ? null : otherBatch(last.bytes);
    if (last !== undefined && other !== null && isOtherHash(decodeBatch(last.bytes).sealBytes, seal.previousSealHash))
      batches.splice(-1, 1, { ...last, bytes: other });
    else if (Buffer.compare(seal.previousSealHash, head.sealHash) !== 0)
      throw parted(`batch ${place.to} of the server is another one than batch ${place.to + 1} of this FLASH follows`);
  }
  return batches;
}

async function headBefore(reads: Reads, { before }: DamagedLedger, batchIndex: number): Promise<ChainHead> {
  if (before.nextBatch === batchIndex)
    return { batchIndex: batchIndex - 1, nextSequence: before.nextSequence, sealHash: before.headSealHash };
  const { sealBytes } = await readBatch(reads, batchIndex - 1);
  const { seal } = decodeSeal(sealBytes);
  return { batchIndex: batchIndex - 1, nextSequence: seal.firstSequence + seal.count, sealHash: sealHashOf(sealBytes) };
}

function verified(...given: Parameters<typeof verifyNext>): ReturnType<typeof verifyNext> {
  try {
    return verifyNext(...given);
  } catch (cause) {
    throw parted(`what the server holds behind batch ${given[2].batchIndex} does not go on with this ledger`, cause);
  }
}
