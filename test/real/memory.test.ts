// What a core image of the front would hold: neither the PIN nor the data key, after a start that logged in by itself, and work. The holder
// holds the data key by design, and leaves no core. Read from /proc/PID/mem, as a core would be: all that is writable.
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { startServer } from '#server/serve.ts';
import { openFileDevice } from '#store/device-file.ts';
import { readStoreHeader } from '#store/log.ts';
import { sale } from '#test/support/rig.ts';
import { Machine, machinePin } from '#test/torture/os-machine.ts';
import { openSoftToken } from '#token/soft-token.ts';
import type { WrappedKey } from '#token/token.ts';

const chunkBytes = 4 * 1024 * 1024;
const starts = 3;

/** How often each of the secrets stands in the writable memory of the process. */
function hitsIn(pid: number, secrets: Readonly<Record<string, Buffer>>): Record<string, number> {
  const hits = Object.fromEntries(Object.keys(secrets).map((name) => [name, 0]));
  const longest = Math.max(...Object.values(secrets).map((secret) => secret.length));
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  const chunk = Buffer.alloc(chunkBytes);
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      const [range = '', rights = ''] = line.split(' ');
      if (!rights.startsWith('rw')) continue;
      const [from = 0, to = 0] = range.split('-').map((text) => Number.parseInt(text, 16));
      // Chunks overlap, so that nothing hides at their border.
      for (let at = from; at < to; at += chunkBytes - longest + 1) {
        const seen = chunk.subarray(0, readAt(memory, chunk, at, Math.min(chunkBytes, to - at)));
        for (const [name, secret] of Object.entries(secrets)) if (seen.includes(secret)) hits[name] = (hits[name] ?? 0) + 1;
      }
    }
    return hits;
  } finally {
    closeSync(memory);
  }
}

/** A region that was given back meanwhile, or is the device's, holds nothing of ours. */
function readAt(memory: number, into: Buffer, at: number, bytes: number): number {
  try {
    return readSync(memory, into, 0, bytes, at);
  } catch {
    return 0;
  }
}

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
