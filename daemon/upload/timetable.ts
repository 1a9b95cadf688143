// Owns: when the service probes on its own; the only door to node-cron.
// Invariants: node-cron is driven by the wall clock: a jump stalls it or sets it asleep, so the clock is watched against the monotonic one and
// the task is built anew at a jump. One run at a time: a time that comes while one lasts is passed over. `run` must not reject.
import cron, { type ScheduledTask, type TaskOptions } from 'node-cron';
import type { Clock } from '#ground/clock.ts';
import { type Log, whyOf } from '#ground/log.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

const watchMs = 1_000;
const jumpMs = 5_000;

export interface Timetable {
  /** When the next run is due by the wall clock, or null. */
  nextRun(): Date | null;
  close(): void;
}

/** Throws invalid-request when the expression is no timetable. */
export function openTimetable(expression: string, clock: Clock, log: Log, run: () => Promise<void>): Timetable {
  if (!cron.validate(expression))
    throw new UkeyError('invalid-request', 'upload.probe is not a cron expression', {
      field: 'upload.probe',
      action: 'Correct the configuration file.',
    });
  let running = false;
  const turn = (): void => {
    if (running) return;
    running = true;
    void run().finally(() => {
      running = false;
    });
  };
  const build = (): ScheduledTask => cron.schedule(expression, turn, { logger: logger(log) });
  let task = build();
  let offsetMs = clock.wallMs() - clock.monotonicMs();
  const watch = setInterval(() => {
    const nowMs = clock.wallMs() - clock.monotonicMs();
    if (Math.abs(nowMs - offsetMs) < jumpMs) return;
    offsetMs = nowMs;
    void task.destroy();
    task = build();
    turn();
  }, watchMs);
  watch.unref();
  return {
    nextRun: () => task.getNextRun(),
    close: () => {
      clearInterval(watch);
      void task.destroy();
    },
  };
}

/** What node-cron has to say (a time missed by a busy loop) belongs into our log, not onto the console. */
function logger(log: Log): NonNullable<TaskOptions['logger']> {
  return {
    debug: (message) => log.debug('timetable', { message: whyOf(message) }),
    info: (message) => log.debug('timetable', { message }),
    warn: (message) => log.debug('timetable', { message }),
    error: (message) => log.warn('timetable', { message: whyOf(message) }),
  };
}
