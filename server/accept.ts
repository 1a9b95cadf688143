// Owns: one upload from sealed bytes to a signed acknowledgement: open, unpack, judge (verdict.ts), store, answer.
// Invariants: exactly once by (token, batch index); an acknowledgement is signed only after the transaction that made its batches durable
// has returned, and says what is durable then; a repeat of anything that is stored is answered with the current one.
// Uploads of one token are judged one after the other; between two processes the database's compare-and-store decides.
import { constants, zstdDecompress } from 'node:zlib';
import { decodeBatch, type Seal } from '#ipc-schema/batch.ts';
import { malformed } from '#ipc-schema/cbor.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { isSameStatement, lowSeal } from '#ipc-schema/spelling.ts';
import { acknowledgementPayload, decodeUpload, type Refusal, type Upload, uploadInfo, uploadMaxBytes } from '#ipc-schema/upstream.ts';
import type { Authority } from './authority.ts';
import type { Database, TokenState } from './database.ts';
import type { Log } from './log.ts';
import { refusalOf, refuse } from './refusal.ts';
import { signersFor } from './signing.ts';
import { claimedSeal, judgeUpload, numbersOf, orNull, parkTaken, type UploadFacts, type Verdict } from './verdict.ts';

/** Parked sequences in one acknowledgement: the latest; earlier ones stood in earlier acknowledgements. */
export const ackMaxParked = 1_000;
/** Memory that a frame may ask for (a window of 2^23 bytes = uploadMaxBytes), whatever its header says. */
const zstdWindowLog = 23;
/** Memory for what comes out, at a time: each is a trip to another thread. */
const unpackChunkBytes = 1024 * 1024;
/** Verification of one upload gives way to other callers after this long. */
const turnMs = 8;
/** How often an upload is judged anew when another process moved the head meanwhile, or the newest batch was put in its other spelling. */
const maxJudgements = 4;

export interface AcceptParts {
  readonly authority: Authority;
  readonly database: Database;
  readonly log: Log;
  readonly wallMs: () => number;
}

export type UploadAnswer =
  | { readonly kind: 'acknowledged'; readonly signed: Uint8Array }
  | { readonly kind: 'refused'; readonly refusal: Refusal };

export type Accept = (sealed: Uint8Array) => Promise<UploadAnswer>;

export function makeAccept(parts: AcceptParts): Accept {
  const inTurn = makeTurns();
  return async (sealed) => {
    let upload: Upload;
    try {
      upload = decodeUpload(await unpack(await parts.authority.openUpload(sealed, uploadInfo)));
    } catch (thrown) {
      return { kind: 'refused', refusal: refusalOf(thrown) };
    }
    const tokenId = Buffer.from(upload.tokenId).toString('hex');
    return await inTurn(tokenId, () => acceptUpload(parts, upload, tokenId));
  };
}

/** zstd (RFC 8878), at most uploadMaxBytes out. Throws invalid-request, or too-large. */
export async function unpack(packed: Uint8Array): Promise<Uint8Array> {
  return await new Promise((resolve, reject) => {
    const options = {
      chunkSize: unpackChunkBytes,
      maxOutputLength: uploadMaxBytes,
      params: { [constants.ZSTD_d_windowLogMax]: zstdWindowLog },
    };
    zstdDecompress(packed, options, (fault, bytes) => {
      if (fault === null) resolve(bytes);
      else if ((fault as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE')
        reject(new UkeyError('too-large', `an upload holds at most ${uploadMaxBytes} bytes`));
      else reject(malformed('upload', 'is not zstd', fault));
    });
  });
}

async function acceptUpload(parts: AcceptParts, upload: Upload, tokenId: string): Promise<UploadAnswer> {
  const { database, log, wallMs } = parts;
  for (let judgement = 1; judgement <= maxJudgements; judgement++) {
    const token = await database.findToken(tokenId);
    if (token === null) return { kind: 'refused', refusal: refuse('unknown-token', 'the token is not enrolled here') };
    const facts = await gatherFacts(parts, upload, token);
    if ('code' in facts) return { kind: 'refused', refusal: facts };
    const verdict = await judgeInTurns(facts);
    if (verdict.kind === 'refuse') {
      return { kind: 'refused', refusal: await noteRefusal(parts, tokenId, verdict) };
    }
    if (verdict.kind === 'respell') {
      await database.respell(tokenId, token.head, verdict.respelling);
      log('warn', 'batch-respelled', { tokenId, batchIndex: verdict.respelling.batchIndex });
      continue;
    }
    const taken = await database.takenNumbers(tokenId, numbersOf(verdict.batches));
    const batches = parkTaken(verdict.batches, taken);
    const judged = { ...token.head, succession: facts.keys.all.at(-1)?.serial ?? 0 };
    const stored = await database.store(tokenId, judged, batches, verdict.next, wallMs());
    if (stored === 'moved') continue;
    // The batches are durable now. A crash from here on loses only the answer, and the repeat gets it.
    for (const entry of batches.flatMap((batch) => batch.entries))
      if (entry.flaw !== null) log('warn', 'entry-parked', { tokenId, sequence: entry.sequence, why: entry.flaw });
    if (batches.length > 0) log('info', 'upload-stored', { tokenId, firstBatch: facts.firstBatch, batches: batches.length });
    return { kind: 'acknowledged', signed: await signAck(parts, upload.tokenId, tokenId) };
  }
  return { kind: 'refused', refusal: refuse('busy', 'the same token is being served elsewhere') };
}

async function gatherFacts(parts: AcceptParts, upload: Upload, token: TokenState): Promise<UploadFacts | Refusal> {
  const [first] = upload.batches;
  let claimed: Seal;
  try {
    claimed = claimedSeal(first ?? new Uint8Array(0));
  } catch (thrown) {
    return refuse('poison', asUkeyError(thrown).message);
  }
  const firstBatch = claimed.batchIndex;
  const { database } = parts;
  const { tokenId, issuerTaxId, head } = token;
  const overlap = Math.min(upload.batches.length, head.batchIndex - firstBatch + 1);
  const marks = overlap > 0 ? await database.marks(tokenId, firstBatch, overlap) : [];
  const keys = await signersFor(parts, token);
  const next = upload.batches[head.batchIndex + 1 - firstBatch];
  const named = next === first ? claimed : orNull(() => (next === undefined ? null : claimedSeal(next)));
  const goesOnElsewhere = named !== null && Buffer.compare(named.previousSealHash, head.sealHash) !== 0;
  const newest = goesOnElsewhere ? ((await database.findBatch(tokenId, head.batchIndex))?.bytes ?? null) : null;
  return { tokenId, issuerTaxId, head, keys, batches: upload.batches, firstBatch, marks, newest };
}

async function judgeInTurns(facts: UploadFacts): Promise<Verdict> {
  const judging = judgeUpload(facts);
  let turnEndsMs = performance.now() + turnMs;
  for (;;) {
    const step = judging.next();
    if (step.done === true) return step.value;
    if (performance.now() >= turnEndsMs) {
      await new Promise((resolve) => setImmediate(resolve));
      turnEndsMs = performance.now() + turnMs;
    }
  }
}

/** Answers what is refused: where the key has signed one statement twice, that is no second batch. */
async function noteRefusal(parts: AcceptParts, tokenId: string, verdict: Verdict & { kind: 'refuse' }): Promise<Refusal> {
  const { contradiction } = verdict;
  const kept = contradiction === null ? null : await parts.database.findBatch(tokenId, contradiction.batchIndex);
  const isSame =
    contradiction !== null && kept !== null && isSameStatement(decodeBatch(kept.bytes, 'views').sealBytes, contradiction.sealBytes);
  const refusal = isSame
    ? refuse('poison', `batch ${contradiction.batchIndex} is stored already, with another signature of the same seal`)
    : verdict.refusal;
  parts.log('warn', 'upload-refused', { tokenId, code: refusal.code, why: refusal.message });
  if (contradiction === null || isSame) return refusal;
  const { batchIndex, detail, sealBytes } = contradiction;
  // In one spelling: in the other one, which anybody can write, a proof that a person has settled would raise its alarm again.
  const proof = lowSeal(sealBytes);
  await parts.database.raiseAlarm(tokenId, { kind: 'fork', batchIndex, detail, proof, raisedAtMs: parts.wallMs() });
  parts.log('error', 'fork-alarm', { tokenId, batchIndex, why: detail });
  return refusal;
}

async function signAck(parts: AcceptParts, tokenIdBytes: Uint8Array, tokenId: string): Promise<Uint8Array> {
  const token = await parts.database.findToken(tokenId);
  if (token === null) throw new UkeyError('internal', 'a stored token is gone');
  const { head } = token;
  return parts.authority.signAnswer(
    acknowledgementPayload({
      tokenId: tokenIdBytes,
      upToBatch: head.batchIndex,
      headSealHash: head.sealHash,
      serverTimeMs: parts.wallMs(),
      parked: await parts.database.parked(tokenId, ackMaxParked),
    }),
  );
}

/** One after the other for each key; its queues are as long as the number of uploads that http.ts lets in. */
function makeTurns(): <T>(key: string, work: () => Promise<T>) => Promise<T> {
  const last = new Map<string, Promise<unknown>>();
  return async (key, work) => {
    const before = last.get(key) ?? Promise.resolve();
    const mine = before.then(work, work);
    last.set(key, mine);
    try {
      return await mine;
    } finally {
      if (last.get(key) === mine) last.delete(key);
    }
  };
}
