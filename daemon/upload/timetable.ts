// Owns: when the service probes on its own; the only door to node-cron.
// Invariants: node-cron is driven by the wall clock: a jump stalls it or sets it asleep, so the clock is watched against the monotonic one and
// the task is built anew at a jump. One run at a time; a run that fails is the caller's to handle.
import cron, { type ScheduledTask } from 'node-cron';
import type { Clock } from '#ground/clock.ts';
import { UkeyError } from '#ipc-schema/errors.ts';

const watchMs = 1_000;
const jumpMs = 5_000;

export interface Timetable {
  /** When the next run is due by the wall clock, or null. */
  nextRun(): Date | null;
  close(): void;
}

/** Throws invalid-request when the expression is no timetable. */
export function openTimetable(expression: string, clock: Clock, run: () => void): Timetable {
  if (!cron.validate(expression))
    throw new UkeyError('invalid-request', 'upload.probe is not a cron expression', { field: 'upload.probe' });
  const build = (): ScheduledTask => cron.schedule(expression, run, { noOverlap: true });
  let task = build();
  let offsetMs = clock.wallMs() - clock.monotonicMs();
  const watch = setInterval(() => {
    const nowMs = clock.wallMs() - clock.monotonicMs();
    if (Math.abs(nowMs - offsetMs) < jumpMs) return;
    offsetMs = nowMs;
    void task.destroy();
    task = build();
    run();
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
