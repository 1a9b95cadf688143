// Shows: a service that logs in by itself over a driver that hangs or dies: each new process costs one login, none of them counts as a wrong PIN, and a
// PIN that is wrong is tried once over restarts of service and holder.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startHolder } from '#holder/parent.ts';
import { FaultyModule } from '#test/support/faulty-module.ts';
import { openRig, type Rig, rigPin, sale } from '#test/support/rig.ts';
import { createSoftHsmWorld, describeSoftHsm, type SoftHsmWorld } from '#test/support/softhsm.ts';

describeSoftHsm('a service with a stored PIN', (softHsm) => {
  let world: SoftHsmWorld;
  let module: FaultyModule;
  let rig: Rig;
  beforeEach(async () => {
    world = createSoftHsmWorld(softHsm);
    module = new FaultyModule(softHsm);
    rig = await openRig({
      pinFile: true,
      token: [`module = ${JSON.stringify(module.path)}`, 'label = "rig"'],
      overrides: {
        startHolder: (config, events) =>
          startHolder({ config, events, onChatter: () => undefined, deadlines: { seal: 700 }, restartLongestMs: 200 }),
      },
    });
  }, 30_000);
  afterEach(async () => {
    await rig.close();
    module.remove();
    world.remove();
  });

  const status = () => rig.admin.call('service.status', {});
  const issuing = () => expect.poll(async () => (await status()).standing, { timeout: 20_000 }).toMatch(/^issuing/);

  test('goes on by itself after each hang and crash, with one login for each new process', { timeout: 90_000 }, async () => {
    await rig.till.issue(sale('first'));
    const logins = module.calls('C_Login');
    const faults = [{ kind: 'sleep', waitMs: 60_000 }, { kind: 'segv' }, { kind: 'sleep', waitMs: 60_000 }, { kind: 'segv' }] as const;
    for (const [at, fault] of faults.entries()) {
      module.obey({ on: 'C_Sign', fault, times: 1 });
      // The client goes on with the same key until the outcome is known.
      const issued = await rig.till.issue(sale(`k${at}`));
      expect(issued.sequence).toBeGreaterThan(0);
      module.calm();
      await issuing();
    }
    const made = module.calls('C_Login') - logins;
    const { token } = await status();
    console.log(`faults=${faults.length} restarts=${token?.restarts} logins=${made} lost=0`);
    expect(token).toMatchObject({ restarts: faults.length, storedPin: 'works', pinState: 'ok' });
    expect(made).toBe(faults.length);
    for (const at of faults.keys()) expect((await rig.till.issue(sale(`k${at}`))).repeated).toBe(true);
  });

  test('tries a wrong one once, however often service and holder start', { timeout: 90_000 }, async () => {
    writeFileSync(path.join(rig.directory, 'pin'), '999999\n');
    const logins = module.calls('C_Login');
    for (let start = 0; start < 4; start += 1) {
      await rig.running.close();
      await rig.startLocked();
      await expect.poll(async () => (await status()).reason, { timeout: 20_000 }).toContain('stored PIN was refused');
    }
    await setTimeout(1_200); // past the first pauses of the timer
    console.log(`restarts=4 C_Login=${module.calls('C_Login') - logins}`);
    expect(module.calls('C_Login') - logins).toBe(1);
    // A driver that then dies changes nothing of that.
    module.obey({ on: 'C_GetSlotList', fault: { kind: 'segv' }, times: 1 });
    await expect.poll(() => module.asked(), { timeout: 10_000 }).toBeGreaterThan(1);
    await expect.poll(async () => (await status()).reason, { timeout: 20_000 }).toContain('stored PIN was refused');
    expect(module.calls('C_Login') - logins).toBe(1);
    await rig.admin.call('session.login', { pin: rigPin });
    expect((await status()).token).toMatchObject({ storedPin: 'wrong' });
  });
});
