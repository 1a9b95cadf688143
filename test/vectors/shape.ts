// Owns: the shapes that the vectors share: a refused byte string, CBOR arrays with some items in another spelling, and the spellings that
// every CBOR format of ours refuses.
// Must not: know any format.
import { type CborValue, encodeCbor } from '#ipc-schema/cbor.ts';
import { hex } from './world.ts';

export const code = 'invalid-request';

export interface Bad {
  readonly name: string;
  readonly bytes: string;
  readonly code: typeof code;
}

export const bad = (name: string, bytes: Uint8Array | string): Bad => ({
  name,
  bytes: typeof bytes === 'string' ? bytes : hex(bytes),
  code,
});
export const item = (value: CborValue): string => hex(encodeCbor(value));

/** A CBOR array from items that are already hex, some of them replaced by other spellings. */
export function arrayHex(items: readonly string[], changes: Readonly<Record<number, string>> = {}): string {
  return hex(Uint8Array.of(0x80 | items.length)) + items.map((one, at) => changes[at] ?? one).join('');
}

/** What every CBOR format refuses: cut, left over, array without a length, another length, first field spelled otherwise. */
export function spellings(items: readonly string[]): Bad[] {
  const whole = arrayHex(items);
  return [
    bad('nothing', ''),
    bad('cut after the first byte', whole.slice(0, 2)),
    bad('last byte cut off', whole.slice(0, -2)),
    bad('one byte left over', `${whole}00`),
    bad('twice', whole + whole),
    bad('array of indefinite length', `9f${items.join('')}ff`),
    bad('array head longer than needed', hex(Uint8Array.of(0x98, items.length)) + items.join('')),
    bad('a field too few', arrayHex(items.slice(0, -1))),
    bad('a field too many', arrayHex([...items, 'f6'])),
    bad('tagged', `d8ff${whole}`),
    bad('a map instead', `a100${items[0]}`),
    bad('length beyond the bytes', `9b001fffffffffffff${items.join('')}`),
    bad('nested too deep', '81'.repeat(64)),
  ];
}

export const versions = (items: readonly string[]): Bad[] => [
  bad('version 2', arrayHex(items, { 0: '02' })),
  bad('version in two bytes', arrayHex(items, { 0: '1801' })),
  bad('version as half float 1.0', arrayHex(items, { 0: 'f93c00' })),
  bad('version as text', arrayHex(items, { 0: '6131' })),
];
