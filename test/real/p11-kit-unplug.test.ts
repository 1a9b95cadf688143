// Shows: a token that is pulled under load, again and again, by p11-kit's remote client over SoftHSM2. Prints what was recovered.
// TEST_UNPLUGS: how often (default: a look of seconds).
import { setTimeout } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { presencePollMs } from '#holder/presence.ts';
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

/** Idle pulls whose noticing is timed, and pulls while the ledger is opened. */
const idlePulls = 5;
const openingPulls = 12;

describe.runIf(client !== null)('behind p11-kit', () => {
  describeSoftHsm('a token', (softHsm) => {
    test('that is pulled while nobody sells is noticed within a second; while its ledger is opened, nothing is left half open', {
      timeout: 120_000,
    }, async () => {
      const world = createSoftHsmWorld(softHsm);
      const server = await P11KitServer.start(softHsm);
      const rig = new FileRig(startParent(), { module: client });
      await rig.watch.until('blank');
      const drafts = new DraftMaker(await provisionHolder(rig.holder));
      const stored = ['a', 'b', 'c'];
      for (const body of stored) await rig.holder.commit(drafts.next([body])).durable;
      try {
        const noticedMs: number[] = [];
        for (let at = 0; at < idlePulls; at += 1) {
          await setTimeout(presencePollMs + 90 * at); // a signature's proof is over; at any place between two looks
          const [from, pulledMs] = [rig.watch.seen.length, performance.now()];
          server.cut();
          while (rig.watch.seen.length === from) await setTimeout(2);
          noticedMs.push(performance.now() - pulledMs);
          await openAgain(rig, from);
        }
        noticedMs.sort((a, b) => a - b);
        await rig.holder.logout();
        const beganMs = performance.now();
        await rig.holder.login(pinBytes(), false);
        const openingMs = performance.now() - beganMs;
        await rig.holder.logout();
        const codes = new Set<string>();
        let inTime = 0;
        for (let at = 0; at < openingPulls; at += 1) {
          const from = rig.watch.seen.length;
          let isOver = false;
          const login = codeOf(rig.holder.login(pinBytes(), false)).finally(() => {
            isOver = true;
          });
          await setTimeout((openingMs * at) / openingPulls);
          if (server.cut() > 0 && !isOver) inTime += 1;
          codes.add(await login);
          stored.push(`opened-${at}`);
          await sellOne(rig, `opened-${at}`, from);
          await rig.holder.logout();
        }
        expect(await readVerified(rig.holder, await rig.holder.login(pinBytes(), false))).toEqual(stored);
        expect([...codes].filter((code) => code.startsWith('pin-'))).toEqual([]);
        const median = noticedMs[Math.floor(idlePulls / 2)] ?? Number.NaN;
        console.log(`noticed_median_ms=${median.toFixed(0)} max_ms=${noticedMs.at(-1)?.toFixed(0)}`);
        console.log(`opening_ms=${openingMs.toFixed(0)} pulled_meanwhile=${inTime} answers=${[...codes].sort().join(',')}`);
        expect(inTime).toBeGreaterThan(2);
        expect(median).toBeLessThan(1_000);
      } finally {
        await rig.holder.close();
        server.remove();
        world.remove();
        await rig.remove();
      }
    });
  });
});

type ParentRig = FileRig<ReturnType<ReturnType<typeof startParent>>>;

/** The token waits for its PIN, or is open; it is open afterwards. */
async function openAgain(rig: ParentRig, from: number): Promise<void> {
  const endMs = performance.now() + 20_000;
  for (;;) {
    const code = await codeOf(rig.holder.login(pinBytes(), false));
    if (code === 'not refused') return;
    if (performance.now() > endMs) throw new Error(`${code}; not open again: ${JSON.stringify(rig.watch.seen.slice(from))}`);
    await setTimeout(20);
  }
}

/** Until it is durable: a pull in the last moment of an opening is noticed by the first signature. */
async function sellOne(rig: ParentRig, body: string, from: number): Promise<void> {
  for (const endMs = performance.now() + 20_000; ; ) {
    await openAgain(rig, from);
    const mount = await rig.holder.login(pinBytes(), false).catch(() => null);
    const code = mount === null ? 'locked' : await codeOf(rig.holder.commit(new DraftMaker(mount).next([body])).durable);
    if (code === 'not refused') return;
    expect(['no-token', 'locked', 'token-failed']).toContain(code); // definite: nothing was written
    if (performance.now() > endMs) throw new Error(`${body} was not sold: ${code}`);
  }
}

/** As the ledger does, until the token refuses. */
async function sell(rig: ParentRig, drafts: DraftMaker, durable: string[], tag: string): Promise<void> {
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
