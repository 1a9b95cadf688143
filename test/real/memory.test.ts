// What a core image of the front would hold: neither the PIN nor the data key, after a start that logged in by itself, and work. The holder
// holds the data key by design, and leaves no core. Read from /proc/PID/mem, as a core would be: all that is writable.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { openKeyRequest } from '#ipc-schema/recovery.ts';
import { startServer } from '#server/serve.ts';
import { openFileDevice } from '#store/device-file.ts';
import { readStoreHeader } from '#store/log.ts';
import { FileRig, startParent } from '#test/holder/rigs.ts';
import { TestAuthority } from '#test/suites/restore-suite.ts';
import { DraftMaker, pinBytes, testSoPin } from '#test/support/holder-rig.ts';
import { hitsIn } from '#test/support/memory-scan.ts';
import { sale } from '#test/support/rig.ts';
import { Machine, machinePin } from '#test/torture/os-machine.ts';
import { openSoftToken } from '#token/soft-token.ts';
import type { WrappedKey } from '#token/token.ts';

const starts = 3;

async function dataKeyOf(machine: Machine): Promise<Buffer> {
  const token = openSoftToken({ path: path.join(machine.port, 'key.json') });
  token.login(Buffer.from(machinePin));
  const device = await openFileDevice(machine.flash, { readOnly: true });
  try {
    const slot = (await readStoreHeader(device))?.slots[0];
    if (slot === undefined) throw new Error('the FLASH has no key slot');
    // The store does not know what methods there are; the soft token refuses another than its own.
    return Buffer.from(token.unwrapDataKey(slot as WrappedKey));
  } finally {
    await device.close();
    token.close();
  }
}

test.skipIf(process.platform !== 'linux')('the memory of the front holds neither PIN nor data key', { timeout: 90_000 }, async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'ukeyd-memory-'));
  const server = await startServer({ directory: path.join(directory, 'server') });
  const machine = new Machine({ directory });
  try {
    machine.start();
    await machine.provision(server);
    await machine.stop();
    const dataKey = await dataKeyOf(machine);
    // Several starts: what a freed piece of memory still holds is chance.
    for (let start = 0; start < starts; start += 1) {
      machine.start();
      await machine.untilIssuing();
      const till = await machine.till();
      for (let at = 0; at < 20; at += 1) await till.issue(sale(`memory-${start}-${at}`));
      till.close();
      const { pid } = machine;
      const holder = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0]);
      const secrets = { pin: Buffer.from(machinePin), widePin: Buffer.from(machinePin, 'utf16le'), dataKey };
      // The controls: what must be there is found, in the front and in the holder.
      const front = hitsIn(pid, { ...secrets, control: Buffer.from(`memory-${start}-19`) });
      expect(front['control']).toBeGreaterThan(0);
      expect(hitsIn(holder, { dataKey })['dataKey']).toBeGreaterThan(0);
      console.log(`front hits=${JSON.stringify(front)}`);
      expect(front).toMatchObject({ pin: 0, widePin: 0, dataKey: 0 });
      expect(readFileSync(`/proc/${holder}/limits`, 'utf8')).toMatch(/Max core file size\s+[01]\s/);
      await machine.stop();
    }
  } finally {
    await machine.kill();
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  }
});

test.skipIf(process.platform !== 'linux').each(['a logout', 'the token being pulled'] as const)(
  'the memory of the holder holds no data key once a restoration that nobody finished has ended with %s',
  { timeout: 60_000 },
  async (end) => {
    const rig = new FileRig(startParent());
    try {
      const authority = await TestAuthority.make();
      const mount = await authority.provision(rig.holder);
      const { tokenId } = mount;
      await rig.holder.commit(new DraftMaker(mount).next(['a'])).durable;
      const from = await rig.copyOut();
      await rig.loseToken();
      const ticket = { code: 'code-2', tokenId };
      const begun = await rig.holder.beginRestore({
        from,
        pin: pinBytes(),
        soPin: pinBytes(testSoPin),
        label: 'next',
        erase: false,
        ticket,
      });
      if (begun.kind !== 'successor') throw new Error('the token is another one');
      const request = openKeyRequest(begun.request);
      const dataKey = await authority.dataKey(request);
      const pid = rig.holder.pid() ?? 0;
      await rig.holder.unlockRestore(await authority.sealedDataKey(request));
      expect(hitsIn(pid, { dataKey })['dataKey']).toBeGreaterThan(0);
      const seen = rig.watch.seen.length;
      if (end === 'the token being pulled') {
        rig.pull();
        await rig.watch.until('absent', seen);
      } else await rig.holder.logout();
      await setTimeout(100);
      expect(hitsIn(pid, { dataKey })['dataKey']).toBe(0);
      expect(rig.holder.pid()).toBe(pid);
    } finally {
      await rig.holder.close();
      await rig.remove();
    }
  },
);
