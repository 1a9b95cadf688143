// Owns: the decision on one upload: what of it is new and may be stored, or why none of it may. Pure: facts in, verdict out.
// Invariants: all or nothing: a verdict stores every new batch of the upload or none. Batches that are stored already must be the same bytes.
// An alarm is raised only on a contradiction that a key of the ledger signed: anybody can seal an upload to the server's public key.
// Written as a generator that stops after each batch, so that the doer can let other callers run in between.
import { decodeBatch, decodeSeal, sealHashOf } from '#ipc-schema/batch.ts';
import { isFiscal } from '#ipc-schema/entry.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { type Signer, signerAt } from '#ipc-schema/signers.ts';
import { successionIn } from '#ipc-schema/succession.ts';
import type { Refusal } from '#ipc-schema/upstream.ts';
import { type ChainHead, type VerifiedBatch, verifyBatch, verifySeal } from '#ipc-schema/verify.ts';
import type { BatchMark, NewBatch, NewEntry } from './database.ts';
import { documentFlaw, type Owner } from './document-check.ts';
import { refuse } from './refusal.ts';
import type { LedgerKeys } from './signing.ts';

export interface TokenFacts extends Owner {
  readonly keys: LedgerKeys;
  readonly head: ChainHead;
}

export interface UploadFacts extends TokenFacts {
  readonly batches: readonly Uint8Array[];
  /** Index of the first batch, as it says itself. */
  readonly firstBatch: number;
  /** Marks of the stored batches from `firstBatch` on, as far as the upload may reach. */
  readonly marks: readonly BatchMark[];
}

export interface Contradiction {
  readonly batchIndex: number;
  readonly detail: string;
  readonly sealBytes: Uint8Array;
}

export type Verdict =
  | { readonly kind: 'store'; readonly batches: readonly NewBatch[]; readonly next: ChainHead }
  | { readonly kind: 'refuse'; readonly refusal: Refusal; readonly contradiction: Contradiction | null };

/** Index that a batch claims; nothing is verified yet. Throws invalid-request when it is no batch. */
export function claimedIndex(bytes: Uint8Array): number {
  return decodeSeal(decodeBatch(bytes).sealBytes).seal.batchIndex;
}

export function* judgeUpload(facts: UploadFacts): Generator<void, Verdict> {
  const { batches, firstBatch, head } = facts;
  if (firstBatch > head.batchIndex + 1) return judgeGap(facts);
  const fresh: NewBatch[] = [];
  const numbers = new Set<string>();
  let tip = head;
  for (const [at, bytes] of batches.entries()) {
    const batchIndex = firstBatch + at;
    if (batchIndex <= head.batchIndex) {
      const mark = facts.marks[at];
      if (mark?.batchIndex !== batchIndex) throw new UkeyError('internal', `batch ${batchIndex} is below the head and not stored`);
      if (Buffer.compare(mark.bytesHash, sha256(bytes)) !== 0) return judgeDifferent(facts, bytes, batchIndex, mark);
    } else {
      let verified: VerifiedBatch;
      try {
        const { signers } = facts.keys;
        verified = verifyBatch(bytes, signerAt(signers, batchIndex).key, tip, signers.tokenId);
      } catch (thrown) {
        return judgeFailed(facts, bytes, tip, thrown);
      }
      const refusal = judgeTurn(facts, bytes, verified);
      if (refusal !== null) return refusal;
      fresh.push(newBatch(bytes, verified, facts, numbers));
      tip = verified.head;
    }
    yield;
  }
  return { kind: 'store', batches: fresh, next: tip };
}

function refused(refusal: Refusal, contradiction: Contradiction | null = null): Verdict {
  return { kind: 'refuse', refusal, contradiction };
}

/** The server lacks batches before this upload: it says which one it wants, but only to the token. */
function judgeGap(facts: UploadFacts): Verdict {
  const [first] = facts.batches;
  if (first === undefined || whoSealed(first, facts.keys).kind === 'nobody')
    return refused(refuse('bad-signature', 'the first batch is not sealed by the token'));
  const want = facts.head.batchIndex + 1;
  return refused(refuse('gap', `the upload begins at batch ${facts.firstBatch}, the server wants ${want}`, want));
}

/** A batch at an index that is stored with other bytes. */
function judgeDifferent(facts: UploadFacts, bytes: Uint8Array, batchIndex: number, mark: BatchMark): Verdict {
  const sealed = whoSealed(bytes, facts.keys);
  if (sealed.kind === 'nobody') return refused(refuse('bad-signature', `batch ${batchIndex}: ${sealed.why}`));
  const { sealBytes } = decodeBatch(bytes);
  if (decodeSeal(sealBytes).seal.batchIndex !== batchIndex) return refused(refuse('bad-request', 'the batches are not consecutive'));
  // The stored seal around other entries proves nothing against the token: its seal does not cover them.
  if (Buffer.compare(mark.sealHash, sealHashOf(sealBytes)) === 0)
    return refused(refuse('poison', `batch ${batchIndex} is stored already, with other entries under the same seal`));
  const detail = `the token sealed two different batches ${batchIndex}`;
  return refused(refuse('fork', detail, facts.head.batchIndex + 1), { batchIndex, detail, sealBytes });
}

/** A new batch that did not verify: who is to blame? */
function judgeFailed(facts: UploadFacts, bytes: Uint8Array, tip: ChainHead, thrown: unknown): Verdict {
  const batchIndex = tip.batchIndex + 1;
  const sealed = whoSealed(bytes, facts.keys);
  if (sealed.kind === 'nobody') return refused(refuse('bad-signature', `batch ${batchIndex}: ${sealed.why}`));
  const { sealBytes } = decodeBatch(bytes);
  const { seal } = decodeSeal(sealBytes);
  if (seal.batchIndex !== batchIndex) return refused(refuse('bad-request', 'the batches are not consecutive'));
  if (sealed.signer.serial !== signerAt(facts.keys.signers, batchIndex).serial) {
    const detail = `batch ${batchIndex} is sealed by a key of this ledger whose turn it is not: another key goes on with it`;
    return refused(refuse('fork', detail, facts.head.batchIndex + 1), { batchIndex, detail, sealBytes });
  }
  if (Buffer.compare(seal.previousSealHash, tip.sealHash) !== 0) {
    const detail = `batch ${batchIndex} follows another batch ${tip.batchIndex} than the one that is known`;
    return refused(refuse('fork', detail, facts.head.batchIndex + 1), { batchIndex, detail, sealBytes });
  }
  return refused(refuse('poison', asUkeyError(thrown).message));
}

/** A batch that verifies: where one key takes over from another, it must be the one that the succession says. Null: it is. */
function judgeTurn({ keys, head }: UploadFacts, bytes: Uint8Array, { seal, sealBytes, head: tip }: VerifiedBatch): Verdict | null {
  const { batchIndex } = seal;
  const own = signerAt(keys.signers, batchIndex);
  if (own.succession !== null && own.fromBatch === batchIndex && !isCarried(bytes, own.succession.signed))
    return refused(refuse('poison', `batch ${batchIndex} does not begin with the succession that lets its key seal it`));
  const next = signerAt(keys.signers, batchIndex + 1);
  if (next.serial === own.serial || next.succession === null) return null;
  if (Buffer.compare(next.succession.previousSealHash, tip.sealHash) === 0) return null;
  const detail = `batch ${batchIndex} is another one than the one that the next key goes on from`;
  return refused(refuse('fork', detail, head.batchIndex + 1), { batchIndex, detail, sealBytes });
}

function isCarried(bytes: Uint8Array, succession: Uint8Array): boolean {
  try {
    const found = successionIn(decodeBatch(bytes));
    return found !== null && Buffer.compare(found, succession) === 0;
  } catch {
    return false; // an admin entry of another form is no succession
  }
}

type Sealed = { readonly kind: 'key'; readonly signer: Signer } | { readonly kind: 'nobody'; readonly why: string };

/** Which key of the ledger, of now or before, has really sealed this batch. */
function whoSealed(bytes: Uint8Array, { signers, all }: LedgerKeys): Sealed {
  try {
    const { sealBytes } = decodeBatch(bytes);
    const { keyId } = decodeSeal(sealBytes).sign1;
    const signer = all.find((one) => Buffer.compare(one.keyId, keyId) === 0) ?? all[0] ?? signers.list[0];
    verifySeal(sealBytes, signer.key, signers.tokenId);
    return { kind: 'key', signer };
  } catch (thrown) {
    return { kind: 'nobody', why: asUkeyError(thrown).message };
  }
}

function newBatch(bytes: Uint8Array, verified: VerifiedBatch, owner: Owner, numbers: Set<string>): NewBatch {
  const entries = verified.entries.map((entry): NewEntry => {
    const { sequence, kind, number, issuedAtMs, currency, total, taxTotal } = entry.parsed;
    const isDouble = isFiscal(kind) && number !== null && numbers.has(number);
    if (number !== null) numbers.add(number);
    return { sequence, kind, number, issuedAtMs, currency, total, taxTotal, flaw: isDouble ? doubleFlaw : documentFlaw(entry, owner) };
  });
  const { batchIndex, firstSequence } = verified.seal;
  return { batchIndex, firstSequence, bytes, bytesHash: sha256(bytes), sealHash: verified.head.sealHash, entries };
}

const doubleFlaw = 'another document of the token bears this number';

/** The numbers of the new documents: the doer asks the database which of them are taken. */
export function numbersOf(batches: readonly NewBatch[]): string[] {
  return batches.flatMap((batch) => batch.entries.flatMap((entry) => (entry.number === null ? [] : [entry.number])));
}

/** Parks the documents whose number an older document bears. */
export function parkTaken(batches: readonly NewBatch[], taken: ReadonlySet<string>): readonly NewBatch[] {
  if (taken.size === 0) return batches;
  const park = (entry: NewEntry): NewEntry =>
    entry.number !== null && taken.has(entry.number) && entry.flaw === null ? { ...entry, flaw: doubleFlaw } : entry;
  return batches.map((batch) => ({ ...batch, entries: batch.entries.map(park) }));
}
