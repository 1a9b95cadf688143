// Owns: what a verifier asks of entries by which a ledger changes its key or its certificate: one that was handed over is sealed by its key no more, but to take
// it back; a succession stands only where another key begins; a renewed certificate is the authority's, of the key in force, and ends later than the one before.
// Pure: a fold over batches that hold.
import type { KeyObject } from 'node:crypto';
import { adminEventIn, renewedCertificateIn } from '#ipc-schema/admin.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { checkRenewal } from '#ipc-schema/signers.ts';
import { successionOf } from '#ipc-schema/succession.ts';
import type { VerifiedBatch } from '#ipc-schema/verify.ts';

export interface HandoverFinding {
  readonly sequence: number;
  readonly what: string;
}

export class HandoverCheck {
  /** The newest batch ends with a handover; null: what came before is not there. */
  #handedOver: boolean | null;

  constructor(isWhole: boolean) {
    this.#handedOver = isWhole ? false : null;
  }

  /** The next batch. `isSucceeding`: another key begins with it. */
  add({ entries }: VerifiedBatch, isSucceeding: boolean): HandoverFinding[] {
    const events = entries.map(({ parsed, body }) => (parsed.kind === 'admin' ? adminEventIn(body) : null));
    const mayTakeBack = this.#handedOver !== false && !isSucceeding;
    const isTakenBack = mayTakeBack && events[0] === 'handover-cancelled';
    const findings: HandoverFinding[] = [];
    for (const [place, { parsed }] of entries.entries()) {
      const { sequence } = parsed;
      const event = events[place];
      if (place === 0 && this.#handedOver === true && !isSucceeding && !isTakenBack)
        findings.push({ sequence, what: 'is sealed by a key that had handed the ledger over' });
      if (event === 'handover' && place < entries.length - 1) findings.push({ sequence, what: 'entries stand behind a handover' });
      if (event === 'handover-cancelled' && !(place === 0 && isTakenBack))
        findings.push({ sequence, what: 'no handover stands before what takes it back' });
    }
    this.#handedOver = events.at(-1) === 'handover';
    return findings;
  }
}

/**
 * What an admin entry says of the key in force and its certificate (DER); answers the certificate that counts behind it. A succession where no other key
 * begins lets nobody go on: then somebody meant it to. Throws invalid-request. `authorityKey` null: the authority is not known.
 */
export function certificateBehind(
  adminBody: Uint8Array,
  current: Uint8Array,
  tokenId: Uint8Array,
  authorityKey: KeyObject | null,
): Uint8Array {
  if (successionOf(adminBody) !== null) throw malformed('succession', 'stands where no other key begins');
  const next = renewedCertificateIn(adminBody);
  if (next !== null) checkRenewal(next, current, tokenId, authorityKey);
  return next ?? current;
}
