// Shows: the holder suite over tokens of NSS (no data objects, so no anchor in the KEY) and of a TPM.
import { afterAll } from 'vitest';
import { describeHolder } from '#test/suites/holder-suite.ts';
import { NssRig, TpmRig } from '#test/support/module-rigs.ts';
import { describeNss } from '#test/support/nss.ts';
import { describeTpm } from '#test/support/tpm.ts';
import { loadModule } from '#token/pkcs11.ts';

describeNss('NSS', (module) => {
  describeHolder('a holder in this process, token of NSS, image', async () => new NssRig(module), { countsTries: false, unblocks: false });
});

describeTpm('tpm2-pkcs11', (module, world) => {
  afterAll(() => loadModule(module).finalize());
  describeHolder('a holder in this process, token of a TPM, image', async () => new TpmRig(module, world()), { countsTries: false });
});
