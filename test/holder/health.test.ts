// Shows: the health of a token: the self test on its timetable, failures that are counted and told, and when a new process is asked for.
import { setTimeout } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { selfTestEveryMs, selfTestIdleMs } from '#holder/sealer.ts';
import { codesOf, DraftMaker, provisionHolder } from '#test/support/holder-rig.ts';
import { StepClock } from '#test/support/step-clock.ts';
import { MemoryRig } from './rigs.ts';

describe('the health of a token', { timeout: 30_000 }, () => {
  test('is tested by a signature while tills are quiet, not while they ask, and told', async () => {
    const clock = new StepClock();
    const rig = new MemoryRig({ clock });
    await rig.watch.until('blank');
    const drafts = new DraftMaker(await provisionHolder(rig.holder));
    const tested = async (): Promise<number | null> => (await rig.holder.status()).selfTestAtMs;
    await setTimeout(60);
    expect(await tested()).toBeNull();
    clock.pass(selfTestEveryMs - 1_000);
    await rig.holder.commit(drafts.next(['a'])).durable;
    clock.pass(2_000);
    await setTimeout(60);
    expect(await tested()).toBeNull(); // long ago, but a till has just asked
    clock.pass(selfTestIdleMs);
    await expect.poll(tested).toBe(clock.wallMs());
    const signatures = rig.token.signatures;
    await setTimeout(60);
    expect(rig.token.signatures).toBe(signatures);
    expect(await rig.holder.status()).toMatchObject({ signFailures: 0, lastFailure: null });
    await rig.holder.close();
  });

  test('that fails its test is told, and the next batch is tried all the same', async () => {
    const clock = new StepClock();
    const rig = new MemoryRig({ clock });
    await rig.watch.until('blank');
    const drafts = new DraftMaker(await provisionHolder(rig.holder));
    rig.token.signFaults.push('token-failed');
    clock.pass(selfTestEveryMs);
    await expect.poll(async () => (await rig.holder.status()).signFailures).toBe(1);
    expect((await rig.holder.status()).lastFailure).toMatchObject({ atMs: clock.wallMs(), reason: expect.stringMatching(/^token-failed/) });
    await rig.holder.commit(drafts.next(['a'])).durable;
    await rig.holder.close();
  });

  test('that signs wrongly again and again asks for a new process, once', async () => {
    const hopeless: string[] = [];
    const rig = new MemoryRig({ onHopeless: (reason) => hopeless.push(reason) });
    await rig.watch.until('blank');
    const drafts = new DraftMaker(await provisionHolder(rig.holder));
    rig.token.signFaults.push('token-failed', 'token-failed', null, 'token-failed', 'token-failed', 'token-failed');
    for (let at = 0; at < 2; at += 1)
      expect(await codesOf(rig.holder.commit(drafts.peek(['x'])))).toEqual(['token-failed', 'token-failed']);
    await rig.holder.commit(drafts.next(['a'])).durable;
    expect(hopeless).toEqual([]);
    for (let at = 0; at < 3; at += 1)
      expect(await codesOf(rig.holder.commit(drafts.peek(['x'])))).toEqual(['token-failed', 'token-failed']);
    await expect.poll(() => hopeless).toHaveLength(1);
    await rig.holder.close();
  });
});
