import { expect, it } from 'vitest';
import { deviceSuite } from '#test/suites/device-suite.ts';
import { MemoryDevice, readMedium } from '#test/support/memory-device.ts';

const sizeBytes = 1024 * 1024;

deviceSuite('the memory device', async () => {
  const device = new MemoryDevice({ sizeBytes });
  return {
    device,
    reopen: async (readOnly) => new MemoryDevice({ sizeBytes, medium: device.snapshot(), readOnly }),
    clean: async () => undefined,
  };
});

it('loses what it lied about when the power goes', async () => {
  const device = new MemoryDevice({ sizeBytes, lies: true });
  await device.writeAndSync(0, Buffer.alloc(512, 1));
  expect((await device.read(0, 512))[0]).toBe(1);
  expect(readMedium(device.powerCut(), 0, 512)[0]).toBe(0);
});

it('fails the nth write in the way that was asked for and refuses all later ones', async () => {
  for (const [kind, expected] of [
    ['not-written', [0, 0]],
    ['written', [1, 1]],
    ['torn', [0, 1]],
  ] as const) {
    const device = new MemoryDevice({ sizeBytes });
    device.failWrite(2, kind === 'torn' ? { kind, keeps: (sector) => sector === 1 } : { kind });
    await device.writeAndSync(4096, Buffer.alloc(512, 9));
    await expect(device.writeAndSync(0, Buffer.alloc(1024, 1))).rejects.toMatchObject({ code: 'unknown-outcome' });
    await expect(device.writeAndSync(0, Buffer.alloc(1024, 2))).rejects.toMatchObject({ code: 'unknown-outcome' });
    const after = readMedium(device.snapshot(), 0, 1024);
    expect([after[0], after[512]]).toEqual(expected);
  }
});
