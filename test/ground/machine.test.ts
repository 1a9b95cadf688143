// Shows: what `lsusb -v` prints becomes what a token could be; a system that does not tell, or not in time, says nothing.
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { lookAtUsb, sightOf } from '#ground/machine.ts';

/** As usbutils print a device with one interface. */
const device = (at: number, product: string, interfaceClass: string): string => `
Bus 001 Device 00${at}: ID 096e:080${at} Somebody
Device Descriptor:
  bLength                18
  idVendor           0x096e Feitian Technologies, Inc.
  idProduct          0x080${at} ${product}
  iManufacturer           1 FT
  iProduct                2 ${product}
  Configuration Descriptor:
    MaxPower               50mA
    Interface Descriptor:
      bInterfaceClass        ${interfaceClass}
`;
const hub = device(1, '2.0 root hub', '9 Hub');

describe.runIf(process.platform === 'linux')('a system with lsusb', () => {
  let folder: string;
  const before = process.env['PATH'];
  beforeEach(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ukeyd-lsusb-'));
    process.env['PATH'] = `${folder}:${before ?? ''}`;
  });
  afterEach(() => {
    process.env['PATH'] = before;
    rmSync(folder, { recursive: true, force: true });
  });

  function lsusb(script: string): void {
    const file = path.join(folder, 'lsusb');
    writeFileSync(file, `#!/bin/sh\n${script}\n`);
    chmodSync(file, 0o755);
  }
  const shows = (...devices: string[]): void => lsusb(`cat <<'END'\n${devices.join('')}\nEND`);

  test('names smart cards and storage, and nothing else', async () => {
    shows(hub, device(2, 'ePass2003', '11 Chip/SmartCard'), device(3, 'DataTraveler', '8 Mass Storage'), device(4, 'Mouse', '3 HID'));
    expect(await lookAtUsb()).toEqual({ smartCards: ['ePass2003'], storage: ['DataTraveler'] });
  });

  test('says that there is none', async () => {
    shows(hub, device(4, 'Mouse', '3 HID'));
    expect(await lookAtUsb()).toEqual({ smartCards: [], storage: [] });
  });

  test('says nothing where not even a hub is shown, or where it takes too long', async () => {
    shows();
    expect(await lookAtUsb()).toBeNull();
    lsusb('exit 1');
    expect(await lookAtUsb()).toBeNull();
    lsusb('exec sleep 2');
    const beganMs = performance.now();
    expect(await lookAtUsb(100)).toBeNull();
    expect(performance.now() - beganMs).toBeLessThan(1_500);
  });
});

test('a name that a device gives itself cannot write on the screen, nor fill it', () => {
  const name = `\u001b[2J\u202eevil\n${'x'.repeat(500)}`;
  const sight = sightOf([
    { type: 'Chip/SmartCard', name },
    ...Array.from({ length: 50 }, () => ({ type: 'Storage', name: '', vendor: 'V' })),
  ]);
  expect(sight?.smartCards[0]).toMatch(/^\[2Jevilx{1,60}$/);
  expect(sight?.storage).toEqual(['V', 'V', 'V', 'V']);
  expect(sightOf([{ type: 'Storage' }])?.storage).toEqual(['without a name']);
});
