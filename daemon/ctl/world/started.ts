// Owns: waiting for a sandbox's process to be ready for the first time, and what is said when it never is.
import { readFileSync } from 'node:fs';
import { UkeyError } from '#ipc-schema/errors.ts';
import type { TendedProcess } from './tended-process.ts';

export const startWaitMs = 60_000;
/** Deaths of a process that never got ready before the start is given up. */
const startsMax = 4;
const lastLineMaxChars = 400;
const stepMs = 50;

export interface Starting {
  /** For people: `the service`. */
  readonly what: string;
  readonly process: TendedProcess | null;
  readonly logFile: string;
  isReady(): boolean;
}

/** Throws internal, with the end of the log, when it does not come up in time or dies again and again. */
export async function started({ what, process, logFile, isReady }: Starting): Promise<void> {
  const endMs = performance.now() + startWaitMs;
  while (!isReady()) {
    if ((process?.failedStarts ?? 0) >= startsMax) throw notStarted(`${what} ended ${startsMax} times while starting`, logFile);
    if (performance.now() > endMs) throw notStarted(`${what} did not start within ${startWaitMs / 1000} s`, logFile);
    await new Promise((resolve) => setTimeout(resolve, stepMs));
  }
}

function notStarted(what: string, logFile: string): UkeyError {
  return new UkeyError('internal', what, { action: `See ${logFile}, which ends with: ${lastLine(logFile)}` });
}

/** The last line that says something. */
function lastLine(file: string): string {
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
  return (lines.findLast((line) => /error/i.test(line)) ?? lines.at(-1) ?? '').slice(0, lastLineMaxChars);
}
