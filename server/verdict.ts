// Owns: the decision on one upload: what of it is new and may be stored, or why none of it may. Pure: facts in, verdict out.
// Invariants: all or nothing: a verdict stores every new batch of the upload or none. Batches that are stored already must be the same bytes, or the
// same under the other spelling of their seal (ipc-schema/spelling.ts), which anybody can write: that is a repeat, and proves nothing against the token.
// Of the two spellings the one counts that the next seal, or the succession behind it, names; until there is one, the low one where it is known.
// An alarm is raised only on a contradiction that a key of the ledger signed: anybody can seal an upload to the server's public key.
// Written as a generator that stops after each batch, so that the doer can let other callers run in between.
import { decodeBatch, decodeSeal, type Seal, sealHashOf } from '#ipc-schema/batch.ts';
import { isFiscal } from '#ipc-schema/entry.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { sha256 } from '#ipc-schema/merkle.ts';
import { type Signer, signerAt } from '#ipc-schema/signers.ts';
import { isLowSeal, otherBatch } from '#ipc-schema/spelling.ts';
import { successionIn } from '#ipc-schema/succession.ts';
import type { Refusal } from '#ipc-schema/upstream.ts';
import { type ChainHead, type VerifiedBatch, verifyBatch, verifySeal } from '#ipc-schema/verify.ts';
import type { BatchMark, NewBatch, NewEntry, Respelling } from './database.ts';
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
  /** The newest stored batch, where the upload goes on from another seal than that batch's. */
  readonly newest: Uint8Array | null;
}

export interface Contradiction {
  readonly batchIndex: number;
  readonly detail: string;
  readonly sealBytes: Uint8Array;
}

export type Verdict =
  | { readonly kind: 'store'; readonly batches: readonly NewBatch[]; readonly next: ChainHead }
  /** The newest stored batch is to be put in its other spelling first; then the upload is judged anew. */
  | { readonly kind: 'respell'; readonly respelling: Respelling }
  | { readonly kind: 'refuse'; readonly refusal: Refusal; readonly contradiction: Contradiction | null };

/** What a batch claims of itself; nothing is verified yet. Throws invalid-request when it is no batch. */
export function claimedSeal(bytes: Uint8Array): Seal {
  return decodeSeal(decodeBatch(bytes, 'views').sealBytes).seal;
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
      const kept = howKept(bytes, mark);
      if (kept === 'otherwise') return judgeDifferent(facts, bytes, batchIndex, mark);
      // The sealer's own spelling is the low one, but for what older versions sealed: nobody can put it back from that.
      if (kept === 'other-spelling' && batchIndex === head.batchIndex && at === batches.length - 1 && isLow(bytes))
        return { kind: 'respell', respelling: respellingOf(batchIndex, bytes) };
    } else {
      const spelled = asNextKeyNames(facts, bytes, batchIndex);
      let verified: VerifiedBatch;
      try {
        verified = verifyFresh(facts, spelled, tip);
      } catch (thrown) {
        // The batch before may be here in a spelling that somebody else has sent.
        const respelling = asNamedBy(spelled, tip, fresh.at(-1)?.bytes ?? facts.newest);
        if (respelling === null) return judgeFailed(facts, spelled, tip, thrown);
        tip = { ...tip, sealHash: respelling.sealHash };
        try {
          verified = verifyFresh(facts, spelled, tip);
        } catch (again) {
          return judgeFailed(facts, spelled, tip, again);
        }
        const before = fresh.pop();
        if (before === undefined) return { kind: 'respell', respelling };
        fresh.push({ ...before, ...respelling });
      }
      const refusal = judgeTurn(facts, spelled, verified);
      if (refusal !== null) return refusal;
      fresh.push(newBatch(spelled, verified, facts, numbers));
      tip = verified.head;
    }
    yield;
  }
  return { kind: 'store', batches: fresh, next: tip };
}

function verifyFresh({ keys: { signers } }: UploadFacts, bytes: Uint8Array, tip: ChainHead): VerifiedBatch {
  return verifyBatch(bytes, signerAt(signers, tip.batchIndex + 1).key, tip, signers.tokenId);
}

function howKept(bytes: Uint8Array, { bytesHash }: BatchMark): 'so' | 'other-spelling' | 'otherwise' {
  const isHash = (of: Uint8Array): boolean => Buffer.compare(bytesHash, sha256(of)) === 0;
  if (isHash(bytes)) return 'so';
  const other = otherSpelling(bytes);
  return other !== null && isHash(other) ? 'other-spelling' : 'otherwise';
}

const isLow = (bytes: Uint8Array): boolean => isLowSeal(decodeBatch(bytes, 'views').sealBytes);

const otherSpelling = (bytes: Uint8Array): Uint8Array | null => orNull(() => otherBatch(bytes));

/** Null also where the bytes are no batch: whoever judges them says so. */
export function orNull<T>(read: () => T | null): T | null {
  try {
    return read();
  } catch (thrown) {
    if (asUkeyError(thrown).code === 'invalid-request') return null;
    throw thrown;
  }
}

function respellingOf(batchIndex: number, bytes: Uint8Array): Respelling {
  return { batchIndex, bytes, bytesHash: sha256(bytes), sealHash: sealHashOf(decodeBatch(bytes, 'views').sealBytes) };
}

/** The batch before in its other spelling, where that is the one which this batch names: only the key can have said so. Null: it is not. */
function asNamedBy(bytes: Uint8Array, { batchIndex }: ChainHead, before: Uint8Array | null): Respelling | null {
  const other = before === null ? null : otherSpelling(before);
  if (other === null) return null;
  const respelling = respellingOf(batchIndex, other);
  const named = orNull(() => claimedSeal(bytes).previousSealHash);
  return named !== null && Buffer.compare(named, respelling.sealHash) === 0 ? respelling : null;
}

/** The last batch of a key in the spelling that the succession behind it names. */
function asNextKeyNames({ keys: { signers } }: UploadFacts, bytes: Uint8Array, batchIndex: number): Uint8Array {
  const { succession, fromBatch } = signerAt(signers, batchIndex + 1);
  const other = succession === null || fromBatch !== batchIndex + 1 ? null : otherSpelling(bytes);
  return other !== null && Buffer.compare(respellingOf(batchIndex, other).sealHash, succession?.previousSealHash ?? other) === 0
    ? other
    : bytes;
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
