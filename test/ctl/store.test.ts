// Shows: what `ukeyctl store info, check, scrub, resume` print and how they end.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { createImage, openFileDevice } from '#store/device-file.ts';
import { formatStore } from '#store/log.ts';
import { ctl, errorOf, jsonOf } from '#test/support/ctl.ts';
import { FakeService } from '#test/support/fake-service.ts';

const directory = mkdtempSync(join(tmpdir(), 'ukey-ctl-'));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const slice = { done: 1, segments: 2, batches: 3, flashDamaged: [], mirrorDamaged: [], healed: false, mended: [], missing: [] };

describe.concurrent('a path that can be no store', () => {
  const file = join(directory, 'till.py');
  writeFileSync(file, 'print("a till")\n');

  it.each([file, directory, join(directory, 'nothing'), '/dev/null'])('is a fault of what was typed: %s', async (path) => {
    const info = await ctl(['store', 'info', '--json', '--store', path]);
    expect(info.status).toBe(2);
    expect(errorOf(info)).toMatchObject({ code: 'invalid-request', field: '--store' });
  });

  it('is refused by a restore and by a sandbox too, before a service is asked', async () => {
    const restore = await ctl(['store', 'restore', '--json', '--socket', '/nobody', '--from', join(directory, 'nothing')]);
    expect(restore.status).toBe(2);
    expect(errorOf(restore)).toMatchObject({ code: 'invalid-request', field: '--from' });
    const sandbox = await ctl(['sandbox', '--json', '--dir', file]);
    expect(sandbox.status).toBe(2);
    expect(errorOf(sandbox)).toMatchObject({ code: 'invalid-request', field: '--dir' });
  });
});

describe.concurrent('store check and scrub', () => {
  it('walk from segment to segment, and say that all is whole', async () => {
    await using service = await FakeService.start({
      script: { 'store.check': ({ fromRun }) => ({ ...slice, nextRun: fromRun === 1 ? 7 : null, done: fromRun === 1 ? 1 : 2 }) },
    });
    const run = await ctl(['store', 'check', '--json', '--socket', service.socketPath]);
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toMatchObject({ segments: 2, batches: 6, missing: [] });
  });

  it('end with 5 where damage is left, and with 0 where it was put right', async () => {
    await using service = await FakeService.start({
      script: {
        'store.check': ({ heal }) =>
          heal === true
            ? { ...slice, nextRun: null, flashDamaged: [4], healed: true, mended: [9] }
            : { ...slice, nextRun: null, flashDamaged: [4], missing: [9, 10, 12] },
      },
    });
    const check = await ctl(['store', 'check', '--socket', service.socketPath]);
    expect(check.status).toBe(5);
    expect(check.stdout).toContain('batches 9-10, 12');
    const scrub = await ctl(['store', 'scrub', '--socket', service.socketPath]);
    expect(scrub.status).toBe(0);
    expect(scrub.stdout).toContain('batch 9, from the ticket server');
  });
});

describe.concurrent('store scrub of a service that is halted', () => {
  const pinFile = join(directory, 'scrub-pin');
  writeFileSync(pinFile, '1234');
  const halted = (): never => {
    throw new UkeyError('halted', 'the store is damaged: batch 3 (sequence 7) cannot be read');
  };

  it('asks for the PIN where that may help, and goes on with the walk', async () => {
    let isOpen = false;
    await using service = await FakeService.start({
      script: {
        'store.check': () => (isOpen ? { ...slice, nextRun: null, mended: [9] } : halted()),
        'store.mend': ({ pin }) => {
          if (pin === undefined) throw new UkeyError('locked', 'the store is damaged');
          isOpen = pin === '1234';
          return { standing: 'issuing-offline', mended: [3] };
        },
      },
    });
    expect((await ctl(['store', 'check', '--socket', service.socketPath])).status).toBe(3);
    const run = await ctl(['store', 'scrub', '--pin-file', pinFile, '--json', '--socket', service.socketPath]);
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toMatchObject({ mended: [3, 9], missing: [] });
  });

  it('asks for none where it is halted for something else', async () => {
    await using service = await FakeService.start({ script: { 'store.check': halted, 'store.mend': halted } });
    const run = await ctl(['store', 'scrub', '--json', '--socket', service.socketPath]);
    expect(run.status).toBe(3);
    expect(errorOf(run)).toMatchObject({ code: 'halted' });
  });
});

describe.concurrent('store info --store', () => {
  it('tells the plain head of an image without a token', async () => {
    const image = join(directory, 'flash.img');
    await createImage(image, 8 * 1024 * 1024);
    const device = await openFileDevice(image);
    const ids = { storeId: new Uint8Array(16).fill(0x11), tokenKeyId: new Uint8Array(16).fill(0x22), dataKey: new Uint8Array(32) };
    const slots = [{ method: 'soft-scrypt', blob: Uint8Array.of(1) }];
    await formatStore(device, { ...ids, slots, identity: Uint8Array.of(1), erase: false });
    await device.close();
    const run = await ctl(['store', 'info', '--store', image, '--json']);
    expect(run.status).toBe(0);
    expect(jsonOf(run)).toMatchObject({ storeId: '11'.repeat(16), tokenKeyId: '22'.repeat(16), mountEpoch: 0, slots: ['soft-scrypt'] });
  });

  it('refuses what is no store', async () => {
    const other = join(directory, 'other.img');
    writeFileSync(other, Buffer.alloc(8 * 1024 * 1024, 0x5a));
    const run = await ctl(['store', 'info', '--store', other, '--json']);
    expect(run.status).toBe(5);
    expect(errorOf(run)).toMatchObject({ code: 'halted' });
    expect((await ctl(['store', 'info', '--store', join(directory, 'none.img')])).status).toBe(2);
  });
});

it('store resume sends the PIN and says how far the FLASH goes now', async () => {
  const pin = join(directory, 'pin');
  writeFileSync(pin, '135790\n', { mode: 0o600 });
  await using service = await FakeService.start({
    script: {
      'store.resume': ({ pin: given }) => ({
        ...{ standing: 'issuing-offline', foundBatch: given === '135790' ? 3 : 0, anchoredBatch: 5, healedToBatch: 7, serverBatch: 7 },
      }),
    },
  });
  const run = await ctl(['store', 'resume', '--pin-file', pin, '--socket', service.socketPath]);
  expect(run.status).toBe(0);
  expect(run.stdout).toContain('ended at batch 3, ends at batch 7 now');
});
