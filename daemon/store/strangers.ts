// Owns: telling what stands on a device that is not a store, so that a person knows what would be lost. Pure.
// Invariants: a guess for people; nothing is decided by it but words. Magic numbers as libblkid and the formats' own descriptions have them.

/** How much of the head of a device is looked at. */
export const strangerBytes = 68 * 1024;

interface Mark {
  readonly at: number;
  readonly magic: string | readonly number[];
  readonly what: string;
}

const marks: readonly Mark[] = [
  { at: 0, magic: 'ukeyd superblock', what: 'a damaged store of this service' },
  { at: 0, magic: 'LUKS', what: 'an encrypted volume (LUKS)' },
  { at: 0, magic: 'XFSB', what: 'an XFS file system' },
  { at: 3, magic: 'EXFAT   ', what: 'an exFAT file system' },
  { at: 3, magic: 'NTFS    ', what: 'an NTFS file system' },
  { at: 54, magic: 'FAT', what: 'a FAT file system' },
  { at: 82, magic: 'FAT32', what: 'a FAT32 file system' },
  { at: 536, magic: 'LVM2 001', what: 'a volume of LVM' },
  { at: 1080, magic: [0x53, 0xef], what: 'an ext2, ext3 or ext4 file system' },
  { at: 4086, magic: 'SWAPSPACE2', what: 'swap space' },
  { at: 32_769, magic: 'CD001', what: 'an ISO 9660 image' },
  { at: 65_600, magic: '_BHRfS_M', what: 'a Btrfs file system' },
  { at: 512, magic: 'EFI PART', what: 'a partition table (GPT)' },
  { at: 4096, magic: 'EFI PART', what: 'a partition table (GPT)' },
  { at: 510, magic: [0x55, 0xaa], what: 'a partition table (MBR)' },
];

/** `head`: the first strangerBytes of the device, or all that it has. */
export function strangerIn(head: Uint8Array): string {
  const found = marks.find(({ at, magic }) => {
    const bytes = Buffer.from(typeof magic === 'string' ? Buffer.from(magic, 'latin1') : magic);
    return Buffer.compare(head.subarray(at, at + bytes.length), bytes) === 0;
  });
  return found?.what ?? 'something that is not known here';
}
