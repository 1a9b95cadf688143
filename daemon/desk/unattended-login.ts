// Owns: the login without a person, with a stored PIN (pin-source.ts), and the memory of how that went.
// Invariants: one automatic try per stored PIN: it is recorded durably before the call; a PIN that was wrong is not tried again until the file says
// another, wherever it comes from, and however often the service starts (a service manager makes the file anew each time). A try whose
// end is unknown is repeated only while the token shows that none was used up, or, where tokens do not show it, a bounded number of times.
// The record never holds anything of a PIN that may be right: only a salted scrypt hash of one that was wrong. A try that failed for another
// reason than the PIN is repeated by a timer, ever more rarely, while the token stays locked and nobody locked it on purpose.
import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { getSystemErrorMap, promisify } from 'node:util';
import { writeDurably } from '#ground/durable-file.ts';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, HolderState } from '#holder/holder.ts';
import { asUkeyError, type ErrorCode, errorTable, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { check, z } from '#ipc-schema/schema.ts';
import type { StoredPin } from '#ipc-schema/status.ts';
import type { LockedWhy } from '#ledger/standing.ts';
import { type PinPlace, PinSource } from './pin-source.ts';

const hashBytes = 32;
const saltBytes = 16;
const scryptCost = { N: 2 ** 15, r: 8, p: 1, maxmem: 64 * 1024 * 1024 };
/** Pause before a try that failed is repeated: the first, and the longest. It doubles in between. */
export const retryFirstMs = 1_000;
export const retryLongestMs = 30_000;
/** Tries in a row whose end is not known, where the token shows no number of tries left. */
const unknownEndsMax = { proven: 8, unproven: 1 } as const;

const recordSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('trying'),
    /** The last automatic try before this worked. */
    proven: z.boolean(),
    unknownEnds: z.int().min(0),
    triesLeft: z.int().min(0).nullable(),
  }),
  z.strictObject({ kind: z.literal('worked') }),
  z.strictObject({ kind: z.literal('wrong'), salt: z.string(), hash: z.string() }),
]);
type TryRecord = z.infer<typeof recordSchema>;
type Trying = Extract<TryRecord, { kind: 'trying' }>;
type Locked = Extract<HolderState, { kind: 'locked' }>;

type Refused = LockedWhy & { readonly kind: 'refuse' };
type Wrong = Extract<TryRecord, { kind: 'wrong' }>;

/** Ends of a login that say that the PIN was not looked at, or was right. */
const untried: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['no-token', 'pin-last-try', 'pin-locked', 'busy', 'halted', 'locked']);

const byHand = 'or log in with the PIN (ukeyctl login).';

export interface UnattendedParts {
  readonly pin: PinPlace;
  readonly stateDirectory: string;
  readonly holder: Holder;
  readonly log: Log;
  /** Told of each attempt that the timer begins: callers may wait for it. */
  onRetry?(attempt: Promise<void>): void;
  /** Told of each try that the token has judged, or that was not answered; `code` null: it opened. */
  onTried?(code: ErrorCode | null): void;
  readonly retryFirstMs?: number;
}

export class UnattendedLogin {
  readonly #source: PinSource;
  readonly #recordFile: string;
  readonly #holder: Holder;
  readonly #log: Log;
  readonly #onRetry: (attempt: Promise<void>) => void;
  readonly #onTried: (code: ErrorCode | null) => void;
  readonly #firstMs: number;
  #underWay = false;
  #suspended = false;
  /** The token as it waits for its PIN; null while it does not. */
  #locked: Locked | null = null;
  #why: LockedWhy | null = null;
  /** The PIN that was found wrong, whether or not its record could be kept. */
  #wrong: Wrong | null = null;
  /** How the PIN of the file fares, and the file that it was read from. */
  #known: { readonly fate: 'works' | 'wrong'; readonly sight: string | null } | null = null;
  #retryMs: number;
  #timer: NodeJS.Timeout | null = null;

  constructor(parts: UnattendedParts) {
    this.#source = new PinSource(parts.pin);
    this.#recordFile = path.join(parts.stateDirectory, 'stored-pin-try.json');
    this.#holder = parts.holder;
    this.#log = parts.log;
    this.#onRetry = parts.onRetry ?? (() => undefined);
    this.#onTried = parts.onTried ?? (() => undefined);
    this.#firstMs = parts.retryFirstMs ?? retryFirstMs;
    this.#retryMs = this.#firstMs;
  }

  /** Why the stored PIN has not opened the token that waits for it; null where nothing is to be said. */
  get why(): LockedWhy | null {
    return this.#why;
  }

  /** What is known of the PIN that lies in the file now. */
  get storedPin(): StoredPin {
    return this.#known !== null && this.#known.sight === this.#source.sight() ? this.#known.fate : 'unknown';
  }

  /**
   * The token's PIN is about to become `newPin`: a stored PIN that is another is known to be wrong then, and no try is spent on it. Recorded before
   * the change, so that a crash cannot lead to one; what is answered takes it back where nothing was changed. Never rejects.
   */
  async foresee(newPin: Uint8Array): Promise<() => void> {
    const stored = this.#storedOrNull();
    if (stored === null || isSame(stored, newPin)) return () => undefined;
    const before = { wrong: this.#wrong, known: this.#known, record: this.#read() };
    await this.#keepWrong(stored);
    stored.fill(0);
    return () => {
      this.#wrong = before.wrong;
      this.#known = before.known;
      this.#writeQuietly(before.record);
    };
  }

  /** `pin` is the token's, as a person has shown: what is stored is either that or wrong. Never rejects. */
  async learn(pin: Uint8Array): Promise<void> {
    const stored = this.#storedOrNull();
    if (stored === null) return;
    if (isSame(stored, pin)) {
      this.#wrong = null;
      this.#know('works');
      this.#writeQuietly({ kind: 'worked' });
    } else if (this.storedPin !== 'wrong') {
      await this.#keepWrong(stored);
      this.#log.warn('the stored PIN is not the PIN of the token; it is not tried until the file changes', { file: this.#source.name });
    }
    stored.fill(0);
  }

  /** A person wants the token locked: nobody logs in unasked until it was away or a person has logged in. */
  /** False: it was suspended already, and is not the caller's to let go. */
  suspend(): boolean {
    const isNews = !this.#suspended;
    this.#suspended = true;
    this.#rest();
    return isNews;
  }

  resume(): void {
    this.#suspended = false;
  }

  /** The token does not wait for its PIN any more: it is open, gone, or being opened. */
  leave(): void {
    this.#locked = null;
    this.#retryMs = this.#firstMs;
    this.#rest();
  }

  close(): void {
    this.#suspended = true;
    this.leave();
  }

  /** Called whenever the token waits for its PIN. Never rejects: without a good stored PIN the service stays `locked` and says so. */
  async attempt(state: Locked): Promise<void> {
    this.#locked = state;
    if (this.#underWay || this.#suspended) return;
    this.#underWay = true;
    this.#clearTimer();
    let pin: Buffer | null = null;
    let why: LockedWhy | null = null;
    try {
      pin = this.#source.read();
      const decision = await this.#decide(state, pin);
      if (decision.kind === 'refuse') why = decision;
      else if (!this.#suspended) await this.#try(pin, decision);
    } catch (error) {
      const { code, message, action } = asUkeyError(error);
      this.#log.warn('unattended login did not work', { code, why: whyOf(error) });
      why = code === 'pin-incorrect' ? this.#wrongWhy : { reason: `the stored PIN could not be used: ${message}`, action };
    } finally {
      pin?.fill(0);
      this.#underWay = false;
    }
    if (why !== null) this.#later(why);
  }

  /** Also where the PIN itself was refused: what is decided then tries nothing, but sees that the file was replaced. */
  #later(why: LockedWhy): void {
    if (this.#locked === null || this.#suspended) return;
    this.#why = why;
    this.#clearTimer();
    this.#timer = setTimeout(() => {
      if (this.#locked !== null) this.#onRetry(this.attempt(this.#locked)); // never rejects
    }, this.#retryMs).unref();
    this.#retryMs = Math.min(this.#retryMs * 2, retryLongestMs);
  }

  #rest(): void {
    this.#why = null;
    this.#clearTimer();
  }

  #clearTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  get #wrongWhy(): LockedWhy {
    return {
      reason: 'the stored PIN was refused; it is not tried again until the file changes',
      action: this.#source.replaceAction,
    };
  }

  async #try(pin: Buffer, trying: Trying): Promise<void> {
    const given = Buffer.from(pin); // the holder overwrites what it was given
    this.#write(trying); // durable before the try: a crash from here on counts as a try with unknown end
    try {
      await this.#holder.login(given, false);
      this.#know('works');
      this.#write({ kind: 'worked' });
      this.#onTried(null);
    } catch (error) {
      const { code } = asUkeyError(error);
      if (!untried.has(code)) this.#onTried(code);
      if (code === 'pin-incorrect') await this.#keepWrong(pin);
      else if (untried.has(code)) this.#write(trying.proven ? { kind: 'worked' } : null);
      throw error;
    } finally {
      given.fill(0);
    }
  }

  /** Known from here on in this process, and durably unless the state folder takes nothing: then each look at the file tries to keep it. */
  async #keepWrong(pin: Buffer): Promise<void> {
    this.#wrong = await wrongRecord(pin);
    this.#know('wrong');
    this.#writeQuietly(this.#wrong);
  }

  #know(fate: 'works' | 'wrong'): void {
    this.#known = { fate, sight: this.#source.sight() };
  }

  #storedOrNull(): Buffer | null {
    try {
      return this.#source.read();
    } catch (error) {
      this.#log.debug('there is no stored PIN to compare with', { why: whyOf(error) });
      return null;
    }
  }

  #writeQuietly(record: TryRecord | null): void {
    try {
      this.#write(record);
    } catch (error) {
      this.#log.error('what is known of the stored PIN could not be kept', { why: whyOf(error) });
    }
  }

  /** What to record for a try, or why none is made. */
  async #decide({ facts }: Locked, pin: Buffer): Promise<Trying | Refused> {
    const { triesLeft, pinState } = facts;
    const kept = this.#read();
    const record = this.#wrong ?? kept;
    if (record === null || record.kind === 'worked') return { kind: 'trying', proven: record !== null, unknownEnds: 0, triesLeft };
    if (record.kind === 'wrong') {
      if (!(await isSamePin(record, pin))) {
        this.#wrong = null;
        return { kind: 'trying', proven: false, unknownEnds: 0, triesLeft };
      }
      if (this.#wrong === null)
        this.#log.warn('the stored PIN was tried once and is wrong; a person must log in or replace it', { file: this.#source.name });
      this.#wrong = record;
      this.#know('wrong');
      if (kept?.kind !== 'wrong') this.#writeQuietly(record);
      return { kind: 'refuse', ...this.#wrongWhy };
    }
    const unknownEnds = record.unknownEnds + 1;
    const noneUsedUp = record.triesLeft !== null && triesLeft !== null && triesLeft >= record.triesLeft;
    const mayStill = pinState === 'ok' && unknownEnds <= unknownEndsMax[record.proven ? 'proven' : 'unproven'];
    if (noneUsedUp || (triesLeft === null && mayStill)) return { ...record, unknownEnds, triesLeft };
    this.#log.warn('the end of the last try with the stored PIN is not known; a person must log in', { file: this.#source.name });
    const reason = 'how the last try with the stored PIN ended is not known, and another may use up a try';
    return { kind: 'refuse', reason, action: errorTable.locked.action };
  }

  #read(): TryRecord | null {
    try {
      return check(recordSchema, decodeJson(readFileSync(this.#recordFile)));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
      this.#log.warn('the record of the stored PIN is unreadable and is made anew', { why: whyOf(cause) });
      return null;
    }
  }

  #write(record: TryRecord | null): void {
    try {
      if (record === null) rmSync(this.#recordFile, { force: true });
      else writeDurably(this.#recordFile, JSON.stringify(record));
    } catch (thrown) {
      const cause = thrown instanceof UkeyError ? thrown.cause : thrown; // the words of the system itself
      const isFull = ['ENOSPC', 'EDQUOT'].includes((cause as NodeJS.ErrnoException).code ?? '');
      const action = isFull
        ? 'Make room on the disk that holds the state folder.'
        : `Let the service write to the state folder ${path.dirname(this.#recordFile)}, ${byHand}`;
      throw new UkeyError('internal', systemText(cause), { cause, action });
    }
  }
}

/** What the system says, without the call and its arguments. */
function systemText(thrown: unknown): string {
  const { errno } = thrown as NodeJS.ErrnoException;
  return (errno === undefined ? undefined : getSystemErrorMap().get(errno)?.[1]) ?? whyOf(thrown);
}

const derive = promisify<Buffer, Buffer, number, typeof scryptCost, Buffer>(scrypt);

async function wrongRecord(pin: Buffer): Promise<Wrong> {
  const salt = randomBytes(saltBytes);
  const hash = await derive(pin, salt, hashBytes, scryptCost);
  return { kind: 'wrong', salt: salt.toString('hex'), hash: hash.toString('hex') };
}

const isSame = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && timingSafeEqual(a, b);

async function isSamePin(record: Wrong, pin: Buffer): Promise<boolean> {
  const hash = Buffer.from(record.hash, 'hex');
  return hash.length === hashBytes && timingSafeEqual(hash, await derive(pin, Buffer.from(record.salt, 'hex'), hashBytes, scryptCost));
}
