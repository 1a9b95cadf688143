// Owns: telling whether a device is blank where superblocks stand, and making it so.
// Invariants: copies of two stores never stand side by side: everything before the log is zeros before a new store is written.
import type { Device } from '#store/device.ts';
import { copyStrideBytes, isBlank, logStartBytes } from './format.ts';

export async function isAreaBlank(device: Device, fromBytes: number, toBytes: number): Promise<boolean> {
  for (let at = fromBytes; at < toBytes; at += copyStrideBytes) {
    if (!isBlank(await device.read(at, Math.min(copyStrideBytes, toBytes - at)))) return false;
  }
  return true;
}

/** A crash in here leaves no store or the old one. */
export async function blankHead(device: Device): Promise<void> {
  for (let at = 0; at < logStartBytes; at += copyStrideBytes) await device.writeAndSync(at, Buffer.alloc(copyStrideBytes));
}
