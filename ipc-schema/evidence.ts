// Owns: evidence of one entry as bytes and as QR text. Evidence: CBOR [leaf, index, count, path, seal] (SPEC.md, Evidence and QR text).
// QR text: `<verifyUrl>#<base32>` or `UKEY1:<base32>`; base32 is RFC 4648 §6 without padding: upper case, so that QR uses its alphanumeric mode.
import { decodeCbor, encodeCbor, FieldReader, malformed } from './cbor.ts';
import { hashBytes, pathMaxLength } from './merkle.ts';

export interface Evidence {
  readonly leaf: Uint8Array;
  /** Place of the leaf in its batch, from 0. */
  readonly index: number;
  readonly count: number;
  readonly path: readonly Uint8Array[];
  readonly sealBytes: Uint8Array;
}

const evidenceMaxBytes = 4_096;
const base32Alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const base32Codes = Buffer.from(base32Alphabet, 'latin1');

export function encodeEvidence(evidence: Evidence): Uint8Array {
  return encodeCbor([evidence.leaf, evidence.index, evidence.count, evidence.path, evidence.sealBytes]);
}

/** Throws invalid-request unless the bytes are evidence in its only spelling. Verifies nothing: `verify.ts` does. */
export function decodeEvidence(bytes: Uint8Array): Evidence {
  if (bytes.length > evidenceMaxBytes) throw malformed('evidence', 'is too long');
  const fields = new FieldReader('evidence', decodeCbor(bytes, 'evidence'));
  const leaf = fields.bytes('leaf');
  const index = fields.count('index');
  const count = fields.count('count');
  const path = fields.list('path').map((step) => {
    if (!(step instanceof Uint8Array) || step.length !== hashBytes) throw malformed('evidence', 'has a path that is not of hashes');
    return step;
  });
  const sealBytes = fields.bytes('seal');
  fields.end();
  if (path.length > pathMaxLength) throw malformed('evidence', 'has a path too long');
  return { leaf, index, count, path, sealBytes };
}

export function qrText(evidenceBytes: Uint8Array, verifyUrl: string | null): string {
  return (verifyUrl === null ? 'UKEY1:' : `${verifyUrl}#`) + encodeBase32(evidenceBytes);
}

/** Evidence bytes from a QR text of either form. A URL's own text ends at its first `#`; the charter admits none inside it. Throws invalid-request. */
export function evidenceFromQr(text: string): Uint8Array {
  const at = text.startsWith('UKEY1:') ? 6 : text.indexOf('#') + 1;
  if (at === 0) throw malformed('QR text', 'holds no evidence');
  return decodeBase32(text.slice(at));
}

export function encodeBase32(bytes: Uint8Array): string {
  const chars = Buffer.allocUnsafe(Math.ceil((bytes.length * 8) / 5));
  const wholeBytes = bytes.length - (bytes.length % 5);
  let length = 0;
  // Five bytes are eight characters, in two halves of 20 bits: a QR text is written for every document.
  for (let at = 0; at < wholeBytes; at += 5) {
    const middle = byteAt(bytes, at + 2);
    length = put20(chars, length, (byteAt(bytes, at) << 12) | (byteAt(bytes, at + 1) << 4) | (middle >> 4));
    length = put20(chars, length, ((middle & 15) << 16) | (byteAt(bytes, at + 3) << 8) | byteAt(bytes, at + 4));
  }
  let held = 0;
  let heldBits = 0;
  for (const byte of bytes.subarray(wholeBytes)) {
    held = (held << 8) | byte;
    heldBits += 8;
    while (heldBits >= 5) {
      heldBits -= 5;
      chars[length++] = base32Codes[(held >>> heldBits) & 31] ?? 0;
    }
    held &= (1 << heldBits) - 1;
  }
  if (heldBits > 0) chars[length++] = base32Codes[(held << (5 - heldBits)) & 31] ?? 0;
  return chars.toString('latin1');
}

const byteAt = (bytes: Uint8Array, at: number): number => bytes[at] ?? 0;

function put20(chars: Buffer, length: number, bits: number): number {
  chars[length] = byteAt(base32Codes, bits >> 15);
  chars[length + 1] = byteAt(base32Codes, (bits >> 10) & 31);
  chars[length + 2] = byteAt(base32Codes, (bits >> 5) & 31);
  chars[length + 3] = byteAt(base32Codes, bits & 31);
  return length + 4;
}

/** Strict: no padding, no lower case, no stray bits, at most the length of the longest evidence. Throws invalid-request. */
export function decodeBase32(text: string): Uint8Array {
  if (text.length > Math.ceil((evidenceMaxBytes * 8) / 5)) throw malformed('base32', 'is too long');
  const out: number[] = [];
  let held = 0;
  let heldBits = 0;
  for (const char of text) {
    const value = base32Alphabet.indexOf(char);
    if (value < 0) throw malformed('base32', 'has a character outside its alphabet');
    held = (held << 5) | value;
    heldBits += 5;
    if (heldBits >= 8) {
      heldBits -= 8;
      out.push((held >>> heldBits) & 255);
      held &= (1 << heldBits) - 1;
    }
  }
  if (heldBits >= 5 || held !== 0) throw malformed('base32', 'has stray bits at its end');
  return Uint8Array.from(out);
}
