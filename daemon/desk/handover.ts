// Owns: the errands token.handOver and token.takeBack: a KEY that works gives its ledger up as planned, so that a spare goes on (restore.ts), or takes it back.
// Invariants: what tills were promised is sealed before the handover, and nothing behind it: the entry is the last one, alone in its batch, and durable before
// the token is closed. The log alone says that it was handed over, so nothing is lost by a crash anywhere: before the entry tills go on, behind it
// they do not. It is taken back only by a person with the PIN: whether the spare has gone on nobody here knows; the ticket server does, and refuses.
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder } from '#holder/holder.ts';
import { type AdminEvent, encodeAdminEvent } from '#ipc-schema/admin.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import type { Custody } from '#ledger/custody.ts';
import { isHandedOver } from '#ledger/handover.ts';
import type { Ledger } from '#ledger/ledger.ts';
import type { OwnDraft } from '#ledger/numbering.ts';
import type { UnattendedLogin } from './unattended-login.ts';

export interface HandoverParts {
  readonly holder: Holder;
  readonly custody: Custody;
  readonly log: Log;
  unattended(): UnattendedLogin | null;
}

/** What tills hear while the last entry is written. */
const retryAfterMs = 500;

export class Handover {
  readonly #parts: HandoverParts;
  /** The ledger that opens next is to be taken back. */
  #takingBack = false;

  constructor(parts: HandoverParts) {
    this.#parts = parts;
  }

  async handOver(): Promise<Result<'token.handOver'>> {
    const { holder, custody, log } = this.#parts;
    const ledger = await custody.use();
    if (ledger.charter?.server.recoveryKey == null)
      throw new UkeyError('invalid-request', 'this ledger has no recovery slot: no other KEY could open its store', {
        action: 'Keep this token, or ask headquarters for another one with a series of numbers of its own.',
      });
    await ledger.addLast(draftOf({ event: 'handover' }), new UkeyError('busy', 'the ledger is being handed over', { retryAfterMs }));
    // Durable on FLASH and mirror: from here on this KEY issues nothing, whatever happens to this process.
    custody.handedOver(ledger);
    log.warn('the ledger is handed over', { batches: ledger.tip.nextBatch - 1 });
    const unattended = this.#parts.unattended();
    unattended?.suspend(); // the token is to be pulled: nobody opens it again unasked
    const copy = await this.#wholeCopy();
    await holder.logout().catch((error: unknown) => log.warn('the token that is handed over did not close', { why: whyOf(error) }));
    const { nextBatch, nextSequence, pending } = ledger.tip;
    return {
      standing: custody.standing().standing,
      tokenId: Buffer.from(ledger.mount.tokenId).toString('hex'),
      batches: nextBatch - 1,
      entries: nextSequence - 1,
      pending: pending.count,
      copy,
    };
  }

  /** A mirror that follows (`async`) has everything once the token is closed. */
  async #wholeCopy(): Promise<'mirror' | 'flash'> {
    try {
      const { mirror } = await this.#parts.holder.status();
      return mirror !== null && mirror.failure === null ? 'mirror' : 'flash';
    } catch (error) {
      this.#parts.log.warn('whether the mirror has everything is not known', { why: whyOf(error) });
      return 'flash';
    }
  }

  async takeBack(params: Params<'token.takeBack'>): Promise<Result<'token.takeBack'>> {
    const { holder, custody } = this.#parts;
    if (custody.ledger !== null)
      throw new UkeyError('invalid-request', 'the ledger is open and goes on: there is nothing to take back', {
        action: 'Nothing is to be done.',
      });
    const unattended = this.#parts.unattended();
    unattended?.suspend();
    const pin = Buffer.from(params.pin, 'utf8');
    try {
      // After a restart with a stored PIN the token is open, and its ledger in nobody's hands.
      if (holder.state().kind === 'open') await holder.logout();
      this.#takingBack = true;
      await custody.loggingIn(holder.login(pin, params.useLastTry === true));
    } catch (error) {
      this.#takingBack = false;
      throw error;
    } finally {
      pin.fill(0);
      unattended?.resume();
    }
    try {
      await custody.use(); // opening it has taken it back (`finish`)
    } finally {
      this.#takingBack = false; // what did not open is not taken back by the next that does
    }
    return { standing: custody.standing().standing };
  }

  /** When a ledger opens, before anybody is given it. */
  async finish(ledger: Ledger): Promise<void> {
    if (!this.#takingBack) return;
    this.#takingBack = false;
    if (!(await isHandedOver(this.#parts.holder, ledger))) return;
    await ledger.addOwn(draftOf({ event: 'handover-cancelled' }));
    this.#parts.log.warn('the ledger is taken back');
  }
}

function draftOf(event: AdminEvent): OwnDraft {
  const body = encodeAdminEvent(event);
  return { kind: 'own', entryKind: 'admin', bodyMaxBytes: body.length, body: () => body };
}
