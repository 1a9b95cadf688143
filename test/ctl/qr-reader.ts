// Owns: reading a small QR code back from what was drawn (ISO/IEC 18004): versions 1 to 3 of one block, no error correction, because
// nothing has damaged it. It shares nothing with the library that draws.

export interface Segment {
  readonly mode: 'alphanumeric' | 'byte';
  readonly text: string;
}

/** Data codewords of one-block codes by level bits (01 = L, 00 = M, 11 = Q, 10 = H) and version. */
const dataCodewords: Readonly<Record<number, readonly number[]>> = { 1: [19, 34, 55], 0: [16, 28, 44], 3: [13, 22], 2: [9, 16] };
const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:';
const quiet = 4;

/** Modules of rows of half blocks, without the quiet zone, which must be light. */
export function modulesOf(rows: readonly string[]): boolean[][] {
  const drawn = rows.flatMap((row) => [
    [...row].map((cell) => cell === '▀' || cell === '█'),
    [...row].map((cell) => cell === '▄' || cell === '█'),
  ]);
  const width = rows[0]?.length ?? 0;
  const isInside = (at: number): boolean => at >= quiet && at < width - quiet;
  for (const [y, row] of drawn.entries()) {
    for (const [x, dark] of row.entries())
      if (dark && !(isInside(x) && isInside(y))) throw new Error(`the quiet zone is dark at ${x},${y}`);
  }
  return drawn.slice(quiet, width - quiet).map((row) => row.slice(quiet, width - quiet));
}

export function readQr(modules: readonly (readonly boolean[])[]): Segment[] {
  const size = modules.length;
  const version = (size - 17) / 4;
  const at = (x: number, y: number): number => (modules[y]?.[x] === true ? 1 : 0);
  let format = 0;
  for (let bit = 0; bit < 15; bit++) format = (format << 1) | formatBit(bit, at);
  format ^= 0x5412;
  const codewords = dataCodewords[format >> 13]?.[version - 1];
  if (codewords === undefined) throw new Error(`not a code that this reader knows: version ${version}, level ${format >> 13}`);
  const mask = masks[(format >> 10) & 7];
  const bits: number[] = [];
  for (let right = size - 1, up = true; right > 0; right -= 2, up = !up) {
    if (right === 6) right--;
    for (let step = 0; step < size; step++) {
      const y = up ? size - 1 - step : step;
      for (const x of [right, right - 1]) if (!isFunction(x, y, size)) bits.push(at(x, y) ^ (mask?.(y, x) === true ? 1 : 0));
    }
  }
  return segmentsOf(bits.slice(0, codewords * 8));
}

/** The copy around the upper left finder, most significant bit first. */
function formatBit(bit: number, at: (x: number, y: number) => number): number {
  if (bit < 6) return at(bit, 8);
  if (bit === 6) return at(7, 8);
  if (bit === 7) return at(8, 8);
  return bit === 8 ? at(8, 7) : at(8, 14 - bit);
}

function isFunction(x: number, y: number, size: number): boolean {
  if (x === 6 || y === 6) return true;
  if ((x < 9 && y < 9) || (x < 9 && y >= size - 8) || (x >= size - 8 && y < 9)) return true;
  return size > 21 && Math.abs(x - (size - 7)) <= 2 && Math.abs(y - (size - 7)) <= 2;
}

const masks: readonly ((i: number, j: number) => boolean)[] = [
  (i, j) => (i + j) % 2 === 0,
  (i) => i % 2 === 0,
  (_, j) => j % 3 === 0,
  (i, j) => (i + j) % 3 === 0,
  (i, j) => (Math.floor(i / 2) + Math.floor(j / 3)) % 2 === 0,
  (i, j) => ((i * j) % 2) + ((i * j) % 3) === 0,
  (i, j) => (((i * j) % 2) + ((i * j) % 3)) % 2 === 0,
  (i, j) => (((i + j) % 2) + ((i * j) % 3)) % 2 === 0,
];

function segmentsOf(bits: readonly number[]): Segment[] {
  let next = 0;
  const take = (count: number): number => {
    let value = 0;
    for (let left = count; left > 0; left--) value = value * 2 + (bits[next++] ?? 0);
    return value;
  };
  const segments: Segment[] = [];
  for (let mode = take(4); mode !== 0; mode = take(4)) {
    if (mode === 4) {
      const bytes = Array.from({ length: take(8) }, () => take(8));
      segments.push({ mode: 'byte', text: Buffer.from(bytes).toString('utf8') });
    } else if (mode === 2) {
      let text = '';
      let left = take(9);
      for (; left > 1; left -= 2) {
        const pair = take(11);
        text += `${alphabet[Math.floor(pair / 45)] ?? ''}${alphabet[pair % 45] ?? ''}`;
      }
      if (left === 1) text += alphabet[take(6)] ?? '';
      segments.push({ mode: 'alphanumeric', text });
    } else throw new Error(`mode ${mode} was not expected`);
  }
  return segments;
}
