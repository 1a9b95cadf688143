// Owns: the vectors as inputs to begin from: the byte strings of every valid and every refused vector of a file.
import { readFileSync } from 'node:fs';

interface VectorFile {
  readonly valid: readonly Readonly<Record<string, unknown>>[];
  readonly invalid: readonly Readonly<Record<string, unknown>>[];
}

const folder = new URL('../../vectors/', import.meta.url);

export function vectorsOf(name: string, field = 'bytes'): Uint8Array[] {
  const file = JSON.parse(readFileSync(new URL(name, folder), 'utf8')) as VectorFile;
  const found = [...file.valid, ...file.invalid].map((vector) => vector[field]).filter((value) => typeof value === 'string');
  return found.map((value) => (field === 'text' ? Buffer.from(value, 'utf8') : Buffer.from(value, 'hex')));
}

interface StoreFile {
  readonly storeId: string;
  readonly dataKey: string;
  readonly device: readonly { readonly position: number; readonly bytes: string }[];
}

/** The device of FORMAT.md's worked example, and whose it is. */
export function workedExample(): { readonly device: Buffer; readonly storeId: Uint8Array } {
  const file = JSON.parse(readFileSync(new URL('store/worked-example.json', folder), 'utf8')) as StoreFile;
  const end = Math.max(...file.device.map(({ position, bytes }) => position + bytes.length / 2));
  const device = Buffer.alloc(Math.ceil(end / 4096) * 4096);
  for (const { position, bytes } of file.device) Buffer.from(bytes, 'hex').copy(device, position);
  return { device, storeId: Buffer.from(file.storeId, 'hex') };
}
