import { afterEach, describe, expect, test } from 'vitest';
import { refuseOccupied } from '#holder/occupied.ts';
import { formatStore } from '#store/log.ts';
import { strangerIn } from '#store/strangers.ts';
import { MemoryDevice } from '#test/support/memory-device.ts';

const mib = 1024 * 1024;
const tokenKeyId = new Uint8Array(16).fill(0x2b);
const id = '2b'.repeat(16);
const devices: MemoryDevice[] = [];
afterEach(async () => {
  for (const device of devices.splice(0)) await device.close();
});

function device(sizeBytes = 16 * mib): MemoryDevice {
  const made = new MemoryDevice({ sizeBytes });
  devices.push(made);
  return made;
}

async function withLedger(): Promise<MemoryDevice> {
  const made = device();
  const options = { storeId: new Uint8Array(16).fill(1), tokenKeyId, dataKey: new Uint8Array(32).fill(2), identity: Buffer.from('i') };
  await formatStore(made, { ...options, slots: [{ method: 'soft-scrypt', blob: Buffer.from('w') }], erase: false });
  return made;
}

describe('a device that is to become a FLASH', () => {
  test('may be blank', async () => {
    await refuseOccupied(device(), { erase: false });
  });

  test('with a ledger is given up only by name', async () => {
    const made = await withLedger();
    const before = Buffer.from(await made.read(0, 4 * mib));
    for (const consent of [
      { erase: false },
      { erase: true },
      { erase: true, eraseLedger: 'ab'.repeat(16) },
      { erase: false, eraseLedger: id },
    ]) {
      await expect(refuseOccupied(made, consent)).rejects.toMatchObject({ code: 'halted', action: expect.stringContaining(id) });
    }
    await refuseOccupied(made, { erase: true, eraseLedger: id });
    expect(before.equals(Buffer.from(await made.read(0, 4 * mib)))).toBe(true);
  });

  test('that gives nothing now may hold a ledger', async () => {
    const made = await withLedger();
    made.failReads(0, 4 * mib);
    await expect(refuseOccupied(made, { erase: true })).rejects.toMatchObject({
      code: 'halted',
      message: expect.stringContaining('cannot be read'),
    });
  });

  test('that is too small is refused whatever is allowed', async () => {
    await expect(refuseOccupied(device(4 * mib), { erase: true })).rejects.toMatchObject({ code: 'halted' });
  });

  test.each<[string, number, string | readonly number[]]>([
    ['ext4', 1080, [0x53, 0xef]],
    ['NTFS', 3, 'NTFS    '],
    ['FAT32', 82, 'FAT32   '],
    ['exFAT', 3, 'EXFAT   '],
    ['GPT', 512, 'EFI PART'],
    ['MBR', 510, [0x55, 0xaa]],
    ['LUKS', 0, 'LUKS'],
    ['Btrfs', 65_600, '_BHRfS_M'],
    ['not known', 9_000, 'whatever'],
  ])('with %s on it says so, and may be erased', async (what, at, magic) => {
    const made = device();
    const head = Buffer.alloc(128 * 1024);
    head.set(Buffer.from(typeof magic === 'string' ? Buffer.from(magic, 'latin1') : magic), at);
    await made.writeAndSync(0, head);
    expect(strangerIn(head)).toContain(what);
    await expect(refuseOccupied(made, { erase: false })).rejects.toMatchObject({ code: 'halted', message: expect.stringContaining(what) });
    await refuseOccupied(made, { erase: true });
  });
});
