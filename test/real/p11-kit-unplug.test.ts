// Shows: a token that is pulled under load, again and again, by p11-kit's remote client over SoftHSM2. Prints what was recovered.
// TEST_UNPLUGS: how often (default: a look of seconds).
import { setTimeout } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { FileRig, startParent } from '#test/holder/rigs.ts';
import { codeOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { P11KitServer, p11KitClient } from '#test/support/p11-kit.ts';
import { createSoftHsmWorld, describeSoftHsm } from '#test/support/softhsm.ts';

const client = p11KitClient();
if (client === null && process.env['CI']) throw new Error('p11-kit is not installed, and CI is set');
if (client === null) console.warn('SKIPPED: a token behind p11-kit (apt-get install p11-kit p11-kit-modules)');

describe.runIf(client !== null)('behind p11-kit', () => {
  describeSoftHsm('a token', (softHsm) => {
    test('that is pulled under load is found again each time by the same process; nothing is lost or doubled', {
      timeout: 240_000,
    }, async () => {
      const pulls = Number(process.env['TEST_UNPLUGS'] ?? 50);
      const world = createSoftHsmWorld(softHsm);
      const server = await P11KitServer.start(softHsm);
      const rig = new FileRig(startParent(), { module: client });
      await rig.watch.until('blank');
      await provisionHolder(rig.holder);
      const pid = rig.holder.pid();
      const durable: string[] = [];
      let recovered = 0;
      let logins = 0;
      try {
        for (let at = 0; at < pulls; at += 1) {
          const drafts = new DraftMaker(await rig.holder.login(pinBytes(), false));
          const from = rig.watch.seen.length;
          const load = sell(rig, drafts, durable, `${at}`);
          await setTimeout(20 + ((at * 7) % 40));
          expect(server.pull()).toBe(1);
          await load;
          await rig.watch.until('locked', from, 20_000);
          while ((await codeOf(rig.holder.login(pinBytes(), false))) !== 'not refused') await setTimeout(20);
          logins += 1;
          recovered += 1;
        }
        const stored = await readVerified(rig.holder, await rig.holder.login(pinBytes(), false));
        const lost = durable.filter((body) => !stored.includes(body)).length;
        const dup = stored.length - new Set(stored).size;
        const { restarts } = await rig.holder.status();
        console.log(`recovered=${recovered} lost=${lost} dup=${dup} restarts=${restarts} durable=${durable.length} logins=${logins}`);
        expect([recovered, lost, dup, restarts]).toEqual([pulls, 0, 0, 0]);
        expect(rig.holder.pid()).toBe(pid);
        expect(durable.length).toBeGreaterThan(pulls);
      } finally {
        await rig.holder.close();
        server.remove();
        world.remove();
        await rig.remove();
      }
    });
  });
});

/** As the ledger does, until the token refuses. */
async function sell(
  rig: FileRig<ReturnType<ReturnType<typeof startParent>>>,
  drafts: DraftMaker,
  durable: string[],
  tag: string,
): Promise<void> {
  try {
    for (let at = 0; ; at += 1) {
      const body = `${tag}-${at}`;
      const commit = rig.holder.commit(drafts.next([body]));
      await commit.sealed;
      await commit.durable;
      durable.push(body);
    }
  } catch (thrown) {
    if (!(thrown instanceof UkeyError)) throw thrown;
  }
}
