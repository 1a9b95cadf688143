// Shows: what is told of the USB side while a token is missed, and when it is looked for; and the service that says so.
import { renameSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { UsbWatch, usbPauseMs } from '#desk/usb-watch.ts';
import { silentLog } from '#ground/log.ts';
import type { UsbSight } from '#ground/machine.ts';
import type { Holder, HolderState } from '#holder/holder.ts';
import { joinHolder } from '#holder/joined.ts';
import { partsOf } from '#holder/parts.ts';
import { openRig, type Rig } from '#test/support/rig.ts';
import { StepClock } from '#test/support/step-clock.ts';

/** Beside the FLASH of the rig. */
const softTokenPath = (flash: string): string => flash.replace('flash.img', 'key.json');
const absent: HolderState = { kind: 'absent', reason: 'pulled' };
const starting: HolderState = { kind: 'starting' };
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const card: UsbSight = { smartCards: ['ePass'], storage: [] };

describe('the USB side', () => {
  const clock = new StepClock();
  let looks = 0;
  let answer: () => Promise<UsbSight | null> = async () => card;
  const open = (): UsbWatch => {
    looks = 0;
    const look = (): Promise<UsbSight | null> => {
      looks += 1;
      return answer();
    };
    return new UsbWatch({ clock, log: silentLog, look });
  };

  test('is looked at when the token goes, not again because the holder says why, and told no more once it is back', async () => {
    const watch = open();
    for (const state of [starting, absent, { ...absent, reason: 'still' }, absent]) watch.follow(state);
    await turn();
    expect([looks, watch.sight]).toEqual([1, card]);
    watch.follow(starting);
    watch.refresh();
    clock.pass(2 * usbPauseMs);
    watch.refresh();
    expect([looks, watch.sight]).toEqual([1, null]);
  });

  test('is looked at anew for whoever asks, a while apart, one look at a time', async () => {
    const watch = open();
    watch.follow(absent);
    await turn();
    watch.refresh();
    expect(looks).toBe(1);
    clock.pass(usbPauseMs);
    const slow = Promise.withResolvers<UsbSight | null>();
    answer = () => slow.promise;
    for (let at = 0; at < 5; at += 1) watch.refresh();
    expect([looks, watch.sight]).toEqual([2, card]); // nobody waits for it
    slow.resolve({ smartCards: [], storage: [] });
    await turn();
    expect(watch.sight).toEqual({ smartCards: [], storage: [] });
  });

  test('that comes to be known when the token is back, or that fails, is not told', async () => {
    const watch = open();
    const slow = Promise.withResolvers<UsbSight | null>();
    answer = () => slow.promise;
    watch.follow(absent);
    watch.follow(starting);
    slow.resolve(card);
    await turn();
    expect(watch.sight).toBeNull();
    answer = () => Promise.reject(new Error('no lsusb'));
    watch.follow(absent);
    await turn();
    expect(watch.sight).toBeNull();
  });

  test('is left alone where the token is no USB device', async () => {
    const watch = new UsbWatch({ clock, log: silentLog, look: null });
    watch.follow(absent);
    watch.refresh();
    await turn();
    expect(watch.sight).toBeNull();
  });
});

describe('a service whose token is pulled', () => {
  let rig: Rig;
  afterEach(() => rig?.close());

  test('says what is plugged in and what to do; a till that asks waits for no look', async () => {
    let sight: UsbSight = { smartCards: [], storage: [] };
    let looks = 0;
    // A module as far as the configuration goes; what is pulled and plugged is the soft token.
    const startHolder = (config: Parameters<typeof partsOf>[0], events: Parameters<typeof joinHolder>[0]['events']): Holder =>
      joinHolder({
        ...partsOf({ ...config, module: null, softTokenPath: softTokenPath(config.flashPath) }),
        ...{ events, note: () => undefined, pollMs: 50 },
      });
    const lookAtUsb = async (): Promise<UsbSight> => {
      looks += 1;
      return sight;
    };
    rig = await openRig({
      token: ['module = "/nowhere/module.so"', 'presence = ["token/key.json"]'],
      overrides: { startHolder, lookAtUsb },
    });
    const status = async () => await rig.till.call('service.status', {});
    expect(await status()).toMatchObject({ usb: null });
    const key = softTokenPath(rig.config.tokens[0].flash);
    renameSync(key, `${key}.out`);
    await expect.poll(async () => (await status()).usb, { timeout: 5_000 }).toEqual({ smartCards: [], storage: [] });
    const none = (await status()).action;
    renameSync(`${key}.out`, key);
    await expect.poll(async () => (await status()).standing, { timeout: 5_000 }).toBe('locked');
    expect((await status()).usb).toBeNull();
    sight = card;
    renameSync(key, `${key}.out`);
    await expect.poll(async () => (await status()).usb, { timeout: 5_000 }).toEqual(card);
    const { standing, action } = await status();
    expect(standing).toBe('no-token');
    expect(action).toContain('ePass');
    expect(action).not.toBe(none);
    const before = looks;
    await Promise.all(Array.from({ length: 20 }, status));
    expect(looks).toBe(before);
  });
});
