// Owns: the strict reading of JSON that strangers send: fatal UTF-8, bounded size and depth, no duplicate keys, no
// number that would silently change, no lone surrogate, no `__proto__` key.
// Invariants: a value that comes out says exactly what the text said; a text that two readers could understand
// differently is refused (RFC 8259 §4 and §6 leave both to the reader, I-JSON RFC 7493 §2 does not).
// How: the engine's JSON.parse decides the syntax, then one pass over the text, known to be valid by then, looks for
// what JSON.parse lets through. That is several times faster than a whole parser in JavaScript.
// Must not: read a clock or a socket.
import { isUtf8 } from 'node:buffer';
import { UkeyError } from './errors.ts';

export interface JsonLimits {
  readonly maxBytes: number;
  /** Arrays and objects inside each other; a scalar has depth 0. */
  readonly maxDepth: number;
}

/** What the service takes from a caller (SPEC.md, Limits). */
export const jsonLimits: JsonLimits = { maxBytes: 256 * 1024, maxDepth: 32 };

/** Something that JSON.parse accepts and we do not. */
export interface JsonFlaw {
  /** Keys and indexes from the root to the value. */
  readonly path: readonly (string | number)[];
  readonly offsetChars: number;
  readonly what: string;
}

const maxFieldChars = 200;

/** `lines[3].unitPrice`; clipped, because keys are the caller's and may be long. */
export function jsonField(path: readonly (string | number)[]): string {
  let field = '';
  for (const part of path) {
    field += typeof part === 'number' ? `[${part}]` : field === '' ? part : `.${part}`;
    if (field.length > maxFieldChars) return `${field.slice(0, maxFieldChars).toWellFormed()}...`;
  }
  return field;
}

/** The bytes as text. Throws invalid-request unless they are UTF-8; nothing is replaced, a byte order mark is kept (and no JSON). */
export function decodeUtf8(bytes: Uint8Array): string {
  if (!isUtf8(bytes)) throw new UkeyError('invalid-request', 'not valid UTF-8');
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
}

/** Syntax alone. Throws invalid-request; the text never appears in the error, it may hold a PIN. */
function parseSyntax(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The engine's message quotes the text, so the cause is left out on purpose.
    throw new UkeyError('invalid-request', 'not valid JSON');
  }
}

/** Syntax, and what is wrong beyond it: for a reader that still wants to know whose request the flawed text was. */
export function parseWithFlaw(text: string, maxDepth: number): { readonly value: unknown; readonly flaw: JsonFlaw | null } {
  const value = parseSyntax(text);
  return { value, flaw: findFlaw(text, maxDepth) };
}

/** Strict reading of one JSON text. Throws too-large, or invalid-request with the field that is wrong. */
export function decodeJson(bytes: Uint8Array, limits: JsonLimits = jsonLimits): unknown {
  if (bytes.length > limits.maxBytes) throw new UkeyError('too-large', `more than ${limits.maxBytes} bytes`);
  const { value, flaw } = parseWithFlaw(decodeUtf8(bytes), limits.maxDepth);
  if (flaw !== null) throw flawError(flaw);
  return value;
}

export function flawError(flaw: JsonFlaw, skipPath = 0): UkeyError {
  const field = jsonField(flaw.path.slice(skipPath));
  return new UkeyError(
    'invalid-request',
    `${field === '' ? '' : `${field}: `}${flaw.what} (character ${flaw.offsetChars})`,
    field === '' ? {} : { field },
  );
}

const quote = 0x22;
const comma = 0x2c;
const minus = 0x2d;
const openBracket = 0x5b;
const backslash = 0x5c;
const closeBracket = 0x5d;
const letterU = 0x75;
const openBrace = 0x7b;
const closeBrace = 0x7d;

/** Below this many keys an object is searched by hand; above, by a Set: a frame of 30,000 keys must not cost 30,000² compares. */
const handSearchKeys = 12;

interface Level {
  /** null: an array. */
  readonly keys: string[] | null;
  set: Set<string> | null;
  /** Latest key or index. */
  at: string | number;
}

/** The first thing in the text that strict reading refuses. The text has passed JSON.parse: on any other this may not end. One pass, linear. */
function findFlaw(text: string, maxDepth: number): JsonFlaw | null {
  const levels: Level[] = [];
  let level: Level | null = null;
  let keyComes = false;
  const flaw = (offsetChars: number, what: string): JsonFlaw => ({ path: levels.map((one) => one.at), offsetChars, what });

  const length = text.length;
  let backslashAt = nextBackslash(text, 0);
  for (let at = 0; at < length; at++) {
    const char = text.charCodeAt(at);
    if (char === quote) {
      const start = at + 1;
      at = text.indexOf('"', start);
      let escapes = 0;
      if (backslashAt < at) {
        // Two marks: 1 = some escape, 2 = a \u escape, which alone can make a lone surrogate.
        at = start;
        for (let next = text.charCodeAt(at); next !== quote; next = text.charCodeAt(++at)) {
          if (next === backslash) escapes |= text.charCodeAt(++at) === letterU ? 3 : 1;
        }
        backslashAt = nextBackslash(text, at);
      }
      if ((escapes & 2) !== 0 && !literalAt(text, start, at).isWellFormed()) return flaw(start, 'a lone surrogate');
      if (keyComes && level !== null) {
        keyComes = false;
        const key = escapes === 0 ? text.slice(start, at) : literalAt(text, start, at);
        const fresh = addKey(level, key);
        level.at = key;
        if (!fresh) return flaw(start, 'the key stands there twice');
        if (key === '__proto__') return flaw(start, 'this key is not allowed');
      }
    } else if (char === comma) {
      if (level === null) continue;
      if (level.keys === null) level.at = (level.at as number) + 1;
      else keyComes = true;
    } else if (char === openBrace || char === openBracket) {
      if (levels.length >= maxDepth) return flaw(at, `deeper than ${maxDepth} levels`);
      keyComes = char === openBrace;
      level = { keys: keyComes ? [] : null, set: null, at: keyComes ? '' : 0 };
      levels.push(level);
    } else if (char === closeBrace || char === closeBracket) {
      levels.pop();
      level = levels[levels.length - 1] ?? null;
      keyComes = false;
    } else if (char === minus || (char >= 0x30 && char <= 0x39)) {
      const start = at;
      let plain = char !== minus;
      let next = text.charCodeAt(at + 1);
      while ((next >= 0x30 && next <= 0x39) || next === 0x2e || next === 0x2b || next === minus || next === 0x65 || next === 0x45) {
        if (next < 0x30 || next > 0x39) plain = false;
        next = text.charCodeAt(++at + 1);
      }
      // Up to 15 plain digits are always exact.
      if ((!plain || at - start >= 15) && !isExactNumber(text.slice(start, at + 1)))
        return flaw(start, 'a number that would not be kept exactly: send it as text');
    }
  }
  return null;
}

function addKey(level: Level, key: string): boolean {
  const keys = level.keys ?? [];
  if (level.set !== null) {
    if (level.set.has(key)) return false;
    level.set.add(key);
    return true;
  }
  if (keys.includes(key)) return false;
  keys.push(key);
  if (keys.length > handSearchKeys) level.set = new Set(keys);
  return true;
}

function nextBackslash(text: string, from: number): number {
  const at = text.indexOf('\\', from);
  return at === -1 ? Number.MAX_SAFE_INTEGER : at;
}

function literalAt(text: string, start: number, end: number): string {
  return JSON.parse(text.slice(start - 1, end + 1)) as string;
}

/**
 * True when the token, a valid JSON number, means the same after a journey through a double: a safe integer, or a fraction whose
 * shortest spelling has the same digits. -0, 2^53 + 1, 1e400 and 0.1000000000000000055 are not.
 */
export function isExactNumber(token: string): boolean {
  const value = Number(token);
  if (!Number.isFinite(value) || Object.is(value, -0)) return false;
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) return false;
  const spelled = String(value);
  return spelled === token || digitsOf(spelled) === digitsOf(token);
}

/** Sign, significant digits and power of ten: equal for all spellings of one decimal number. */
function digitsOf(token: string): string {
  const parts = /^(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(token);
  if (parts === null) return '';
  const [, sign = '', whole = '', fraction = '', exponent = '0'] = parts;
  const all = `${whole}${fraction}`.replace(/^0+/, '');
  // Trailing zeros by hand: a regular expression with $ would try at each zero of a long run.
  let end = all.length;
  while (end > 0 && all.charCodeAt(end - 1) === 0x30) end--;
  if (end === 0) return '0';
  return `${sign}${all.slice(0, end)}e${Number(exponent) - fraction.length + (all.length - end)}`;
}
