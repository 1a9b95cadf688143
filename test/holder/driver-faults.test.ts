// Shows: the holder in a process of its own over a driver that refuses, hangs, dies and signs wrongly (test/token/shim, over SoftHSM2). Prints what was held.
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DriverRig, percentile, statusDuring, sweepCodes, sweptCalls, sweptCodes } from '#test/support/driver-faults.ts';
import { codeOf, codesOf } from '#test/support/holder-rig.ts';
import { seededRandom, seedOf } from '#test/support/seed.ts';
import { describeSoftHsm } from '#test/support/softhsm.ts';

describeSoftHsm('a driver', (softHsm) => {
  let rig: DriverRig;
  beforeEach(async () => {
    rig = await DriverRig.open(softHsm);
  });
  afterEach(async () => rig.remove());

  describe('that refuses', { timeout: 120_000 }, () => {
    test('any call with any code costs no unasked try of the PIN and loses nothing', async () => {
      const seed = seedOf();
      const random = seededRandom(seed);
      const all = sweptCalls.flatMap((call) => sweptCodes.map((code) => [call, code] as const));
      const cases = Array.from({ length: 24 }, () => all[Math.floor(random() * all.length)] ?? (['C_Sign', 5] as const));
      const { unmapped, crashes, pinTries, lost, hits } = await sweepCodes(rig, cases);
      console.log(
        `seed=${seed} cases=${cases.length} hits=${hits} unmapped=${unmapped.length} crashes=${crashes} pin_tries=${pinTries} lost=${lost}`,
      );
      expect(unmapped).toEqual([]);
      expect([crashes, pinTries, lost]).toEqual([0, 0, 0]);
      expect(hits).toBe(cases.length);
    });

    test('to sign because nobody is logged in any more locks the service, and no PIN is tried', async () => {
      const drafts = await rig.drafts();
      const before = rig.module.calls('C_Login');
      const from = rig.watch.seen.length;
      rig.module.obey({ on: 'C_SignInit', fault: { kind: 'ckr', value: 0x101 }, times: 1 });
      expect(await codesOf(rig.holder.commit(drafts.next(['a'])))).toEqual(['locked', 'locked']);
      await rig.watch.until('locked', from);
      expect(rig.module.calls('C_Login')).toBe(before);
    });

    test('with a code that only a new process mends gets one', async () => {
      const drafts = await rig.drafts();
      const pid = rig.holder.pid();
      const from = rig.watch.seen.length;
      rig.module.obey({ on: 'C_Sign', fault: { kind: 'ckr', value: 0x2 } });
      expect(await codeOf(rig.holder.commit(drafts.next(['a'])).durable)).toBe('token-failed');
      await rig.watch.until('locked', from);
      expect(rig.holder.pid()).not.toBe(pid);
      await rig.heal();
      expect(await rig.stored()).toEqual([]);
    });

    test.each([
      ['a general error', 0x5],
      ['a device error', 0x30],
      ['a code of its vendor', 0x8000_0666],
    ] as const)('to keep an object, with %s, lets the shop open and sell: the anchor alone is not written', async (_name, value) => {
      await rig.holder.logout();
      const before = rig.module.calls('C_Login');
      rig.module.obey({ on: 'C_CreateObject', fault: { kind: 'ckr', value } });
      await rig.login();
      const drafts = await rig.drafts();
      await rig.holder.commit(drafts.next(['a'])).durable;
      await rig.holder.commit(drafts.next(['b'])).durable;
      expect(rig.holder.state().kind).toBe('open');
      expect(rig.module.calls('C_Login')).toBe(before + 1);
      expect(rig.module.asked()).toBeGreaterThan(0);
      await setTimeout(100);
      expect(rig.notes.join()).toContain('the KEY did not take its anchor');
      rig.module.calm();
      expect(await rig.stored()).toEqual(['a', 'b']);
    });

    test('to say that one try is left, is not asked for it', async () => {
      await rig.holder.logout();
      const before = rig.module.calls('C_Login');
      rig.module.obey({ on: 'C_GetTokenInfo', fault: { kind: 'flags', flags: 0x20000 } });
      expect(await codeOf(rig.login())).toBe('pin-last-try');
      expect(rig.module.calls('C_Login')).toBe(before);
    });
  });

  describe('that signs', { timeout: 60_000 }, () => {
    test.each(['wrong', 'empty'] as const)('%s every other time is caught each time, and the batch is durable', async (kind) => {
      const drafts = await rig.drafts();
      rig.module.obey({ on: 'C_Sign', fault: { kind }, every: 2 });
      const bodies = Array.from({ length: 20 }, (_, at) => `b${at}`);
      for (const body of bodies) await rig.holder.commit(drafts.next([body])).durable;
      const hit = Math.floor(rig.module.asked() / 2);
      rig.module.calm();
      expect(await rig.stored()).toEqual(bodies); // verifies every seal
      console.log(`${kind}=${hit} released=0`);
      expect(hit).toBeGreaterThan(5);
    });

    test('always wrongly releases nothing, and gets a new process after a few', async () => {
      const drafts = await rig.drafts();
      const from = rig.watch.seen.length;
      rig.module.obey({ on: 'C_Sign', fault: { kind: 'wrong' } });
      for (let at = 0; at < 3; at += 1) expect(await codeOf(rig.holder.commit(drafts.peek(['x'])).durable)).toBe('token-failed');
      await rig.watch.until('locked', from);
      await rig.heal();
      expect(await rig.stored()).toEqual([]);
      expect(await rig.holder.status()).toMatchObject({ restarts: 1 });
    });

    test('but loses its session every few signatures goes on without a PIN', async () => {
      const drafts = await rig.drafts();
      const logins = rig.module.calls('C_Login');
      rig.module.obey({ on: 'C_SignInit', fault: { kind: 'ckr', value: 0xb3 }, every: 3 });
      for (let at = 0; at < 12; at += 1) await rig.holder.commit(drafts.next([`b${at}`])).durable;
      expect(rig.module.calls('C_Login')).toBe(logins);
      expect(rig.holder.state().kind).toBe('open');
    });

    test('slowly, is slow and no more', async () => {
      const drafts = await rig.drafts();
      rig.module.obey({ on: 'C_Sign', fault: { kind: 'sleep', waitMs: 250 } });
      const commits = ['a', 'b', 'c', 'd', 'e', 'f'].map((body) => rig.holder.commit(drafts.next([body])));
      await Promise.all(commits.map(({ durable }) => durable));
      expect(rig.holder.state().kind).toBe('open');
    });
  });

  describe('that hangs or dies', { timeout: 60_000 }, () => {
    test('in a signature: the process is replaced, status goes on answering, nothing is released', async () => {
      const drafts = await rig.drafts();
      await rig.holder.status();
      rig.module.obey({ on: 'C_Sign', fault: { kind: 'sleep', waitMs: 60_000 } });
      const hung = codeOf(rig.holder.commit(drafts.next(['a'])).durable);
      const tookMs = await statusDuring(rig, hung);
      expect(await hung).toBe('unknown-outcome');
      await rig.heal();
      console.log(
        `hang: released=${(await rig.stored()).length} status_p99=${percentile(tookMs, 0.99).toFixed(0)}ms asked=${tookMs.length}`,
      );
      expect(await rig.stored()).toEqual([]);
      expect(percentile(tookMs, 0.5)).toBeLessThan(50);
      await rig.holder.commit((await rig.drafts()).next(['b'])).durable;
    });

    test('in C_Initialize: the next process finds it well', async () => {
      await rig.holder.close();
      rig.module.obey({ on: 'C_Initialize', fault: { kind: 'segv' }, times: 2 });
      rig.holder = rig.start();
      await rig.watch.until('locked', rig.watch.seen.length - 1, 10_000).catch(() => undefined);
      await rig.heal();
      expect(rig.notes.filter((line) => line.includes('SIGSEGV'))).toHaveLength(2);
    });

    test('by SIGSEGV each time that it signs: each is replaced, nothing is lost or doubled', async () => {
      const kills = 4;
      const durable: string[] = [];
      for (let at = 0; at < kills; at += 1) {
        const drafts = await rig.drafts();
        await rig.holder.commit(drafts.next([`a${at}`])).durable;
        durable.push(`a${at}`);
        rig.module.obey({ on: 'C_Sign', fault: { kind: 'segv' }, times: 1 });
        expect(await codeOf(rig.holder.commit(drafts.next([`lost${at}`])).durable)).toBe('unknown-outcome');
        await rig.heal();
      }
      expect(await rig.stored()).toEqual(durable);
      const { restarts, lastFailure } = await rig.holder.status();
      console.log(`segv=${kills} restarts=${restarts} lost=0 dup=0`);
      expect(restarts).toBe(kills);
      expect(lastFailure?.reason).toContain('SIGSEGV');
    });
  });

  test('that says that the token is gone is believed, and believed again when it is back', { timeout: 60_000 }, async () => {
    const from = rig.watch.seen.length;
    rig.module.obey({ on: 'C_GetSlotList', fault: { kind: 'gone' } });
    await rig.watch.until('absent', from, 5_000);
    rig.module.calm();
    await rig.watch.until('locked', from, 5_000);
    await setTimeout(10);
    await rig.heal();
  });
});
