// Owns: the steps by which a ledger that does not open is brought up to date, mended or replaced, and their answers: what `Holder.resume` takes and gives.
// Invariants: shapes alone; who performs them is resuming.ts, mending.ts and renewing.ts. PINs' bytes are overwritten when the step ends.
import type { TokenFacts } from '#token/token.ts';
import type { Mount, StoredBatch } from './holder.ts';

/** One batch by name: its index, and the SHA-256 of its seal. */
export interface BatchMark {
  readonly batchIndex: number;
  readonly sealHash: Uint8Array;
}

export interface AdoptedBatch extends StoredBatch {
  /** The front's state before it. */
  readonly checkpoint: Uint8Array;
}

/** Batches that nobody has whole, `from` to `to`, both included; their sequences as far as the batches beside them tell. */
export interface MissingBatches {
  readonly from: number;
  readonly to: number;
  readonly firstSequence: number | null;
  readonly lastSequence: number | null;
  /** For a person: `batch 7 (sequences 12-15)`. */
  readonly text: string;
}

/** What keeps a store from opening. */
export interface NamedDamage {
  readonly kind: 'damage';
  readonly isNamed: true;
  readonly missing: readonly MissingBatches[];
  /** What the store carries along, or the end of the log itself, cannot be read: no batch of the ticket server heals that. */
  readonly carryLost: boolean;
}

/** A ledger whose store does not open, as far as it can be read. */
export interface DamagedLedger
  extends NamedDamage,
    Pick<Mount, 'tokenId' | 'signers' | 'authorityCertificate' | 'checkpoint' | 'oldestBatch' | 'nextBatch' | 'carried'> {
  /** Where the chain stood at the checkpoint: before batch `before.nextBatch`. */
  readonly before: Pick<Mount, 'nextBatch' | 'nextSequence' | 'headSealHash'>;
}

/** Batches are put back into a store that damage keeps from opening (mending.ts): `survey` first, `open` or `leave` last. */
export type MendStep =
  /** As a login: one try, and where the ledger opens it is open. `fromBatch`: look that far back, and open nothing; null: what opening needs. */
  | { readonly kind: 'survey'; readonly pin: Uint8Array; readonly useLastTry: boolean; readonly fromBatch: number | null }
  | { readonly kind: 'readDamaged'; readonly fromBatch: number; readonly maxBytes: number }
  /** All that is missing in one place comes in one step. */
  | { readonly kind: 'mend'; readonly batches: readonly StoredBatch[]; readonly fromBatch: number | null }
  /** Logs out; the state is `halted` with these words. */
  | { readonly kind: 'leave'; readonly reason: string; readonly action: string; readonly damage: NamedDamage };

/** An older FLASH is brought up to what KEY and ticket server have seen (resuming.ts): `inspect` first, `open` last. */
export type ResumeStep =
  | MendStep
  /** One try; the token is logged in afterwards. The PIN's bytes are overwritten. Writes nothing. `acceptEnd`: what cannot be read where the FLASH ends is taken for nothing. */
  | { readonly kind: 'inspect'; readonly pin: Uint8Array; readonly useLastTry: boolean; readonly acceptEnd: boolean }
  /** `place`: as `inspected` said. */
  | {
      readonly kind: 'read';
      readonly place: StorePlace;
      readonly fromBatch: number;
      readonly maxBytes: number;
      readonly acceptEnd: boolean;
    }
  /** Repeating it is harmless. */
  | {
      readonly kind: 'adopt';
      /** Consecutive, behind the newest one. */
      readonly batches: readonly AdoptedBatch[];
      /** The newest that will come. */
      readonly target: BatchMark;
      /** The FLASH has this batch, and what hides behind its end is written over; null: nothing is. */
      readonly acceptEnd: number | null;
    }
  | { readonly kind: 'open' }
  /** Whose KEY and whose FLASH are there, as far as can be seen without a login. */
  | { readonly kind: 'look' }
  | { readonly kind: 'renew'; readonly renewal: Renewal };

/** Where the newest of an older ledger stands. */
export type StorePlace = 'flash' | 'mirror';

/** The KEY of a ledger that ends becomes a new one (renewing.ts). Ids are hex, of KEYs. Both PINs' bytes are overwritten. */
export interface Renewal {
  readonly label: string;
  readonly pin: Uint8Array;
  readonly soPin: Uint8Array;
  /** Of the new enrolment ticket. */
  readonly code: string;
  /** The KEY whose store ends. */
  readonly ends: string;
  /** KEYs that are destroyed where they are found: `ends`, and new ones that cannot be used. */
  readonly destroyed: readonly string[];
  /** Serial number of the KEY: one that has it, and none of those, is the new one. */
  readonly serial: string;
}

export type ResumeAnswer =
  /**
   * `anchor`: what the KEY, or this holder, has seen; null where neither remembers. `isOpenedSince`: a later opening than the FLASH knows of. `hiddenBehind`: the FLASH
   * ends with this batch, cannot be read behind it, and that was accepted; null: it was read, or the mirror goes further.
   */
  | {
      readonly kind: 'inspected';
      readonly mount: Mount;
      readonly place: StorePlace;
      readonly facts: TokenFacts;
      readonly anchor: { readonly batchIndex: number; readonly isOpenedSince: boolean } | null;
      readonly hiddenBehind: number | null;
    }
  | { readonly kind: 'batches'; readonly batches: readonly StoredBatch[] }
  | { readonly kind: 'adopted'; readonly nextBatch: number }
  | { readonly kind: 'surveyed'; readonly damage: DamagedLedger }
  /** The batches that were put back, and what is left. */
  | { readonly kind: 'mended'; readonly batches: readonly number[]; readonly damage: DamagedLedger }
  | { readonly kind: 'left' }
  | { readonly kind: 'opened'; readonly mount: Mount }
  /** Hex. `keyId` null: the KEY is blank, or shows itself only after a login; `storeKeyId` null: the FLASH holds no store that can be read. */
  | { readonly kind: 'looked'; readonly isBlank: boolean; readonly keyId: string | null; readonly storeKeyId: string | null }
  /** `request`: the signed enrolment request; `format` is next. Null: the FLASH is the new KEY's already; `login` is next. `keyId`: of the new KEY. */
  | { readonly kind: 'renewed'; readonly keyId: string; readonly request: Uint8Array | null };
