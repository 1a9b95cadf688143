// Owns: how long the certificate of the KEY in force lasts, and from when on a person is told. Pure.
// Known limit: a KEY gets no second certificate; before its end another token takes its place (ukeyctl token replace).
import { readCertificate } from '#ipc-schema/signers.ts';

export const warnDays = 60;
const dayMs = 24 * 3_600_000;

/** `certificate`: DER. Throws invalid-request. */
export function certificateUntilMs(certificate: Uint8Array): number {
  return readCertificate(certificate).validToDate.getTime();
}

/** Whole days that are left, 0 when it is over; null while nobody needs to act. */
export function daysToTell(untilMs: number, nowMs: number): number | null {
  const days = Math.max(0, Math.floor((untilMs - nowMs) / dayMs));
  return days < warnDays ? days : null;
}
