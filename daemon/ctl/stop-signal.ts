// Owns: when a command that stays up shall end.
// Invariants: a second SIGINT or SIGTERM ends the process at once: whoever asks twice does not want to wait.

export interface StopSignal {
  readonly given: Promise<void>;
  isGiven(): boolean;
  give(): void;
}

const parentWatchMs = 500;
const forcedStatus = 130;

/** SIGTERM, SIGINT, SIGHUP; and the end of an npm that started this process: it ends on a signal without passing it on. */
export function stopSignal(): StopSignal {
  let isGiven = false;
  let wake: () => void = () => undefined;
  const given = new Promise<void>((resolve) => {
    wake = resolve;
  });
  const give = (): void => {
    isGiven = true;
    wake();
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (isGiven) process.exit(forcedStatus);
      give();
    });
  }
  if (process.env['npm_command'] !== undefined) {
    const parent = process.ppid;
    setInterval(() => {
      if (process.ppid !== parent) give();
    }, parentWatchMs).unref();
  }
  return { given, isGiven: () => isGiven, give };
}
