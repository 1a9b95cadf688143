// Owns: which of a module's tokens is meant, and how the same token is known again. Pure.
// Invariants: slot ids are never remembered as identity (SoftHSM2 and card readers renumber them); a choice that fits two tokens
// is refused, not guessed; a blank token is chosen only when it was asked for or when there is no other.
// Must not: call a module.
import { unreachable } from '#ipc-schema/errors.ts';
import { CK, type CryptokiTokenInfo, type Handle } from '#token/cryptoki.ts';
import type { PinState } from '#token/token.ts';

export type SlotChoice =
  /** The one initialised token; the first blank one when there is none. */
  | { readonly kind: 'only' }
  | { readonly kind: 'blank' }
  | { readonly kind: 'label'; readonly label: string }
  | { readonly kind: 'serial'; readonly serial: string };

export interface SlotEntry {
  readonly slot: Handle;
  readonly info: CryptokiTokenInfo;
}

export const isInitialized = (info: CryptokiTokenInfo): boolean => (info.flags & CK.CKF_TOKEN_INITIALIZED) !== 0;
export const hasUserPin = (info: CryptokiTokenInfo): boolean => (info.flags & CK.CKF_USER_PIN_INITIALIZED) !== 0;

/** The same token says the same thing here in any slot and after any restart. */
export function identityOf(info: CryptokiTokenInfo): string {
  return JSON.stringify([info.manufacturer, info.model, info.serial, info.label]);
}

export type SlotDecision =
  | { readonly kind: 'found'; readonly entry: SlotEntry }
  | { readonly kind: 'none' }
  | { readonly kind: 'several'; readonly count: number };

export function chooseSlot(entries: readonly SlotEntry[], choice: SlotChoice): SlotDecision {
  const initialized = entries.filter((entry) => isInitialized(entry.info));
  const blank = entries.filter((entry) => !isInitialized(entry.info));
  switch (choice.kind) {
    case 'only':
      return initialized.length > 0 ? single(initialized) : first(blank);
    case 'blank':
      return first(blank);
    case 'label':
      return single(initialized.filter((entry) => entry.info.label === choice.label));
    case 'serial':
      return single(initialized.filter((entry) => entry.info.serial === choice.serial));
    default:
      return unreachable(choice);
  }
}

/** The token that was opened before, wherever it is now; null when it is gone. */
export function findAgain(entries: readonly SlotEntry[], identity: string): SlotEntry | null {
  return entries.find((entry) => identityOf(entry.info) === identity) ?? null;
}

/** CK_TOKEN_INFO flags to a state; a module that sets none is `ok` until it locks. */
export function pinStateOf(flags: number): PinState {
  if ((flags & CK.CKF_USER_PIN_LOCKED) !== 0) return 'locked';
  if ((flags & CK.CKF_USER_PIN_FINAL_TRY) !== 0) return 'last';
  if ((flags & CK.CKF_USER_PIN_COUNT_LOW) !== 0) return 'low';
  return 'ok';
}

function first(entries: readonly SlotEntry[]): SlotDecision {
  const [entry] = entries;
  return entry === undefined ? { kind: 'none' } : { kind: 'found', entry };
}

function single(entries: readonly SlotEntry[]): SlotDecision {
  return entries.length > 1 ? { kind: 'several', count: entries.length } : first(entries);
}
