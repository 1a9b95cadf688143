// Owns: whether token and FLASH are still the ones that were opened: by asking the token, and by looking at files and devices.
// Invariants: only looks (stat), never opens. The FLASH is known by device and inode, so that another image under its name counts as
// gone; a plain file beside it by being there, because its owner may replace it as a whole (a soft token does at each login).
// Must not: decide what follows; joined.ts does.
import { stat } from 'node:fs/promises';
import { asUkeyError } from '#ipc-schema/errors.ts';
import type { Token, TokenFacts } from '#token/token.ts';

/** How often the token is looked at: plug and unplug are noticed within twice this. */
export const presencePollMs = 500;
/** A module that fails otherwise than with "no token" this often in a row counts as gone. */
const strikesMax = 2;

export type Look =
  | { readonly kind: 'gone'; readonly reason: string }
  /** Another thing lies where the FLASH was, or something came where nothing was. */
  | { readonly kind: 'changed'; readonly reason: string }
  /** `facts` null: the token was not asked, or did not answer clearly. */
  | { readonly kind: 'same'; readonly facts: TokenFacts | null };

export class Presence {
  readonly #flashPath: string | null;
  readonly #paths: readonly string[];
  /** Path -> what was there, or null where nothing was. */
  #remembered: ReadonlyMap<string, string | null> = new Map();
  #strikes = 0;

  /** `flashPath` null: a FLASH without a path (tests in memory). */
  constructor(flashPath: string | null, presencePaths: readonly string[]) {
    this.#flashPath = flashPath;
    this.#paths = presencePaths;
  }

  /** What is there now is what must stay. Returns a presence path where nothing is, or null. */
  async remember(): Promise<string | null> {
    this.#strikes = 0;
    this.#remembered = await this.#sight();
    return this.#paths.find((path) => this.#remembered.get(path) === null) ?? null;
  }

  /** There was no FLASH when it was last remembered. */
  get isFlashMissing(): boolean {
    return this.#flashPath !== null && this.#remembered.get(this.#flashPath) === null;
  }

  /** `token` null: a signature of the last moments proved it as well as a question would. */
  async look(token: Token | null): Promise<Look> {
    let facts: TokenFacts | null = null;
    try {
      facts = token?.facts() ?? null;
      this.#strikes = 0;
    } catch (thrown) {
      const { code, message } = asUkeyError(thrown);
      this.#strikes += 1;
      if (code === 'no-token' || this.#strikes >= strikesMax) return { kind: 'gone', reason: message };
    }
    const now = await this.#sight();
    for (const [path, before] of this.#remembered) {
      if (now.get(path) !== before) return { kind: 'changed', reason: before === null ? `${path} is new` : `${path} is gone` };
    }
    return { kind: 'same', facts };
  }

  async #sight(): Promise<ReadonlyMap<string, string | null>> {
    const seen = new Map<string, string | null>();
    // One after the other: paths on a mount that hangs take one thread of Node's pool, and FLASH and mirror are written on.
    for (const path of this.#flashPath === null ? this.#paths : [...this.#paths, this.#flashPath])
      seen.set(path, await seenAt(path, path === this.#flashPath));
    return seen;
  }
}

async function seenAt(path: string, isFlash: boolean): Promise<string | null> {
  try {
    const entry = await stat(path, { bigint: true });
    if (entry.isFile() && !isFlash) return 'file';
    // A device node keeps its inode when another device takes its name, so the device number behind it (rdev) counts too.
    return `${entry.dev}:${entry.ino}:${entry.rdev}`;
  } catch {
    // Missing, or out of reach (its folder is gone, its mount hangs up): to a holder that is the same.
    return null;
  }
}
