// Owns: where the stored PIN comes from: a file of its own, or a credential that the service manager hands over ($CREDENTIALS_DIRECTORY).
// Invariants: a file that others could read is not used, and what is refused says what to do; the content is told nowhere. Read anew at each
// try: whoever replaces the file is heard. A manager's credential is made anew at each start of the service, and changes only so.
// Errors: invalid-request, with who must act.
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';
import path from 'node:path';
import { getSystemErrorMap } from 'node:util';
import type { TokenConfig } from '#ground/config.ts';
import { whyOf } from '#ground/log.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

export type PinPlace =
  | { readonly kind: 'file'; readonly path: string }
  /** `directory`: what the manager has put into CREDENTIALS_DIRECTORY; null: nothing. */
  | { readonly kind: 'credential'; readonly name: string; readonly directory: string | null };

/** Where the stored PIN is, or null: a person logs in. */
export function pinPlaceOf({ pin_file: file, pin_credential: name }: Pick<TokenConfig, 'pin_file' | 'pin_credential'>): PinPlace | null {
  if (name !== undefined) return { kind: 'credential', name, directory: process.env['CREDENTIALS_DIRECTORY'] ?? null };
  return file === undefined ? null : { kind: 'file', path: file };
}

const pinFileMaxBytes = 256;
const [lineFeed, carriageReturn] = [0x0a, 0x0d];
const byHand = 'or log in with the PIN (ukeyctl login).';

/** Of a file, what says who may read it. `mode`: permission bits. */
export interface FileFacts {
  readonly isFile: boolean;
  readonly uid: number;
  readonly mode: number;
}

/** Why a PIN is not taken from such a file; null: it is. `processUid` null: a system without owners and modes. Pure. */
export function refusalOf(kind: PinPlace['kind'], facts: FileFacts, processUid: number | null): string | null {
  if (!facts.isFile) return 'is no file';
  if (processUid === null) return null;
  if (facts.uid !== 0 && facts.uid !== processUid) return `belongs to user ${facts.uid}, who is neither root nor the service's`;
  // Where a manager gives the service access by an ACL, the ACL's mask shows as the group's right to read; the group itself has none.
  const othersMay = kind === 'credential' ? 0o037 : 0o077;
  return (facts.mode & othersMay) === 0 ? null : 'may be read or written by others than its owner';
}

export class PinSource {
  readonly #place: PinPlace;

  constructor(place: PinPlace) {
    this.#place = place;
  }

  /** For people: what to look at. */
  get name(): string {
    const place = this.#place;
    return place.kind === 'file' ? place.path : `the credential ${place.name}`;
  }

  /** Who must do what where the PIN is not the token's. */
  get replaceAction(): string {
    const place = this.#place;
    return place.kind === 'file'
      ? `Put the right PIN into ${place.path}, ${byHand}`
      : `Store the right PIN as ${this.name} and restart the service, ${byHand}`;
  }

  /** The first line, in a buffer that the caller overwrites. */
  read(): Buffer {
    const content = this.#content();
    const lineEnd = content.indexOf(lineFeed);
    let end = lineEnd < 0 ? content.length : lineEnd;
    if (content[end - 1] === carriageReturn) end -= 1;
    if (end > 0 && content.length <= pinFileMaxBytes) return content.subarray(0, end);
    content.fill(0);
    throw this.#unusable('holds no PIN in its first line');
  }

  /** Changes when the file is replaced or written; null: there is none. */
  sight(): string | null {
    const file = this.#file;
    if (file === null) return null;
    try {
      const { dev, ino, mtimeNs, size } = statSync(file, { bigint: true });
      return `${dev}:${ino}:${mtimeNs}:${size}`;
    } catch {
      return null; // no file, no PIN
    }
  }

  get #file(): string | null {
    const place = this.#place;
    if (place.kind === 'file') return place.path;
    return place.directory === null ? null : path.join(place.directory, place.name);
  }

  #content(): Buffer {
    const file = this.#file;
    if (file === null) throw this.#unusable('was not handed over: the service manager has set no CREDENTIALS_DIRECTORY');
    let descriptor: number | null = null;
    try {
      descriptor = openSync(file, 'r');
      const stat = fstatSync(descriptor); // of what was opened: nobody can change the file in between
      const facts = { isFile: stat.isFile(), uid: stat.uid, mode: stat.mode & 0o777 };
      const refusal = refusalOf(this.#place.kind, facts, process.geteuid?.() ?? null);
      if (refusal !== null) throw this.#unusable(refusal, this.#ownerAction);
      const content = Buffer.alloc(pinFileMaxBytes + 1);
      return content.subarray(0, readSync(descriptor, content, 0, content.length, 0));
    } catch (cause) {
      throw cause instanceof UkeyError ? cause : this.#unreadable(cause);
    } finally {
      if (descriptor !== null) closeSync(descriptor);
    }
  }

  #unreadable(cause: unknown): UkeyError {
    const { code, errno } = cause as NodeJS.ErrnoException;
    const isMissing = code === 'ENOENT' && this.#place.kind === 'credential';
    const said = (errno === undefined ? undefined : getSystemErrorMap().get(errno)?.[1]) ?? whyOf(cause);
    return this.#unusable(isMissing ? 'was not handed over: the service manager knows none of this name' : `cannot be read: ${said}`);
  }

  #unusable(why: string, action: string = this.#provideAction): UkeyError {
    return new UkeyError('invalid-request', `${this.name} ${why}`, { action });
  }

  get #provideAction(): string {
    const place = this.#place;
    return place.kind === 'file'
      ? `Put the PIN into the first line of ${place.path}, which the service must be able to read, ${byHand}`
      : `Name ${place.name} in the service's unit (LoadCredential= or LoadCredentialEncrypted=) and restart it, ${byHand}`;
  }

  get #ownerAction(): string {
    const place = this.#place;
    return place.kind === 'file'
      ? `Make ${place.path} a file that its owner alone may read (chmod 600), and root or the service's user its owner, ${byHand}`
      : `Let the service manager hand over ${this.name} (LoadCredential=), and nothing else write to its folder, ${byHand}`;
  }
}
