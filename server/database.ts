// Owns: what the ticket server keeps, as an interface: enrolment codes, tokens with the head of their chain, batches (exact bytes, for ever),
// entries (for search), alarms. One suite (test/suites/database-suite.ts) is run by every implementation.
// Invariants: a promise that resolves means durable (a power cut after it loses nothing); each method is one transaction, all or nothing;
// a batch that is stored is never changed or removed, but for the spelling of the newest one's seal (`respell`); a token's batches and sequences have no hole.
// Must not: verify anything: who stores has verified.
import type { ChainHead } from '#ipc-schema/verify.ts';

export interface CodeRecord {
  /** SHA-256 of the code, hex: the code itself is nowhere but on the ticket. */
  readonly codeHash: string;
  /** What it grants: JSON of grant.ts. */
  readonly grant: string;
  readonly madeAtMs: number;
  readonly expiresAtMs: number;
}

export interface UsedCode extends CodeRecord {
  /** Token (hex id) that used it, with the answer that it was given: the same token may ask again. */
  readonly used: { readonly tokenId: string; readonly answer: string } | null;
}

export interface TokenRecord {
  /** Hex. */
  readonly tokenId: string;
  readonly serial: string;
  readonly issuerTaxId: string;
  readonly issuerName: string;
  readonly spki: Uint8Array;
  /** Enrolment certificate, DER: the chain of seals begins at its hash. */
  readonly certificate: Uint8Array;
  readonly enrolledAtMs: number;
}

export interface TokenState extends TokenRecord {
  readonly head: ChainHead;
  /** Invoices and credit notes that are stored, parked ones too. */
  readonly documents: number;
  readonly lastContactMs: number | null;
  /** Latest alarm that is not settled, or null. */
  readonly alarm: Alarm | null;
}

export interface NewEntry {
  readonly sequence: number;
  readonly kind: string;
  readonly number: string | null;
  readonly issuedAtMs: number;
  readonly currency: string | null;
  readonly total: string | null;
  readonly taxTotal: string | null;
  /** Why it is parked (stored, but waits for a person); null: accepted. */
  readonly flaw: string | null;
}

export interface NewBatch {
  readonly batchIndex: number;
  readonly firstSequence: number;
  readonly bytes: Uint8Array;
  readonly bytesHash: Uint8Array;
  readonly sealHash: Uint8Array;
  readonly entries: readonly NewEntry[];
}

/** Enough of a stored batch to tell a repeat from a fork. */
export interface BatchMark {
  readonly batchIndex: number;
  readonly bytesHash: Uint8Array;
  readonly sealHash: Uint8Array;
}

export interface StoredBatch {
  readonly batchIndex: number;
  readonly bytes: Uint8Array;
}

/** The newest batch under the other spelling of its seal (ipc-schema/spelling.ts): the same statement and the same entries. */
export interface Respelling extends BatchMark, StoredBatch {}

export interface Alarm {
  readonly kind: 'fork';
  readonly batchIndex: number;
  readonly detail: string;
  /** The seal that cannot stand beside the one that is stored. */
  readonly proof: Uint8Array;
  readonly raisedAtMs: number;
}

/** Alarms of one token that are not settled: a clone can sign as many contradictions as it likes. */
export const tokenMaxAlarms = 100;

export type EntryQuery = { readonly kind: 'number'; readonly number: string } | { readonly kind: 'range'; readonly fromSequence: number };

/** Where an entry stands: its bytes are in the batch. */
export interface EntryPlace {
  readonly sequence: number;
  readonly batchIndex: number;
}

/** Another key of a token's ledger. */
export interface SuccessionRecord {
  readonly serial: number;
  /** Hex. */
  readonly keyId: string;
  readonly fromBatch: number;
  readonly previousSealHash: Uint8Array;
  /** ipc-schema/succession.ts. */
  readonly signed: Uint8Array;
  readonly madeAtMs: number;
}

/** A certificate that took the place of another one of the same key. */
export interface RenewalRecord {
  /** The n-th renewal of this ledger, from 1. */
  readonly serial: number;
  /** Hex. */
  readonly keyId: string;
  /** SHA-256 of the certificate that it renews. */
  readonly renewedHash: Uint8Array;
  /** DER. */
  readonly certificate: Uint8Array;
  readonly madeAtMs: number;
}

/** What batches were judged by. */
export interface Judged extends ChainHead {
  /** Serial of the newest succession then; left out: there was none. */
  readonly succession?: number;
}

/** Permission to put one ledger on another key. */
export interface RecoveryCode {
  /** SHA-256 of the code, hex. */
  readonly codeHash: string;
  readonly tokenId: string;
  readonly madeAtMs: number;
  readonly expiresAtMs: number;
  /** A person has said that the key of the newest succession never sealed anything: another one may take its place. */
  readonly supersedes: boolean;
}

export interface RecoveryState extends Omit<RecoveryCode, 'madeAtMs'> {
  /** Key (hex id) that used the code. */
  readonly usedBy: string | null;
  /** Of the succession that it was given. */
  readonly serial: number | null;
  /** What it asked for last, and the answer; null: nobody has answered yet. */
  readonly asked: { readonly slot: Uint8Array; readonly replyKey: Uint8Array; readonly reply: Uint8Array | null } | null;
}

export interface Database {
  /** Ties the database to one authority: the first fingerprint is kept, another one throws halted. */
  bindAuthority(fingerprint: string): Promise<void>;
  /** URL that tickets made by another process carry. */
  setPublicUrl(url: string): Promise<void>;
  publicUrl(): Promise<string | null>;

  addCode(code: CodeRecord): Promise<void>;
  findCode(codeHash: string): Promise<UsedCode | null>;
  /** Uses the code up and adds the token, both or neither. */
  enrol(codeHash: string, token: TokenRecord, answer: string): Promise<'enrolled' | 'code-used' | 'token-known'>;

  findToken(tokenId: string): Promise<TokenState | null>;
  /** In the order of their ids, after `afterTokenId` ('' = from the first). */
  listTokens(afterTokenId: string, limit: number): Promise<readonly TokenState[]>;

  /** Marks of batches from `fromBatch` on, in order. */
  marks(tokenId: string, fromBatch: number, count: number): Promise<readonly BatchMark[]>;
  /** Those of `numbers` that a stored document of the token bears. */
  takenNumbers(tokenId: string, numbers: readonly string[]): Promise<ReadonlySet<string>>;
  /**
   * Adds consecutive batches behind `expected` and moves the head to `next`; `moved` (nothing stored) when the head is no longer `expected`, or
   * another key was let go on since. No batches: only the time of contact.
   */
  store(tokenId: string, expected: Judged, batches: readonly NewBatch[], next: ChainHead, atMs: number): Promise<'stored' | 'moved'>;
  /** Puts the newest batch and the head's seal hash in the other spelling. Nothing happens when the head is no longer `expected`. */
  respell(tokenId: string, expected: ChainHead, respelling: Respelling): Promise<void>;
  /** Keeps the alarm; the same one twice is one, and beyond tokenMaxAlarms none is added. */
  raiseAlarm(tokenId: string, alarm: Alarm): Promise<void>;
  /** Those that are not settled, in the order in which they were raised. */
  alarms(tokenId: string): Promise<readonly Alarm[]>;
  /** A person has dealt with them: they are kept with the note, shown no more, and the same proof raises none again. Answers how many. */
  settleAlarms(tokenId: string, note: string, atMs: number): Promise<number>;
  /** The latest `limit` parked sequences, ascending. */
  parked(tokenId: string, limit: number): Promise<readonly number[]>;

  addRecovery(code: RecoveryCode): Promise<void>;
  findRecovery(codeHash: string): Promise<RecoveryState | null>;
  /** Recoveries of a token that wait for an answer. */
  waitingRecoveries(tokenId: string): Promise<readonly RecoveryState[]>;
  /** The code is this key's from now on, and it asks this. False: it is another's. */
  bindRecovery(codeHash: string, keyId: string, slot: Uint8Array, replyKey: Uint8Array): Promise<boolean>;
  /** Keeps the answer, if that is still what was asked. */
  replyRecovery(codeHash: string, replyKey: Uint8Array, reply: Uint8Array): Promise<void>;
  /** Of a token, in the order of their serials. */
  successions(tokenId: string): Promise<readonly SuccessionRecord[]>;
  /**
   * Adds the succession and uses the code up, both or neither. `moved`: the head is no longer `expected`, the code was used, or another succession
   * came first. `key-known`: the key is enrolled, or had a ledger before.
   */
  succeed(
    codeHash: string,
    tokenId: string,
    expected: ChainHead,
    succession: SuccessionRecord,
  ): Promise<'succeeded' | 'moved' | 'key-known'>;

  /** Of a token, in the order of their serials. */
  renewals(tokenId: string): Promise<readonly RenewalRecord[]>;
  /** Adds it; `moved` (nothing stored): another renewal came first, or a succession newer than `succession` (a serial; 0: none). */
  renew(tokenId: string, renewal: RenewalRecord, succession: number): Promise<'renewed' | 'moved'>;

  findBatch(tokenId: string, batchIndex: number): Promise<StoredBatch | null>;
  /** In the order of their sequences. */
  findEntries(tokenId: string, query: EntryQuery, limit: number): Promise<readonly EntryPlace[]>;
  close(): Promise<void>;
}
