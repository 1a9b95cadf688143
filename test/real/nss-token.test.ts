// Shows: the token suite on NSS's softokn: a database of the host, made ready by NSS's own tool, without data objects, which neither locks nor is pulled.
import { pin, tokenSuite } from '#test/suites/token-suite.ts';
import { describeNss, NssWorld, nssLabel } from '#test/support/nss.ts';
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
});
