// Owns: what every Device must do; each implementation runs it. The maker gives a blank device of at least 1 MiB.
import { afterEach, describe, expect, it } from 'vitest';
import type { Device } from '#store/device.ts';

export interface DeviceUnderTest {
  readonly device: Device;
  /** Opens the same bytes again, after `device` was closed or beside it when reading only. */
  readonly reopen: (readOnly: boolean) => Promise<Device>;
  readonly clean: () => Promise<void>;
}

const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'no error',
    (error: unknown) => (error as { code?: unknown }).code,
  );

export function deviceSuite(name: string, make: () => Promise<DeviceUnderTest>): void {
  describe(`${name} as a device`, () => {
    const made: DeviceUnderTest[] = [];
    const start = async (): Promise<DeviceUnderTest> => {
      const one = await make();
      made.push(one);
      return one;
    };
    afterEach(async () => {
      for (const one of made.splice(0)) {
        await one.device.close();
        await one.clean();
      }
    });
    const pattern = (device: Device, sectors: number, seed: number): Uint8Array =>
      Uint8Array.from({ length: sectors * device.sectorBytes }, (_, at) => (at * 31 + seed) & 255);

    it('tells its size in whole sectors', async () => {
      const { device } = await start();
      expect([512, 4096]).toContain(device.sectorBytes);
      expect(device.sizeBytes % device.sectorBytes).toBe(0);
      expect(device.sizeBytes).toBeGreaterThanOrEqual(1024 * 1024);
      expect(device.readOnly).toBe(false);
    });

    it('reads zeros before anything was written', async () => {
      const { device } = await start();
      expect(Buffer.compare(await device.read(0, 65536), Buffer.alloc(65536))).toBe(0);
    });

    it('reads back what was written, and nothing beside it changes', async () => {
      const { device } = await start();
      const bytes = pattern(device, 3, 7);
      await device.writeAndSync(5 * device.sectorBytes, bytes);
      const around = Buffer.from(await device.read(4 * device.sectorBytes, 5 * device.sectorBytes));
      expect(Buffer.compare(around, Buffer.concat([Buffer.alloc(device.sectorBytes), bytes, Buffer.alloc(device.sectorBytes)]))).toBe(0);
    });

    it('keeps what was written across closing and opening', async () => {
      const { device, reopen } = await start();
      const bytes = pattern(device, 2, 3);
      await device.writeAndSync(0, bytes);
      await device.close();
      const again = await reopen(false);
      expect(Buffer.compare(await again.read(0, bytes.length), bytes)).toBe(0);
      await again.close();
    });

    it('carries out overlapping writes in call order', async () => {
      const { device } = await start();
      await Promise.all([1, 2, 3, 4, 5].map((seed) => device.writeAndSync(0, pattern(device, 1, seed))));
      expect(Buffer.compare(await device.read(0, device.sectorBytes), pattern(device, 1, 5))).toBe(0);
    });

    it('writes the caller bytes as they were at the call', async () => {
      const { device } = await start();
      const bytes = pattern(device, 1, 9);
      const writing = device.writeAndSync(0, bytes);
      bytes.fill(0);
      await writing;
      expect(Buffer.compare(await device.read(0, device.sectorBytes), pattern(device, 1, 9))).toBe(0);
    });

    it('takes long writes, and short views of long memory', async () => {
      const { device } = await start();
      const long = pattern(device, 131_072 / device.sectorBytes, 5);
      const view = long.subarray(device.sectorBytes, 2 * device.sectorBytes);
      await Promise.all([device.writeAndSync(0, long), device.writeAndSync(262_144, view), device.writeAndSync(524_288, long)]);
      expect(Buffer.compare(await device.read(0, long.length), long)).toBe(0);
      expect(Buffer.compare(await device.read(262_144, view.length), view)).toBe(0);
      expect(Buffer.compare(await device.read(524_288, long.length), long)).toBe(0);
    });

    it('refuses what is not whole sectors inside the device', async () => {
      const { device } = await start();
      const one = device.sectorBytes;
      expect(await codeOf(device.read(1, one))).toBe('internal');
      expect(await codeOf(device.read(0, one - 1))).toBe('internal');
      expect(await codeOf(device.read(device.sizeBytes, one))).toBe('internal');
      expect(await codeOf(device.writeAndSync(device.sizeBytes - one, new Uint8Array(2 * one)))).toBe('internal');
      expect(await codeOf(device.writeAndSync(0, new Uint8Array(0)))).toBe('internal');
      expect(await codeOf(device.writeAndSync(-one, new Uint8Array(one)))).toBe('internal');
    });

    it('reads the very last sector', async () => {
      const { device } = await start();
      await device.writeAndSync(device.sizeBytes - device.sectorBytes, pattern(device, 1, 1));
      expect(Buffer.compare(await device.read(device.sizeBytes - device.sectorBytes, device.sectorBytes), pattern(device, 1, 1))).toBe(0);
    });

    it('writes nothing when it was opened for reading only', async () => {
      const { device, reopen } = await start();
      const reader = await reopen(true);
      expect(reader.readOnly).toBe(true);
      expect(await codeOf(reader.writeAndSync(0, pattern(device, 1, 1)))).toBe('halted');
      expect(Buffer.compare(await reader.read(0, device.sectorBytes), Buffer.alloc(device.sectorBytes))).toBe(0);
      await reader.close();
    });

    it('refuses everything after closing, and closes twice', async () => {
      const { device } = await start();
      await device.close();
      await device.close();
      expect(await codeOf(device.read(0, device.sectorBytes))).toBe('halted');
      expect(await codeOf(device.writeAndSync(0, pattern(device, 1, 1)))).toBe('halted');
    });
  });
}
