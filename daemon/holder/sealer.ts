// Owns: one opened ledger: the place in the chain of seals, and the way of a batch through signature and log.
// Invariants: a batch is taken only at its place in the chain; the seal is signed and verified (by the token) before anything is written;
// the chain moves only when a batch was handed to the log; frames reach the log in the order of `commit` calls. After the log
// refused once nothing is signed any more: what became of that batch is only known after opening again.
// Must not: know logins or presence; whoever made it is told through `onTrouble` and closes it.
import type { Clock } from '#ground/clock.ts';
import { encodeBatch, sealHashOf, sealPayload } from '#ipc-schema/batch.ts';
import { type Algorithm, makeSign1 } from '#ipc-schema/cose.ts';
import { asUkeyError, type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { checkpointMaxBytes } from '#store/format.ts';
import type { StoreLog } from '#store/store.ts';
import type { Token } from '#token/token.ts';
import { type Chain, encodeCheckpoint } from './chain.ts';
import type { BatchDraft, Commit, Failure, HolderStatus } from './holder.ts';

/** Largest seal and the heads around it: RSA-4096 needs about 700 bytes. */
const sealRoomBytes = 2_048;
/** What the holder's own fields take of a checkpoint. */
const checkpointHeadBytes = 64;
/** Signatures whose time stands in the status. */
const timedSignatures = 64;
/** A self test comes when nobody has asked for a signature so long, and so long after the last one. */
export const selfTestIdleMs = 60_000;
export const selfTestEveryMs = 600_000;
/** No seal begins like this: a Sig_structure is a CBOR array (RFC 9052 §4.4). */
const selfTestText = Buffer.from('ukeyd/1 self test: this signature says that the token works, and nothing else', 'utf8');

export interface SealerParts {
  readonly token: Token;
  /** The ledger. */
  readonly tokenId: Uint8Array;
  /** The key that seals it now. */
  readonly keyId: Uint8Array;
  readonly algorithm: Algorithm;
  readonly log: StoreLog;
  readonly chain: Chain;
  readonly clock: Clock;
  readonly readOnly: boolean;
  /** The token or the log failed; called once per failure, after the caller's promise was rejected. */
  onTrouble(error: UkeyError): void;
}

export type SealerFigures = Pick<HolderStatus, 'signatures' | 'meanSignMs' | 'signFailures' | 'lastFailure' | 'selfTestAtMs'>;

export class Sealer {
  readonly #parts: SealerParts;
  readonly #signMs: number[] = [];
  #chain: Chain;
  #signatures = 0;
  #lastSignedMs: number | null = null;
  #signFailures = 0;
  #failuresInARow = 0;
  #lastFailure: Failure | null = null;
  /** Monotonic: when the token was last asked to sign, and last tested. */
  #askedMs: number;
  #testedMs: number;
  #selfTestAtMs: number | null = null;
  /** Why the batch at #chain.nextBatch was refused: those that were numbered behind it share its fate. */
  #refusal: UkeyError | null = null;
  #failure: UkeyError | null = null;
  #lastAppend: Promise<void> = Promise.resolve();
  #durable: Pick<Chain, 'nextBatch' | 'headSealHash'>;

  constructor(parts: SealerParts) {
    this.#parts = parts;
    this.#chain = parts.chain;
    this.#durable = parts.chain;
    this.#askedMs = parts.clock.monotonicMs();
    this.#testedMs = this.#askedMs;
  }

  get chain(): Chain {
    return this.#chain;
  }

  /** As far as it is durable. */
  get durable(): Pick<Chain, 'nextBatch' | 'headSealHash'> {
    return this.#durable;
  }

  figures(): SealerFigures {
    const timed = this.#signMs.length;
    return {
      signatures: this.#signatures,
      meanSignMs: timed === 0 ? null : this.#signMs.reduce((sum, ms) => sum + ms, 0) / timed,
      signFailures: this.#signFailures,
      lastFailure: this.#lastFailure,
      selfTestAtMs: this.#selfTestAtMs,
    };
  }

  /** Signatures that failed since the last good one. */
  get failuresInARow(): number {
    return this.#failuresInARow;
  }

  /** Monotonic instant of the last good signature: the token was there then. */
  get lastSignedMs(): number | null {
    return this.#lastSignedMs;
  }

  /** Signs at once (the call blocks for one signature), then appends; the sync runs in Node's pool meanwhile. */
  commit(draft: BatchDraft): Commit {
    let sealBytes: Uint8Array;
    try {
      this.#check(draft);
      sealBytes = this.#seal(draft);
    } catch (thrown) {
      return refusedCommit(asUkeyError(thrown, 'token-failed'));
    }
    const before = this.#chain;
    this.#chain = {
      nextBatch: before.nextBatch + 1,
      nextSequence: before.nextSequence + draft.count,
      headSealHash: sealHashOf(sealBytes),
    };
    // Nothing of this batch is written yet: a crash here is "never issued". From `append` on, a crash leaves the batch whole or not at all.
    const durable = this.#append(
      draft,
      this.#chain,
      encodeBatch(sealBytes, draft.joinedEntries),
      encodeCheckpoint(before, draft.checkpoint),
    );
    this.#lastAppend = durable.catch(() => undefined); // the caller has the error; this only waits
    return { sealed: Promise.resolve(sealBytes), durable };
  }

  /** Signs a request to the ticket server (COSE_Sign1) at once. No payload of one is a seal's: its second member is a purpose, a seal's the ledger. */
  ask(payload: Uint8Array): Uint8Array {
    const { algorithm, keyId, readOnly } = this.#parts;
    if (readOnly) throw new UkeyError('internal', 'this holder was opened for reading only');
    try {
      return makeSign1(algorithm, keyId, payload, (message) => this.#sign(message));
    } catch (thrown) {
      throw this.#notSigned(thrown);
    }
  }

  /** One signature, verified by the token, when tills have been quiet for long and the last test is old. Trouble is told as that of a batch. */
  testIfDue(): void {
    const { clock, token, readOnly } = this.#parts;
    const nowMs = clock.monotonicMs();
    if (readOnly || this.#failure !== null) return;
    if (nowMs - this.#askedMs < selfTestIdleMs || nowMs - this.#testedMs < selfTestEveryMs) return;
    this.#testedMs = nowMs;
    try {
      token.sign(selfTestText);
      this.#selfTestAtMs = clock.wallMs();
    } catch (thrown) {
      const error = refusalOf(thrown);
      this.#recordFailure(error);
      this.#parts.onTrouble(error);
    }
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    await this.#lastAppend;
  }

  #check(draft: BatchDraft): void {
    if (this.#parts.readOnly) throw new UkeyError('internal', 'this holder was opened for reading only');
    if (this.#failure !== null) {
      throw new UkeyError('locked', 'a write failed: the ledger must be opened again', { cause: this.#failure });
    }
    const { nextBatch, nextSequence } = this.#chain;
    if (this.#refusal !== null && draft.batchIndex > nextBatch) {
      throw new UkeyError(this.#refusal.code, `batch ${nextBatch} before it was refused`, { cause: this.#refusal });
    }
    if (draft.batchIndex !== nextBatch || draft.firstSequence !== nextSequence) {
      const asked = `batch ${draft.batchIndex} from sequence ${draft.firstSequence}`;
      throw new UkeyError('internal', `${asked} was handed over where batch ${nextBatch} from sequence ${nextSequence} belongs`);
    }
    if (draft.checkpoint.length > checkpointMaxBytes - checkpointHeadBytes) {
      throw new UkeyError('internal', `a checkpoint of ${draft.checkpoint.length} bytes does not fit`);
    }
    if (!this.#parts.log.hasRoomFor(draft.joinedEntries.length + sealRoomBytes, { reserved: draft.reserved })) {
      this.#refusal = new UkeyError('store-full', `no room for a batch of ${draft.joinedEntries.length} bytes`);
      throw this.#refusal;
    }
  }

  #seal(draft: BatchDraft): Uint8Array {
    const { tokenId, keyId, algorithm, clock } = this.#parts;
    this.#askedMs = clock.monotonicMs();
    const { batchIndex, firstSequence, count, root, sealedAtMs } = draft;
    const payload = sealPayload({
      tokenId,
      batchIndex,
      firstSequence,
      count,
      root,
      previousSealHash: this.#chain.headSealHash,
      sealedAtMs,
    });
    try {
      const sealBytes = makeSign1(algorithm, keyId, payload, (message) => this.#sign(message));
      this.#refusal = null;
      return sealBytes;
    } catch (thrown) {
      this.#refusal = this.#notSigned(thrown);
      throw this.#refusal;
    }
  }

  #sign(message: Uint8Array): Uint8Array {
    const { clock, token } = this.#parts;
    const startMs = clock.monotonicMs();
    const signature = token.sign(message);
    this.#recordSignature(clock.monotonicMs(), startMs);
    return signature;
  }

  #notSigned(thrown: unknown): UkeyError {
    const error = refusalOf(thrown);
    this.#recordFailure(error);
    queueMicrotask(() => this.#parts.onTrouble(error));
    return error;
  }

  #recordFailure(error: UkeyError): void {
    this.#signFailures += 1;
    this.#failuresInARow += 1;
    this.#lastFailure = { atMs: this.#parts.clock.wallMs(), reason: `${error.code}: ${error.message}` };
  }

  #recordSignature(endMs: number, startMs: number): void {
    this.#signMs.push(endMs - startMs);
    if (this.#signMs.length > timedSignatures) this.#signMs.shift();
    this.#signatures += 1;
    this.#failuresInARow = 0;
    this.#lastSignedMs = endMs;
  }

  async #append({ batchIndex, reserved }: BatchDraft, after: Chain, payload: Uint8Array, checkpoint: Uint8Array): Promise<void> {
    try {
      const index = await this.#parts.log.append(payload, checkpoint, { reserved });
      if (index !== batchIndex) throw new UkeyError('internal', `batch ${batchIndex} became frame ${index}`);
      this.#durable = after;
      // Durable now, and all before it: the front may answer.
    } catch (cause) {
      // Also where the log says that it wrote nothing: the seal has left this object, so that only opening again tells what counts.
      const error = new UkeyError('unknown-outcome', `whether batch ${batchIndex} is stored is not known`, { cause });
      if (this.#failure === null) {
        this.#failure = error;
        queueMicrotask(() => this.#parts.onTrouble(error));
      }
      throw error;
    }
  }
}

const signErrors: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['no-token', 'locked', 'token-failed']);

/** What a failed signature means to the front: one of three codes, nothing was written. */
function refusalOf(thrown: unknown): UkeyError {
  if (thrown instanceof UkeyError && signErrors.has(thrown.code)) return thrown;
  return new UkeyError('token-failed', 'the token did not sign', { cause: thrown });
}

/** Both promises tell the same error; whoever awaits only one of them must not die of the other. */
export function refusedCommit(error: UkeyError): Commit {
  const sealed = Promise.reject(error);
  const durable = Promise.reject(error);
  sealed.catch(() => undefined);
  durable.catch(() => undefined);
  return { sealed, durable };
}
