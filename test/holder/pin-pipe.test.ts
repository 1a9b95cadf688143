// The way of PINs into the holder process: what the channel carries, what the pipe brings, and what is left with the sender.
import type { ChildProcess } from 'node:child_process';
import { expect, test } from 'vitest';
import { type Call, pinsOf } from '#holder/messages.ts';
import { sendPins } from '#holder/pin-pipe.ts';
import { spawnHolder } from '#holder/spawn.ts';

const bytes = (text: string): Buffer => Buffer.from(text, 'latin1');

async function through(child: ChildProcess, calls: readonly Call[]): Promise<unknown[]> {
  const answers: unknown[] = [];
  const all = Promise.withResolvers<unknown[]>();
  child.on('message', (answer) => {
    if (answers.push(answer) === calls.length) all.resolve(answers);
  });
  child.on('exit', () => all.reject(new Error('the process ended')));
  for (const call of calls) {
    sendPins(child, pinsOf(call));
    child.send(call, () => undefined);
  }
  return await all.promise;
}

test('PINs come by the pipe, in order, also of calls that are sent at once; the channel carries zeros, and nothing is left', async () => {
  const child = spawnHolder(new URL('./pin-echo-child.ts', import.meta.url));
  const [pin, oldPin, newPin, soPin] = [bytes('2468'), bytes('old \xe9'), bytes('n'.repeat(255)), bytes('97531')];
  try {
    const answers = await through(child, [
      { kind: 'login', id: 1, pin, useLastTry: false },
      { kind: 'changePin', id: 2, change: { oldPin, newPin, useLastTry: false } },
      { kind: 'status', id: 3 },
      { kind: 'beginRestore', id: 4, options: { from: 'copy', pin: soPin, soPin: null, label: null, ticket: null, erase: false } },
    ]);
    expect(answers).toEqual([
      { came: ['\0'.repeat(4)], brought: ['2468'] },
      { came: ['\0'.repeat(5), '\0'.repeat(255)], brought: ['old \xe9', 'n'.repeat(255)] },
      { came: [], brought: [] },
      { came: ['\0'.repeat(5)], brought: ['97531'] },
    ]);
    for (const left of [pin, oldPin, newPin, soPin]) expect(left.every((byte) => byte === 0)).toBe(true);
  } finally {
    child.kill('SIGKILL');
  }
});
