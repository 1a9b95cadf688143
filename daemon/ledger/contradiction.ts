// Owns: what proves that this ledger and the ticket server's cannot both go on (a rollback, a clone), and the fact of it on disk, one file per token.
// Invariants: only bytes that the server signed are a proof, and an alarm's seal counts only under a key of the ledger: a forged message stops no till.
// Our own batch under the other spelling of its seal (ipc-schema/spelling.ts) is our own batch: nobody needs the key to write it.
// The proof itself is kept, so that it is judged anew at every opening against the ledger that is there then: it stops this ledger after a restart as
// well, and it is void by itself once the right FLASH, or one that was brought up to the server's state, is opened. Nobody has to clear it.
// Must not: stop anything (custody does).
import { X509Certificate } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { writeDurably } from '#ground/durable-file.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Mount } from '#holder/holder.ts';
import { sealHashOf } from '#ipc-schema/batch.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { publicKeyFromSpki } from '#ipc-schema/cose.ts';
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { base64Text, check, instantText, z } from '#ipc-schema/schema.ts';
import { certificateFor } from '#ipc-schema/signers.ts';
import { isLowSeal, isOtherHash } from '#ipc-schema/spelling.ts';
import { type Acknowledgement, openAcknowledgement, openAlarm } from '#ipc-schema/upstream.ts';
import { verifySeal } from '#ipc-schema/verify.ts';
import type { Ledger } from './ledger.ts';
import type { Stop } from './standing.ts';
import { readBatch } from './stored.ts';

/** What the server has signed. */
export interface Evidence {
  readonly kind: 'acknowledgement' | 'alarm';
  readonly signed: Uint8Array;
}

/** What this machine's index knows of was durable, and the log that was opened lacks it. `isHandedOver`: another KEY has gone on with the ledger. */
export const olderThanIndex = ({ nextBatch }: Mount, indexBatch: number, isHandedOver: boolean): Stop => ({
  kind: 'rollback',
  reason: `rollback: this machine's index has batch ${indexBatch}, this token ends at ${nextBatch - 1}${isHandedOver ? ', where its KEY has handed the ledger over: another one has gone on' : ''}`,
});

export interface Contradiction {
  readonly kind: 'rollback' | 'clone';
  readonly reason: string;
  readonly evidence: Evidence;
}

/** Another copy of the token has sealed what the server refused; this ledger is the one that it holds. */
export interface CloneAlarm {
  readonly batchIndex: number;
  readonly raisedAtMs: number;
}

const factSchema = z.strictObject({
  format: z.literal('ukey-contradiction/1'),
  kind: z.enum(['rollback', 'clone']),
  evidence: z.enum(['acknowledgement', 'alarm']),
  signed: base64Text,
  noticedAt: instantText,
});

/** Whether what the server signed can stand beside this ledger: null if it can. Throws invalid-request when our server did not sign it for this token. */
export async function contradictionIn(ledger: Ledger, charter: Charter, evidence: Evidence): Promise<Contradiction | null> {
  const ackKey = publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64'));
  switch (evidence.kind) {
    case 'acknowledgement': {
      const found = await headFault(ledger, openAcknowledgement(evidence.signed, ackKey));
      return found === null ? null : { ...found, evidence };
    }
    case 'alarm': {
      const { alarm } = openAlarm(evidence.signed, ackKey, ledger.mount.tokenId);
      if (alarm === null) return null;
      const { batchIndex, isOwn } = await ownerOf(ledger, alarm.sealBytes);
      return isOwn ? { kind: 'clone', reason: cloneReason(batchIndex), evidence } : null;
    }
    default:
      return unreachable(evidence.kind);
  }
}

/**
 * What an alarm means to the side that may go on; null: there is none, or it is our own batch that was refused (contradictionIn). Throws
 * invalid-request when the token's key has not sealed it.
 */
export async function alarmFor(ledger: Ledger, charter: Charter, signed: Uint8Array, nonce: Uint8Array): Promise<CloneAlarm | null> {
  const { alarm } = openAlarm(signed, publicKeyFromSpki(Buffer.from(charter.server.ackKey, 'base64')), ledger.mount.tokenId, nonce);
  if (alarm === null) return null;
  const { batchIndex, isOwn } = await ownerOf(ledger, alarm.sealBytes);
  return isOwn ? null : { batchIndex, raisedAtMs: alarm.raisedAtMs };
}

/** The server's newest batch must be ours, also where it is older than what we know to be acknowledged. Null: it is. */
export async function headFault(ledger: Ledger, ack: Acknowledgement): Promise<Pick<Contradiction, 'kind' | 'reason'> | null> {
  if (Buffer.compare(ack.tokenId, ledger.mount.tokenId) !== 0)
    throw new UkeyError('invalid-request', 'the acknowledgement is for another token');
  const { nextBatch } = ledger.tip;
  if (ack.upToBatch >= nextBatch)
    return { kind: 'rollback', reason: `rollback: the server holds batch ${ack.upToBatch}, this token ends at ${nextBatch - 1}` };
  // Released: it was compared when it was acknowledged.
  if (ack.upToBatch < ledger.kept.oldestBatch) return null;
  const { sealHash } = await ledger.summary(ack.upToBatch);
  if (Buffer.compare(sealHash, ack.headSealHash) === 0) return null;
  // Our own batch, as somebody else has spelled it: the server takes our spelling when it comes, or with the next batch.
  const { sealBytes } = await readBatch(ledger.reads, ack.upToBatch);
  return isOtherHash(sealBytes, ack.headSealHash) ? null : { kind: 'clone', reason: cloneReason(ack.upToBatch) };
}

const cloneReason = (batchIndex: number): string => `clone: the server holds another batch ${batchIndex} of this token`;

async function ownerOf(ledger: Ledger, sealBytes: Uint8Array): Promise<{ readonly batchIndex: number; readonly isOwn: boolean }> {
  const { signers, publicKey, tokenId } = ledger.mount;
  // A key that another one has taken over from may go on selling: the seal names its own.
  const certificates = signers.map(({ certificate }) => certificate);
  const named = signers.length === 1 ? null : certificateFor(sealBytes, certificates);
  const key = named === null ? publicKeyFromSpki(publicKey) : new X509Certificate(named).publicKey;
  const { batchIndex } = verifySeal(sealBytes, key, tokenId);
  if (batchIndex < ledger.kept.oldestBatch || batchIndex >= ledger.tip.nextBatch) return { batchIndex, isOwn: false };
  const { sealBytes: own } = await readBatch(ledger.reads, batchIndex);
  // The server tells the low spelling, whichever was sent. A high one that is not ours to the byte is somebody else's writing, and no word of the key.
  const isSame = Buffer.compare(own, sealBytes) === 0 || (isLowSeal(sealBytes) && isOtherHash(own, sealHashOf(sealBytes)));
  return { batchIndex, isOwn: isSame };
}

/** The facts of one state folder. */
export class Contradictions {
  readonly #folder: string;
  readonly #log: Log;
  /** Where the file could not be written, the process still remembers. */
  readonly #known = new Map<string, Evidence>();

  constructor(folder: string, log: Log) {
    this.#folder = folder;
    this.#log = log;
  }

  /** Durable when it returns, as far as the disk takes it. Never throws: what was found stops issuing in any case. */
  keep(tokenId: Uint8Array, { kind, evidence }: Contradiction, wallMs: number): void {
    const name = this.#fileOf(tokenId);
    this.#known.set(name, evidence);
    const fact = {
      format: 'ukey-contradiction/1' as const,
      kind,
      evidence: evidence.kind,
      signed: Buffer.from(evidence.signed).toString('base64'),
    };
    try {
      writeDurably(name, JSON.stringify({ ...fact, noticedAt: new Date(wallMs).toISOString() } satisfies z.infer<typeof factSchema>));
    } catch (error) {
      this.#log.error('a rollback or clone cannot be kept on disk; the next contact would have to find it again', { why: whyOf(error) });
    }
  }

  /** What is known against this ledger, and still holds; a fact that does not is forgotten. */
  async against(ledger: Ledger): Promise<Contradiction | null> {
    const name = this.#fileOf(ledger.mount.tokenId);
    const evidence = this.#known.get(name) ?? this.#read(name);
    if (evidence === null || ledger.charter === null) return null;
    let found: Contradiction | null;
    try {
      found = await contradictionIn(ledger, ledger.charter, evidence);
    } catch (error) {
      if (!(error instanceof UkeyError) || error.code !== 'invalid-request') throw error;
      // Not our server's, or no longer: it proves nothing.
      this.#log.error('what was kept as a proof of a rollback or clone is none', { why: whyOf(error) });
      return null;
    }
    if (found === null) {
      this.#log.warn('this ledger is the one that the server holds: an earlier proof of a rollback or clone is void');
      this.#known.delete(name);
      rmSync(name, { force: true });
    }
    return found;
  }

  #read(name: string): Evidence | null {
    let content: Buffer;
    try {
      content = readFileSync(name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        this.#log.error('a file of the state folder cannot be read', { why: whyOf(error) });
      return null;
    }
    try {
      const { evidence, signed } = check(factSchema, decodeJson(content));
      return { kind: evidence, signed: Buffer.from(signed, 'base64') };
    } catch (error) {
      this.#log.error('a file of the state folder is not what it should be', { file: name, why: whyOf(error) });
      return null;
    }
  }

  #fileOf(tokenId: Uint8Array): string {
    return path.join(this.#folder, `contradiction-${Buffer.from(tokenId).toString('hex')}.json`);
  }
}
