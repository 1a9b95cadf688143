// Shows: the token suite on NSS's softokn: a database of the host, made ready by NSS's own tool, without data objects, which neither locks nor is pulled;
// and what `ukeyctl token probe` tells of it.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errorTable } from '#ipc-schema/errors.ts';
import { pin, tokenSuite } from '#test/suites/token-suite.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { describeNss, NssWorld, nssLabel } from '#test/support/nss.ts';
import { CK } from '#token/cryptoki.ts';
import { moduleWrapMethods } from '#token/key-wrap.ts';
import { loadModule, openPkcs11Token } from '#token/pkcs11.ts';
import type { Token } from '#token/token.ts';

describeNss('NSS', (modulePath) => {
  tokenSuite(
    'a token of NSS',
    () => {
      const world = new NssWorld(pin.toString());
      const { moduleParameters } = world;
      const how = { modulePath, moduleParameters };
      let isGiven = false;
      return {
        blank: (): Token => {
          const kind = isGiven ? ({ kind: 'blank' } as const) : ({ kind: 'label', label: nssLabel } as const);
          isGiven = true;
          return openPkcs11Token({ ...how, slot: kind });
        },
        again: () => openPkcs11Token({ ...how, slot: { kind: 'label', label: nssLabel } }),
        unplug: () => world.takeAway(),
        plug: () => world.bringBack(),
        remove: () => {
          loadModule(modulePath, how).finalize();
          world.remove();
        },
      };
    },
    {
      wrapMethods: ['aes-kw', 'rsa-oaep', 'rsa-pkcs1', 'ecdh-p256-hkdf'],
      triesMax: null,
      moduleName: /^Mozilla/u,
      odd: { madeReady: { label: nssLabel }, noDataObjects: true, noReset: true, noUnblock: true, anyPin: true, pulled: 'never' },
    },
  );

  describe('ukeyctl token probe on NSS', () => {
    let world: NssWorld;
    let pinFile: string;
    beforeEach(() => {
      world = new NssWorld(pin.toString());
      pinFile = join(world.folder, 'probe-pin');
      writeFileSync(pinFile, pin, { mode: 0o600 });
    });
    afterEach(() => world.remove());
    const probe = (...args: string[]) => ctl(['token', 'probe', '--json', '--module', modulePath, ...args]);
    const told = () => ['--module-parameters', world.moduleParameters];

    test('without its parameters the module says no, and the refusal says what to do', { timeout: 30_000 }, async () => {
      const error = errorOf(await probe());
      expect(error).toMatchObject({ code: 'token-failed' });
      expect(error['action']).not.toBe(errorTable['token-failed'].action);
    });

    test('of its two tokens one can carry the service, the other has neither PIN nor room', { timeout: 30_000 }, async () => {
      const run = await probe(...told());
      expect(run.status).toBe(0);
      const { tokens } = jsonOf(run) as { tokens: { label: string; canCarry: boolean; missing: string[] }[] };
      expect(tokens.map(({ label, canCarry }) => [label, canCarry])).toEqual([
        ['NSS Generic Crypto Services', false],
        [nssLabel, true],
      ]);
      expect(tokens[0]?.missing.length).toBe(2);
    });

    test('proves what works, finds that data objects are missing, and leaves nothing', { timeout: 30_000 }, async () => {
      const run = await probe(...told(), '--token-label', nssLabel, '--pin-file', pinFile, '--prove');
      expect(run.status).toBe(0);
      const [token] = (jsonOf(run) as { tokens: Record<string, unknown>[] }).tokens;
      const kindOf: Readonly<Record<string, string>> = { 'data-object-kek': 'failed', 'rsa-signature-hkdf': 'absent' };
      expect(token).toMatchObject({
        ...{ provisioned: false, canCarry: true, isOnToken: false, leftBehind: 0 },
        signing: { algorithm: 'ES256', ability: { kind: 'proven' }, signMs: expect.any(Number) },
        wrapping: moduleWrapMethods.map((method) => ({ method, ability: { kind: kindOf[method] ?? 'proven' } })),
        dataObjects: { kind: 'absent' },
        missing: [expect.any(String)],
      });
      console.log(`nss: ${JSON.stringify(token?.['signing'])}`);
      const how = { modulePath, moduleParameters: world.moduleParameters };
      const cryptoki = loadModule(modulePath, how);
      cryptoki.initialize();
      const slot = cryptoki.slots().find((each) => cryptoki.tokenInfo(each).label === nssLabel) ?? Buffer.alloc(8);
      const session = cryptoki.openSession(slot);
      cryptoki.login(session, CK.CKU_USER, pin);
      expect(cryptoki.find(session, [{ type: CK.CKA_TOKEN, value: true }])).toEqual([]);
      cryptoki.finalize();
    });
  });
});
