// Shows: the whole service over tokens of NSS and of a TPM: issued, repeated after a restart, uploaded, verified.
import { expect, test } from 'vitest';
import { describeNss, NssWorld, nssLabel } from '#test/support/nss.ts';
import { dayOf, dayPin, liveADay } from '#test/support/service-life.ts';
import { describeTpm } from '#test/support/tpm.ts';

const line = (name: string, value: string): string => `${name} = ${JSON.stringify(value)}`;

describeNss('NSS', (module) => {
  test('a service over a token of NSS carries a day', { timeout: 90_000 }, async () => {
    const world = new NssWorld(dayPin);
    try {
      const token = [line('module', module), line('module_parameters', world.moduleParameters), line('label', nssLabel)];
      expect(await liveADay(token)).toEqual(dayOf('ES256'));
    } finally {
      world.remove();
    }
  });
});

describeTpm('tpm2-pkcs11', (module, world) => {
  test('a service over a token of a TPM carries a day', { timeout: 90_000 }, async () => {
    expect(await liveADay([line('module', module), line('label', 'rig')], { environment: world().environment })).toEqual(dayOf('ES256'));
    expect(world().wrongTries()).toBe(0);
  });
});
