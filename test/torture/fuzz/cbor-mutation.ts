// Owns: mutations of CBOR that leave it CBOR, or nearly: an item more, less, elsewhere, of another type, another value, another spelling; also
// inside byte strings that hold CBOR themselves (a COSE payload, a leaf in an entry). A reader of its own: the product's refuses what is wanted here.
// Invariants: lengths around a changed item are put right, so that the change is what a decoder sees and not the cut behind it.
import { mutateBytes } from './bytes-mutation.ts';
import type { Chance } from './chance.ts';

interface Item {
  readonly major: number;
  /** Value, length or simple value, as the head has it. */
  argument: bigint;
  /** Bytes of the argument: 0, 1, 2, 4, 8; null: the shortest. */
  width: number | null;
  /** Of a string without CBOR inside. */
  content: Buffer;
  items: Item[];
}

const depthMax = 12;
const tellingNumbers = [0n, 1n, 2n, 23n, 24n, 255n, 256n, 65_535n, 65_536n, 4_294_967_295n, 4_294_967_296n, 253_402_300_799_999n].concat([
  253_402_300_800_000n,
  9_007_199_254_740_990n,
  9_007_199_254_740_991n,
  9_007_199_254_740_992n,
  18_446_744_073_709_551_615n,
]);
/** Half float 0.0, float, undefined, null, booleans, a lone break, empty strings and lists, a tag, an indefinite list, text that is none. */
const strangers = [
  'f90000',
  'fb3ff0000000000000',
  'f7',
  'f6',
  'f5',
  'f4',
  'ff',
  '40',
  '60',
  '80',
  'a0',
  'c100',
  '9fff',
  '7fff',
  '62c328',
  '63efbbbf',
  '20',
].map((hex) => Buffer.from(hex, 'hex'));

/** Null: not CBOR as a whole. */
function parse(bytes: Buffer): Item | null {
  const cursor = { at: 0 };
  const item = parseItem(bytes, cursor, 0);
  return cursor.at === bytes.length ? item : null;
}

function parseItem(bytes: Buffer, cursor: { at: number }, depth: number): Item | null {
  const head = bytes[cursor.at++];
  if (head === undefined || depth > depthMax) return null;
  const low = head & 31;
  const width = low < 24 ? 0 : low < 28 ? 1 << (low - 24) : null;
  if (width === null || cursor.at + width > bytes.length) return null;
  let argument = width === 0 ? BigInt(low) : 0n;
  for (let left = width; left > 0; left--) argument = (argument << 8n) | BigInt(bytes[cursor.at++] ?? 0);
  const item: Item = { major: head >> 5, argument, width, content: Buffer.alloc(0), items: [] };
  if (item.major === 2 || item.major === 3) {
    if (argument > BigInt(bytes.length - cursor.at)) return null;
    item.content = bytes.subarray(cursor.at, cursor.at + Number(argument));
    cursor.at += Number(argument);
    const inner = item.major === 2 && item.content.length > 4 ? parse(item.content) : null;
    // A digest may look like a number; what has items inside is meant.
    if (inner !== null && inner.items.length > 0) item.items = [inner];
    return item;
  }
  const count = item.major === 4 ? argument : item.major === 5 ? argument * 2n : item.major === 6 ? 1n : 0n;
  if (count > BigInt(bytes.length)) return null;
  for (let left = count; left > 0n; left--) {
    const inner = parseItem(bytes, cursor, depth + 1);
    if (inner === null) return null;
    item.items.push(inner);
  }
  return item;
}

function head(major: number, argument: bigint, width: number | null): Buffer {
  const shortest = argument < 24n ? 0 : argument < 0x100n ? 1 : argument < 0x1_0000n ? 2 : argument < 0x1_0000_0000n ? 4 : 8;
  const used = Math.max(width ?? 0, shortest);
  const low = used === 0 ? Number(argument) : 24 + Math.log2(used);
  const bytes = Buffer.alloc(1 + used);
  bytes[0] = (major << 5) | low;
  for (let at = used; at > 0; at--) bytes[at] = Number((argument >> BigInt(8 * (used - at))) & 255n);
  return bytes;
}

function write(item: Item): Buffer {
  const inner = item.items.map(write);
  switch (item.major) {
    case 2:
    case 3: {
      const content = inner.length > 0 ? Buffer.concat(inner) : item.content;
      return Buffer.concat([head(item.major, BigInt(content.length), item.width), content]);
    }
    case 4:
      return Buffer.concat([head(4, BigInt(inner.length), item.width), ...inner]);
    case 5:
      return Buffer.concat([head(5, BigInt(inner.length >> 1), item.width), ...inner]);
    case 6:
      return Buffer.concat([head(6, item.argument, item.width), ...inner]);
    case 8: // a stranger, as it is
      return item.content;
    default:
      return head(item.major, item.argument, item.width);
  }
}

const everyItem = (item: Item): Item[] => [item, ...item.items.flatMap(everyItem)];
const strange = (chance: Chance): Item => ({ major: 8, argument: 0n, width: null, content: chance.one(strangers), items: [] });

function changeValue(item: Item, chance: Chance, others: readonly Uint8Array[]): void {
  if (item.major === 2 || item.major === 3) {
    item.content = mutateBytes(item.content, chance, others);
    item.items = [];
    item.width = null;
  } else if (item.items.length === 0) {
    item.argument = chance.happens(0.5) ? chance.one(tellingNumbers) : item.argument + BigInt(chance.upTo(3));
    item.width = null;
  } else {
    changeMembers(item, chance);
  }
}

function changeMembers(item: Item, chance: Chance): void {
  item.width = null;
  const at = chance.upTo(item.items.length);
  const other = chance.upTo(item.items.length);
  const member = item.items[at];
  if (member === undefined) return;
  switch (chance.upTo(5)) {
    case 0:
      item.items.splice(at, 1);
      break;
    case 1:
      item.items.splice(other, 0, member);
      break;
    case 2: {
      const second = item.items[other];
      if (second !== undefined) [item.items[at], item.items[other]] = [second, member];
      break;
    }
    case 3:
      item.items.splice(at, 0, strange(chance));
      break;
    default:
      item.items[at] = strange(chance);
  }
}

/** Null where the input is no CBOR. A leading tag of COSE is an item like others. */
export function mutateCbor(input: Uint8Array, chance: Chance, others: readonly Uint8Array[]): Buffer | null {
  const root = parse(Buffer.from(input));
  if (root === null) return null;
  const item = chance.one(everyItem(root));
  if (chance.happens(0.15)) item.width = chance.one([1, 2, 4, 8]);
  else if (item.items.length > 0 && chance.happens(0.5)) changeMembers(item, chance);
  else changeValue(item, chance, others);
  return write(root);
}
