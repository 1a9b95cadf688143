// A service whose tills have gone quiet is smaller than it was at their last sale, front and holder, and sells on.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { lookMs } from '#ground/rest.ts';
import { startServer } from '#server/serve.ts';
import { sale } from '#test/support/rig.ts';
import { Machine } from '#test/torture/os-machine.ts';

const salesBefore = 400;
/** What must come back of each, in MiB: a fraction of what does. */
const leastMib = { front: 4, holder: 1 };

const ownMib = (pid: number): number => Number(/RssAnon:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1_024;

test.skipIf(process.platform !== 'linux')('memory comes back once the tills are quiet', { timeout: 120_000 }, async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-rest-'));
  const server = await startServer({ directory: path.join(directory, 'server') });
  const machine = new Machine({ directory });
  try {
    machine.start();
    await machine.provision(server);
    await machine.untilIssuing();
    const till = await machine.till();
    for (let at = 0; at < salesBefore; at += 1) await till.issue(sale(`rest-${at}`));
    const [holder = 0] = machine.holderPids;
    const before = { front: ownMib(machine.pid), holder: ownMib(holder) };
    let after = before;
    const giveUpAtMs = performance.now() + 10 * lookMs;
    const isBack = (): boolean => after.front < before.front - leastMib.front && after.holder < before.holder - leastMib.holder;
    while (!isBack() && performance.now() < giveUpAtMs) {
      await pause(250);
      after = { front: ownMib(machine.pid), holder: ownMib(holder) };
    }
    console.log(`own memory, MiB: ${JSON.stringify({ before, after })}`);
    expect(isBack()).toBe(true);
    expect(machine.holderPids).toEqual([holder]);
    await till.issue(sale('rest-after'));
    till.close();
  } finally {
    await machine.kill();
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  }
});
