// Owns: taking a server's acknowledgement into the ledger: is it signed by the charter's server, for this token, for this very seal; what does it release.
// Invariants: only what is committed as an entry changes the budget; an acknowledgement of batches that this token does not have, or of another
// seal at one index, is proof of a rollback or a clone: `halted`, nothing is committed. The server's time in it stays in the ledger for good: one that
// is far ahead of what the same server has proven is not taken.
import type { Charter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { money, zero } from '#ipc-schema/money.ts';
import { type Acknowledgement, encodeAcknowledgementBody, openAcknowledgement } from '#ipc-schema/upstream.ts';
import { headFault } from './contradiction.ts';
import type { Ledger } from './ledger.ts';

const bodyMaxBytes = 64 * 1024;
/** How far an acknowledgement's time may be ahead of the server's proven time. */
export const aheadMaxMs = 86_400_000;

/**
 * Answers what was acknowledged, or null when the ledger knew it already, or the server spells our newest seal otherwise. Throws invalid-request (not our server's), halted (rollback or clone),
 * clock-untrusted (its time is far ahead). `provenNowMs`: what time it is by an answer of the server to our nonce; null: not known.
 */
export async function acknowledge(
  ledger: Ledger,
  charter: Charter,
  signed: Uint8Array,
  provenNowMs: number | null = null,
): Promise<Acknowledgement | null> {
  const ack = openAcknowledgement(signed, publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')));
  const fault = await headFault(ledger, ack);
  if (fault !== null) throw new UkeyError('halted', fault.reason);
  const { ackedBatch } = ledger.tip;
  if (ack.upToBatch <= ackedBatch) return null;
  // Our batch in another spelling: an entry must name the seals of its own ledger, and once ours is sent the server signs for that.
  if (Buffer.compare((await ledger.summary(ack.upToBatch)).sealHash, ack.headSealHash) !== 0) return null;
  if (provenNowMs !== null && ack.serverTimeMs - provenNowMs > aheadMaxMs) {
    const [says, proven] = [ack.serverTimeMs, provenNowMs].map((ms) => new Date(ms).toISOString());
    throw new UkeyError('clock-untrusted', `its acknowledgement says ${says}, and it has proven ${proven}`, {
      action: 'Ask headquarters to have the clocks of the ticket server put right.',
    });
  }
  let releasedCount = 0;
  let releasedAmount = zero;
  for (let batch = ackedBatch + 1; batch <= ack.upToBatch; batch += 1) {
    const summary = await ledger.summary(batch);
    releasedCount += summary.count;
    releasedAmount = releasedAmount.plus(money(summary.amount));
  }
  const behind = await oldestBehind(ledger, ack.upToBatch);
  await ledger.addOwn({
    kind: 'own',
    entryKind: 'acknowledgement',
    bodyMaxBytes,
    body: (tip) => {
      if (tip.ackedBatch !== ackedBatch) throw new UkeyError('busy', 'another acknowledgement came between', { retryAfterMs: 0 });
      const nextOldestMs = tip.pending.count === releasedCount ? null : (behind.oldestMs ?? ledger.oldestFrom(behind.lookedUpTo));
      return encodeAcknowledgementBody({ signed, releasedCount, releasedAmount: releasedAmount.toFixed(), nextOldestMs });
    },
  });
  return ack;
}

/** The first document behind the acknowledged batches, read beforehand: the decision inside the sequencer cannot wait for the FLASH. */
async function oldestBehind(
  ledger: Ledger,
  batchIndex: number,
): Promise<{ readonly oldestMs: number | null; readonly lookedUpTo: number }> {
  let batch = batchIndex + 1;
  for (; batch < ledger.tip.nextBatch; batch += 1) {
    const { oldestMs } = await ledger.summary(batch);
    if (oldestMs !== null) return { oldestMs, lookedUpTo: batch };
  }
  return { oldestMs: null, lookedUpTo: batch };
}
