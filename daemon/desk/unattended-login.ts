// Owns: the login without a person, from a file that the service manager provides, and the memory of how that went.
// Invariants: one automatic try per stored PIN: it is recorded durably before the call; a PIN that was wrong is not tried again until the file says
// another, whatever the file is called, and however often the service starts (a service manager makes the file anew each time). A try whose
// end is unknown is repeated only while the token shows that none was used up, or, where tokens do not show it, a bounded number of times.
// The record never holds anything of a PIN that may be right: only a salted scrypt hash of one that was wrong.
import { randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, HolderState } from '#holder/holder.ts';
import { asUkeyError, type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import { check, z } from '#ipc-schema/schema.ts';
import { writeDurably } from './durable-file.ts';

const pinFileMaxBytes = 256;
const hashBytes = 32;
const saltBytes = 16;
const scryptCost = { N: 2 ** 15, r: 8, p: 1, maxmem: 64 * 1024 * 1024 };
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

/** Ends of a login that say that the PIN was not looked at, or was right. */
const untried: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['no-token', 'pin-last-try', 'pin-locked', 'busy', 'halted', 'locked']);

export class UnattendedLogin {
  readonly #pinFile: string;
  readonly #recordFile: string;
  readonly #holder: Holder;
  readonly #log: Log;
  #underWay = false;
  #suspended = false;

  constructor(parts: { readonly pinFile: string; readonly stateDirectory: string; readonly holder: Holder; readonly log: Log }) {
    this.#pinFile = parts.pinFile;
    this.#recordFile = path.join(parts.stateDirectory, 'stored-pin-try.json');
    this.#holder = parts.holder;
    this.#log = parts.log;
  }

  /** A person wants the token locked: nobody logs in unasked until it was away or a person has logged in. */
  suspend(): void {
    this.#suspended = true;
  }

  resume(): void {
    this.#suspended = false;
  }

  /** Called whenever the token waits for its PIN. Never rejects: without a good stored PIN the service stays `locked` and says so. */
  async attempt(state: Locked): Promise<void> {
    if (this.#underWay || this.#suspended) return;
    this.#underWay = true;
    let pin: Buffer | null = null;
    try {
      pin = this.#readPin();
      const trying = await this.#decide(state, pin);
      if (trying !== null) await this.#try(pin, trying);
    } catch (error) {
      this.#log.warn('unattended login did not work', { code: asUkeyError(error).code, why: whyOf(error) });
    } finally {
      pin?.fill(0);
      this.#underWay = false;
    }
  }

  async #try(pin: Buffer, trying: Trying): Promise<void> {
    const given = Buffer.from(pin); // the holder overwrites what it was given
    this.#write(trying); // durable before the try: a crash from here on counts as a try with unknown end
    try {
      await this.#holder.login(given, false);
      this.#write({ kind: 'worked' });
    } catch (error) {
      const { code } = asUkeyError(error);
      if (code === 'pin-incorrect') this.#write(await wrongRecord(pin));
      else if (untried.has(code)) this.#write(trying.proven ? { kind: 'worked' } : null);
      throw error;
    } finally {
      given.fill(0);
    }
  }

  /** What to record for a try, or null: no try. */
  async #decide({ facts }: Locked, pin: Buffer): Promise<Trying | null> {
    const { triesLeft, pinState } = facts;
    const record = this.#read();
    if (record === null || record.kind === 'worked') return { kind: 'trying', proven: record !== null, unknownEnds: 0, triesLeft };
    if (record.kind === 'wrong') {
      if (!(await isSamePin(record, pin))) return { kind: 'trying', proven: false, unknownEnds: 0, triesLeft };
      this.#log.warn('the stored PIN was tried once and is wrong; a person must log in or replace it', { file: this.#pinFile });
      return null;
    }
    const unknownEnds = record.unknownEnds + 1;
    const noneUsedUp = record.triesLeft !== null && triesLeft !== null && triesLeft >= record.triesLeft;
    const mayStill = pinState === 'ok' && unknownEnds <= unknownEndsMax[record.proven ? 'proven' : 'unproven'];
    if (noneUsedUp || (triesLeft === null && mayStill)) return { ...record, unknownEnds, triesLeft };
    this.#log.warn('the end of the last try with the stored PIN is not known; a person must log in', { file: this.#pinFile });
    return null;
  }

  #readPin(): Buffer {
    const content = readFileSync(this.#pinFile);
    const end = content.indexOf('\n');
    const pin = content.subarray(0, end < 0 ? content.length : end);
    if (pin.length === 0 || content.length > pinFileMaxBytes)
      throw new UkeyError('invalid-request', 'the PIN file holds no PIN in its first line');
    return pin;
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
    if (record === null) rmSync(this.#recordFile, { force: true });
    else writeDurably(this.#recordFile, JSON.stringify(record));
  }
}

const derive = promisify<Buffer, Buffer, number, typeof scryptCost, Buffer>(scrypt);

async function wrongRecord(pin: Buffer): Promise<TryRecord> {
  const salt = randomBytes(saltBytes);
  const hash = await derive(pin, salt, hashBytes, scryptCost);
  return { kind: 'wrong', salt: salt.toString('hex'), hash: hash.toString('hex') };
}

async function isSamePin(record: Extract<TryRecord, { kind: 'wrong' }>, pin: Buffer): Promise<boolean> {
  const hash = Buffer.from(record.hash, 'hex');
  return hash.length === hashBytes && timingSafeEqual(hash, await derive(pin, Buffer.from(record.salt, 'hex'), hashBytes, scryptCost));
}
