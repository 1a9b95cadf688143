// Owns: one session with one token of a module, and the ladder that wins it back: the same session, a new session, the module anew.
// Invariants: after each rung the token is recognised by its identity before anything is asked of it; handles are worth nothing in
// another `epoch`; C_Login is never on the ladder, because a PIN is never kept and never tried twice.
// After C_Finalize every login is gone, so a call that needs one then ends with `locked`. Several tokens of one
// process and module share that fate, which is why each token has its own holder process.
// Must not: know keys, objects, or what a call does.
import { UkeyError, unreachable } from '#ipc-schema/errors.ts';
import { CkrError, ckrTable, reactionOf } from '#token/ckr.ts';
import { CK, type Cryptoki, type CryptokiTokenInfo, type Handle } from '#token/cryptoki.ts';
import { chooseSlot, findAgain, identityOf, isInitialized, type SlotChoice, type SlotDecision, type SlotEntry } from '#token/slot.ts';

/** `public` calls work without a login. */
export type Need = 'public' | 'login';
/** `first`: on the session as it is. `session`: on a fresh one, which keeps the login. `module`: after C_Finalize and C_Initialize. */
export type Rung = 'first' | 'session' | 'module';
const rungs: readonly Rung[] = ['first', 'session', 'module'];

export class TokenSession {
  readonly cryptoki: Cryptoki;
  readonly #choice: SlotChoice;
  #slot: Handle | null = null;
  #session: Handle | null = null;
  #identity: string | null = null;
  #loggedIn = false;
  #epoch = 0;

  constructor(cryptoki: Cryptoki, choice: SlotChoice) {
    this.cryptoki = cryptoki;
    this.#choice = choice;
  }

  /** Changes whenever handles found before became worthless. */
  get epoch(): number {
    return this.#epoch;
  }

  get loggedIn(): boolean {
    return this.#loggedIn;
  }

  /** Reads the token's facts from the device and notices that it is gone or another. Throws no-token. */
  locate(): SlotEntry {
    let seen = this.#look();
    // A hiccup is asked about once more first: what follows costs the login.
    if (seen.kind === 'gone' && seen.cause !== undefined) seen = this.#look();
    if (seen.kind === 'gone') {
      // Some modules see a token that came back, or a new reader, only after C_Finalize and C_Initialize.
      this.#restartModule();
      seen = this.#look();
    }
    if (seen.kind === 'found') return seen.entry;
    throw new UkeyError('no-token', this.#identity === null ? 'no token fits the choice' : 'the token is in no slot', {
      cause: seen.cause,
    });
  }

  /** Runs `call` on a session, climbing the ladder while the session counts as lost. */
  run<T>(need: Need, call: (session: Handle) => T, { startAt = 'first', endAt = 'module' }: { startAt?: Rung; endAt?: Rung } = {}): T {
    let lost: unknown = null;
    for (const rung of rungs.slice(rungs.indexOf(startAt), rungs.indexOf(endAt) + 1)) {
      try {
        if (rung === 'session') this.renew();
        if (rung === 'module') this.restart();
        const session = this.#open();
        if (need === 'login' && !this.#loggedIn)
          throw new UkeyError('locked', 'nobody is logged in to the token', { cause: lost ?? undefined });
        return call(session);
      } catch (error) {
        const reaction = reactionOf(error);
        if (reaction === 'login-again') this.#forgetLogin();
        if (reaction !== 'retry-session') throw error;
        lost = error;
      }
    }
    throw lost;
  }

  /** A fresh session on the same token. The new one is opened first: closing the last session would log out (PKCS#11 v2.40 §5.6). */
  renew(): void {
    const old = this.#session;
    this.#session = null;
    this.#epoch += 1;
    try {
      this.#open();
    } finally {
      if (old !== null) this.#quietly(() => this.cryptoki.closeSession(old));
    }
  }

  /** The module anew: C_Finalize, C_Initialize, and the same token found again. */
  restart(): void {
    this.#restartModule();
    this.locate();
  }

  /** Asks the module whether the login still stands. */
  refreshLogin(): void {
    if (this.#loggedIn && !this.run('public', (session) => this.#isUserState(session))) this.#forgetLogin();
  }

  /** One C_Login, never repeated. The session is proven first, so that a stale one costs no try. */
  login(userType: number, pin: Uint8Array): void {
    const session = this.run('public', (handle) => {
      this.cryptoki.sessionState(handle);
      return handle;
    });
    try {
      this.cryptoki.login(session, userType, pin);
    } catch (error) {
      const reaction = reactionOf(error);
      // A chip that was away behind a session that looks alive (a TPM): the next login begins with the module anew.
      if (reaction === 'retry-session') this.#endModule();
      if (reaction !== 'already') throw error;
    }
    this.#epoch += 1;
    this.#loggedIn = userType === CK.CKU_USER;
  }

  logout(): void {
    const session = this.#session;
    this.#forgetLogin();
    if (session === null) return;
    try {
      this.cryptoki.logout(session);
    } catch (error) {
      // Nobody was logged in, or the session is gone and the login with it; anything else must be seen.
      const reaction = reactionOf(error);
      if (reaction !== 'login-again' && reaction !== 'retry-session') throw error;
      this.#session = null;
    }
  }

  /** Closes the session; the module stays. */
  close(): void {
    const session = this.#session;
    if (session === null) return;
    this.#session = null;
    this.#forgetLogin();
    this.#quietly(() => this.cryptoki.closeSession(session));
  }

  /** After C_InitToken the token has a new label and serial: takes what is in the slot now as the one. */
  adopt(label: string): CryptokiTokenInfo {
    this.#identity = null;
    const slot = this.#slot;
    const { entries: all } = this.#entries();
    const sameSlot = all.find((entry) => slot !== null && entry.slot.equals(slot) && entry.info.label === label);
    const byLabel = chooseSlot(all, { kind: 'label', label });
    const entry = sameSlot ?? (byLabel.kind === 'found' ? byLabel.entry : null);
    if (entry === null)
      throw new UkeyError('token-failed', 'no token bears the label that C_InitToken was given', {
        action: 'Prepare the token with the tool of its vendor, then provision it with the same PIN (docs/token.md).',
      });
    this.#slot = entry.slot;
    this.#identity = identityOf(entry.info);
    return entry.info;
  }

  #look(): { kind: 'found'; entry: SlotEntry } | { kind: 'gone'; cause?: unknown } {
    try {
      const { entries, lost } = this.#entries();
      const decision = this.#decide(entries);
      switch (decision.kind) {
        case 'none':
          return { kind: 'gone', cause: lost };
        case 'several':
          throw new UkeyError('no-token', `${decision.count} tokens fit the choice`, {
            action: 'Name the token by its serial number or label.',
          });
        case 'found':
          if (this.#slot === null || !decision.entry.slot.equals(this.#slot)) this.#dropSession();
          this.#slot = decision.entry.slot;
          this.#identity = identityOf(decision.entry.info);
          return decision;
        default:
          return unreachable(decision);
      }
    } catch (error) {
      if (reactionOf(error) !== 'retry-session') throw error;
      return { kind: 'gone', cause: error };
    }
  }

  #decide(entries: readonly SlotEntry[]): SlotDecision {
    if (this.#identity === null) return chooseSlot(entries, this.#choice);
    const entry = this.#same(entries, this.#identity);
    return entry === null ? { kind: 'none' } : { kind: 'found', entry };
  }

  /** A blank token has no serial of its own yet: the slot is all there is to know it by. */
  #same(entries: readonly SlotEntry[], identity: string): SlotEntry | null {
    const slot = this.#slot;
    const here = entries.find((entry) => slot !== null && entry.slot.equals(slot));
    return here !== undefined && identityOf(here.info) === identity ? here : findAgain(entries, identity);
  }

  /** `lost`: what a slot answered that could not be asked; it may be the one. */
  #entries(): { entries: SlotEntry[]; lost: unknown } {
    this.cryptoki.initialize();
    const entries: SlotEntry[] = [];
    let lost: unknown;
    for (const slot of this.cryptoki.slots()) {
      try {
        entries.push({ slot, info: this.cryptoki.tokenInfo(slot) });
      } catch (error) {
        // A token that went between the two calls, or another slot's trouble, is no reason to miss ours.
        if (reactionOf(error) !== 'retry-session') throw error;
        lost = error;
      }
    }
    return { entries, lost };
  }

  #open(): Handle {
    if (this.#session !== null) return this.#session;
    const { slot, info } = this.locate();
    if (!isInitialized(info)) throw new UkeyError('token-failed', 'the token is blank: provision it first');
    const session = this.cryptoki.openSession(slot);
    this.#session = session;
    this.#epoch += 1;
    this.#loggedIn = this.#isUserState(session);
    return session;
  }

  #isUserState(session: Handle): boolean {
    const state = this.cryptoki.sessionState(session);
    return state === CK.CKS_RW_USER_FUNCTIONS || state === CK.CKS_RO_USER_FUNCTIONS;
  }

  #restartModule(): void {
    this.#endModule();
    this.cryptoki.initialize();
  }

  #endModule(): void {
    this.#dropSession();
    // A refusal of C_Finalize is what a lost module may well answer; C_Initialize decides.
    this.#quietly(() => this.cryptoki.finalize());
  }

  #dropSession(): void {
    this.#session = null;
    this.#forgetLogin();
  }

  #forgetLogin(): void {
    this.#loggedIn = false;
    this.#epoch += 1;
  }

  /** For calls whose refusal means that what they should end has ended already. */
  #quietly(call: () => void): void {
    try {
      call();
    } catch (error) {
      if (!(error instanceof CkrError)) throw error;
    }
  }
}

/** An object that was there is not: what a module shows when the token was pulled under an open session. */
export function vanished(what: string): CkrError {
  return new CkrError(`find ${what}`, ckrTable.CKR_OBJECT_HANDLE_INVALID.value);
}
