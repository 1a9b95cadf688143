// Owns: who is asking. Decided once per connection: by the door, or by `hello` and `authenticate` (SPEC.md, Handshake).
// Invariants: a challenge is fresh and answered at most once; an unknown or removed terminal takes the same path and time as a
// wrong secret and gets the same answer; a terminal that is removed or given a new secret loses its open connections
// at the next request, event or sweep. Secrets are looked up, compared and forgotten.
// Must not: know methods or sockets.
import { timingSafeEqual } from 'node:crypto';
import { UkeyError } from '#ipc-schema/errors.ts';
import { clientMac, macEquals, nonceBytes, secretBytes, serviceMac } from '#ipc-schema/handshake.ts';
import type { Role } from '#ipc-schema/methods.ts';

export type DoorKind = 'till' | 'admin';

export interface Caller {
  readonly door: DoorKind;
  /** null: came through the admin door and named no terminal. */
  readonly terminal: string | null;
  readonly roles: readonly Role[];
  /** Name of the only token that it may use; null: it may use any. */
  readonly token: string | null;
  /** For the audit trail: `admin` for whoever came through the admin door, also as a terminal; else the terminal's name. */
  readonly label: string;
  /** What the program called itself in `hello`; not proven. */
  readonly client: string | null;
}

export interface Terminal {
  readonly id: string;
  readonly role: Role;
  readonly secret: Uint8Array;
  /** Name of the only token that it may use. */
  readonly token?: string | undefined;
  readonly disabled?: boolean;
}

export type FindTerminal = (id: string) => Terminal | null;

/** Opening the admin door is the proof: its socket belongs to the service's user alone. */
const adminRoles: readonly Role[] = ['admin', 'operator'];

export interface IntroductionOptions {
  readonly door: DoorKind;
  readonly findTerminal: FindTerminal;
  readonly randomBytes: (lengthBytes: number) => Uint8Array;
}

export class Introduction {
  readonly #door: DoorKind;
  readonly #findTerminal: FindTerminal;
  readonly #randomBytes: (lengthBytes: number) => Uint8Array;
  #caller: Caller | null;
  #client: string | null = null;
  #challenge: string | null = null;
  #secret: Uint8Array | null = null;
  #failures = 0;

  constructor({ door, findTerminal, randomBytes }: IntroductionOptions) {
    this.#door = door;
    this.#findTerminal = findTerminal;
    this.#randomBytes = randomBytes;
    this.#caller = door === 'admin' ? { door, terminal: null, roles: adminRoles, token: null, label: 'admin', client: null } : null;
  }

  /** null: a stranger. */
  get caller(): Caller | null {
    return this.#caller;
  }

  /** Who shares a turn: the connections of one terminal, those of the admin door. Null: nobody is known to share one yet. */
  get group(): string | null {
    if (this.#caller === null) return null;
    return this.#door === 'admin' || this.#caller.terminal === null ? 'admin' : `till ${this.#caller.terminal}`;
  }

  get failures(): number {
    return this.#failures;
  }

  /** Answers the challenge. A second `hello` replaces the first one's. */
  hello(client: string): string {
    this.#client = client;
    this.#challenge = Buffer.from(this.#randomBytes(nonceBytes)).toString('hex');
    if (this.#caller !== null) this.#caller = { ...this.#caller, client };
    return this.#challenge;
  }

  /** Throws unauthenticated, whatever of terminal, secret or order was wrong; the challenge is spent either way. */
  authenticate({ terminal, nonce, mac }: { readonly terminal: string; readonly nonce: string; readonly mac: string }): {
    role: Role;
    mac: string;
  } {
    const challenge = this.#challenge;
    this.#challenge = null;
    if (this.#secret !== null) throw new UkeyError('invalid-request', 'this connection has authenticated already');
    if (challenge === null) throw this.#failed('hello comes first: each challenge is good for one authenticate');
    const found = this.#findTerminal(terminal);
    const known = found !== null && found.disabled !== true;
    // For a stranger's name the same work is done with a secret that nobody has; it is made in any case, so that its making tells nothing.
    const decoy = this.#randomBytes(secretBytes);
    const secret = known ? found.secret : decoy;
    const handshake = { challenge, nonce, terminal };
    const proven = macEquals(clientMac(secret, handshake), mac);
    const proof = serviceMac(secret, handshake);
    if (!proven || !known) throw this.#failed('no such terminal, or not its secret');
    this.#secret = Uint8Array.from(secret);
    this.#caller = {
      door: this.#door,
      terminal,
      roles: [found.role, ...(this.#door === 'admin' ? adminRoles : [])],
      token: found.token ?? null,
      label: this.#door === 'admin' ? 'admin' : terminal,
      client: this.#client,
    };
    return { role: found.role, mac: proof };
  }

  /** Throws unauthenticated for a stranger, and for a terminal that is no longer what it proved to be. */
  need(): Caller {
    if (this.#caller === null) throw new UkeyError('unauthenticated', 'before authenticate only hello answers');
    if (!this.holds()) throw noLonger();
    return this.#caller;
  }

  /** False: a terminal proved who it was, and has been removed or enrolled anew since. */
  holds(): boolean {
    const terminal = this.#caller?.terminal ?? null;
    if (terminal === null || this.#secret === null) return true;
    const now = this.#findTerminal(terminal);
    return now !== null && now.disabled !== true && sameBytes(now.secret, this.#secret);
  }

  #failed(text: string): UkeyError {
    this.#failures++;
    return new UkeyError('unauthenticated', text);
  }
}

/** What a connection is told whose terminal holds no longer. */
export const noLonger = (): UkeyError => new UkeyError('unauthenticated', 'this terminal has been removed or enrolled anew');

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}
