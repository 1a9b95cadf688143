// Owns: a Holder in memory whose every step a test decides: when a batch is sealed, when it is durable, or how it fails; and what is stored then.
// Invariants: real P-256 seals in a real chain; `automatic` does both steps by itself, a turn apart. What is stored outlives `reopen`.
// A failed write is told as the real holder tells it, whether or not the batch was written: "not written" and "written but reported failed".

import type { Seen } from '#holder/anchor.ts';
import type {
  BatchDraft,
  Carried,
  Commit,
  Holder,
  HolderState,
  HolderStatus,
  Mount,
  PackedBatch,
  RestoreBegun,
  StoredBatch,
} from '#holder/holder.ts';
import { decodeBatch, encodeBatch, sealHashOf, sealPayload } from '#ipc-schema/batch.ts';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { renewalPayload } from '#ipc-schema/renewal.ts';
import type { BuiltToken } from '#test/support/batch-builder.ts';
import type { TokenFacts } from '#token/token.ts';

export const fakeFacts: TokenFacts = {
  ...{ module: 'fake', label: 'fake', serial: '1', model: 'fake', manufacturer: 'test', pinState: 'ok' },
  ...{ provisioned: true, loggedIn: true, triesLeft: 3 },
};

/** One commit that waits for the test. */
export class FakeCommit {
  readonly draft: BatchDraft;
  readonly #holder: FakeHolder;
  readonly #sealed = Promise.withResolvers<Uint8Array>();
  readonly #durable = Promise.withResolvers<void>();
  #sealBytes: Uint8Array | null = null;

  constructor(holder: FakeHolder, draft: BatchDraft) {
    this.#holder = holder;
    this.draft = draft;
    this.#sealed.promise.catch(() => undefined);
    this.#durable.promise.catch(() => undefined);
  }

  get promises(): Commit {
    return { sealed: this.#sealed.promise, durable: this.#durable.promise };
  }

  seal(): void {
    this.#sealBytes = this.#holder.sign(this.draft);
    this.#sealed.resolve(this.#sealBytes);
  }

  /** Nothing is written. */
  refuse(code: ErrorCode): void {
    const error = new UkeyError(code, 'asked for by the test');
    this.#sealed.reject(error);
    this.#durable.reject(error);
  }

  store(): void {
    if (this.#sealBytes === null) throw new Error('seal first');
    this.#holder.stored.push({ batchIndex: this.draft.batchIndex, bytes: encodeBatch(this.#sealBytes, this.draft.joinedEntries) });
  }

  /** Stored, and told so. */
  write(): void {
    this.store();
    this.tellDurable();
  }

  tellDurable(): void {
    this.#durable.resolve();
  }

  /** Told as unknown; `stored` is the truth. */
  fail(stored: boolean): void {
    if (stored) this.store();
    const error = new UkeyError('unknown-outcome', 'asked for by the test');
    this.#sealed.reject(error); // no effect where it is sealed already
    this.#durable.reject(error);
  }
}

/** Nobody in front looks into it. */
export const fakeEnd: Seen = {
  storeId: new Uint8Array(16),
  keyId: new Uint8Array(16),
  mountEpoch: 1,
  batchIndex: 0,
  sealHash: new Uint8Array(32),
};

export class FakeHolder implements Holder {
  readonly token: BuiltToken;
  readonly certificate: Uint8Array;
  readonly authorityCertificate: Uint8Array;
  readonly stored: StoredBatch[] = [];
  readonly commits: FakeCommit[] = [];
  automatic = true;
  /** How long a read takes. */
  readMs = 0;
  oldestBatch = 1;
  /** What `status` tells of the FLASH. */
  room = { capacityBytes: 0, freeBytes: 0, bytesWritten: 0 };
  carried: Carried | null = null;
  reads = 0;
  onState: (state: HolderState) => void = () => undefined;
  #state: HolderState = { kind: 'starting' };
  #headSealHash: Uint8Array;
  #checkpoint: { readonly bytes: Uint8Array; readonly batch: number } | null = null;

  constructor(token: BuiltToken, certificates: { readonly certificate: Uint8Array; readonly authorityCertificate: Uint8Array }) {
    this.token = token;
    this.certificate = certificates.certificate;
    this.authorityCertificate = certificates.authorityCertificate;
    this.#headSealHash = sha256(this.certificate);
  }

  // ---- What the test does

  become(state: HolderState): void {
    this.#state = state;
    this.onState(state);
  }

  /** As after a login: whatever was not stored is gone. */
  reopen(): Mount {
    this.commits.length = 0;
    const mount = this.mount();
    this.become({ kind: 'open', facts: fakeFacts, mount, end: fakeEnd });
    return mount;
  }

  /** The next `mount` begins from the checkpoint that came with the newest stored batch from `batchIndex` on. */
  keepCheckpoint(bytes: Uint8Array, batch: number): void {
    this.#checkpoint = { bytes, batch };
  }

  mount(): Mount {
    const last = this.stored.at(-1);
    this.#headSealHash = last === undefined ? sha256(this.certificate) : sealHashOf(decodeBatch(last.bytes).sealBytes);
    return {
      tokenId: this.token.tokenIdBytes,
      algorithm: 'ES256',
      publicKey: this.token.spki,
      certificate: this.certificate,
      signers: [{ fromBatch: 1, certificate: this.certificate, succession: null }],
      authorityCertificate: this.authorityCertificate,
      checkpoint: this.#checkpoint?.bytes ?? null,
      checkpointBatch: this.#checkpoint?.batch ?? 1,
      oldestBatch: this.oldestBatch,
      carried: this.carried,
      nextBatch: (last?.batchIndex ?? 0) + 1,
      nextSequence: this.nextSequence(),
      headSealHash: this.#headSealHash,
      tornBytes: 0,
      keyWrapping: 'none',
      mirror: null,
    };
  }

  nextSequence(): number {
    return this.stored.reduce((next, { bytes }) => next + decodeBatch(bytes).entries.length, 1);
  }

  sign(draft: BatchDraft): Uint8Array {
    const { batchIndex, firstSequence, count, root, sealedAtMs } = draft;
    const sealBytes = this.token.signSeal(
      sealPayload({
        tokenId: this.token.tokenIdBytes,
        batchIndex,
        firstSequence,
        count,
        root,
        previousSealHash: this.#headSealHash,
        sealedAtMs,
      }),
    );
    this.#headSealHash = sealHashOf(sealBytes);
    return sealBytes;
  }

  /** The newest commit that waits. */
  get newest(): FakeCommit {
    const commit = this.commits.at(-1);
    if (commit === undefined) throw new Error('nothing was committed');
    return commit;
  }

  // ---- Holder

  state(): HolderState {
    return this.#state;
  }

  async openAgain(): Promise<Mount> {
    this.become({ kind: 'starting' });
    return this.reopen();
  }

  commit(draft: BatchDraft): Commit {
    const commit = new FakeCommit(this, draft);
    this.commits.push(commit);
    if (this.automatic) {
      commit.seal();
      commit.store();
      setImmediate(() => commit.tellDurable());
    }
    return commit.promises;
  }

  async requestRenewal(certificateHash: Uint8Array): Promise<Uint8Array> {
    return this.token.sign(renewalPayload({ spki: this.token.spki, tokenId: this.token.tokenIdBytes, certificateHash }));
  }

  async read(fromBatch: number, maxBytes: number): Promise<StoredBatch[]> {
    this.reads += 1;
    if (this.readMs > 0) await new Promise((resolve) => setTimeout(resolve, this.readMs));
    if (fromBatch < this.oldestBatch) throw new UkeyError('not-found', 'released');
    const found: StoredBatch[] = [];
    let bytes = 0;
    for (const batch of this.stored.slice(fromBatch - 1)) {
      bytes += batch.bytes.length;
      if (found.length > 0 && bytes > maxBytes) break;
      found.push(batch);
    }
    return found;
  }

  async readPacked(fromBatch: number, maxBytes: number): Promise<PackedBatch[]> {
    const stored = await this.read(fromBatch, maxBytes);
    return stored.map(({ batchIndex, bytes }) => ({ batchIndex, packed: { isZstd: false, bytes, plainBytes: bytes.length } }));
  }

  async carry(carried: Carried): Promise<void> {
    this.carried = carried;
  }

  async release(upToBatch: number): Promise<{ segments: number; oldestBatch: number }> {
    const segments = Math.max(0, upToBatch + 1 - this.oldestBatch);
    this.oldestBatch += segments;
    return { segments, oldestBatch: this.oldestBatch };
  }

  check(): Promise<never> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  mend(): Promise<never> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  resume(): Promise<never> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  async login(): Promise<Mount> {
    return this.reopen();
  }

  async logout(): Promise<void> {
    this.become({ kind: 'locked', facts: { ...fakeFacts, loggedIn: false } });
  }

  async status(): Promise<HolderStatus> {
    const health = { signatures: 0, meanSignMs: null, signFailures: 0, lastFailure: null, selfTestAtMs: null, restarts: 0 };
    return { ...health, storePath: 'fake', sizeBytes: 0, usedBytes: 0, usedPercent: 0, ...this.room, mirror: null };
  }

  async changePin(): Promise<TokenFacts> {
    return fakeFacts;
  }

  async unblockPin(): Promise<TokenFacts> {
    return { ...fakeFacts, loggedIn: false };
  }

  provision(): Promise<Uint8Array> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  format(): Promise<Mount> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  beginRestore(): Promise<RestoreBegun> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  unlockRestore(): Promise<Uint8Array> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  finishRestore(): Promise<Mount> {
    return Promise.reject(new UkeyError('internal', 'not in this fake'));
  }

  async close(): Promise<void> {
    this.become({ kind: 'absent', reason: 'closed' });
  }
}
