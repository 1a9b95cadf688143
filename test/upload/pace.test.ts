import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { uploadMaxBatches } from '#ipc-schema/upstream.ts';
import { Pace, paceMs } from '#upload/pace.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function openPace(): { readonly pace: Pace; readonly due: () => number } {
  let due = 0;
  const clock = { wallMs: () => 0, monotonicMs: () => performance.now(), elapsedMs: () => 0 };
  return { pace: new Pace(clock, () => (due += 1)), due: () => due };
}

describe('uploads while tills go on', () => {
  it('begin at once after a pause, then together with what comes within the pace', () => {
    const { pace, due } = openPace();
    expect(pace.mayGo(1)).toBe(true);
    pace.sent();
    expect([pace.mayGo(1), pace.mayGo(2), pace.isWaiting]).toEqual([false, false, true]);
    vi.advanceTimersByTime(paceMs - 1);
    expect(due()).toBe(0);
    vi.advanceTimersByTime(1);
    expect([due(), pace.isWaiting, pace.mayGo(3)]).toEqual([1, false, true]);
    pace.sent();
    vi.advanceTimersByTime(paceMs);
    expect([due(), pace.mayGo(1)]).toEqual([1, true]);
  });

  it('wait for nothing when they are full', () => {
    const { pace } = openPace();
    pace.sent();
    expect(pace.mayGo(uploadMaxBatches)).toBe(true);
    expect(pace.mayGo(uploadMaxBatches - 1)).toBe(false);
    pace.close();
  });

  it('wait for nothing when somebody waits for the acknowledgement, also of what an upload under way does not hold', () => {
    const { pace, due } = openPace();
    pace.sent();
    pace.mayGo(1);
    pace.hurry();
    expect([due(), pace.isWaiting, pace.mayGo(1)]).toEqual([1, false, true]);
    pace.hurry();
    pace.sent();
    expect([pace.mayGo(1), pace.mayGo(1)]).toEqual([true, false]);
    pace.close();
    vi.advanceTimersByTime(paceMs);
    expect(due()).toBe(2);
  });
});
