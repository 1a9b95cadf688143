// Owns: waiting for a sandbox's process to be ready for the first time, and what is said when it never is.
import { UkeyError } from '#ipc-schema/errors.ts';
import type { TendedProcess } from './tended-process.ts';

export const startWaitMs = 60_000;
/** Deaths of a process that never got ready before the start is given up. */
const startsMax = 4;
const stepMs = 50;

export interface Starting {
  /** For people: `the service`. */
  readonly what: string;
  readonly process: TendedProcess;
  readonly logFile: string;
  isReady(): boolean;
  /** The start was given up by whoever asked for it. */
  isOver(): boolean;
}

/** Throws internal, with what the process said last, when it does not come up in time or dies again and again; busy when the start is over. */
export async function started({ what, process, logFile, isReady, isOver }: Starting): Promise<void> {
  const endMs = performance.now() + startWaitMs;
  while (!isReady()) {
    if (isOver()) throw givenUp();
    if (process.failedStarts >= startsMax) throw notStarted(`${what} ended ${startsMax} times while starting`, process, logFile);
    if (performance.now() > endMs) throw notStarted(`${what} did not start within ${startWaitMs / 1000} s`, process, logFile);
    await new Promise((resolve) => setTimeout(resolve, stepMs));
  }
}

export function givenUp(): UkeyError {
  return new UkeyError('busy', 'the sandbox is being stopped');
}

function notStarted(what: string, process: TendedProcess, logFile: string): UkeyError {
  const why = process.lastWords();
  return new UkeyError('internal', why === '' ? what : `${what}: ${why}`, { action: `See ${logFile}.` });
}
