// Shows: PIN discipline against a chip that counts wrong PINs itself and locks: a stored PIN that is wrong costs one C_Login over 20 starts of the login
// logic; the lock is reported as what it is; and a service whose stored PIN is right comes back by itself when the chip lets go.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { UnattendedLogin } from '#desk/unattended-login.ts';
import { silentLog } from '#ground/log.ts';
import { errorTable } from '#ipc-schema/errors.ts';
import { ctl, errorOf } from '#test/support/ctl.ts';
import { FaultyModule } from '#test/support/faulty-module.ts';
import { codeOf, pinBytes, provisionHolder } from '#test/support/holder-rig.ts';
import { TpmRig } from '#test/support/module-rigs.ts';
import { openRig, rigPin, sale } from '#test/support/rig.ts';
import { describeTpm } from '#test/support/tpm.ts';
import { loadModule } from '#token/pkcs11.ts';

const starts = 20;

describeTpm('a TPM that counts wrong PINs', (modulePath, world) => {
  /** The real module behind one that counts calls. */
  let module: FaultyModule;
  beforeAll(() => {
    module = new FaultyModule(modulePath);
  });
  afterAll(() => {
    loadModule(module.path).finalize();
    module.remove();
  });
  beforeEach(() => {
    loadModule(module.path).finalize();
    world().clear();
  });

  test(`a wrong stored PIN costs one C_Login over ${starts} starts of login and holder`, { timeout: 120_000 }, async () => {
    const stateDirectory = mkdtempSync(path.join(tmpdir(), 'ukeyd-stored-'));
    const rig = new TpmRig(module.path, world());
    try {
      await rig.watch.until('blank');
      await provisionHolder(rig.holder);
      const pinFile = path.join(stateDirectory, 'pin');
      writeFileSync(pinFile, '999999\n', { mode: 0o600 });
      const before = module.calls('C_Login');
      for (let start = 0; start < starts; start += 1) {
        const from = rig.watch.seen.length;
        await rig.restart();
        const state = await rig.watch.until('locked', from);
        if (state.kind !== 'locked') throw new Error(state.kind);
        const unattended = new UnattendedLogin({
          pin: { kind: 'file', path: pinFile },
          stateDirectory,
          holder: rig.holder,
          log: silentLog,
        });
        await unattended.attempt(state);
        // Asked again and again, as its own timer does.
        await unattended.attempt(state);
        expect(unattended.storedPin).toBe('wrong');
        unattended.close();
      }
      const logins = module.calls('C_Login') - before;
      console.log(`starts=${starts} C_Login=${logins} wrong_tries=${world().wrongTries()}`);
      expect([logins, world().wrongTries()]).toEqual([1, 1]);
      expect(await codeOf(rig.holder.login(pinBytes(), false))).toBe('not refused');
    } finally {
      await rig.holder.close();
      await rig.remove();
      rmSync(stateDirectory, { recursive: true, force: true });
    }
  });

  test('its lock is told as pin-locked with what to do, no try is spent meanwhile, and the stored PIN opens it when it lets go', {
    timeout: 120_000,
  }, async () => {
    const token = [`module = ${JSON.stringify(module.path)}`, 'label = "rig"'];
    const rig = await openRig({ holder: 'child', pinFile: true, token });
    const login = (pin: string) => codeOf(rig.admin.call('session.login', { pin }));
    const status = () => rig.admin.call('service.status', {});
    try {
      const { number } = await rig.till.issue(sale('before'));
      world().setPatience({ triesMax: 3, forgetsSeconds: 1_000 });
      await rig.admin.call('session.logout', {});
      for (let at = 0; at < 3; at += 1) expect(await login(`00000${at}`)).toBe('pin-incorrect');
      expect(await login(rigPin)).toBe('pin-locked');
      const told = errorOf(
        await ctl(['login', '--json', '--socket', rig.config.admin_socket, '--pin-file', path.join(rig.directory, 'pin')]),
      );
      expect(told).toMatchObject({ code: 'pin-locked' });
      expect(told['action']).not.toBe(errorTable['pin-locked'].action);
      expect(world().wrongTries()).toBe(3);

      // A start while it is locked: the stored PIN is right, is not looked at, and so is not taken for wrong.
      await rig.running.close();
      await rig.startLocked();
      await expect.poll(async () => (await status()).action, { timeout: 20_000 }).toBe(told['action']);
      expect((await status()).token).toMatchObject({ storedPin: 'unknown' });
      expect(world().wrongTries()).toBe(3);
      world().unlock();
      await expect.poll(async () => (await status()).standing, { timeout: 60_000, interval: 200 }).toMatch(/^issuing/);
      expect((await status()).token).toMatchObject({ storedPin: 'works' });
      const till = await rig.connectTill();
      expect(await till.issue(sale('before'))).toMatchObject({ number, repeated: true });
      await till.issue(sale('after'));
      till.close();
    } finally {
      await rig.close();
    }
  });
});
