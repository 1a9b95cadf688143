import { describe, expect, it } from 'vitest';
import { Introduction } from '#ipc/caller.ts';
import { Connection, type ConnectionHost } from '#ipc/connection.ts';
import { defaultLimits, type Limits } from '#ipc/limits.ts';
import type { Wire } from '#ipc/listen.ts';
import { encodeRequest } from '#ipc-schema/envelope.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';

/** A connection on a wire and a clock that the test moves. */
function connection(limits: Partial<Limits> = {}) {
  const state = {
    nowMs: 0,
    pendingBytes: 0,
    paused: false,
    finished: false,
    destroyed: false,
    sent: [] as string[],
    turns: 0,
    /** Others have used up what one turn of the loop has. */
    mustWait: false,
    answers: [] as (() => void)[],
  };
  const wire: Wire = {
    send: (frames) => void state.sent.push(frames),
    get pendingBytes() {
      return state.pendingBytes;
    },
    pause: () => {
      state.paused = true;
    },
    resume: () => {
      state.paused = false;
    },
    finish: () => {
      state.finished = true;
    },
    destroy: () => {
      state.destroyed = true;
    },
  };
  const host: ConnectionHost = {
    limits: { ...defaultLimits, ...limits },
    nowMs: () => state.nowMs,
    dispatch: (_, { method }) => (method === 'now' ? 'done' : new Promise((resolve) => void state.answers.push(() => resolve('done')))),
    comes: (arrived) => {
      if (state.mustWait) return false;
      arrived.turn();
      return true;
    },
    awaitTurn: () => void state.turns++,
    settled: () => undefined,
    disclose: (thrown) => asUkeyError(thrown),
    answered: () => undefined,
    closed: () => undefined,
  };
  const introduction = new Introduction({ door: 'admin', findTerminal: () => null, randomBytes: (length) => new Uint8Array(length) });
  const one = new Connection(1, wire, introduction, host);
  /** `padBytes`: blanks that make a frame as large as one with many lines. */
  const ask = (method: string, count = 1, padBytes = 0): void => {
    const frame = (id: number): string => `${' '.repeat(padBytes)}${encodeRequest(id, method, {})}`;
    one.onBytes(Buffer.from(Array.from({ length: count }, (_, id) => frame(id)).join('')));
  };
  return { one, state, ask, wire, host };
}

/** Frames go out at the end of the turn. */
const turnEnd = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('a connection', () => {
  it('writes all answers of one turn at once', async () => {
    const { state, ask } = connection();
    ask('now', 5);
    await turnEnd();
    expect(state.sent).toHaveLength(1);
    expect(state.sent[0]?.split('\f')).toHaveLength(6);
  });

  it('joins answers that one event has made ready, however many', async () => {
    const { state, ask } = connection();
    ask('later', 10);
    for (const answer of state.answers) answer();
    await turnEnd();
    expect(state.sent).toHaveLength(1);
  });

  it('handles so many bytes, then waits for its next turn too', () => {
    const { one, state, ask } = connection({ bytesPerTurn: 1_500 });
    ask('later', 5, 1_000);
    expect([state.answers.length, state.turns, state.paused]).toEqual([2, 1, true]);
    one.turn();
    expect(state.answers).toHaveLength(4);
  });

  it('is read no further while its open requests are large, and goes on when one is answered', async () => {
    const { one, state, ask } = connection({ requestBytesPerConnection: 2_500 });
    ask('later', 5, 1_000);
    expect([state.answers.length, state.turns, state.paused]).toEqual([3, 0, true]);
    state.answers[0]?.();
    await turnEnd();
    one.turn();
    expect(state.answers).toHaveLength(4);
  });

  it('handles so many frames, then waits for its next turn and is read no further', () => {
    const { one, state, ask } = connection({ framesPerTurn: 4 });
    ask('later', 10);
    expect([state.answers.length, state.turns, state.paused]).toEqual([4, 1, true]);
    one.turn();
    expect([state.answers.length, state.turns, state.paused]).toEqual([8, 2, true]);
    one.turn();
    expect([state.answers.length, state.turns, state.paused]).toEqual([10, 2, false]);
  });

  it('with too many open requests goes on when one of them is answered', async () => {
    const { one, state, ask } = connection({ requestsPerConnection: 3 });
    ask('later', 5);
    expect([state.answers.length, state.turns, state.paused]).toEqual([3, 0, true]);
    state.answers[0]?.();
    await turnEnd();
    expect(state.turns).toBe(1);
    one.turn();
    expect(state.answers).toHaveLength(4);
  });

  it('with too much output waiting goes on when that has been taken', async () => {
    const { one, state, ask } = connection();
    state.pendingBytes = defaultLimits.outputHighBytes + 1;
    ask('now');
    expect(state.paused).toBe(true);
    state.pendingBytes = 0;
    one.onDrain();
    expect(state.turns).toBe(1);
    one.turn();
    await turnEnd();
    expect(state.sent).toHaveLength(1);
    expect(state.paused).toBe(false);
  });

  it('is closed when its output has stood still too long', async () => {
    const { one, state, ask } = connection();
    ask('now');
    await turnEnd();
    state.pendingBytes = 10;
    one.sweep(state.nowMs);
    one.sweep(state.nowMs + defaultLimits.outputWaitMs);
    expect(state.destroyed).toBe(false);
    one.sweep(state.nowMs + defaultLimits.outputWaitMs + 1);
    expect(state.destroyed).toBe(true);
  });

  it('is left open while its output moves, or when all has been taken, however long that was ago', async () => {
    const { one, state, ask } = connection();
    ask('now');
    await turnEnd();
    for (const pendingBytes of [30, 20, 10, 0, 0, 5, 4]) {
      state.pendingBytes = pendingBytes;
      state.nowMs += defaultLimits.outputWaitMs;
      one.sweep(state.nowMs);
    }
    expect(state.destroyed || state.finished).toBe(false);
  });

  it('of a known caller may be silent for ever, in the middle of a frame only for a while', () => {
    const { one, state } = connection();
    one.sweep(1e9);
    expect(state.finished).toBe(false);
    state.nowMs = 1e9;
    one.onBytes(Buffer.from('{'));
    state.nowMs += defaultLimits.frameWaitMs + 1;
    one.sweep(state.nowMs);
    expect(state.finished).toBe(true);
    state.nowMs += defaultLimits.lingerMs;
    one.sweep(state.nowMs);
    expect(state.destroyed).toBe(false);
    one.sweep(state.nowMs + 1);
    expect(state.destroyed).toBe(true);
  });

  it('is not blamed for a frame that has just begun because another ended in the same piece', () => {
    const { one, state } = connection();
    const frame = encodeRequest(1, 'now', {});
    one.onBytes(Buffer.from(frame.slice(0, 10)));
    for (let sent = 0; sent < 5; sent += 1) {
      state.nowMs += defaultLimits.frameWaitMs / 2;
      one.onBytes(Buffer.from(frame.slice(10) + frame.slice(0, 10)));
      one.sweep(state.nowMs);
    }
    expect(state.finished).toBe(false);
    state.nowMs += defaultLimits.frameWaitMs + 1;
    one.sweep(state.nowMs);
    expect(state.finished).toBe(true);
  });

  it('of nobody yet shares its turns with no other', () => {
    const introduction = new Introduction({ door: 'till', findTerminal: () => null, randomBytes: (length) => new Uint8Array(length) });
    const { wire, host } = connection();
    const groups = [1, 2].map((number) => new Connection(number, wire, introduction, host).group);
    expect(groups[0]).not.toBe(groups[1]);
  });

  it('waits for its turn where others have used up the time, and is read no further', () => {
    const { one, state, ask } = connection();
    state.mustWait = true;
    ask('later', 2);
    ask('later', 2);
    expect([state.answers.length, state.paused]).toEqual([0, true]);
    state.mustWait = false;
    one.turn();
    expect([state.answers.length, state.paused]).toEqual([4, false]);
  });

  it('whose peer has stopped sending ends after the last answer', async () => {
    const { one, state, ask } = connection();
    ask('later');
    one.onEnd();
    expect(state.finished).toBe(false);
    state.answers[0]?.();
    await turnEnd();
    expect([state.sent.length, state.finished]).toEqual([1, true]);
  });
});
