// Owns: taking a server's acknowledgement into the ledger: is it signed by the charter's server, for this token, for this very seal; what does it release.
// Invariants: only what is committed as an entry changes the budget; an acknowledgement of batches that this token does not have, or of another
// seal at one index, is proof of a rollback or a clone: `halted`, nothing is committed.
import type { Charter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { money, zero } from '#ipc-schema/money.ts';
import { type Acknowledgement, encodeAcknowledgementBody, openAcknowledgement } from '#ipc-schema/upstream.ts';
import type { Ledger } from './ledger.ts';

const bodyMaxBytes = 64 * 1024;

/** Answers what was acknowledged, or null when the ledger knew it already. Throws invalid-request (not our server's), halted (rollback or clone). */
export async function acknowledge(ledger: Ledger, charter: Charter, signed: Uint8Array): Promise<Acknowledgement | null> {
  const ack = openAcknowledgement(signed, publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')));
  if (Buffer.compare(ack.tokenId, ledger.mount.tokenId) !== 0)
    throw new UkeyError('invalid-request', 'the acknowledgement is for another token');
  const { ackedBatch, nextBatch } = ledger.tip;
  if (ack.upToBatch >= nextBatch) {
    throw new UkeyError('halted', `rollback: the server holds batch ${ack.upToBatch}, this token ends at ${nextBatch - 1}`);
  }
  if (ack.upToBatch <= ackedBatch) return null;
  const head = await ledger.summary(ack.upToBatch);
  if (Buffer.compare(head.sealHash, ack.headSealHash) !== 0) {
    throw new UkeyError('halted', `clone: the server holds another batch ${ack.upToBatch} of this token`);
  }
  let releasedCount = 0;
  let releasedAmount = zero;
  for (let batch = ackedBatch + 1; batch <= ack.upToBatch; batch += 1) {
    const summary = await ledger.summary(batch);
    releasedCount += summary.count;
    releasedAmount = releasedAmount.plus(money(summary.amount));
  }
  await knowOldestAfter(ledger, ack.upToBatch);
  await ledger.addOwn({
    kind: 'own',
    entryKind: 'acknowledgement',
    bodyMaxBytes,
    body: (tip) => {
      if (tip.ackedBatch !== ackedBatch) throw new UkeyError('internal', 'another acknowledgement came between');
      const nextOldestMs = tip.pending.count === releasedCount ? null : ledger.oldestAfter(ack.upToBatch);
      return encodeAcknowledgementBody({ signed, releasedCount, releasedAmount: releasedAmount.toFixed(), nextOldestMs });
    },
  });
  return ack;
}

/** Reads on until the first document behind the acknowledged batches is known: the decision inside the sequencer cannot wait for the FLASH. */
async function knowOldestAfter(ledger: Ledger, batchIndex: number): Promise<void> {
  for (let batch = batchIndex + 1; batch < ledger.tip.nextBatch; batch += 1) {
    if ((await ledger.summary(batch)).count > 0) return;
  }
}
