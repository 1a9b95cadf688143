// Owns: putting a ledger on another key: recovery tickets, the data key out of a store's recovery slot, and the succession.
// Invariants: a code is 128 random bits, stands in the database only as its hash, and belongs to the first key that uses it; that key may repeat both
// requests (recovery.ts of the contract) and gets the same succession. The data key is never kept or told but sealed to the asker's reply key.
// A succession is given only where it contradicts nothing that is stored: behind the head, and behind the very batch that is stored.
// Where the recovery key was moved away, a request waits in the database until a person who has it answers with it (`answerWaiting`).
import { createHash, randomBytes } from 'node:crypto';
import { decodeBatch } from '#ipc-schema/batch.ts';
import { keyIdOfSpki } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { encodeBase32 } from '#ipc-schema/evidence.ts';
import {
  type KeyRequest,
  openKeyRequest,
  openSuccessionRequest,
  type RecoveredKey,
  type RecoveryTicket,
  type SuccessionAnswer,
  type SuccessionRequest,
} from '#ipc-schema/recovery.ts';
import { isOtherHash } from '#ipc-schema/spelling.ts';
import type { Succession } from '#ipc-schema/succession.ts';
import { type Refusal, recoveryInfosOf, recoveryReplyInfo } from '#ipc-schema/upstream.ts';
import { acceptableKey } from './authority.ts';
import type { RecoveryState, StoredBatch, SuccessionRecord, TokenState } from './database.ts';
import { refusalOf, refuse } from './refusal.ts';
import { type Opener, sealTo } from './seal.ts';
import type { TicketParts } from './ticket.ts';

const codeBytes = 16;
const hourMs = 3_600_000;
export const recoveryTicketHours = 72;
const dataKeyBytes = 32;

export interface RecoveryOptions {
  /** Of the ledger, hex. */
  readonly tokenId: string;
  /** The newest succession of this ledger was given to a key that never sealed anything: another key may begin at the same batch. */
  readonly supersedes?: boolean;
  readonly hours?: number;
}

/** Throws invalid-request when the ledger is not here, or the server's URL is not known. */
export async function makeRecoveryTicket(parts: TicketParts, options: RecoveryOptions): Promise<RecoveryTicket> {
  const { authority, database, wallMs } = parts;
  const { tokenId, supersedes = false, hours = recoveryTicketHours } = options;
  if ((await database.findToken(tokenId)) === null)
    throw new UkeyError('invalid-request', `token ${tokenId} is not enrolled here`, { field: 'token' });
  const url = await database.publicUrl();
  if (url === null) throw new UkeyError('invalid-request', 'the server has never run here, so its public URL is not known');
  const code = encodeBase32(randomBytes(codeBytes));
  const madeAtMs = wallMs();
  await database.addRecovery({
    codeHash: codeHashOf(code),
    tokenId,
    madeAtMs,
    expiresAtMs: Math.floor(madeAtMs + hours * hourMs),
    supersedes,
  });
  return {
    format: 'ukey-recovery-ticket/1',
    url,
    tlsCertificate: Buffer.from(authority.certificate).toString('base64'),
    authorityFingerprint: authority.fingerprint,
    tokenId,
    code,
  };
}

export type RecoveryAnswer<T> = { readonly kind: 'answered'; readonly value: T } | { readonly kind: 'refused'; readonly refusal: Refusal };

const unknownCode = refuse('code-unknown', 'the code is not known, used up or too old');

/** Step 1: the data key of a store. */
export async function recoverKey(parts: TicketParts, body: Uint8Array): Promise<RecoveryAnswer<RecoveredKey>> {
  return await answering(parts, body, openKeyRequest, async (request, keyId) => {
    const { authority, database, log } = parts;
    const { slot, replyKey, tokenId } = request;
    const recovery = await usable(parts, request, keyId);
    if (recovery === null || !(await database.bindRecovery(recovery.codeHash, keyId, slot, replyKey))) return unknownCode;
    const isSame = recovery.asked !== null && same(recovery.asked.slot, slot) && same(recovery.asked.replyKey, replyKey);
    let reply = isSame ? (recovery.asked?.reply ?? null) : null;
    if (reply === null && authority.openRecovery !== null) reply = await sealReply(authority.openRecovery, slot, replyKey, tokenId);
    if (reply === null)
      return refuse(
        'no-recovery-key',
        'the recovery key is not on the ticket server: whoever has it answers there (ticket-server recover)',
      );
    // Also what was answered before: binding has just forgotten it.
    await database.replyRecovery(recovery.codeHash, replyKey, reply);
    log('warn', 'data-key-recovered', { tokenId: hex(tokenId), keyId, serial: request.serial });
    return { sealedDataKey: Buffer.from(reply).toString('base64') };
  });
}

/**
 * Answers what waits for the recovery key of a ledger, with the key in hand. The number of answers. Throws invalid-request where nothing of what
 * waits can be answered.
 */
export async function answerWaiting(parts: TicketParts, tokenId: string, open: Opener): Promise<number> {
  const waiting = await parts.database.waitingRecoveries(tokenId);
  let answered = 0;
  let refused: unknown = null;
  for (const { codeHash, asked } of waiting) {
    if (asked === null) continue;
    try {
      const reply = await sealReply(open, asked.slot, asked.replyKey, Buffer.from(tokenId, 'hex'));
      await parts.database.replyRecovery(codeHash, asked.replyKey, reply);
      answered += 1;
    } catch (thrown) {
      if (!(thrown instanceof UkeyError) || thrown.code !== 'invalid-request') throw thrown;
      refused = thrown; // one that was asked for with a wrong copy keeps no other one waiting
    }
  }
  if (answered === 0 && refused !== null) throw refused;
  return answered;
}

/** Throws invalid-request where the slot is not of this ledger, or not sealed to the recovery key. */
async function sealReply(open: Opener, slot: Uint8Array, replyKey: Uint8Array, tokenId: Uint8Array): Promise<Uint8Array> {
  const dataKey = await openSlot(open, slot, tokenId);
  try {
    return await sealTo(replyKey, recoveryReplyInfo, dataKey);
  } finally {
    dataKey.fill(0);
  }
}

async function openSlot(open: Opener, slot: Uint8Array, tokenId: Uint8Array): Promise<Uint8Array> {
  const refusals: unknown[] = [];
  for (const info of recoveryInfosOf(tokenId)) {
    try {
      const opened = await open(slot, info);
      if (opened.length === dataKeyBytes) return opened;
    } catch (thrown) {
      refusals.push(thrown); // of another ledger, or of the other form
    }
  }
  throw new UkeyError('invalid-request', "the recovery slot is of another ledger than the ticket's, or of another authority", {
    cause: new AggregateError(refusals),
  });
}

/** Step 2: the succession. */
export async function succeed(parts: TicketParts, body: Uint8Array): Promise<RecoveryAnswer<SuccessionAnswer>> {
  return await answering(parts, body, openSuccessionRequest, async (request, keyId) => {
    const first = await trySucceed(parts, request, keyId);
    // Lost a race against an upload or a twin of this request: judged once more on what is stored now.
    return first ?? (await trySucceed(parts, request, keyId)) ?? refuse('busy', 'the same ledger is being served elsewhere');
  });
}

async function trySucceed(parts: TicketParts, request: SuccessionRequest, keyId: string): Promise<SuccessionAnswer | Refusal | null> {
  const { authority, database, log, wallMs } = parts;
  const recovery = await usable(parts, request, keyId);
  if (recovery === null || recovery.usedBy !== keyId) return unknownCode;
  const tokenId = hex(request.tokenId);
  const token = await database.findToken(tokenId);
  if (token === null) return refuse('unknown-token', 'the token is not enrolled here');
  const successions = await database.successions(tokenId);
  const { fromBatch, previousSealHash, spki } = request;
  const mine = successions.find((one) => one.keyId === keyId);
  if (mine !== undefined) return again(parts, token, mine, request, mine === successions.at(-1));
  const newest = await database.findBatch(tokenId, token.head.batchIndex);
  const contradiction = contradictionOf(token, newest, successions.at(-1) ?? null, request, recovery.supersedes);
  if (contradiction !== null) return contradiction;
  const madeAtMs = wallMs();
  const serial = (successions.at(-1)?.serial ?? 0) + 1;
  const certificate = await authority.certifyToken(spki, madeAtMs, tokenId);
  const content: Succession = {
    format: 'ukey-succession/1',
    ...{ tokenId, serial, fromBatch },
    previousSealHash: hex(previousSealHash),
    certificate: Buffer.from(certificate).toString('base64'),
    reason: request.reason,
    issuedAt: new Date(madeAtMs).toISOString(),
  };
  const record = { serial, keyId, fromBatch, previousSealHash, signed: authority.signDocument(content), madeAtMs };
  switch (await database.succeed(recovery.codeHash, tokenId, token.head, record)) {
    case 'succeeded':
      // Durable now: from here on the old key's batches count only below fromBatch. A lost answer is asked for again.
      log('warn', 'key-succeeded', { tokenId, keyId, serial, fromBatch });
      return answerOf(parts, record.signed);
    case 'key-known':
      return refuse('bad-request', 'this key has a ledger already: take a blank token');
    case 'moved':
      return null;
  }
}

/** The same key asks once more: whoever has already gone on from there, this key or another, would do so a second time. */
function again(
  parts: TicketParts,
  { head }: TokenState,
  mine: SuccessionRecord,
  { fromBatch, previousSealHash }: SuccessionRequest,
  isNewest: boolean,
): SuccessionAnswer | Refusal {
  if (mine.fromBatch !== fromBatch || !same(mine.previousSealHash, previousSealHash))
    return refuse('bad-request', 'this key has gone on with the ledger at another batch already: take a blank token');
  if (!isNewest) return refuse('fork', 'another key goes on with this ledger since: take a blank token');
  if (head.batchIndex >= fromBatch)
    return refuse('fork', `the server has batch ${head.batchIndex}, which this key has sealed: restore from its own copy`);
  return answerOf(parts, mine.signed);
}

function contradictionOf(
  { head }: TokenState,
  stored: StoredBatch | null,
  newest: SuccessionRecord | null,
  { fromBatch, previousSealHash, afterSerial }: SuccessionRequest,
  supersedes: boolean,
): Refusal | null {
  const lastBatch = fromBatch - 1;
  if (lastBatch < head.batchIndex)
    return refuse('fork', `the copy ends at batch ${lastBatch}, and the server has batch ${head.batchIndex}: a newer copy is needed`);
  // In its other spelling it is the same batch; the next key's first seal says which one counts.
  const isOther = stored !== null && isOtherHash(decodeBatch(stored.bytes, 'views').sealBytes, previousSealHash);
  if (lastBatch === head.batchIndex && !same(head.sealHash, previousSealHash) && !isOther)
    return refuse('fork', `the copy has another batch ${lastBatch} than the server`);
  if (newest === null) return null;
  if (fromBatch < newest.fromBatch)
    return refuse('fork', `another key goes on with this ledger from batch ${newest.fromBatch}: the copy is older than that`);
  if (fromBatch > newest.fromBatch && afterSerial !== newest.serial)
    return refuse(
      'fork',
      `another key goes on with this ledger from batch ${newest.fromBatch}, and the copy knows nothing of it: what it holds from there on is of another key`,
    );
  if (fromBatch === newest.fromBatch && !supersedes)
    return refuse(
      'fork',
      `another key goes on with this ledger from batch ${fromBatch}: take a copy of its store, or a ticket with --supersede`,
    );
  if (fromBatch === newest.fromBatch && !same(newest.previousSealHash, previousSealHash))
    return refuse('fork', `the copy has another batch ${lastBatch} than the one that was gone on from`);
  return null;
}

function answerOf({ authority }: TicketParts, signed: Uint8Array): SuccessionAnswer {
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
  return { authorityCertificate: base64(authority.certificate), succession: base64(signed) };
}

/** The recovery that this key may use, or null. */
async function usable(
  { database, wallMs }: TicketParts,
  { code, tokenId }: Pick<KeyRequest, 'code' | 'tokenId'>,
  keyId: string,
): Promise<RecoveryState | null> {
  const recovery = await database.findRecovery(codeHashOf(code));
  if (recovery === null || recovery.tokenId !== hex(tokenId)) return null;
  if (recovery.usedBy !== null) return recovery.usedBy === keyId ? recovery : null;
  return wallMs() < recovery.expiresAtMs ? recovery : null;
}

async function answering<Request extends { readonly spki: Uint8Array }, T extends object>(
  parts: TicketParts,
  body: Uint8Array,
  open: (bytes: Uint8Array) => Request,
  act: (request: Request, keyId: string) => Promise<T | Refusal>,
): Promise<RecoveryAnswer<T>> {
  try {
    const request = open(body);
    acceptableKey(request.spki);
    const keyId = hex(keyIdOfSpki(request.spki));
    const outcome = await act(request, keyId);
    if (!isRefusal(outcome)) return { kind: 'answered', value: outcome };
    parts.log('warn', 'recovery-refused', { keyId, code: outcome.code, why: outcome.message });
    return { kind: 'refused', refusal: outcome };
  } catch (thrown) {
    return { kind: 'refused', refusal: refusalOf(thrown) };
  }
}

function isRefusal(outcome: object): outcome is Refusal {
  return 'code' in outcome && 'message' in outcome;
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

function codeHashOf(code: string): string {
  return createHash('sha256').update(code, 'utf8').digest('hex');
}
