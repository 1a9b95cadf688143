// Owns: waiting until a sandbox's service can issue, and what is said when it will not.
// Invariants: no PIN is tried here: the service logs in by itself, once per PIN; a standing that only a person ends (locked, halted) ends the waiting
// at once. `service.identity` is asked because it waits while a login or a mount is under way, so that `locked` then is no moment.
import { endAs } from '#ctl/exit-codes.ts';
import { type ErrorCode, UkeyError } from '#ipc-schema/errors.ts';
import type { ServiceStatus } from '#ipc-schema/status.ts';
import { givenUp } from './started.ts';

const openWaitMs = 120_000;
/** A module that was loaded tells soon whether a token is there. */
const absentWaitMs = 15_000;
const stepMs = 50;

export interface Opening {
  /** What service.identity answers: null, or the code of its refusal. */
  identity(): Promise<ErrorCode | null>;
  /** Null: no answer at this moment. */
  status(): Promise<ServiceStatus | null>;
  readonly logFile: string;
  isOver(): boolean;
}

/** Throws locked, pin-locked, halted or no-token with what the service says of it, busy when it is over. */
export async function tokenOpen(service: Opening): Promise<ServiceStatus> {
  const startMs = performance.now();
  for (;;) {
    if (service.isOver()) throw givenUp();
    const code = await service.identity();
    const status = await service.status();
    if (service.isOver()) throw givenUp();
    if (code === null && status !== null) return status;
    const waitedMs = performance.now() - startMs;
    if (code === 'halted' && status?.standing === 'halted') throw closed(service, status, 'halted');
    if (code === 'locked' && status?.standing === 'locked')
      throw closed(service, status, status.token?.pinState === 'locked' ? 'pin-locked' : 'locked');
    if (code === 'no-token' && status?.standing === 'no-token' && waitedMs > absentWaitMs) throw closed(service, status, 'no-token');
    if (waitedMs > openWaitMs) throw new UkeyError('internal', 'the service does not get ready', { action: `See ${service.logFile}.` });
    await new Promise((resolve) => setTimeout(resolve, stepMs));
  }
}

function closed(service: Opening, { standing, reason, action }: ServiceStatus, code: ErrorCode): UkeyError {
  return endAs('refused', new UkeyError(code, `the service is ${standing}: ${reason}`, { action: `${action} See ${service.logFile}.` }));
}
