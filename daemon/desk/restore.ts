// Owns: the errand store.restore: a lost FLASH is made anew from a copy of its store, for the same KEY or, by a recovery ticket, for another one that
// goes on with the ledger; and the entry that says so (`finish`).
// Invariants: nothing of the server's answer is used before it is checked against the ticket (authority's fingerprint); the data key passes by here only
// sealed to the holder. Before a till may use a ledger that another KEY goes on with, its succession is the first entry that this KEY seals: the
// store itself says that it is wanted, so that a crash in between is finished at the next opening. Between its steps nobody else logs in: a stored PIN
// that is tried on the FLASH as it was ends the login that the next step needs.
import { createHash, X509Certificate } from 'node:crypto';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, Mount } from '#holder/holder.ts';
import { encodeAdminEvent } from '#ipc-schema/admin.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { RecoveryTicket } from '#ipc-schema/recovery.ts';
import { openSuccession } from '#ipc-schema/succession.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import { Upstream } from '#upload/upstream.ts';
import type { UnattendedLogin } from './unattended-login.ts';

export interface RestoreParts {
  readonly holder: Holder;
  readonly custody: Custody;
  readonly log: Log;
  readonly unattended: UnattendedLogin | null;
}

export async function restore(parts: RestoreParts, params: Params<'store.restore'>): Promise<Result<'store.restore'>> {
  const { unattended } = parts;
  const isOurs = unattended?.suspend() === true; // else a person has locked the token, who opens it again
  try {
    return await restored(parts, params);
  } finally {
    if (isOurs) letIn(parts); // what was not restored may open as it is
  }
}

/** The stored PIN gets its turn where the token waits for one still. */
function letIn({ holder, custody, unattended }: RestoreParts): void {
  unattended?.resume();
  const state = holder.state();
  if (unattended !== null && state.kind === 'locked') void custody.loggingIn(unattended.attempt(state)); // never rejects
}

async function restored(parts: RestoreParts, params: Params<'store.restore'>): Promise<Result<'store.restore'>> {
  const { holder, custody, log } = parts;
  const { from, pin, soPin, label, ticket, erase = false } = params;
  const begun = await holder.beginRestore({
    from,
    pin: Buffer.from(pin, 'utf8'),
    soPin: soPin === undefined ? null : Buffer.from(soPin, 'utf8'),
    label: label ?? null,
    ticket: ticket === undefined ? null : { code: ticket.code, tokenId: Buffer.from(ticket.tokenId, 'hex') },
    erase,
  });
  log.warn('the FLASH is being restored', { from, key: begun.kind });
  const mount = begun.kind === 'own' ? await holder.finishRestore(null) : await succeed(parts, begun.request, ticket);
  const { nextBatch, nextSequence } = await tipOf(custody, mount);
  log.warn('the FLASH is restored', { batches: nextBatch - 1, entries: nextSequence - 1 });
  return {
    standing: custody.standing().standing,
    tokenId: Buffer.from(mount.tokenId).toString('hex'),
    successor: begun.kind === 'successor',
    planned: begun.kind === 'successor' && wasHandedOver(mount),
    batches: nextBatch - 1,
    entries: nextSequence - 1,
    keyWrapping: mount.keyWrapping,
  };
}

/** Opening the ledger has committed the succession (`finish`). One that takes long to read is restored all the same, and the standing says how far it is. */
async function tipOf(custody: Custody, mount: Mount): Promise<Pick<Mount, 'nextBatch' | 'nextSequence'>> {
  try {
    return (await custody.use()).tip;
  } catch (error) {
    if (asUkeyError(error).code !== 'busy') throw error;
    return mount;
  }
}

function wasHandedOver({ authorityCertificate, signers }: Mount): boolean {
  const signed = signers.at(-1)?.succession ?? null;
  if (signed === null) return false;
  return openSuccession(signed, new X509Certificate(authorityCertificate).publicKey).reason === 'token-replaced';
}

async function succeed(parts: RestoreParts, request: Uint8Array, ticket: RecoveryTicket | undefined): Promise<Mount> {
  const { holder } = parts;
  if (ticket === undefined) throw new UkeyError('internal', 'another KEY began without a ticket');
  const upstream = new Upstream(ticket);
  try {
    const { sealedDataKey } = await upstream.recoverKey(request);
    const answer = await upstream.succeed(await holder.unlockRestore(Buffer.from(sealedDataKey, 'base64')));
    const authorityCertificate = Buffer.from(answer.authorityCertificate, 'base64');
    if (createHash('sha256').update(authorityCertificate).digest('hex') !== ticket.authorityFingerprint) {
      throw new UkeyError('invalid-request', 'the server answers for another authority than the recovery ticket names', {
        field: 'ticket.authorityFingerprint',
      });
    }
    return await holder.finishRestore({ authorityCertificate, succession: Buffer.from(answer.succession, 'base64') });
  } catch (error) {
    await giveUp(parts);
    throw error;
  } finally {
    upstream.close();
  }
}

/** The holder keeps the data key for a step that does not come now: it goes with the login. Whoever repeats gives the PIN again. */
async function giveUp({ holder, log }: RestoreParts): Promise<void> {
  if (holder.state().kind === 'open') return;
  await holder.logout().catch((error: unknown) => log.warn('the token did not log out', { why: whyOf(error) }));
}

/** Commits the succession of a ledger that another KEY goes on with and that does not carry it yet. */
export async function finish({ log }: Pick<RestoreParts, 'log'>, ledger: Ledger): Promise<void> {
  const newest = ledger.mount.signers.at(-1);
  if (newest === undefined || newest.succession === null || newest.fromBatch !== ledger.tip.nextBatch) return;
  const body = encodeAdminEvent({ event: 'succession', succession: Buffer.from(newest.succession).toString('base64') });
  // Nobody else is given this ledger before this is durable, so that it is the first entry of the first batch that this KEY seals.
  await ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: body.length, body: () => body });
  log.warn('another KEY goes on with the ledger', { fromBatch: newest.fromBatch });
}
