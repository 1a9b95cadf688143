// Owns: `token-codes`, `token-hang`, `token-crash` and `token-wrong`: a holder over a driver that answers every code of the table, hangs, dies and signs
// wrongly (test/token/shim over SoftHSM2).
// Invariants: after each fault the driver is well again and the service must be; what is stored is verified with the public key alone. The control of
// each part is that the driver really did what it was told, counted by the driver.

import { DriverRig, percentile, statusDuring, sweepCodes, sweptCalls, sweptCodes } from '#test/support/driver-faults.ts';
import { hasCompiler } from '#test/support/faulty-module.ts';
import { codeOf } from '#test/support/holder-rig.ts';
import { seededRandom } from '#test/support/seed.ts';
import { softHsmModule } from '#test/support/softhsm.ts';
import { scaled, type TortureOptions, type TorturePart, type TortureResult, Violations } from './part.ts';

const statusP99Ms = 20;

function part(name: string, trial: (rig: DriverRig, options: TortureOptions, violations: Violations) => Promise<string>): TorturePart {
  return {
    name,
    run: async (options): Promise<TortureResult> => {
      const softHsm = softHsmModule();
      if (softHsm === null) return { line: '', violations: [], missing: 'SoftHSM2 is not installed (softhsm2)' };
      if (!hasCompiler()) return { line: '', violations: [], missing: 'there is no C compiler (gcc)' };
      const violations = new Violations();
      const rig = await DriverRig.open(softHsm);
      try {
        const line = await trial(rig, options, violations);
        return { line, violations: violations.told };
      } finally {
        await rig.remove();
      }
    },
  };
}

export const tokenCodes = part('token-codes', async (rig, options, violations) => {
  const random = seededRandom(options.seed);
  const all = sweptCalls.flatMap((call) => sweptCodes.map((code) => [call, code] as const)).map((one) => ({ one, at: random() }));
  const cases = all.toSorted((a, b) => a.at - b.at).map(({ one }) => one);
  const { hits, unmapped, crashes, pinTries, lost } = await sweepCodes(rig, cases.slice(0, scaled(cases.length, options, 16)));
  for (const one of unmapped) violations.add(`not told to the till: ${one}`);
  if (crashes > 0) violations.add(`${crashes} processes died`);
  if (pinTries > 0) violations.add(`${pinTries} tries of the PIN that nobody asked for`);
  if (lost > 0) violations.add(`${lost} durable batches are lost`);
  if (hits < scaled(cases.length, options, 16)) violations.add(`only ${hits} codes were answered by the driver`);
  return `codes=${sweptCodes.length} calls=${sweptCalls.length} hits=${hits} unmapped=${unmapped.length} crashes=${crashes} pin_tries=${pinTries} lost=${lost}`;
});

export const tokenHang = part('token-hang', async (rig, options, violations) => {
  const hangs = scaled(10, options, 2);
  const tookMs: number[] = [];
  let released = 0;
  await rig.holder.status();
  for (let at = 0; at < hangs; at += 1) {
    const drafts = await rig.drafts();
    rig.module.obey({ on: 'C_Sign', fault: { kind: 'sleep', waitMs: 60_000 } });
    const hung = codeOf(rig.holder.commit(drafts.next([`hung ${at}`])).durable);
    tookMs.push(...(await statusDuring(rig, hung)));
    if ((await hung) !== 'unknown-outcome') violations.add(`hang ${at} ended as ${await hung}`);
    if (rig.module.asked() === 0) violations.add(`hang ${at}: the driver did not hang`);
    await rig.heal();
    released = (await rig.stored()).length;
  }
  const p99 = percentile(tookMs, 0.99);
  if (released > 0) violations.add(`${released} batches without a signature are stored`);
  if (p99 > statusP99Ms) violations.add(`status took ${p99.toFixed(0)} ms at the 99th percentile`);
  return `hangs=${hangs} released=${released} daemon_up=all status_p99=${p99.toFixed(0)}ms`;
});

export const tokenCrash = part('token-crash', async (rig, options, violations) => {
  const crashes = scaled(100, options, 3);
  const durable: string[] = [];
  for (let at = 0; at < crashes; at += 1) {
    const drafts = await rig.drafts();
    await rig.holder.commit(drafts.next([`kept ${at}`])).durable;
    durable.push(`kept ${at}`);
    rig.module.obey({ on: 'C_Sign', fault: { kind: 'segv' }, times: 1 });
    const ended = await codeOf(rig.holder.commit(drafts.next([`lost ${at}`])).durable);
    if (ended !== 'unknown-outcome') violations.add(`crash ${at} ended as ${ended}`);
    await rig.heal();
  }
  const stored = await rig.stored();
  const lost = durable.filter((body) => !stored.includes(body)).length;
  const extra = stored.length - durable.length + lost;
  const { restarts } = await rig.holder.status();
  if (lost > 0 || extra > 0) violations.add(`${lost} lost, ${extra} that were never signed`);
  if (restarts !== crashes) violations.add(`${restarts} restarts after ${crashes} crashes`);
  return `segv=${crashes} restarts=${restarts} lost=${lost} released=${extra}`;
});

export const tokenWrong = part('token-wrong', async (rig, options, violations) => {
  const wanted = scaled(1_000, options, 20);
  let wrong = 0;
  const bodies: string[] = [];
  for (const kind of ['wrong', 'empty'] as const) {
    const drafts = await rig.drafts();
    rig.module.obey({ on: 'C_Sign', fault: { kind }, every: 2 });
    while (Math.floor(rig.module.asked() / 2) < wanted / 2) {
      const body = `${kind} ${bodies.length}`;
      await rig.holder.commit(drafts.next([body])).durable;
      bodies.push(body);
    }
    wrong += Math.floor(rig.module.asked() / 2);
    rig.module.calm();
  }
  // Verifies every seal with the public key: a wrong one ends here.
  const stored = await rig.stored();
  if (stored.join() !== bodies.join()) violations.add('what is stored is not what was committed');
  return `wrong=${wrong} durable=${bodies.length} released=0 daemon_up=all`;
});
