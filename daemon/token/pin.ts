// Owns: a PIN as bytes: its limits, its wiping, and the one place where it becomes a string.
// Invariants: an impossible PIN (empty, too long, not UTF-8, with a control character such as a forgotten line feed) is
// refused before any device hears of it, because some modules count even an empty PIN as a try (PKCS#11 v2.40 §5.6 leaves it
// open); no error text carries a PIN or its length.
// Known limit: pkcs11js takes strings only, and neither a JavaScript string nor pkcs11js's own copy can be wiped. So the
// string is made inside the call and never kept; the process that makes it must not dump core.
import { UkeyError } from '#ipc-schema/errors.ts';

/** The widest limits this product knows; a module may state narrower ones (CK_TOKEN_INFO ulMinPinLen, ulMaxPinLen). */
export const pinMinBytes = 1;
export const pinMaxBytes = 255;

export interface PinLimits {
  readonly minBytes: number;
  readonly maxBytes: number;
}

export type PinField = 'pin' | 'soPin' | 'oldPin' | 'newPin';

/** What a module states, cut to sense: some state 0 for both, or a maximum below the minimum. */
export function pinLimits(statedMinBytes: number, statedMaxBytes: number): PinLimits {
  const minBytes = Math.min(Math.max(statedMinBytes, pinMinBytes), pinMaxBytes);
  const maxBytes = statedMaxBytes < minBytes ? pinMaxBytes : Math.min(statedMaxBytes, pinMaxBytes);
  return { minBytes, maxBytes };
}

/** Throws `invalid-request` with the field when the PIN cannot be one. Spends no try. */
export function checkPin(pin: Uint8Array, limits: PinLimits, field: PinField = 'pin'): void {
  if (pin.length === 0) throw new UkeyError('invalid-request', 'an empty PIN was refused before it was tried', { field });
  if (pin.length < limits.minBytes || pin.length > limits.maxBytes) {
    throw new UkeyError('invalid-request', `a PIN of this token has ${limits.minBytes} to ${limits.maxBytes} bytes`, { field });
  }
  for (const byte of pin) {
    if (byte < 0x20 || byte === 0x7f) throw new UkeyError('invalid-request', 'the PIN holds a control character', { field });
  }
  pinText(pin, field);
}

/** The string that pkcs11js wants, at the last moment. Throws `invalid-request` when the bytes are not UTF-8. */
export function pinText(pin: Uint8Array, field: PinField = 'pin'): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(pin);
  } catch {
    // The decoder's error is not kept as a cause: it adds nothing, and nothing made from a PIN leaves this file.
    throw new UkeyError('invalid-request', 'the PIN is not UTF-8', { field });
  }
}

/** Overwrites secret bytes in place. */
export function wipe(...secrets: readonly Uint8Array[]): void {
  for (const secret of secrets) secret.fill(0);
}
