// Owns: what the holder's state is while nobody is logged in: from the token's facts and what its FLASH says without a key.
// Invariants: opens the FLASH for reading only and closes it again; a blank token never hides that ours is gone.
import type { KeyObject } from 'node:crypto';
import { asUkeyError, errorTable, UkeyError } from '#ipc-schema/errors.ts';
import { isOfSilence } from '#store/salvage.ts';
import type { Token, TokenFacts } from '#token/token.ts';
import type { HolderState } from './holder.ts';
import { readOwnHeader } from './mounting.ts';
import type { HolderParts } from './parts.ts';
import type { Presence } from './presence.ts';

/** `missing`: there is no FLASH, but one may be made. */
export type FlashState = 'formatted' | 'blank' | 'missing';

export const provisionedAction = 'Nothing is left to provision: log in (ukeyctl login), or plug in a blank token for another ledger.';
const silentAction = 'Plug the token in again. If it stays so the FLASH is broken: put another in its place (ukeyctl store restore).';
const plugOrProvision = 'Plug the token in; where none was provisioned yet, provision it (ukeyctl provision).';

type SurveyParts = Pick<HolderParts, 'openDevice' | 'createDevice' | 'openBlank' | 'flashPath' | 'mirror'>;

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
      if (isOfSilence(thrown)) return { kind: 'absent', reason: message, action: silentAction, plugged: true };
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

  /** Nothing of the FLASH can be read, or the token is gone. It may come back, so whatever an opening took for damage was none. */
  async isFlashSilent(token: Token): Promise<boolean> {
    return await this.readFlash(token).then(
      () => false,
      (thrown) => asUkeyError(thrown).code !== 'halted' || isOfSilence(thrown),
    );
  }

  /**
   * No token could be opened. What was seen when ours left (`before`, `seen`) says more than a module that then fails without saying of what.
   * `seen`: why it was looked for, or null.
   */
  async absenceBy(error: UkeyError, before: HolderState, seen: string | null): Promise<HolderState> {
    const { code, message: reason } = error;
    const isSpecific = error.action !== errorTable[code].action;
    if (this.#hadToken && code !== 'no-token' && !isSpecific) {
      if (seen !== null) return { kind: 'absent', reason: seen };
      if (before.kind === 'absent') return before;
    }
    const action = isSpecific ? error.action : code === 'no-token' && (await this.#mayBeMade()) ? plugOrProvision : null;
    return { kind: 'absent', reason, ...(action === null ? {} : { action }) };
  }

  /** Nothing was provisioned here yet, as far as can be seen: provisioning makes token and FLASH, or takes a blank one. */
  async #mayBeMade(): Promise<boolean> {
    if (this.#hadToken || this.#parts.openBlank === undefined) return false;
    if (this.#presence.isFlashMissing) return true;
    return (await this.readFlash(null).catch(() => 'formatted')) !== 'formatted';
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
