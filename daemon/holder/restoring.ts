// Owns: a lost FLASH made anew from a copy of its store (the mirror, or the FLASH of a dead KEY), for the same KEY or for another one that goes on with the
// ledger: begin, unlock (another KEY only), finish.
// Invariants: the copy is read only, and verified to its head before anything is written; a FLASH that is not blank is only erased when asked; its
// superblocks are written last, so that a crash before leaves a blank FLASH and the whole is repeated. No KEY takes a copy that is older than what it has
// seen, and no store is written over that holds more of the ledger than the copy, or another one. The data key comes sealed to a key of this process,
// lives here between two steps, and is overwritten when they end, and with the login: the step that it waits for may never come.
// Must not: talk to a server; who calls does.
import { X509Certificate } from 'node:crypto';
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { makeReplyKey, type ReplyKey } from '#ground/hpke.ts';
import { handsOver } from '#ipc-schema/admin.ts';
import { decodeBatch } from '#ipc-schema/batch.ts';
import { keyIdOfSpki, makeSign1 } from '#ipc-schema/cose.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { keyRequestPayload, successionRequestPayload } from '#ipc-schema/recovery.ts';
import { newestSigner, type Signers } from '#ipc-schema/signers.ts';
import { type SuccessionReason, withSuccession } from '#ipc-schema/succession.ts';
import { recoveryReplyInfo } from '#ipc-schema/upstream.ts';
import type { Device } from '#store/device.ts';
import { openLog, readStoreHeader } from '#store/log.ts';
import { restoreFromMirror } from '#store/restore.ts';
import type { KeySlot, StoreHeader, StoreLog } from '#store/store.ts';
import { wipe } from '#token/pin.ts';
import type { Token } from '#token/token.ts';
import { type Anchor, bindAnchor, judgeAge, newestAnchor, readAnchor, type Seen } from './anchor.ts';
import type { Chain } from './chain.ts';
import { type Access, refuseReadOnly } from './errands.ts';
import type { Mount, RestoreBegun, RestoreOptions, SuccessionGrant } from './holder.ts';
import { checkTurn, decodeIdentity, encodeIdentity, identityWith } from './identity.ts';
import { refuseLoss } from './inspection.ts';
import { compareWith, readChain, recoveryMethod, unwrapFirst } from './mounting.ts';
import { openOrCreate } from './parts.ts';
import { spendTry } from './try.ts';

/** Parts of the work that are told. */
const progressSteps = 10;

interface Begun {
  readonly from: string;
  readonly erase: boolean;
  readonly header: StoreHeader;
  /** Null: the copy is of this very KEY. */
  readonly succession: { readonly code: string; readonly tokenId: Uint8Array; readonly slot: KeySlot; readonly reply: ReplyKey } | null;
  readonly spki: Uint8Array;
}

/** A copy that was read to its head. */
interface Copy {
  readonly storeId: Uint8Array;
  readonly mountEpoch: number;
  readonly chain: Chain;
  readonly signers: Signers;
  readonly authorityCertificate: Uint8Array;
}

interface Unlocked {
  readonly dataKey: Uint8Array;
  readonly copy: Copy;
}

export class Restoration {
  readonly #access: Access;
  #begun: Begun | null = null;
  #unlocked: Unlocked | null = null;

  constructor(access: Access) {
    this.#access = access;
  }

  /** Keys are made on a blank token. Leaves it logged in. */
  async begin(options: RestoreOptions): Promise<RestoreBegun> {
    this.forgetKey();
    const access = this.#access;
    const { parts } = access;
    const { from, erase, ticket } = options;
    if (access.open() !== null) throw new UkeyError('invalid-request', 'a ledger is open', { action: 'Log out first (ukeyctl logout).' });
    refuseReadOnly(parts);
    if (parts.flashPath !== null && (await isSamePlace(from, parts.flashPath)))
      throw new UkeyError('invalid-request', 'from: a FLASH cannot be restored from itself', { field: 'from' });
    const header = await this.#readHeader(from);
    const token = await access.presentOrBlank(erase);
    const { provisioned } = token.facts();
    if (!erase && (await access.readFlash(provisioned ? token : null)) === 'formatted')
      throw new UkeyError('invalid-request', 'the FLASH holds a store', { field: 'erase', action: eraseAction });
    if (!provisioned) successorFor(header, ticket); // what is missing is said before keys are made
    try {
      const spki = unlockedKey(token, options);
      // Only now: some modules show their public key after login alone.
      const isOwn = isSame(header.tokenKeyId, keyIdOfSpki(spki));
      const succession = isOwn ? null : { ...successorFor(header, ticket), reply: this.#replyKey(options, spki) };
      this.#begun = { from, erase, header, succession, spki };
      if (succession === null) return { kind: 'own' };
      const { code, tokenId, reply } = succession;
      const { serial } = token.facts();
      const payload = keyRequestPayload({ spki, serial, code, tokenId, slot: succession.slot.blob, replyKey: reply.publicKey });
      return { kind: 'successor', request: signed(token, spki, payload) };
    } finally {
      await access.lookAnew();
    }
  }

  /** The data key of the copy, sealed to the key of `begin`. Answers the signed request for the succession. */
  async unlock(sealedDataKey: Uint8Array): Promise<Uint8Array> {
    const { from, succession, spki } = this.#need();
    if (succession === null) throw new UkeyError('invalid-request', 'the copy is of this very KEY, which opens it');
    this.forgetKey();
    const token = await this.#access.present();
    const dataKey = await succession.reply.open(sealedDataKey, recoveryReplyInfo);
    try {
      let reason: SuccessionReason = 'token-lost';
      const copy = await this.#readCopy(from, dataKey, async ({ chain }, log) => {
        const [newest] = chain.nextBatch > 1 ? await log.read(chain.nextBatch - 1, 1) : [];
        if (newest !== undefined && handsOver(decodeBatch(newest.payload))) reason = 'token-replaced';
      });
      const { code, tokenId } = succession;
      const { nextBatch: fromBatch, headSealHash: previousSealHash } = copy.chain;
      // Before the authority is asked: what it grants rules out whatever follows the copy.
      refuseSealed(readAnchor(token), copy);
      refuseOlder(this.#access.seen.anchor, copy);
      await this.#refuseLoss(dataKey, copy);
      if (!isSame(copy.signers.tokenId, tokenId))
        throw new UkeyError('invalid-request', 'the copy is of another ledger than the ticket', { field: 'ticket' });
      if (fromBatch < 2)
        throw new UkeyError('invalid-request', 'the copy holds no batch: provision the token for a new ledger', { field: 'from' });
      const { serial: afterSerial } = newestSigner(copy.signers);
      const request = signed(
        token,
        spki,
        successionRequestPayload({ spki, code, tokenId, fromBatch, previousSealHash, afterSerial, reason }),
      );
      this.#unlocked = { dataKey, copy };
      return request;
    } catch (thrown) {
      wipe(dataKey);
      throw thrown;
    }
  }

  /** Writes the FLASH and opens it. `grant` null: for the KEY that the copy is of. */
  async finish(grant: SuccessionGrant | null): Promise<Mount> {
    const begun = this.#need();
    const access = this.#access;
    const token = await access.present();
    if (!token.facts().loggedIn) throw new UkeyError('locked', 'restoring was not begun: nobody is logged in');
    if ((grant === null) !== (begun.succession === null)) throw new UkeyError('internal', 'a grant fits another KEY, and only that');
    let target: Device | null = null;
    try {
      const { identity, slots, dataKey, copy } = await (grant === null
        ? this.#forOwn(begun, token)
        : this.#forSuccessor(begun, token, grant));
      const tokenKeyId = keyIdOfSpki(begun.spki);
      target = await openOrCreate(access.parts);
      await refuseLoss(target, dataKey, copy.storeId, copy.chain.nextBatch - 1);
      // The KEY knows the store before it exists: a crash in between leaves a FLASH that is restored again.
      if (grant !== null) bindAnchor(token, copy.storeId);
      await this.#write(begun, target, dataKey, { tokenKeyId, slots, ...(identity === null ? {} : { identity }) });
      // The store is durable, and its epoch above the copy's: should the lost FLASH come back, it is known for what it is.
      const mount = await access.mount(token, target);
      this.#begun = null;
      return mount;
    } catch (thrown) {
      await target?.close().catch((error: unknown) => access.parts.note('the FLASH did not close', error));
      await access.lookAnew();
      throw thrown; // still logged in: the whole may be repeated
    } finally {
      this.forgetKey();
    }
  }

  /** The holder closes. */
  drop(): void {
    this.forgetKey();
    this.#begun = null;
  }

  #need(): Begun {
    if (this.#begun === null) throw new UkeyError('invalid-request', 'restoring was not begun');
    return this.#begun;
  }

  /** The login ends, and with it what was begun to be restored. */
  forgetKey(): void {
    if (this.#unlocked !== null) wipe(this.#unlocked.dataKey);
    this.#unlocked = null;
  }

  /** The same as before for the same errand: an answer that a person gave meanwhile can still be opened. */
  #replyKey({ from, ticket }: RestoreOptions, spki: Uint8Array): ReplyKey {
    const before = this.#begun;
    const isSameErrand = before?.from === from && before.succession?.code === ticket?.code && isSame(before.spki, spki);
    return (isSameErrand ? before.succession?.reply : undefined) ?? makeReplyKey();
  }

  async #refuseLoss(dataKey: Uint8Array, { storeId, chain }: Copy): Promise<void> {
    const { parts } = this.#access;
    let target: Device;
    try {
      target = await parts.openDevice(true);
    } catch (thrown) {
      if (parts.createDevice !== undefined && thrown instanceof UkeyError && thrown.code === 'no-token') return; // it will be made
      throw thrown;
    }
    try {
      await refuseLoss(target, dataKey, storeId, chain.nextBatch - 1);
    } finally {
      await target.close();
    }
  }

  async #readHeader(from: string): Promise<StoreHeader> {
    const source = await this.#access.parts.openSource(from);
    try {
      const header = await readStoreHeader(source);
      if (header === null) throw new UkeyError('halted', `${from} is blank`, { field: 'from' });
      return header;
    } finally {
      await source.close();
    }
  }

  /** Verified from its checkpoint to its head. Throws `halted`. */
  async #readCopy(from: string, dataKey: Uint8Array, inspect?: (copy: Copy, log: StoreLog) => Promise<void>): Promise<Copy> {
    const source = await this.#access.parts.openSource(from);
    let log: StoreLog | null = null;
    try {
      log = await openLog(source, dataKey);
      const identity = decodeIdentity(log.mounted.identity);
      const { chain, signers } = await readChain(log, identity);
      const { mountEpoch } = log.mounted;
      const copy = { storeId: log.header.storeId, mountEpoch, chain, signers, authorityCertificate: identity.authorityCertificate };
      await inspect?.(copy, log);
      return copy;
    } finally {
      await (log ?? source).close(); // the log has a copy of the key
    }
  }

  async #forOwn({ from, header, spki }: Begun, token: Token) {
    const { dataKey } = unwrapFirst(token, header.slots);
    try {
      const copy = await this.#readCopy(from, dataKey, async ({ storeId, mountEpoch, chain, signers }, log) => {
        checkTurn(signers, spki);
        const anchor = newestAnchor(readAnchor(token), this.#access.seen.anchor, storeId, keyIdOfSpki(spki));
        try {
          if (anchor !== null) judgeAge(anchor, { storeId, mountEpoch, lastBatch: chain.nextBatch - 1 });
          await compareWith(anchor, log, chain);
        } catch (thrown) {
          throw new UkeyError('halted', `the copy is not as new as what has been seen: ${asUkeyError(thrown).message}`, {
            action: 'Nothing was written. Look for a newer copy.',
            cause: thrown,
          });
        }
      });
      this.#unlocked = { dataKey, copy };
      return { identity: null, slots: header.slots, dataKey, copy };
    } catch (thrown) {
      wipe(dataKey);
      throw thrown;
    }
  }

  async #forSuccessor({ from, succession, spki }: Begun, token: Token, grant: SuccessionGrant) {
    const unlocked = this.#unlocked;
    if (unlocked === null || succession === null) throw new UkeyError('invalid-request', 'the copy was not unlocked');
    const { dataKey } = unlocked;
    const copy = await this.#readCopy(from, dataKey);
    if (!isSame(copy.chain.headSealHash, unlocked.copy.chain.headSealHash))
      throw new UkeyError('halted', 'the copy was written meanwhile: whoever writes it must be stopped first');
    const signers = succeeded(copy, grant);
    checkTurn(signers, spki);
    const slots = [token.wrapDataKey(dataKey), succession.slot];
    const identity = encodeIdentity(identityWith(copy.authorityCertificate, signers));
    return { identity, slots, dataKey, copy };
  }

  async #write(
    { from, erase }: Begun,
    target: Device,
    dataKey: Uint8Array,
    owner: { readonly tokenKeyId: Uint8Array; readonly slots: readonly KeySlot[]; readonly identity?: Uint8Array },
  ): Promise<void> {
    const { parts } = this.#access;
    const source = await parts.openSource(from);
    let told = 0;
    const onProgress = (done: number, segments: number): void => {
      const step = Math.floor((done * progressSteps) / segments);
      if (step === told) return;
      told = step;
      parts.note(`restoring: ${done} of ${segments} segments`, null);
    };
    try {
      await restoreFromMirror(source, target, dataKey, { ...owner, erase, onProgress });
    } finally {
      await source.close();
    }
  }
}

/** This KEY went on with the ledger before, further than the copy: from the copy on it would seal other batches of the same index. Throws `halted`. */
function refuseSealed(anchor: Anchor | null, { storeId, chain }: Copy): void {
  if (anchor === null || !isSame(anchor.storeId, storeId) || anchor.batchIndex < chain.nextBatch) return;
  throw new UkeyError('halted', `this KEY has sealed batch ${anchor.batchIndex} of the ledger, and the copy ends before it`, {
    action: 'Nothing was written. Restore from its own mirror, or from a copy that is newer.',
  });
}

/** This service has told of batches that the copy lacks: whoever went on with it would give their numbers again. Throws `halted`. */
function refuseOlder(seen: Seen | null, { storeId, chain }: Copy): void {
  if (seen === null || !isSame(seen.storeId, storeId) || seen.batchIndex < chain.nextBatch) return;
  throw new UkeyError('halted', `the copy ends at batch ${chain.nextBatch - 1}, and batch ${seen.batchIndex} has been seen`, {
    action: 'Nothing was written. Look for a newer copy.',
  });
}

/** One file or device under two names (a link, another path). */
async function isSamePlace(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map((name) => stat(name).catch(() => null)));
  if (a == null || b == null) return path.resolve(one) === path.resolve(other); // not there: opening will say so
  return a.isBlockDevice() && b.isBlockDevice() ? a.rdev === b.rdev : a.dev === b.dev && a.ino === b.ino;
}

const askForTicket = 'Ask headquarters for a recovery ticket (ticket-server recover), and name it with --ticket.';
const eraseAction = 'If nothing on this FLASH is needed, repeat with --erase.';

/** The keys of the ledger with the one that was granted. Throws invalid-request: the grant does not fit the copy. */
function succeeded({ authorityCertificate, signers, chain }: Copy, grant: SuccessionGrant): Signers {
  // The store's own authority says who may succeed; the grant's must be the same.
  if (!isSame(authorityCertificate, grant.authorityCertificate))
    throw new UkeyError('invalid-request', 'the server answers for another authority than the one of the ledger');
  const next = withSuccession(signers, grant.succession, new X509Certificate(authorityCertificate).publicKey);
  const { fromBatch, succession } = newestSigner(next);
  if (fromBatch !== chain.nextBatch || succession === null || !isSame(succession.previousSealHash, chain.headSealHash))
    throw new UkeyError('invalid-request', 'the succession begins at another batch than the copy ends at');
  return next;
}

/** What another KEY needs of the copy and of its ticket. Throws invalid-request naming what is missing. */
function successorFor(
  { slots }: StoreHeader,
  ticket: RestoreOptions['ticket'],
): NonNullable<RestoreOptions['ticket']> & { readonly slot: KeySlot } {
  const slot = slots.find(({ method }) => method === recoveryMethod);
  if (ticket === null) throw new UkeyError('invalid-request', 'the copy is of another KEY', { field: 'ticket', action: askForTicket });
  if (slot === undefined)
    throw new UkeyError('invalid-request', 'the copy has no recovery slot: only its own KEY opens it', { field: 'from' });
  return { ...ticket, slot };
}

/** Makes keys on a blank token, logs in, and answers the public key (SPKI). */
function unlockedKey(token: Token, { label, pin, soPin }: RestoreOptions): Uint8Array {
  if (!token.facts().provisioned) {
    if (label === null || soPin === null)
      throw new UkeyError('invalid-request', 'the token is blank: its SO-PIN and a label are needed', {
        field: soPin === null ? 'soPin' : 'label',
      });
    token.provision({ label, pin, soPin });
  }
  // The keys are on the token now; a crash here is finished by the next call with the same PIN.
  spendTry(token, pin, false);
  return token.publicKey().export({ type: 'spki', format: 'der' });
}

function signed(token: Token, spki: Uint8Array, payload: Uint8Array): Uint8Array {
  return makeSign1(token.algorithm(), keyIdOfSpki(spki), payload, (message) => token.sign(message));
}

const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
