// Owns: how long the certificate of the KEY in force lasts: from when on it is renewed, and from when on a person is told. Pure.
// Invariants: renewing begins long before a person is told, so that only what does not get through needs one; failed attempts are ever rarer, by monotonic
// time, and never stop while the certificate lasts. One that has ended is not renewed: then another token takes its place (ukeyctl token replace).
import { readCertificate } from '#ipc-schema/signers.ts';

export const warnDays = 60;
const dayMs = 24 * 3_600_000;
/** Renewing begins in the last quarter of the term, and at most so many days before its end. */
export const renewalShare = 0.25;
export const renewalDays = 120;
/** Pause after an attempt that failed: the first, and the longest. It doubles in between. */
export const renewalFirstPauseMs = 15 * 60_000;
export const renewalLongestPauseMs = 24 * 3_600_000;

export interface CertificateTerm {
  readonly fromMs: number;
  readonly untilMs: number;
}

/** `certificate`: DER. Throws invalid-request. */
export function termOf(certificate: Uint8Array): CertificateTerm {
  const { validFromDate, validToDate } = readCertificate(certificate);
  return { fromMs: validFromDate.getTime(), untilMs: validToDate.getTime() };
}

/** Whole days that are left, 0 when it is over; null while nobody needs to act. */
export function daysToTell({ untilMs }: CertificateTerm, nowMs: number): number | null {
  const days = Math.max(0, Math.floor((untilMs - nowMs) / dayMs));
  return days < warnDays ? days : null;
}

export interface RenewalFacts {
  readonly term: CertificateTerm;
  /** By the server's signature. */
  readonly nowMs: number;
  /** Attempts that failed in a row, and how long ago the last one ended (monotonic). */
  readonly failures: number;
  readonly sinceFailureMs: number;
}

/** `early`: nothing is to be done yet. `wait`: the last attempt failed a moment ago. `ended`: too late. */
export type RenewalDecision = 'early' | 'wait' | 'renew' | 'ended';

export function decideRenewal({ term, nowMs, failures, sinceFailureMs }: RenewalFacts): RenewalDecision {
  const { fromMs, untilMs } = term;
  if (nowMs >= untilMs) return 'ended';
  if (untilMs - nowMs > Math.min((untilMs - fromMs) * renewalShare, renewalDays * dayMs)) return 'early';
  return failures > 0 && sinceFailureMs < renewalPauseMs(failures) ? 'wait' : 'renew';
}

function renewalPauseMs(failures: number): number {
  return Math.min(renewalFirstPauseMs * 2 ** Math.min(failures - 1, 30), renewalLongestPauseMs);
}
