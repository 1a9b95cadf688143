import { describeRestore } from '#test/suites/restore-suite.ts';
import { describeSoftHsm } from '#test/support/softhsm.ts';
import { joinedFileRig, MemoryRig, SoftHsmRig } from './rigs.ts';

describeRestore('a holder in memory', async () => new MemoryRig());
describeRestore('a holder in this process, soft token, image', async () => joinedFileRig());
describeSoftHsm('with SoftHSM2', (modulePath) => {
  describeRestore('a holder in a process of its own', async () => new SoftHsmRig(modulePath));
});
