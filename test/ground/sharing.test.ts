import { describe, expect, test } from 'vitest';
import { sharing } from '#ground/sharing.ts';

interface Made {
  readonly settle: PromiseWithResolvers<number>;
}

function rig(): { readonly ask: () => Promise<number>; readonly made: Made[] } {
  const made: Made[] = [];
  const ask = sharing(() => {
    const settle = Promise.withResolvers<number>();
    made.push({ settle });
    return settle.promise;
  });
  return { ask, made };
}

describe('what is shared by all who ask at once', () => {
  test('is made anew for those who asked while it was being made, once for all of them', async () => {
    const { ask, made } = rig();
    const first = ask();
    const later = [ask(), ask(), ask()];
    expect(made).toHaveLength(1);
    made[0]?.settle.resolve(1);
    expect(await first).toBe(1);
    expect(made).toHaveLength(2);
    const last = ask(); // the second has begun before this
    made[1]?.settle.resolve(2);
    expect(await Promise.all(later)).toEqual([2, 2, 2]);
    made[2]?.settle.resolve(3);
    expect(await last).toBe(3);
    const alone = ask();
    expect(made).toHaveLength(4);
    made[3]?.settle.resolve(4);
    expect(await alone).toBe(4);
  });

  test('is made once at a time, whenever it is asked for, and fails for those alone who shared the failure', async () => {
    const { ask, made } = rig();
    const first = ask();
    const second = ask();
    void first.catch(() => undefined).then(() => void ask().catch(() => undefined)); // between the end of one and the beginning of the next
    made[0]?.settle.reject(new Error('one'));
    await expect(first).rejects.toThrow('one');
    await Promise.resolve();
    expect(made).toHaveLength(2);
    made[1]?.settle.resolve(2);
    expect(await second).toBe(2);
  });

  test('goes on after a making that throws at once', async () => {
    let asked = 0;
    const ask = sharing((): Promise<number> => {
      asked += 1;
      if (asked < 3) throw new Error(`${asked}`);
      return Promise.resolve(asked);
    });
    const [first, second] = [ask(), ask()];
    await expect(first).rejects.toThrow('1');
    await expect(second).rejects.toThrow('2');
    expect(await ask()).toBe(3);
  });
});
