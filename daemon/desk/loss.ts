// Owns: the end of a ledger of which batches are lost for good (KEY or index have seen them; FLASH, mirror and server do not have them), and the beginning of a
// new one on the same device: what the FLASH has goes to the server first, then the KEY becomes a new one, is enrolled, the FLASH is formatted.
// Invariants: only where a person has named the ledger. What is lost is kept durably before the KEY's keys are destroyed, and stands as the entry `continues` in
// the new ledger before any till is served, once. Cut short anywhere, the same command goes on; until it has, nothing is issued. No number of the old ledger is
// given again: its series are refused, before anything is changed where the ticket tells them, and before the FLASH is erased in any case.
// Known limit: where the state folder is lost between the new keys and the first opening, the new ledger does not tell what it continues.
import { existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { writeDurably } from '#ground/durable-file.ts';
import type { Holder, Mount, ResumeAnswer } from '#holder/holder.ts';
import { type AdminEvent, decodeAdminEvent, encodeAdminEvent } from '#ipc-schema/admin.ts';
import { type ChartedSeries, type Charter, charterSchema, shareNumbers } from '#ipc-schema/charter.ts';
import { keyIdOfSpki } from '#ipc-schema/cose.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { check, z } from '#ipc-schema/schema.ts';
import type { Acknowledgement, EnrolmentTicket } from '#ipc-schema/upstream.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { type Reads, readBatches } from '#ledger/stored.ts';
import type { Holdings } from '#upload/holdings.ts';
import { enrolAt, formatFor, type ProvisionParts, refuseForeignTicket } from './provision.ts';
import { askHolder } from './resume-step.ts';

export type Accepted = Params<'store.resume'>;
export type NewLedger = NonNullable<Result<'store.resume'>['newLedger']>;
type Parts = Pick<ProvisionParts, 'holder' | 'stateDirectory'>;

const bodyMaxBytes = 4 * 1024;
const chunkBytes = 1024 * 1024;
const spentMax = 16;
const idText = z.string().regex(/^[0-9a-f]{32}$/);

/** From before the KEY is destroyed until the new ledger tells of it. */
const planSchema = z.strictObject({
  format: z.literal('ukey-loss/1'),
  /** The ledger that ends, and the KEY that sealed it last. */
  ledger: idText,
  keyId: idText,
  serial: z.string(),
  label: z.string(),
  lastBatch: z.int().min(0),
  lastSealHash: z.string().regex(/^[0-9a-f]{64}$/),
  knownBatch: z.int().min(0),
  series: charterSchema.shape.series,
  /** New KEYs whose charter had the old series: they become others. */
  spent: z.array(idText).max(spentMax),
  newKeyId: idText.nullable(),
});
type Plan = z.infer<typeof planSchema>;

/** An older FLASH (or its mirror), and what is known of its ledger beyond it. */
export interface LostLedger {
  readonly inspected: Extract<ResumeAnswer, { kind: 'inspected' }>;
  readonly reads: Reads;
  readonly server: Holdings;
  readonly charter: Charter;
  /** The server's head. */
  readonly ack: Acknowledgement;
  readonly knownBatch: number;
}

/** Says what is lost. Throws halted, always. */
export function refuseToLose({ inspected: { mount }, ack, knownBatch }: LostLedger): never {
  const foundBatch = mount.nextBatch - 1;
  const from = Math.max(foundBatch, ack.upToBatch) + 1;
  const which = from === knownBatch ? `batch ${from}` : `batches ${from} to ${knownBatch}, at least,`;
  const ledger = hex(mount.tokenId);
  throw new UkeyError(
    'halted',
    `${which} of ledger ${ledger} stand neither here (the newest is ${foundBatch}) nor at the ticket server (${ack.upToBatch}); nothing was changed`,
    {
      action:
        'Look for the FLASH that was written last, or its mirror, and put it back. If it is lost for good: this ledger ends, and a new one with other series begins by ' +
        `ukeyctl store resume --accept-loss --ticket FILE, naming the ledger ${ledger}.`,
    },
  );
}

/** Ends the ledger and begins the new one: the token is open afterwards. `params.acceptLoss` was given. */
export async function endLedger(parts: ProvisionParts, lost: LostLedger, params: Accepted): Promise<NewLedger> {
  const { ticket, eraseLedger } = accepted(params);
  const { mount, facts } = lost.inspected;
  const ledger = hex(mount.tokenId);
  if (eraseLedger !== ledger)
    throw new UkeyError('invalid-request', `acceptLoss.eraseLedger: the ledger that would end is ${ledger}`, {
      field: 'acceptLoss.eraseLedger',
    });
  refuseTicket(parts, lost.charter.series, ticket);
  const ack = await bringAll(lost);
  const plan: Plan = {
    ...{ format: 'ukey-loss/1', ledger, keyId: hex(keyIdOfSpki(mount.publicKey)), serial: facts.serial, label: facts.label },
    ...{ lastBatch: ack.upToBatch, lastSealHash: hex(ack.headSealHash), knownBatch: lost.knownBatch },
    ...{ series: lost.charter.series, spent: [], newKeyId: null },
  };
  keep(parts, plan);
  // Durable now: what the new ledger will tell. A crash here leaves the old KEY, which is inspected anew.
  return await renew(parts, plan, params);
}

/** All that is here is at the server afterwards, which holds nothing else in its place. */
async function bringAll({ inspected: { mount }, reads, server, ack, knownBatch }: LostLedger): Promise<Acknowledgement> {
  const foundBatch = mount.nextBatch - 1;
  await server.bring(reads, ack.upToBatch + 1, foundBatch);
  const [newest] = await reads.read(foundBatch, 1);
  if (newest === undefined) throw new UkeyError('halted', `batch ${foundBatch} cannot be read`);
  const head = await server.head(newest.bytes);
  if (head.upToBatch < foundBatch) throw new UkeyError('offline', 'the ticket server does not hold what this FLASH has');
  if (head.upToBatch >= knownBatch)
    throw new UkeyError('halted', `the ticket server holds batch ${head.upToBatch} by now`, { action: 'Run ukeyctl store resume again.' });
  return head;
}

/** A plan whose KEY is no longer the old one: there is no way back. Null: there is none. */
export async function begunRenewal(parts: Parts): Promise<Plan | null> {
  const plan = readPlan(parts);
  if (plan === null) return null;
  const seen = await askHolder(parts.holder, { kind: 'look' }, 'looked');
  const isStillOld = !seen.isBlank && (seen.keyId === null ? plan.newKeyId === null : seen.keyId === plan.keyId);
  const isElsewhere = seen.storeKeyId !== null && seen.storeKeyId !== plan.keyId && seen.storeKeyId !== plan.newKeyId;
  return isStillOld || isElsewhere ? null : plan;
}

/** Throws halted: what was begun must be ended first. */
export function refuseHalf({ ledger }: Plan): never {
  throw new UkeyError('halted', `the ledger ${ledger} has ended with a loss, and the new one on this KEY is not ready yet`, {
    action: `Repeat: ukeyctl store resume --accept-loss --ticket FILE, naming the ledger ${ledger}.`,
  });
}

/** From the KEY on; also again. */
export async function renew(parts: ProvisionParts, plan: Plan, params: Accepted): Promise<NewLedger> {
  const { holder } = parts;
  const { ticket, soPin, eraseLedger } = accepted(params);
  if (eraseLedger !== plan.ledger)
    throw new UkeyError('invalid-request', `acceptLoss.eraseLedger: the ledger that ends is ${plan.ledger}`, {
      field: 'acceptLoss.eraseLedger',
    });
  refuseTicket(parts, plan.series, ticket);
  const renewal = {
    ...{ label: plan.label, code: ticket.code, ends: plan.keyId, destroyed: [plan.keyId, ...plan.spent], serial: plan.serial },
    ...{ pin: Buffer.from(params.pin, 'utf8'), soPin: Buffer.from(soPin, 'utf8') },
  };
  const { keyId, request } = await askHolder(holder, { kind: 'renew', renewal }, 'renewed');
  const told: Plan = { ...plan, newKeyId: keyId };
  keep(parts, told);
  // Durable now: which KEY tells of the loss. From here on its ledger opens with the entry, however far this comes.
  if (request === null) await holder.login(Buffer.from(params.pin, 'utf8'), params.useLastTry === true);
  else await enrolAndFormat(parts, told, ticket, request);
  return { tokenId: keyId, ledger: plan.ledger, lastBatch: plan.lastBatch, knownBatch: plan.knownBatch };
}

async function enrolAndFormat(parts: ProvisionParts, plan: Plan, ticket: EnrolmentTicket, request: Uint8Array): Promise<Mount> {
  const enrolled = await enrolAt(ticket, request);
  const { series } = enrolled.checked.charter.content;
  if (isTaken(plan.series, series)) {
    // Its server enrols a key once: the next ticket needs another one.
    keep(parts, { ...plan, newKeyId: null, spent: [...plan.spent, enrolled.checked.tokenIdHex].slice(-spentMax) });
    throw oldSeries();
  }
  return await formatFor(parts, enrolled, { erase: true, eraseLedger: plan.keyId });
}

// ---- Series

function refuseTicket(parts: ProvisionParts, series: readonly ChartedSeries[], ticket: EnrolmentTicket): void {
  refuseForeignTicket(parts, ticket, 'acceptLoss.ticket');
  const { prefixes = [] } = ticket;
  if (prefixes.some((prefix) => series.some((old) => old.prefix === prefix))) throw oldSeries();
}

export function isTaken(old: readonly ChartedSeries[], given: readonly ChartedSeries[]): boolean {
  return given.some((one) => old.some((other) => one.prefix === other.prefix || shareNumbers(one, other)));
}

function oldSeries(): UkeyError {
  return new UkeyError(
    'invalid-request',
    'acceptLoss.ticket: a series of it is one of the ledger that ends, whose numbers must never be given again',
    {
      field: 'acceptLoss.ticket',
      action: 'Ask headquarters for an enrolment ticket with other series (prefixes).',
    },
  );
}

// ---- The new ledger's first word

/** When a ledger opens: what it continues is written into it, before anybody uses it. */
export async function finishLoss(parts: Parts, ledger: Ledger): Promise<void> {
  const plan = readPlan(parts);
  if (plan === null || plan.newKeyId !== hex(ledger.mount.tokenId)) return;
  const { ledger: ended, lastBatch, lastSealHash, knownBatch } = plan;
  const event: AdminEvent = { event: 'continues', ledger: ended, lastBatch, lastSealHash, anchoredBatch: knownBatch };
  // A crash between the entry and the end of the plan: it stands there already.
  if (!(await tells(parts.holder, ledger)))
    await ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes, body: () => encodeAdminEvent(event) });
  rmSync(planFile(parts), { force: true });
}

/** No till was served yet: there are few batches. */
async function tells(holder: Holder, { tip: { nextBatch } }: Ledger): Promise<boolean> {
  for await (const { leaves, entries } of readBatches(holder, 1, nextBatch - 1, chunkBytes))
    for (const [at, { body }] of entries.entries())
      if (leaves[at]?.kind === 'admin' && decodeAdminEvent(body).event === 'continues') return true;
  return false;
}

// ---- The plan

function accepted({ acceptLoss }: Accepted): NonNullable<Accepted['acceptLoss']> {
  if (acceptLoss === undefined) throw new UkeyError('internal', 'nobody has accepted a loss');
  return acceptLoss;
}

const planFile = ({ stateDirectory }: Parts): string => path.join(stateDirectory, 'pending-loss.json');

const keep = (parts: Parts, plan: Plan): void => writeDurably(planFile(parts), JSON.stringify(plan));

/** Throws halted where there is one that cannot be read: what a ledger continues would not be told. */
function readPlan(parts: Parts): Plan | null {
  const file = planFile(parts);
  if (!existsSync(file)) return null;
  try {
    return check(planSchema, decodeJson(readFileSync(file)));
  } catch (cause) {
    throw new UkeyError('halted', `${file} is not what it should be`, { action: 'Tell headquarters; keep the file as it is.', cause });
  }
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
