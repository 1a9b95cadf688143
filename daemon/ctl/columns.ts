// Owns: text set in columns of a terminal or a paper roll: widths, wrapping, left and right in one line.
// Invariants: a wide character (East Asian Wide or Fullwidth, UAX #11) takes two columns, a combining mark none; no line that comes
// out is wider than it was asked to be. The ranges are the common scripts', not the whole table.
// Must not: know what the text says.

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });
const wide =
  /^(?:[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{20000}-\u{3fffd}]|\p{Emoji_Presentation})/u;
const empty = /^[\p{M}\p{Cf}]*$/u;

export function columnsOf(text: string): number {
  let columns = 0;
  for (const { segment } of graphemes.segment(text)) columns += columnsOfGrapheme(segment);
  return columns;
}

function columnsOfGrapheme(grapheme: string): number {
  if (wide.test(grapheme)) return 2;
  return empty.test(grapheme) ? 0 : 1;
}

/** Lines of at most `width` columns, broken at spaces where there are any. At least one line. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/\s+/)) {
    const joined = line === '' ? word : `${line} ${word}`;
    if (columnsOf(joined) <= width) {
      line = joined;
      continue;
    }
    if (line !== '') lines.push(line);
    const pieces = cut(word, width);
    line = pieces.pop() ?? '';
    lines.push(...pieces);
  }
  lines.push(line);
  return lines;
}

/** Pieces of at most `width` columns. */
export function cut(text: string, width: number): string[] {
  const pieces: string[] = [];
  let piece = '';
  let columns = 0;
  for (const { segment } of graphemes.segment(text)) {
    const more = columnsOfGrapheme(segment);
    if (columns + more > width && piece !== '') {
      pieces.push(piece);
      piece = '';
      columns = 0;
    }
    piece += segment;
    columns += more;
  }
  pieces.push(piece);
  return pieces;
}

export function centred(text: string, width: number): string[] {
  return wrap(text, width).map((line) => ' '.repeat(Math.floor((width - columnsOf(line)) / 2)) + line);
}

/** `left` from the left, `right` at the right end of its last line, or on a line of its own where both do not fit. */
export function leftRight(left: string, right: string, width: number): string[] {
  const lines = wrap(left, width);
  const last = lines.at(-1) ?? '';
  const gap = width - columnsOf(last) - columnsOf(right);
  if (gap >= 1) return [...lines.slice(0, -1), `${last}${' '.repeat(gap)}${right}`];
  return [...lines, ...cut(right, width).map((piece) => ' '.repeat(width - columnsOf(piece)) + piece)];
}
