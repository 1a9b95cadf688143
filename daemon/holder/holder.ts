// Owns: the interface between front and holder. The holder owns one token: KEY, FLASH, mirror and data key; the front never sees a key.
// Implementations: joined.ts (token and store in this process; the child runs it, tests use it directly) and parent.ts (a child process with deadlines).
// Invariants: batches become durable in the order of `commit` calls; `durable` of a batch resolves only when it and all before it are on FLASH
// (and on the mirror where one is set); after unknown-outcome the holder refuses everything until it has opened the log again, by itself or by login.
// Errors are UkeyError: no-token, locked, pin-*, token-failed (nothing was written), store-full (nothing was written), unknown-outcome, halted.
import type { Packed } from '#ground/unpacking.ts';
import type { Algorithm } from '#ipc-schema/cose.ts';
import type { MirrorMode, MirrorReport, SliceReport } from '#store/store.ts';
import type { TokenFacts } from '#token/token.ts';
import type { Seen } from './anchor.ts';
import type { EraseConsent } from './occupied.ts';
import type { NamedDamage, ResumeAnswer, ResumeStep } from './repair-steps.ts';

export type {
  AdoptedBatch,
  BatchMark,
  DamagedLedger,
  MendStep,
  MissingBatches,
  NamedDamage,
  Renewal,
  ResumeAnswer,
  ResumeStep,
  StorePlace,
} from './repair-steps.ts';

/** What the holder is, as the front sees it. */
export type HolderState =
  | { readonly kind: 'starting' }
  /** No token, or its FLASH is missing or (`plugged`) cannot be read; the holder looks again by itself. `action`: where more is to be done than to plug it in. */
  | { readonly kind: 'absent'; readonly reason: string; readonly action?: string; readonly plugged?: true }
  /** A token without keys: provision first. Or one with keys (`facts.provisioned`) whose FLASH is blank: a step of provisioning, or a loss. */
  | { readonly kind: 'blank'; readonly facts: TokenFacts }
  | { readonly kind: 'locked'; readonly facts: TokenFacts }
  /** `end`: of the log, as it was opened. `mirrorWaits`: a mirror was made beside the tills and is whole; `openAgain` takes it, once nothing is on its way. */
  | { readonly kind: 'open'; readonly facts: TokenFacts; readonly mount: Mount; readonly end: Seen; readonly mirrorWaits?: true }
  /** Stopped to protect the ledger; a person must act. */
  | {
      readonly kind: 'halted';
      readonly reason: string;
      /** Where more is known than the reason says. */
      readonly action?: string;
      readonly damage?: NamedDamage;
    };

/** What login found: who the token is, and where its ledger stands. */
export interface Mount {
  /** The ledger: the id of its first key, also when another key goes on with it. */
  readonly tokenId: Uint8Array;
  readonly algorithm: Algorithm;
  /** Public key of the seals (SPKI, DER). */
  readonly publicKey: Uint8Array;
  /** Of the key in force (DER), as it came with the key: the ledger tells whether another one has renewed it. */
  readonly certificate: Uint8Array;
  /** The ledger's keys in the order in which they seal; the hash of the first one's certificate stands before the first seal. */
  readonly signers: readonly [MountedSigner, ...MountedSigner[]];
  /** Trust root of charters and templates (DER). */
  readonly authorityCertificate: Uint8Array;
  /** The front's own checkpoint, as given with a commit, or null for an empty ledger. It is the state before batch `checkpointBatch`. */
  readonly checkpoint: Uint8Array | null;
  readonly checkpointBatch: number;
  /** First batch that can be read: all before were released. */
  readonly oldestBatch: number;
  /** What was carried last; null if nothing ever was. */
  readonly carried: Carried | null;
  readonly nextBatch: number;
  readonly nextSequence: number;
  /** SHA-256 of the newest seal (of the enrolment certificate when there is none). */
  readonly headSealHash: Uint8Array;
  /** Bytes of a torn tail that mounting cut; 0 if none. */
  readonly tornBytes: number;
  readonly keyWrapping: string;
  /** What was done so that FLASH and mirror are the same; null where no mirror is in use. */
  readonly mirror: MirrorReport | null;
  /** Only in the answer to a login that found the token open: the PIN was not looked at. */
  readonly pinUnchecked?: true;
}

/** A key of the ledger. */
export interface MountedSigner {
  /** First batch that it seals. */
  readonly fromBatch: number;
  /** DER. */
  readonly certificate: Uint8Array;
  /** As the authority signed it (ipc-schema/succession.ts); null for the first key. */
  readonly succession: Uint8Array | null;
}

/** A charter or template as the authority signed it, and the batch that brought it. */
export interface CarriedDocument {
  readonly batch: number;
  readonly signed: Uint8Array;
}

/** What survives the release of the batches that brought it. */
export interface Carried {
  readonly charter: CarriedDocument | null;
  readonly templates: readonly CarriedDocument[];
  /** The certificate (DER) that renewed the one of the key in force; null: none did. */
  readonly certificate: CarriedDocument | null;
}

/** One batch on its way: numbered and hashed by the front, sealed by the holder. */
export interface BatchDraft {
  readonly batchIndex: number;
  readonly firstSequence: number;
  readonly count: number;
  readonly root: Uint8Array;
  readonly sealedAtMs: number;
  /** joinEntries() of the encoded entries. */
  readonly joinedEntries: Uint8Array;
  /** Only entries of the service's own (acknowledgements, charters): may use what the store reserves, so that a full one can be freed. */
  readonly reserved: boolean;
  /** The front's state before this batch; the store keeps it where a new run begins. */
  readonly checkpoint: Uint8Array;
}

export interface Commit {
  /** The seal's bytes, signed and verified: from here on the signer is free for the next batch. Rejects: nothing was written. */
  readonly sealed: Promise<Uint8Array>;
  /** Resolves when durable. Rejects with the same error as `sealed`, or with unknown-outcome. */
  readonly durable: Promise<void>;
}

export interface StoredBatch {
  readonly batchIndex: number;
  /** batch.ts bytes. */
  readonly bytes: Uint8Array;
}

/** One that is still to be unpacked (packed.ts). */
export interface PackedBatch {
  readonly batchIndex: number;
  readonly packed: Packed;
}

export interface HolderStatus {
  readonly signatures: number;
  /** Over the last signatures; null before the first. */
  readonly meanSignMs: number | null;
  /** Signatures that failed, those of self tests too. */
  readonly signFailures: number;
  /** The last failure: of a signature, or of the whole process. */
  readonly lastFailure: Failure | null;
  /** Wall time of the last good self test; null before the first. */
  readonly selfTestAtMs: number | null;
  /** Processes that were replaced because they hung or died. */
  readonly restarts: number;
  readonly storePath: string;
  readonly sizeBytes: number;
  readonly usedBytes: number;
  /** Of what documents may fill, rounded up: at 100 the store is full. */
  readonly usedPercent: number;
  /** What documents may fill altogether, and what of it is left. */
  readonly capacityBytes: number;
  readonly freeBytes: number;
  /** To the FLASH, since it was formatted: its wear. */
  readonly bytesWritten: number;
  /** As configured; null: off. */
  readonly mirror: MirrorStatus | null;
}

export interface Failure {
  /** Wall time. */
  readonly atMs: number;
  readonly reason: string;
}

export interface MirrorStatus {
  readonly mode: MirrorMode;
  /** What an `async` mirror does not have yet. */
  readonly behindBytes: number;
  /** Why it is not written any more until the log is opened again; null while it is. */
  readonly failure: string | null;
}

/** All PINs' bytes are overwritten when the call that took them ends. */
export interface PinChange {
  readonly oldPin: Uint8Array;
  readonly newPin: Uint8Array;
  readonly useLastTry: boolean;
}

export interface PinUnblock {
  readonly soPin: Uint8Array;
  readonly newPin: Uint8Array;
}

export interface ProvisionOptions {
  readonly label: string;
  readonly pin: Uint8Array;
  readonly soPin: Uint8Array;
  /** One-time code of the enrolment ticket: goes into the signed request. */
  readonly code: string;
  /**
   * Ids (hex) of tokens whose provisioning has begun and not ended: they have keys, and no FLASH yet. Of any other token with keys the FLASH is lost, and a new
   * one would bury its ledger: invalid-request. `any`: the caller knows better.
   */
  readonly repeat?: 'any' | readonly string[];
  /** For the FLASH that step 2 will format: it is looked at before anything is made. */
  readonly consent?: EraseConsent;
}

export interface FormatRequest {
  readonly certificate: Uint8Array;
  readonly authorityCertificate: Uint8Array;
  /** HPKE public key of the authority's recovery, or null. */
  readonly recoveryKey: Uint8Array | null;
  readonly erase: boolean;
  /** Of a ledger that may be lost (occupied.ts). */
  readonly eraseLedger?: string;
}

export interface RestoreOptions {
  /** A copy of the store: the mirror, or the FLASH of a dead KEY. Path of a block device or image. */
  readonly from: string;
  readonly pin: Uint8Array;
  /** For a blank token; null: it has keys already. */
  readonly soPin: Uint8Array | null;
  readonly label: string | null;
  /** For another KEY than the copy's: what the recovery ticket says. */
  readonly ticket: {
    readonly code: string;
    /** Of the ledger. */
    readonly tokenId: Uint8Array;
  } | null;
  /** Write over a FLASH that is not blank. */
  readonly erase: boolean;
}

export type RestoreBegun =
  /** The copy is of this KEY: `finishRestore(null)` is next. */
  | { readonly kind: 'own' }
  /** Signed by the new KEY, for the ticket server (recovery.ts); its answer is for `unlockRestore`. */
  | { readonly kind: 'successor'; readonly request: Uint8Array };

/** The ticket server's answer: another KEY goes on with the ledger. */
export interface SuccessionGrant {
  readonly authorityCertificate: Uint8Array;
  /** As the authority signed it. */
  readonly succession: Uint8Array;
}

/** What a check of one segment of the store has found. Frames are batches; `healed`: whether FLASH and mirror were put right from one another. */
export type SegmentCheck = SliceReport;

/** Plain callbacks that an upper room hands down. */
export interface HolderEvents {
  /** Called at every change of state, in order. */
  onState(state: HolderState): void;
}

export interface Holder {
  state(): HolderState;
  /** One try, if it may be spent; none while open (the mount as it stands now). The PIN's bytes are overwritten when it ends. */
  login(pin: Uint8Array, useLastTry: boolean): Promise<Mount>;
  logout(): Promise<void>;
  /** One try with the old PIN, if it may be spent, open or not. Answers the facts afterwards. Throws invalid-request (`newPin`) where the token does not take the new one. */
  changePin(change: PinChange): Promise<TokenFacts>;
  /** One try with the SO PIN, never its last; the token is locked afterwards. Throws invalid-request while open. */
  unblockPin(unblock: PinUnblock): Promise<TokenFacts>;
  /** Step 1 on a blank token: PIN and keys; answers the signed enrolment request (upstream.ts). A token that has keys but no formatted FLASH may repeat it with its PIN. Both PINs' bytes are overwritten. */
  provision(options: ProvisionOptions): Promise<Uint8Array>;
  /** Step 2: the FLASH is formatted with the certificates; the token is open afterwards. */
  format(request: FormatRequest): Promise<Mount>;
  /**
   * Step 1 of making a lost FLASH anew: the token gets keys where it has none, and is logged in. Both PINs' bytes are overwritten. Throws
   * invalid-request naming what is missing. All steps may be repeated from the first on until the last has succeeded.
   */
  beginRestore(options: RestoreOptions): Promise<RestoreBegun>;
  /** Step 2, for another KEY: opens the copy with the data key that the server has sealed to it; answers the signed request for the succession. */
  unlockRestore(sealedDataKey: Uint8Array): Promise<Uint8Array>;
  /** Last step: the FLASH is written, which takes minutes, and opened. Throws `halted` for a copy that is damaged or too old; nothing is written then. */
  finishRestore(grant: SuccessionGrant | null): Promise<Mount>;
  /** Closes the log and opens it anew without a PIN, when what was committed is durable; what is committed meanwhile is refused. Throws as login; then the state says what is true. */
  openAgain(): Promise<Mount>;
  commit(batch: BatchDraft): Commit;
  /** Signed by the KEY of the open ledger, for the ticket server: it asks for a certificate that renews the one of this hash (ipc-schema/renewal.ts). */
  requestRenewal(certificateHash: Uint8Array): Promise<Uint8Array>;
  /** Replaces what survives every release. Resolves when it is durable. */
  carry(carried: Carried): Promise<void>;
  /**
   * Batches up to and with this one may be forgotten; whole segments are freed, and only what mounting does not need. Resolves when it is durable.
   * `oldestBatch`: the first one that can be read from now on.
   */
  release(upToBatch: number): Promise<{ readonly segments: number; readonly oldestBatch: number }>;
  /** Throws not-found for a batch that was released. Encoded batches from `fromBatch` on, in order, at least one if there is one, about maxBytes at most. */
  read(fromBatch: number, maxBytes: number): Promise<StoredBatch[]>;
  /** The same, to be unpacked elsewhere. `maxBytes` is of what comes out. */
  readPacked(fromBatch: number, maxBytes: number): Promise<PackedBatch[]>;
  /** Reads one segment of the store, on FLASH and mirror, and with `heal` puts right what one of them has whole: from run 1 on, then from each answer's nextRun. */
  check(fromRun: number, heal: boolean): Promise<SegmentCheck>;
  /** Puts batches back that neither FLASH nor mirror has whole. Only what is byte for byte what stood there is written; answers the indexes of those. */
  mend(batches: readonly StoredBatch[]): Promise<readonly number[]>;
  resume(step: ResumeStep): Promise<ResumeAnswer>;
  status(): Promise<HolderStatus>;
  /** Waits for what is under way (bounded), logs out, wipes, ends the process. */
  close(): Promise<void>;
}
