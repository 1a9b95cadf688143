// Owns: the errands session.login and session.logout, and the unattended login from a file that the service manager provides.
// Invariants: a PIN lives in one buffer that is overwritten after the try; a stored PIN is tried once: the try is recorded durably before the call
// and the record goes only when it worked, so that no restart spends another try on a PIN that was wrong.
import { readFileSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { type Log, whyOf } from '#ground/log.ts';
import type { Holder, HolderState } from '#holder/holder.ts';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson } from '#ipc-schema/json.ts';
import type { Params, Result } from '#ipc-schema/methods.ts';
import { check, z } from '#ipc-schema/schema.ts';
import type { Custody } from '#ledger/custody.ts';
import { writeDurably } from './durable-file.ts';

export interface SessionParts {
  readonly holder: Holder;
  readonly custody: Custody;
}

const pinFileMaxBytes = 256;

export async function login(parts: SessionParts, params: Params<'session.login'>): Promise<Result<'session.login'>> {
  const pin = Buffer.from(params.pin, 'utf8');
  try {
    await parts.holder.login(pin, params.useLastTry === true);
  } finally {
    pin.fill(0);
  }
  await parts.custody.use(); // the ledger is read before the answer: whoever logged in may issue at once
  return { standing: parts.custody.standing().standing, triesLeft: triesLeft(parts.custody.state) };
}

export async function logout(parts: SessionParts): Promise<Result<'session.logout'>> {
  await parts.custody.drained();
  await parts.holder.logout();
  return { standing: parts.custody.standing().standing };
}

function triesLeft(state: HolderState): number | null {
  return 'facts' in state ? state.facts.triesLeft : null;
}

const trySchema = z.strictObject({ file: z.string(), outcome: z.enum(['trying', 'wrong']) });
type TryRecord = z.infer<typeof trySchema>;

export class UnattendedLogin {
  readonly #pinFile: string;
  readonly #record: string;
  readonly #holder: Holder;
  readonly #log: Log;

  constructor(parts: { readonly pinFile: string; readonly stateDirectory: string; readonly holder: Holder; readonly log: Log }) {
    this.#pinFile = parts.pinFile;
    this.#record = path.join(parts.stateDirectory, 'stored-pin-try.json');
    this.#holder = parts.holder;
    this.#log = parts.log;
  }

  /** Called whenever the token waits for its PIN. Never rejects: without a good stored PIN the service stays `locked` and says so. */
  async attempt(state: Extract<HolderState, { kind: 'locked' }>): Promise<void> {
    let pin: Buffer | null = null;
    try {
      const file = this.#identity();
      if (file === null || !this.#mayTry(file, state)) return;
      pin = this.#readPin();
      this.#write({ file, outcome: 'trying' }); // durable before the try: a crash from here on counts as a try
      await this.#holder.login(pin, false);
      rmSync(this.#record, { force: true });
    } catch (error) {
      this.#refused(asUkeyError(error));
    } finally {
      pin?.fill(0);
    }
  }

  #refused(error: UkeyError): void {
    const file = this.#identity();
    if (error.code === 'pin-incorrect' && file !== null) this.#write({ file, outcome: 'wrong' });
    // Any other end (token gone, driver hung) says nothing about the PIN.
    else if (error.code !== 'pin-incorrect') rmSync(this.#record, { force: true });
    this.#log.warn('unattended login did not work', { code: error.code, why: whyOf(error) });
  }

  /** A wrong PIN is not tried again until the file changes. A try with unknown end is repeated only while the token shows no used-up try. */
  #mayTry(file: string, state: Extract<HolderState, { kind: 'locked' }>): boolean {
    const record = this.#read();
    if (record === null || record.file !== file) return true;
    if (record.outcome === 'trying' && state.facts.pinState === 'ok') return true;
    this.#log.warn('the stored PIN was tried once and did not work; a person must log in or replace it', { file: this.#pinFile });
    return false;
  }

  /** Names this very content without saying anything about it. */
  #identity(): string | null {
    try {
      const { dev, ino, size, mtimeMs } = statSync(this.#pinFile);
      return [dev, ino, size, Math.floor(mtimeMs)].join('-');
    } catch (cause) {
      this.#log.warn('the PIN file cannot be read', { file: this.#pinFile, why: whyOf(cause) });
      return null;
    }
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
      return check(trySchema, decodeJson(readFileSync(this.#record)));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null;
      this.#log.warn('the record of the stored PIN is unreadable and is made anew', { why: whyOf(cause) });
      return null;
    }
  }

  #write(record: TryRecord): void {
    writeDurably(this.#record, JSON.stringify(record));
  }
}
