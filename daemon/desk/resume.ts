// Owns: the errand store.resume: a FLASH that is older than what KEY or ticket server have seen is brought up to date from the server's copies, and the
// ledger goes on.
// Invariants: nothing is issued before all that is known of this ledger is on the FLASH; each batch is verified under the token's key and in its place before
// it is written, and the last one must be the very one that the server has signed for. The plan is durable before the first write (and the KEY knows the
// end of it): cut short, the ledger does not open until it is done, and its admin entry `rollback-healed` is written once, when it opens.
// Known limit: what was issued behind KEY's last look (at most a minute), did not reach the server and stands in no index here, nobody knows of.
import { createPublicKey, X509Certificate } from 'node:crypto';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { writeDurably } from '#ground/durable-file.ts';
import { whyOf } from '#ground/log.ts';
import type { AdoptedBatch, BatchMark, Mount, ResumeAnswer } from '#holder/holder.ts';
import { type AdminEvent, decodeAdminEvent, encodeAdminEvent } from '#ipc-schema/admin.ts';
import { decodeBatch, sealHashOf } from '#ipc-schema/batch.ts';
import type { Charter } from '#ipc-schema/charter.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { check, z } from '#ipc-schema/schema.ts';
import { type Signers, signersBefore } from '#ipc-schema/signers.ts';
import { isOtherHash } from '#ipc-schema/spelling.ts';
import { signersOf, succeedBy } from '#ipc-schema/succession.ts';
import type { Acknowledgement } from '#ipc-schema/upstream.ts';
import { type ChainHead, verifyNext, verifySeal } from '#ipc-schema/verify.ts';
import { askIndex, indexFileOf, isSpoilt } from '#ledger/index-witness.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { readLedger } from '#ledger/mounting.ts';
import { type Reads, readBatch } from '#ledger/stored.ts';
import { encodeTip, type Tip, withBatchEnd, withEntry } from '#ledger/tip.ts';
import { Holdings, parted } from '#upload/holdings.ts';
import { begunRenewal, endLedger, type NewLedger, refuseHalf, refuseToLose, renew } from './loss.ts';
import type { ProvisionParts } from './provision.ts';
import { decideResume, type ResumeFacts } from './resume-decision.ts';
import { askHolder } from './resume-step.ts';
import type { UnattendedLogin } from './unattended-login.ts';

export interface ResumeParts extends ProvisionParts {
  readonly unattended: UnattendedLogin | null;
}

const bodyMaxBytes = 4 * 1024;
const hexHash = z.string().regex(/^[0-9a-f]{64}$/);

/** What is under way, until its admin entry is written. */
const planSchema = z.strictObject({
  format: z.literal('ukey-resume/1'),
  tokenId: z.string().regex(/^[0-9a-f]{32}$/),
  foundBatch: z.int().min(0),
  anchoredBatch: z.int().min(0),
  healedToBatch: z.int().min(0),
  headSealHash: hexHash,
  endGivenUp: z.literal(true).optional(),
});
type Plan = z.infer<typeof planSchema>;

const interruptedAction = 'Run ukeyctl store resume again: it goes on where it was cut short.';

export async function resume(parts: ResumeParts, params: Params<'store.resume'>): Promise<Result<'store.resume'>> {
  const { holder, custody, unattended } = parts;
  if (custody.ledger !== null)
    throw new UkeyError('invalid-request', 'the ledger is open and goes on: there is nothing to resume', {
      action: 'Nothing is to be done.',
    });
  unattended?.suspend();
  try {
    // A ledger that the server's proof has stopped is open in the holder still.
    if (holder.state().kind === 'open') await holder.logout();
    const begun = await begunRenewal(parts);
    if (begun !== null) return await goOnRenewing(parts, begun, params);
    const pin = Buffer.from(params.pin, 'utf8');
    const acceptEnd = params.acceptEnd === true;
    const inspected = await askHolder(holder, { kind: 'inspect', pin, useLastTry: params.useLastTry === true, acceptEnd }, 'inspected');
    const { mount, place } = inspected;
    const reads: Reads = {
      read: async (fromBatch, maxBytes) => [
        ...(await askHolder(holder, { kind: 'read', place, fromBatch, maxBytes, acceptEnd }, 'batches')).batches,
      ],
    };
    const open = await readLedger(reads, mount);
    if (open.charter === null) throw new UkeyError('halted', 'the FLASH holds no charter: which server knows more is not known');
    const server = new Holdings(open.charter, mount.tokenId);
    try {
      return await bringUp(parts, { inspected, mount, charter: open.charter, reads, server, tip: open.tip }, params);
    } finally {
      server.close();
    }
  } finally {
    unattended?.resume();
  }
}

/** The ledger has ended already, and its KEY is a new one. */
async function goOnRenewing(
  parts: ResumeParts,
  begun: NonNullable<Awaited<ReturnType<typeof begunRenewal>>>,
  params: Params<'store.resume'>,
): Promise<Result<'store.resume'>> {
  if (params.acceptLoss === undefined) refuseHalf(begun);
  const { lastBatch, knownBatch } = begun;
  return await opened(parts, () => renew(parts, begun, params), {
    foundBatch: lastBatch,
    anchoredBatch: knownBatch,
    serverBatch: lastBatch,
  });
}

/** Begins the new ledger and waits for it: opening it has committed charter, templates and `continues`. */
async function opened(
  { custody, log }: ResumeParts,
  begin: () => Promise<NewLedger>,
  found: Pick<Result<'store.resume'>, 'foundBatch' | 'anchoredBatch' | 'serverBatch'>,
): Promise<Result<'store.resume'>> {
  const newLedger = await begin();
  await custody.settled();
  await custody.use();
  log.warn('a ledger has ended with a loss, and a new one begins', { ...newLedger });
  return { standing: custody.standing().standing, ...found, healedToBatch: found.foundBatch, newLedger };
}

interface Older {
  readonly inspected: Extract<ResumeAnswer, { kind: 'inspected' }>;
  readonly mount: Mount;
  readonly charter: Charter;
  readonly reads: Reads;
  readonly server: Holdings;
  readonly tip: Tip;
}

async function bringUp(parts: ResumeParts, older: Older, params: Params<'store.resume'>): Promise<Result<'store.resume'>> {
  const { holder, custody, log } = parts;
  const { mount, reads, server } = older;
  const { anchor, hiddenBehind } = older.inspected;
  const isEndHidden = hiddenBehind !== null;
  const foundBatch = mount.nextBatch - 1;
  const [oldest] = await reads.read(mount.oldestBatch, 1);
  if (oldest === undefined) throw new UkeyError('halted', 'the FLASH holds no batch that the ticket server could know');
  const ack = await server.head(oldest.bytes);
  const decision = decideResume({
    foundBatch,
    anchoredBatch: anchor?.batchIndex ?? null,
    isOpenedSince: anchor?.isOpenedSince ?? false,
    isEndHidden,
    serverBatch: ack.upToBatch,
    ...(await indexed(parts, mount, reads)),
  });
  if (ack.upToBatch <= foundBatch) await compareHead(older, ack);
  const found = { foundBatch, anchoredBatch: anchor?.batchIndex ?? 0 };
  if (decision.kind === 'lost') {
    const lost = { ...older, ack, knownBatch: decision.knownBatch };
    if (params.acceptLoss === undefined) refuseToLose(lost);
    const serverBatch = decision.lastBatch; // once what is here was brought there
    return await opened(parts, () => endLedger(parts, lost, params), { ...found, serverBatch });
  }
  if (decision.kind === 'adopt') {
    const target = await targetOf(older, ack, decision.toBatch);
    const givenUp = isEndHidden ? { endGivenUp: true as const } : {};
    keepPlan(parts, mount, { ...found, healedToBatch: target.batchIndex, headSealHash: hex(target.sealHash), ...givenUp });
    // Durable now: what is to come, and from where. From here on the ledger opens only when all of it is there.
    await adopt(parts, older, target);
  }
  await askHolder(holder, { kind: 'open' }, 'opened');
  await custody.settled();
  await custody.use(); // opening the ledger has written the admin entry (`finishResume`)
  const healedToBatch = decision.kind === 'adopt' ? decision.toBatch : foundBatch;
  log.warn('an older FLASH was brought up to date', { ...found, healedToBatch });
  return { standing: custody.standing().standing, ...found, healedToBatch, serverBatch: ack.upToBatch };
}

/**
 * The index may know of batches that neither KEY nor server have seen, and that what the FLASH lacks are acknowledgements alone. Throws `busy` where it cannot
 * be asked: without its word a loss might be told that is none, or none that is one.
 */
async function indexed(
  { stateDirectory, log }: ResumeParts,
  mount: Mount,
  reads: Reads,
): Promise<Pick<ResumeFacts, 'indexBatch' | 'indexWeightyBatch'>> {
  const file = indexFileOf(stateDirectory, mount.tokenId);
  try {
    const { newestBatch, newestWeightyBatch } = (await askIndex(file, reads, mount)) ?? { newestBatch: 0, newestWeightyBatch: 0 };
    return { indexBatch: newestBatch, indexWeightyBatch: newestWeightyBatch };
  } catch (cause) {
    if (cause instanceof UkeyError && cause.code !== 'internal') throw cause; // the FLASH's
    if (!isSpoilt(cause)) throw unasked(file, cause);
    log.warn('the index is spoilt and does not say how far it went', { why: whyOf(cause) });
    return { indexBatch: 0, indexWeightyBatch: 0 };
  }
}

const unasked = (file: string, cause: unknown): UkeyError =>
  new UkeyError('busy', `the index cannot be asked what was issued: ${whyOf(cause)}`, {
    retryAfterMs: 1_000,
    action: `Make ${file} readable for the service, and try again. Moved away it is not asked: what it alone knows of is then lost.`,
    cause,
  });

/** The server's newest batch stands on the FLASH: it must be the same. */
async function compareHead({ mount, reads }: Older, ack: Acknowledgement): Promise<void> {
  if (ack.upToBatch < mount.oldestBatch) return; // released: it was compared when it was acknowledged
  const { sealBytes } = await readBatch(reads, ack.upToBatch);
  if (Buffer.compare(sealHashOf(sealBytes), ack.headSealHash) !== 0 && !isOtherHash(sealBytes, ack.headSealHash))
    throw parted(`the server holds another batch ${ack.upToBatch} of this token`);
}

/** The newest batch that will be there, sealed by this ledger's key. */
async function targetOf({ mount, server }: Older, ack: Acknowledgement, toBatch: number): Promise<BatchMark> {
  if (toBatch < mount.nextBatch) return { batchIndex: toBatch, sealHash: mount.headSealHash };
  for await (const [bytes] of server.batches(toBatch, toBatch)) {
    if (bytes === undefined) break;
    const { sealBytes } = decodeBatch(bytes);
    const sealHash = sealHashOf(sealBytes);
    if (Buffer.compare(sealHash, ack.headSealHash) !== 0)
      throw new UkeyError('halted', `the ticket server gives another batch ${toBatch} than the one that it has signed for`);
    verifySeal(sealBytes, createPublicKey({ key: Buffer.from(mount.publicKey), format: 'der', type: 'spki' }), mount.tokenId);
    return { batchIndex: toBatch, sealHash };
  }
  throw new UkeyError('halted', `the ticket server does not give batch ${toBatch}`);
}

async function adopt({ holder }: ResumeParts, older: Older, target: BatchMark): Promise<void> {
  const { inspected, mount, server, tip: before } = older;
  const authorityKey = new X509Certificate(mount.authorityCertificate).publicKey;
  const succeed = succeedBy(authorityKey);
  let signers: Signers = signersBefore(knownSigners(mount, authorityKey), mount.nextBatch);
  let head: ChainHead = { batchIndex: mount.nextBatch - 1, nextSequence: mount.nextSequence, sealHash: mount.headSealHash };
  let tip = before;
  // Also without a batch to bring: the store learns that it was opened since.
  await askHolder(holder, { kind: 'adopt', batches: [], target, acceptEnd: inspected.hiddenBehind }, 'adopted');
  for await (const page of server.batches(mount.nextBatch, target.batchIndex)) {
    const batches: AdoptedBatch[] = [];
    for (const bytes of page) {
      const next = verified(bytes, signers, head, succeed);
      batches.push({ batchIndex: next.batch.seal.batchIndex, bytes, checkpoint: encodeTip(tip) });
      for (const { parsed, body } of next.batch.entries) tip = withEntry(tip, parsed, { body });
      tip = withBatchEnd(tip);
      head = next.batch.head;
      signers = next.signers;
    }
    await askHolder(holder, { kind: 'adopt', batches, target, acceptEnd: null }, 'adopted');
  }
}

function verified(...given: Parameters<typeof verifyNext>): ReturnType<typeof verifyNext> {
  try {
    return verifyNext(...given);
  } catch (cause) {
    throw parted(`what the server holds behind batch ${given[2].batchIndex} does not go on with this ledger`, cause);
  }
}

function knownSigners({ signers: [first, ...others] }: Mount, authorityKey: ReturnType<typeof createPublicKey>): Signers {
  return signersOf(
    first.certificate,
    others.flatMap(({ succession }) => (succession === null ? [] : [succession])),
    authorityKey,
  );
}

// ---- The plan, and its admin entry

/** One that was cut short keeps what it began from. */
function keepPlan(parts: ResumeParts, { tokenId }: Mount, plan: Omit<Plan, 'format' | 'tokenId'>): void {
  const before = readPlan(parts);
  const { foundBatch, anchoredBatch, endGivenUp } = before?.tokenId === hex(tokenId) ? before : plan;
  const first = { foundBatch, anchoredBatch, ...(endGivenUp === true ? { endGivenUp } : {}) };
  const content: Plan = { format: 'ukey-resume/1', tokenId: hex(tokenId), ...plan, ...first };
  writeDurably(planFile(parts), JSON.stringify(content));
}

/** When a ledger opens: what resuming it has still to say is written; one that is not whole does not open. Throws halted. */
export async function finishResume(parts: Pick<ResumeParts, 'holder' | 'stateDirectory' | 'log'>, ledger: Ledger): Promise<void> {
  const plan = readPlan(parts);
  if (plan === null || plan.tokenId !== hex(ledger.mount.tokenId)) return;
  const { foundBatch, anchoredBatch, healedToBatch, endGivenUp } = plan;
  const { nextBatch } = ledger.tip;
  const isThere = nextBatch > healedToBatch && (await sealHashAt(parts.holder, ledger, healedToBatch)) === plan.headSealHash;
  if (!isThere)
    throw new UkeyError('halted', `bringing the FLASH up to batch ${healedToBatch} was cut short`, { action: interruptedAction });
  const givenUp = endGivenUp === true ? { endGivenUp } : {};
  const event: AdminEvent = { event: 'rollback-healed', foundBatch, anchoredBatch, healedToBatch, ...givenUp };
  // A crash between the entry and the end of the plan: it stands in the first batch behind.
  if (nextBatch === healedToBatch + 1 || !(await tells(parts.holder, healedToBatch + 1, event)))
    await ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes, body: () => encodeAdminEvent(event) });
  rmSync(planFile(parts), { force: true });
}

async function sealHashAt(holder: Reads, ledger: Ledger, batchIndex: number): Promise<string> {
  if (batchIndex === ledger.mount.nextBatch - 1) return hex(ledger.mount.headSealHash);
  return hex(sealHashOf((await readBatch(holder, batchIndex)).sealBytes));
}

async function tells(holder: Reads, batchIndex: number, event: AdminEvent): Promise<boolean> {
  const { leaves, entries } = await readBatch(holder, batchIndex);
  const text = Buffer.from(encodeAdminEvent(event)).toString('utf8');
  return entries.some(
    ({ body }, at) => leaves[at]?.kind === 'admin' && Buffer.from(encodeAdminEvent(decodeAdminEvent(body))).toString('utf8') === text,
  );
}

const planFile = ({ stateDirectory }: Pick<ResumeParts, 'stateDirectory'>): string => path.join(stateDirectory, 'pending-resume.json');

/** Throws halted where there is one that cannot be read: whether a ledger is whole is then not known. */
function readPlan(parts: Pick<ResumeParts, 'stateDirectory'>): Plan | null {
  const file = planFile(parts);
  if (!existsSync(file)) return null;
  try {
    return check(planSchema, decodeJson(readFileSync(file)));
  } catch (cause) {
    throw new UkeyError('halted', `${file} is not what it should be`, { action: interruptedAction, cause });
  }
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
