// Owns: how a terminal and the service prove to each other that both know the terminal's secret (SPEC.md, Handshake).
// Invariants: the secret itself never crosses the socket; each side's proof carries its own label, so that neither can be
// sent back as the other's; proofs are compared in constant time; both sides use these very functions.
// Must not: make randomness (challenge and nonce are handed in) or remember anything.
import { createHmac, timingSafeEqual } from 'node:crypto';

/** Random bytes behind a challenge or a nonce. */
export const nonceBytes = 32;

/** A secret is random bytes, made when a terminal is enrolled. */
export const secretBytes = 32;

const macPattern = /^[0-9a-f]{64}$/;

export interface Handshake {
  /** From the service's answer to `hello`. */
  readonly challenge: string;
  /** From the client's `authenticate`. The method table admits hex alone: no line feed can shift the lines under the MAC. */
  readonly nonce: string;
  readonly terminal: string;
}

/** hex HMAC-SHA-256(secret, "ukeyd/1 client\n" + challenge + "\n" + nonce + "\n" + terminal) */
export function clientMac(secret: Uint8Array, handshake: Handshake): string {
  return mac(secret, 'client', handshake);
}

/** The same with "ukeyd/1 server\n": the service's proof, which a client must check before it sends anything else. */
export function serviceMac(secret: Uint8Array, handshake: Handshake): string {
  return mac(secret, 'server', handshake);
}

function mac(secret: Uint8Array, side: 'client' | 'server', { challenge, nonce, terminal }: Handshake): string {
  return createHmac('sha256', secret).update(`ukeyd/1 ${side}\n${challenge}\n${nonce}\n${terminal}`, 'utf8').digest('hex');
}

/** Constant time in the content; anything that is not 64 lower-case hex digits is unequal after the same comparison. */
export function macEquals(expected: string, given: string): boolean {
  const wellFormed = macPattern.test(given);
  const equal = timingSafeEqual(Buffer.from(expected, 'latin1'), Buffer.from(wellFormed ? given : '0'.repeat(64), 'latin1'));
  return wellFormed && equal;
}
