// Owns: the errands backlog.status and backlog.flush: what waits for the ticket server, and why.
import { UkeyError } from '#ipc-schema/errors.ts';
import { money, sumTextOf } from '#ipc-schema/money.ts';
import type { BacklogStatus, Link } from '#ipc-schema/status.ts';
import type { Custody } from '#ledger/custody.ts';
import type { Ledger } from '#ledger/ledger.ts';
import type { UploadReport } from '#upload/account.ts';

export interface BacklogParts {
  readonly custody: Custody;
  link(): Link;
  report(): UploadReport;
  nextProbe(): Date | null;
  probe(): Promise<void>;
}

const instant = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());

export function backlogOf(parts: BacklogParts, ledger: Ledger): BacklogStatus {
  const { pending } = ledger.tip;
  const report = parts.report();
  return {
    pending: pending.count,
    oldest: instant(pending.oldestMs),
    amount: sumTextOf(money(pending.amount), ledger.decimals),
    link: parts.link(),
    lastAttempt: instant(report.lastAttemptMs),
    lastError: report.lastError,
    parked: [...report.parked],
    nextProbe: parts.nextProbe()?.toISOString() ?? null,
  };
}

export async function status(parts: BacklogParts): Promise<BacklogStatus> {
  return backlogOf(parts, await parts.custody.use());
}

/** Probes and uploads now. Throws offline when the server cannot be proven. */
export async function flush(parts: BacklogParts): Promise<BacklogStatus> {
  const ledger = await parts.custody.use();
  await parts.probe();
  if (parts.link() !== 'up') throw new UkeyError('offline', parts.report().lastError ?? 'the ticket server does not answer');
  return backlogOf(parts, ledger);
}
