// Owns: what the holder's state is while nobody is logged in: from the token's facts and what its FLASH says without a key.
// Invariants: opens the FLASH for reading only and closes it again; a blank token never hides that ours is gone.
import type { KeyObject } from 'node:crypto';
import { asUkeyError, UkeyError } from '#ipc-schema/errors.ts';
import type { Token, TokenFacts } from '#token/token.ts';
import type { HolderState } from './holder.ts';
import { readOwnHeader } from './mounting.ts';
import type { HolderParts } from './parts.ts';
import type { Presence } from './presence.ts';

/** `missing`: there is no FLASH, but one may be made. */
export type FlashState = 'formatted' | 'blank' | 'missing';

type SurveyParts = Pick<HolderParts, 'openDevice' | 'createDevice' | 'flashPath' | 'mirror'>;

export class Survey {
  readonly #parts: SurveyParts;
  readonly #presence: Presence;
  /** A provisioned token was here since this holder started. */
  #hadToken = false;

  constructor(parts: SurveyParts, presence: Presence) {
    this.#parts = parts;
    this.#presence = presence;
  }

  /** Presence has just been remembered. */
  async stateBy(token: Token, facts: TokenFacts): Promise<HolderState> {
    if (!facts.provisioned) return await this.#stateByBlank(facts);
    this.#hadToken = true;
    if (this.#presence.isFlashMissing) {
      // Logged in without a FLASH: between the two steps of provisioning.
      return facts.loggedIn ? { kind: 'blank', facts } : { kind: 'absent', reason: `the FLASH ${this.#parts.flashPath ?? ''} is missing` };
    }
    try {
      return (await this.readFlash(token)) === 'formatted' ? { kind: 'locked', facts } : { kind: 'blank', facts };
    } catch (thrown) {
      const { code, message } = asUkeyError(thrown);
      return code === 'halted' ? { kind: 'halted', reason: message } : { kind: 'absent', reason: message };
    }
  }

  /** Throws no-token (missing, and none may be made) and halted (another token's, not a store, newer, damaged). */
  async readFlash(token: Token | null): Promise<FlashState> {
    try {
      const device = await this.#parts.openDevice(true);
      try {
        const publicKey = token === null ? null : publicKeyIfShown(token);
        return (await readOwnHeader(device, publicKey, this.#parts.mirror ?? null)) === null ? 'blank' : 'formatted';
      } finally {
        await device.close();
      }
    } catch (thrown) {
      if (this.#parts.createDevice !== undefined && thrown instanceof UkeyError && thrown.code === 'no-token') return 'missing';
      throw thrown;
    }
  }

  /** Some modules show a blank token in the place of one that was pulled. */
  async #stateByBlank(facts: TokenFacts): Promise<HolderState> {
    if (this.#hadToken) return { kind: 'absent', reason: 'the token is gone, and a blank one is there' };
    // A FLASH that holds something else is no reason to hide a blank token: formatting refuses it, unless it is asked to erase.
    const flash = this.#presence.isFlashMissing ? 'missing' : await this.readFlash(null).catch(() => 'blank');
    return flash === 'formatted' ? { kind: 'absent', reason: 'the FLASH belongs to a token that is not there' } : { kind: 'blank', facts };
  }
}

/** Null where the module shows its public key only after login. */
export function publicKeyIfShown(token: Token): KeyObject | null {
  try {
    return token.publicKey();
  } catch (thrown) {
    if (thrown instanceof UkeyError && thrown.code === 'locked') return null;
    throw thrown;
  }
}
