// Owns: what a verifier asks of entries by which a ledger changes its key: one that was handed over is sealed by its key no more, but to take it back; and a
// succession stands only where another key begins.
// Pure: a fold over batches that hold.
import { adminEventIn } from '#ipc-schema/admin.ts';
import { malformed } from '#ipc-schema/cbor.ts';
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

/** Where no other key begins it lets nobody go on: then somebody meant it to. Throws invalid-request. */
export function refuseSuccession(adminBody: Uint8Array): void {
  if (successionOf(adminBody) !== null) throw malformed('succession', 'stands where no other key begins');
}
