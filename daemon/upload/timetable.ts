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
  /** Goes by another expression from now on. Throws invalid-request as `openTimetable`, and then goes on as before. */
  follow(expression: string): void;
  close(): void;
}

function checkExpression(expression: string): void {
  if (cron.validate(expression)) return;
  throw new UkeyError('invalid-request', 'upload.probe is not a cron expression', {
    field: 'upload.probe',
    action: 'Correct the configuration file.',
  });
}

/** Throws invalid-request when the expression is no timetable. */
export function openTimetable(first: string, clock: Clock, log: Log, run: () => Promise<void>): Timetable {
  checkExpression(first);
  let expression = first;
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
  const rebuild = (): void => {
    void task.destroy();
    task = build();
  };
  let offsetMs = clock.wallMs() - clock.monotonicMs();
  const watch = setInterval(() => {
    const nowMs = clock.wallMs() - clock.monotonicMs();
    if (Math.abs(nowMs - offsetMs) < jumpMs) return;
    offsetMs = nowMs;
    rebuild();
    turn();
  }, watchMs);
  watch.unref();
  return {
    nextRun: () => task.getNextRun(),
    follow: (next) => {
      checkExpression(next);
      if (next === expression) return;
      expression = next;
      rebuild();
    },
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
