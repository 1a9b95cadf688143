// Owns: the Holder in this process: one token and one FLASH, their states, and who may do what in which of them.
// Invariants: logins, logouts, formatting and looks at the token take turns; commits never wait for a turn; the data key exists only
// while the state is `open`; a token that goes away wipes it, one that comes back is opened anew and waits for its PIN;
// nothing is written to a FLASH of another token. The PIN's bytes are overwritten when a call that took them ends.
// Must not: know processes or sockets; number anything (the front does).
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Device } from '#store/device.ts';
import type { Token, TokenFacts } from '#token/token.ts';
import { encodeCarried } from './carried.ts';
import { type Access, enrol, format, logIn } from './errands.ts';
import { statusBefore, statusWith } from './figures.ts';
import type {
  BatchDraft,
  Carried,
  Commit,
  FormatRequest,
  Holder,
  HolderState,
  HolderStatus,
  Mount,
  PackedBatch,
  PinChange,
  PinUnblock,
  ProvisionOptions,
  RestoreBegun,
  RestoreOptions,
  ResumeAnswer,
  ResumeStep,
  SegmentCheck,
  StoredBatch,
  SuccessionGrant,
} from './holder.ts';
import { LastRung } from './last-rung.ts';
import { pinsIn } from './messages.ts';
import { type Opened, openLedger } from './opened.ts';
import { unpackBatches } from './packed.ts';
import type { HolderParts } from './parts.ts';
import { changePin, unblockPin } from './pins.ts';
import { Presence, presencePollMs } from './presence.ts';
import type { Restoration } from './restoring.ts';
import { refusedCommit } from './sealer.ts';
import { haltedBy, isOtherToken, isSameState, whyNotOpen, withReasonOf } from './state.ts';
import { Survey } from './survey.ts';
import { Turns } from './turns.ts';

/** Starts looking for the token at once; the first state comes through `events`. */
export function joinHolder(parts: HolderParts): Holder {
  return new JoinedHolder(parts);
}

class JoinedHolder implements Holder {
  readonly #parts: HolderParts;
  readonly #pollMs: number;
  readonly #presence: Presence;
  readonly #survey: Survey;
  #state: HolderState = { kind: 'starting' };
  #token: Token | null = null;
  #open: Opened | null = null;
  readonly #turns = new Turns();
  #timer: NodeJS.Timeout | null = null;
  #closed = false;
  readonly #lastRung: LastRung;
  #closing: Promise<void> | null = null;
  #status: HolderStatus;
  /** For errands.ts, each errand in its turn. */
  readonly #access: Access;
  /** Null until somebody restores. */
  #restoration: Restoration | null = null;

  constructor(parts: HolderParts) {
    this.#parts = parts;
    this.#lastRung = new LastRung((reason) => parts.onHopeless?.(reason));
    this.#access = {
      parts,
      open: () => this.#open,
      seen: { anchor: parts.seen ?? null },
      present: () => this.#present(),
      presentOrBlank: (erase) => this.#presentOrBlank(erase),
      readFlash: (token) => this.#survey.readFlash(token),
      mount: (token, device) => this.#mount(token, device),
      backOut: (token, device, thrown) => this.#backOut(token, device, thrown),
      lookAnew: () => this.#lookAnew(),
      lookAgain: () => this.#lookAgain(),
    };
    this.#pollMs = parts.pollMs ?? presencePollMs;
    this.#presence = new Presence(parts.flashPath, parts.presencePaths);
    this.#survey = new Survey(parts, this.#presence);
    this.#status = statusBefore(parts.flashPath ?? '', parts.mirror?.mode ?? null);
    void this.#look();
  }

  state(): HolderState {
    return this.#state;
  }

  async login(pin: Uint8Array, useLastTry: boolean): Promise<Mount> {
    return await this.#turns.takeWith([pin], () => logIn(this.#access, pin, useLastTry));
  }

  async logout(): Promise<void> {
    await this.#turns.take(async () => {
      await this.#settle();
      await this.#shut();
      if (this.#token === null) return;
      this.#logOut(this.#token);
      await this.#lookAnew();
    });
  }

  async changePin(change: PinChange): Promise<TokenFacts> {
    return await this.#turns.takeWith([change.oldPin, change.newPin], () => changePin(this.#access, change));
  }

  async unblockPin(unblock: PinUnblock): Promise<TokenFacts> {
    return await this.#turns.takeWith([unblock.soPin, unblock.newPin], () => unblockPin(this.#access, unblock));
  }

  async provision(options: ProvisionOptions): Promise<Uint8Array> {
    return await this.#turns.takeWith([options.pin, options.soPin], () => enrol(this.#access, options));
  }

  async format(request: FormatRequest): Promise<Mount> {
    return await this.#turns.take(() => format(this.#access, request));
  }

  async beginRestore(options: RestoreOptions): Promise<RestoreBegun> {
    return await this.#turns.takeWith([options.pin, options.soPin], async () => (await this.#restoring()).begin(options));
  }

  async unlockRestore(sealedDataKey: Uint8Array): Promise<Uint8Array> {
    return await this.#turns.take(async () => (await this.#restoring()).unlock(sealedDataKey));
  }

  async finishRestore(grant: SuccessionGrant | null): Promise<Mount> {
    return await this.#turns.take(async () => (await this.#restoring()).finish(grant));
  }

  /** Loaded when it is needed, for the same reason as provisioning. */
  async #restoring(): Promise<Restoration> {
    this.#restoration ??= new (await import('./restoring.ts')).Restoration(this.#access);
    return this.#restoration;
  }

  async openAgain(): Promise<Mount> {
    return await this.#turns.take(async () => {
      await this.#settle();
      if (this.#open !== null && this.#token !== null) await this.#reopen(this.#token);
      return this.#opened().mount;
    });
  }

  commit(batch: BatchDraft): Commit {
    return this.#open === null ? refusedCommit(whyNotOpen(this.#state)) : this.#open.sealer.commit(batch);
  }

  async requestRenewal(certificateHash: Uint8Array): Promise<Uint8Array> {
    return this.#opened().requestRenewal(certificateHash);
  }

  async read(fromBatch: number, maxBytes: number): Promise<StoredBatch[]> {
    return await unpackBatches(await this.readPacked(fromBatch, maxBytes));
  }

  async readPacked(fromBatch: number, maxBytes: number): Promise<PackedBatch[]> {
    const open = this.#opened();
    return await open.readPacked(fromBatch, maxBytes).catch((thrown: unknown) => {
      throw this.#open === open ? thrown : whyNotOpen(this.#state, thrown);
    });
  }

  #opened(): Opened {
    if (this.#open === null) throw whyNotOpen(this.#state);
    return this.#open;
  }

  async carry(carried: Carried): Promise<void> {
    await this.#opened().write((log) => log.carry(encodeCarried(carried)));
  }

  async release(upToBatch: number): Promise<{ segments: number; oldestBatch: number }> {
    return await this.#opened().write(async (log) => ({ segments: await log.release(upToBatch), oldestBatch: log.usage().oldestIndex }));
  }

  async check(fromRun: number, heal: boolean): Promise<SegmentCheck> {
    return await this.#opened().write((log) => log.checkSlice(fromRun, heal));
  }

  async mend(batches: readonly StoredBatch[]): Promise<readonly number[]> {
    return await this.#opened().mend(batches);
  }

  async resume(step: ResumeStep): Promise<ResumeAnswer> {
    return await this.#turns.takeWith(pinsIn(step), async () => (await import('./resuming.ts')).resume(this.#access, step));
  }

  async status(): Promise<HolderStatus> {
    return this.#readStatus();
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#turns.end();
    this.#restoration?.drop();
    await this.#settle();
    await this.#shut();
    this.#letGo();
    this.#state = { kind: 'absent', reason: 'the holder is closed' };
  }

  #setState(state: HolderState): void {
    if (isSameState(this.#state, state)) return;
    this.#state = state;
    this.#parts.events.onState(state);
  }

  async #mount(token: Token, device: Device): Promise<Mount> {
    const { opened, facts } = await openLedger(this.#parts, token, device, this.#access.seen.anchor, {
      onTrouble: (failed, error) => this.#onTrouble(failed, error),
      onMirrorWhole: (whole) => {
        if (this.#open === whole && this.#state.kind === 'open') this.#setState({ ...this.#state, ...whole.waits });
      },
    });
    const { mount, end } = opened;
    this.#open = opened; // nothing below fails: a ledger is never left half open
    await this.#presence.remember();
    this.#setState({ kind: 'open', facts, mount, end, ...opened.waits }); // it may have become whole while the log was read
    return mount;
  }

  /** After an opening that failed: the state that is true now, and the error for the caller. */
  async #backOut(token: Token, device: Device | null, thrown: unknown): Promise<UkeyError> {
    await device?.close().catch((error: unknown) => this.#parts.note('the FLASH did not close', error));
    const error = asUkeyError(thrown);
    this.#logOut(token);
    if (error.code === 'halted' && !(await this.#survey.isFlashSilent(token))) this.#setState(haltedBy(error));
    else await this.#lookAnew();
    return withReasonOf(this.#state, error);
  }

  // ---- Presence

  /** The token, looked for once more if it was not there. Throws no-token. */
  async #present(): Promise<Token> {
    if (this.#token === null) await this.#lookAnew();
    if (this.#token === null) throw whyNotOpen(this.#state);
    return this.#token;
  }

  /** For provisioning: where no token is, the blank one that may become ours. */
  async #presentOrBlank(erase = false): Promise<Token> {
    if (this.#token !== null || this.#parts.openBlank === undefined) return await this.#present();
    if (!erase && (await this.#survey.readFlash(null).catch(() => 'blank')) === 'formatted')
      throw new UkeyError('no-token', 'the FLASH belongs to a token that is not there');
    this.#token = this.#parts.openBlank();
    return this.#token;
  }

  async #look(): Promise<void> {
    try {
      await this.#turns.takeOwn(async () => {
        const { kind } = this.#state;
        // A module that shows a blank token may have shown it for want of ours: so it is asked anew, not the token that it gave.
        if (kind === 'absent' || (kind === 'blank' && !this.#state.facts.loggedIn)) this.#letGo();
        if (this.#token === null) await this.#lookAnew();
        else await this.#check(this.#token, this.#pollMs);
        this.#open?.anchorIfDue();
        this.#open?.sealer.testIfDue();
      });
    } catch (thrown) {
      this.#parts.note('looking for the token failed', thrown);
    } finally {
      this.#parts.onLooked?.();
      if (!this.#closed) this.#timer = setTimeout(() => void this.#look(), this.#pollMs).unref();
    }
  }

  /** Finds out from nothing what is there. Writes nothing. Where only the FLASH is missing the token stays at hand, to be provisioned. `seen`: why it looks. */
  async #lookAnew(seen: string | null = null): Promise<void> {
    try {
      const missing = await this.#presence.remember();
      if (missing !== null) throw new UkeyError('no-token', `the token is not plugged in: ${missing} is not there`);
      this.#token ??= this.#parts.openToken();
      const facts = this.#token.facts();
      this.#lastRung.looked();
      this.#setState(await this.#survey.stateBy(this.#token, facts));
    } catch (thrown) {
      this.#letGo();
      this.#lastRung.lookFailed(thrown);
      this.#setState(await this.#survey.absenceBy(asUkeyError(thrown), this.#state, seen));
    }
  }

  /** After an errand that changes what the token says of itself. Where a ledger is open the token alone is asked. */
  async #lookAgain(): Promise<void> {
    await (this.#open === null || this.#token === null ? this.#lookAnew() : this.#check(this.#token, 0));
  }

  /** Whether what was there is still there. A signature not older than `maxProofAgeMs` stands for asking the token. */
  async #check(token: Token, maxProofAgeMs: number): Promise<void> {
    const signedMs = this.#open?.sealer.lastSignedMs ?? null;
    const isProven = signedMs !== null && this.#parts.clock.monotonicMs() - signedMs < maxProofAgeMs;
    const look = await this.#presence.look(isProven ? null : token);
    const isOther = look.kind === 'same' && look.facts !== null && isOtherToken(this.#state, look.facts);
    if (look.kind === 'same' && !isOther) {
      if (look.facts !== null) this.#takeFacts(look.facts);
      return;
    }
    const reason = look.kind === 'same' ? 'another token is there' : look.reason;
    // From here on commits are refused; what is under way ends in the log's close.
    if (this.#open !== null || look.kind === 'gone') this.#setState({ kind: 'absent', reason });
    await this.#shut();
    this.#letGo();
    if (look.kind !== 'gone') await this.#lookAnew(reason);
  }

  #takeFacts(facts: TokenFacts): void {
    const state = this.#state;
    if (state.kind === 'open' && !facts.loggedIn) this.#onTrouble(this.#open, new UkeyError('locked', 'the token logged out'));
    else if (state.kind === 'open' || state.kind === 'locked' || state.kind === 'blank') this.#setState({ ...state, facts });
  }

  /** A commit failed. Called between turns: what follows takes its own. */
  #onTrouble(failed: Opened | null, error: UkeyError): void {
    if (failed === null || this.#open !== failed || this.#closed) return;
    this.#lastRung.signatureFailed(error, failed.sealer.failuresInARow);
    const act = async (): Promise<void> => {
      const token = this.#token;
      if (this.#open !== failed || token === null) return;
      if (error.code === 'unknown-outcome') await this.#reopen(token);
      else if (error.code !== 'locked') await this.#check(token, 0);
      else {
        await this.#shut();
        this.#logOut(token);
        await this.#lookAnew();
      }
    };
    this.#turns.takeOwn(act).catch((thrown: unknown) => this.#parts.note('after a failed commit', thrown));
  }

  /** Nothing in memory is trusted: the log is closed and read again. The token is logged in still, so no PIN is asked for. What does not open waits for a person. */
  async #reopen(token: Token): Promise<void> {
    this.#setState({ kind: 'starting' });
    await this.#shut();
    let device: Device | null = null;
    try {
      device = await this.#parts.openDevice(this.#parts.readOnly);
      await this.#mount(token, device);
    } catch (thrown) {
      this.#parts.note('the log did not open again', await this.#backOut(token, device, thrown));
    }
  }

  // ---- Letting go

  /** Before a clean close: the KEY learns where the ledger ends. */
  async #settle(): Promise<void> {
    await this.#open?.settled();
    this.#open?.anchor();
  }

  /** Closes the log, which overwrites the data key. New commits are refused from the first line on. */
  async #shut(): Promise<void> {
    const open = this.#open;
    if (open === null) return;
    this.#status = this.#readStatus();
    this.#open = null;
    if (this.#state.kind === 'open') this.#setState({ kind: 'locked', facts: { ...this.#state.facts, loggedIn: false } });
    this.#access.seen.anchor = await open.close();
  }

  #logOut(token: Token): void {
    this.#endLogin('the token did not log out', () => token.logout());
  }

  #letGo(): void {
    this.#endLogin('the token did not close', () => this.#token?.close()); // it is gone: that is why
    this.#token = null;
  }

  #endLogin(what: string, act: () => void): void {
    this.#restoration?.forgetKey();
    try {
      act();
    } catch (thrown) {
      this.#parts.note(what, thrown);
    }
  }

  #readStatus(): HolderStatus {
    const open = this.#open;
    if (open === null) return this.#status;
    return statusWith(this.#status, { ...open.sealer.figures(), usage: open.log.usage(), mirrorFailure: open.mirrorFailure });
  }
}
