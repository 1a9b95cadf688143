// Shows: the holder in a process of its own: the suite with soft token and SoftHSM2; kill -9 under load, hung and crashing drivers,
// deadlines, restarts, secrets. Prints what was killed and found, and what the hop between the processes costs.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import { holderFlags } from '#ground/runtime.ts';
import type { Commit } from '#holder/holder.ts';
import { type ParentHolder, startHolder } from '#holder/parent.ts';
import { UkeyError } from '#ipc-schema/errors.ts';
import { describeHolder } from '#test/suites/holder-suite.ts';
import { codeOf, codesOf, DraftMaker, pinBytes, provisionHolder, readVerified } from '#test/support/holder-rig.ts';
import { describeSoftHsm } from '#test/support/softhsm.ts';
import { FileRig, SoftHsmRig, startParent } from './rigs.ts';

const faultyEntry = new URL('./faulty-child.ts', import.meta.url);

describeHolder('a holder in a process of its own, soft token, image', async () => new FileRig(startParent()));

/** A holder process whose driver does what the test says. */
class FaultyRig extends FileRig<ParentHolder> {
  constructor() {
    super(startParent({ entry: faultyEntry, deadlines: { seal: 500, silence: 2_000, login: 10_000 } }));
  }

  fault(name: string): void {
    writeFileSync(join(this.folder, name), '');
  }

  heal(name: string): void {
    rmSync(join(this.folder, name), { force: true });
  }
}

let rig: FaultyRig;

async function openRig(): Promise<DraftMaker> {
  rig = new FaultyRig();
  await rig.watch.until('blank');
  return new DraftMaker(await provisionHolder(rig.holder));
}

/** A pipeline as the ledger keeps it: the next batch goes when the last is sealed. Ends at the first refusal. */
async function commitUntilRefused(drafts: DraftMaker, durable: string[], tag: string): Promise<void> {
  const waiting: Promise<unknown>[] = [];
  try {
    for (let at = 0; ; at += 1) {
      const bodies = [`${tag}-${at}-a`, `${tag}-${at}-b`];
      const commit = rig.holder.commit(drafts.next(bodies));
      waiting.push(commit.durable.then(() => durable.push(...bodies)));
      await commit.sealed;
    }
  } catch (thrown) {
    if (!(thrown instanceof UkeyError)) throw thrown;
  } finally {
    await Promise.allSettled(waiting);
  }
}

describe('a holder process', { timeout: 30_000 }, () => {
  afterEach(async () => {
    await rig.holder.close();
    await rig.remove();
  });

  test('that is killed under load loses nothing that was durable and doubles nothing', async () => {
    await openRig();
    const kills = 5;
    const durable: string[] = [];
    for (let kill = 0; kill < kills; kill += 1) {
      await rig.watch.until(kill === 0 ? 'open' : 'locked');
      const mount = kill === 0 ? null : await rig.holder.login(pinBytes(), false);
      const state = rig.holder.state();
      if (state.kind !== 'open') throw new Error(state.kind);
      const from = rig.watch.seen.length;
      const load = commitUntilRefused(new DraftMaker(mount ?? state.mount), durable, `${kill}`);
      await setTimeout(40 + 37 * kill);
      process.kill(rig.holder.pid() ?? 0, 'SIGKILL');
      await load;
      await rig.watch.until('locked', from);
    }
    const mount = await rig.holder.login(pinBytes(), false);
    const stored = await readVerified(rig.holder, mount);
    const lost = durable.filter((body) => !stored.includes(body));
    const doubled = stored.length - new Set(stored).size;
    console.log(`kills=${kills} durable=${durable.length} found=${stored.length} lost=${lost.length} dup=${doubled}`);
    expect(durable.length).toBeGreaterThan(kills * 2);
    expect(lost).toEqual([]);
    expect(doubled).toBe(0);
    expect(mount.nextSequence).toBe(stored.length + 1);
  });

  test('whose driver hangs is killed at the deadline; what was under way is of unknown outcome, and it starts again', async () => {
    const drafts = await openRig();
    await rig.holder.commit(drafts.next(['a'])).durable;
    const first = rig.holder.pid();
    const from = rig.watch.seen.length;
    rig.fault('hang-sign');
    const startMs = performance.now();
    const hung = [rig.holder.commit(drafts.next(['b'])), rig.holder.commit(drafts.next(['c']))];
    const status = rig.holder.status();
    expect(await Promise.all(hung.map(codesOf))).toEqual([
      ['unknown-outcome', 'unknown-outcome'],
      ['unknown-outcome', 'unknown-outcome'],
    ]);
    const tookMs = performance.now() - startMs;
    expect(tookMs).toBeGreaterThan(400);
    expect(tookMs).toBeLessThan(2_000);
    await Promise.allSettled([status]);
    expect(await codesOf(rig.holder.commit(drafts.peek(['d'])))).toEqual(['token-failed', 'token-failed']);
    rig.heal('hang-sign');
    await rig.watch.until('locked', from);
    expect(rig.watch.seen.slice(from).map(({ kind }) => kind)).toEqual(['starting', 'locked']);
    expect(rig.holder.pid()).not.toBe(first);
    const mount = await rig.holder.login(pinBytes(), false);
    expect(mount).toMatchObject({ nextBatch: 2, nextSequence: 2 });
    await rig.holder.commit(new DraftMaker(mount).next(['b'])).durable;
    expect(await readVerified(rig.holder, mount)).toEqual(['a', 'b']);
  });

  test('that hangs while nothing is asked is noticed too', async () => {
    await openRig();
    const from = rig.watch.seen.length;
    rig.fault('hang-facts');
    await setTimeout(1_000);
    rig.heal('hang-facts');
    await rig.watch.until('locked', from);
  });

  test('answers status from memory while its driver hangs', async () => {
    const drafts = await openRig();
    await rig.holder.status();
    rig.fault('hang-sign');
    const hung = rig.holder.commit(drafts.next(['a']));
    const startMs = performance.now();
    expect((await rig.holder.status()).storePath).toBe(rig.flashPath);
    expect(performance.now() - startMs).toBeLessThan(300);
    rig.heal('hang-sign');
    await codesOf(hung);
  });

  test('whose driver crashes is started again', async () => {
    const drafts = await openRig();
    const from = rig.watch.seen.length;
    rig.fault('die-sign');
    expect(await codesOf(rig.holder.commit(drafts.next(['a'])))).toEqual(['unknown-outcome', 'unknown-outcome']);
    await rig.watch.until('locked', from);
    expect(rig.notes.some((line) => line.includes('SIGSEGV'))).toBe(true);
    expect((await rig.holder.login(pinBytes(), false)).nextBatch).toBe(1);
  });

  test('is not blamed for a queue: each signature has its own allowance', async () => {
    const drafts = await openRig();
    rig.fault('slow-sign');
    const commits: Commit[] = [];
    for (const body of ['a', 'b', 'c', 'd', 'e']) commits.push(rig.holder.commit(drafts.next([body])));
    await Promise.all(commits.map(({ durable }) => durable));
  });

  test('that dies at once is started again ever more rarely', async () => {
    rig = new FaultyRig();
    await rig.holder.close();
    let died = 0;
    const holder = startHolder({
      config: { module: null, softTokenPath: rig.softTokenPath, flashPath: rig.flashPath, presencePaths: [] },
      events: rig.watch,
      onChatter: () => {
        died += 1;
      },
      entry: new URL('./dying-child.ts', import.meta.url),
    });
    await expect.poll(() => died, { timeout: 5_000 }).toBeGreaterThan(2);
    const before = died;
    await setTimeout(600);
    expect(died - before).toBeLessThanOrEqual(2);
    expect(holder.state().kind).toBe('starting');
    expect(await codeOf(holder.login(pinBytes(), false))).toBe('token-failed');
    await holder.close();
  });

  test('takes a batch while a thousand look things up and ask for the status', async () => {
    const drafts = await openRig();
    await rig.holder.commit(drafts.next(['first'])).durable;
    const looks = Array.from({ length: 1_000 }, () => Promise.all([rig.holder.read(1, 1), rig.holder.status()]));
    await rig.holder.commit(drafts.next(['second'])).durable;
    const found = await Promise.all(looks);
    expect(found.filter(([[batch]]) => batch?.batchIndex === 1)).toHaveLength(1_000);
  });

  test('has its chatter in the log', async () => {
    const drafts = await openRig();
    rig.fault('chatter');
    await rig.holder.commit(drafts.next(['a'])).durable;
    await expect.poll(() => rig.notes).toContain('driver: signing');
  });

  test.runIf(process.platform === 'linux')('leaves no core image, and no secret in its arguments or environment', async () => {
    await openRig();
    const about = (what: string): string => readFileSync(`/proc/${rig.holder.pid()}/${what}`, 'utf8');
    expect(about('limits')).toMatch(/Max core file size +[01] +[01] /);
    expect(about('cmdline') + about('environ')).not.toContain(Buffer.from(pinBytes()).toString());
    expect(about('cmdline').split('\0').filter(Boolean)).toHaveLength(2 + holderFlags.length);
  });

  test('frees the FLASH when it is closed, and answers nothing afterwards', async () => {
    const drafts = await openRig();
    const pid = rig.holder.pid() ?? 0;
    await rig.holder.close();
    expect(() => process.kill(pid, 0)).toThrow();
    expect(await codesOf(rig.holder.commit(drafts.peek(['a'])))).toEqual(['no-token', 'no-token']);
    expect(await codeOf(rig.holder.read(1, 1))).toBe('no-token');
  });

  test('costs a small part of a batch: the hop is measured', async () => {
    const drafts = await openRig();
    const median = async (act: () => Promise<unknown>, times: number): Promise<number> => {
      const tookUs: number[] = [];
      for (let at = 0; at < times; at += 1) {
        const startMs = performance.now();
        await act();
        tookUs.push((performance.now() - startMs) * 1_000);
      }
      return Math.round(tookUs.toSorted((a, b) => a - b)[Math.floor(times / 2)] ?? 0);
    };
    const body = ['x'.repeat(1_600)];
    const warm = 50;
    await median(() => rig.holder.status(), warm);
    await median(() => rig.holder.commit(drafts.next(body)).durable, warm);
    const hopUs = await median(() => rig.holder.status(), 200);
    const durableUs = await median(() => rig.holder.commit(drafts.next(body)).durable, 200);
    const sealedUs = await median(async () => {
      const commit = rig.holder.commit(drafts.next(body));
      await commit.sealed;
      const atMs = performance.now();
      await commit.durable;
      return performance.now() - atMs;
    }, 100);
    console.log(`hop there and back p50=${hopUs} us, commit durable p50=${durableUs} us (${sealedUs} us in the second run)`);
    expect(hopUs).toBeLessThan(20_000);
  });
});

describe.runIf(process.platform === 'linux')('a front that is killed', () => {
  test('takes its holder process with it', async () => {
    const files = new FileRig(startParent());
    await files.watch.until('blank');
    await files.holder.close();
    const front = spawn(process.execPath, [fileURLToPath(new URL('./front.ts', import.meta.url)), files.softTokenPath, files.flashPath], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const lines = createInterface({ input: front.stdout });
    const [line] = (await once(lines, 'line')) as [string];
    const holderPid = Number(line.split(' ')[1]);
    expect(holderPid).toBeGreaterThan(0);
    process.kill(holderPid, 0);
    front.kill('SIGKILL');
    await expect.poll(() => isAlive(holderPid), { timeout: 3_000 }).toBe(false);
    await files.remove();
  });
});

function isAlive(pid: number): boolean {
  try {
    // A zombie that nobody has reaped is no process any more.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

describeSoftHsm('SoftHSM2', (modulePath) => {
  describeHolder('a holder in a process of its own', async () => new SoftHsmRig(modulePath), { countsTries: false });
});
