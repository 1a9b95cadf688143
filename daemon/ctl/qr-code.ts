// Owns: the only door to the QR library: a QR text as rows of half-block characters for a terminal.
// Form (SPEC.md, QR text): the URL up to its `#` in a byte segment, the base32 behind it in an alphanumeric segment (ISO/IEC 18004
// §7.4), which takes 5.5 bits a character instead of 8; `UKEY1:…` is alphanumeric as a whole.
import { correction, generate, mode } from 'lean-qr';

/** Quiet zone around the code, in modules (ISO/IEC 18004 §9.1). */
const quietModules = 4;
const alphanumeric = /^[0-9A-Z $%*+\-./:]*$/;

export interface QrCode {
  /** Columns that each row takes. */
  readonly widthColumns: number;
  /** `colours`: black on white whatever the terminal's own are; without, dark modules are drawn and light ones left blank. */
  rows(colours: boolean): string[];
}

/** The code, or null when the text is longer than a QR code can hold. */
export function qrCode(text: string): QrCode | null {
  const at = text.indexOf('#') + 1;
  const head = text.slice(0, at);
  const tail = text.slice(at);
  const segments = [...(head === '' ? [] : [segment(head)]), segment(tail)];
  let code: ReturnType<typeof generate>;
  try {
    code = generate(mode.multi(...segments), { minCorrectionLevel: correction.L });
  } catch {
    // The library's one reason to refuse is the length.
    return null;
  }
  const sizeModules = code.size + 2 * quietModules;
  return {
    widthColumns: sizeModules,
    rows: (colours) => {
      const rows: string[] = [];
      for (let y = 0; y < sizeModules; y += 2) {
        let row = '';
        for (let x = 0; x < sizeModules; x++) {
          const upper = code.get(x - quietModules, y - quietModules);
          const lower = code.get(x - quietModules, y + 1 - quietModules);
          row += upper ? (lower ? '█' : '▀') : lower ? '▄' : ' ';
        }
        rows.push(colours ? `\x1b[30;107m${row}\x1b[0m` : row);
      }
      return rows;
    },
  };
}

function segment(text: string): ReturnType<typeof mode.ascii> {
  if (alphanumeric.test(text)) return mode.alphaNumeric(text);
  return mode.ascii.test(text) ? mode.ascii(text) : mode.utf8(text);
}
