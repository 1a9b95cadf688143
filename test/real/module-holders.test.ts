// Shows: the holder suite over tokens of NSS (no data objects, so no anchor in the KEY) and of a TPM.
import { afterAll, beforeAll } from 'vitest';
import { describeHolder } from '#test/suites/holder-suite.ts';
import { NssRig, TpmRig } from '#test/support/module-rigs.ts';
import { describeNss } from '#test/support/nss.ts';
import { describeTpm, TpmWorld } from '#test/support/tpm.ts';
import { loadModule } from '#token/pkcs11.ts';

describeNss('NSS', (module) => {
  describeHolder('a holder in this process, token of NSS, image', async () => new NssRig(module), { countsTries: false, unblocks: false });
});

describeTpm('tpm2-pkcs11', (module) => {
  let world: TpmWorld;
  beforeAll(() => {
    world = new TpmWorld();
  });
  afterAll(() => {
    loadModule(module).finalize();
    world.remove();
  });
  describeHolder('a holder in this process, token of a TPM, image', async () => new TpmRig(module, world), { countsTries: false });
});
