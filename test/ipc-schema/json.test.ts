import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { decodeJson, isExactNumber, jsonLimits } from '#ipc-schema/json.ts';

const seed = Number(process.env['SEED'] ?? 20_260_101);
const runs = { seed, numRuns: 400 };

const bytesOf = (text: string): Buffer => Buffer.from(text, 'utf8');
const decode = (text: string): unknown => decodeJson(bytesOf(text));

function refusal(input: string | Uint8Array): UkeyError {
  try {
    decodeJson(typeof input === 'string' ? bytesOf(input) : input);
  } catch (thrown) {
    if (thrown instanceof UkeyError) return thrown;
    throw thrown;
  }
  throw new Error(`accepted: ${String(input).slice(0, 80)}`);
}

describe('strict JSON', () => {
  it.each([
    '{}',
    '[]',
    'null',
    'true',
    '0',
    '"a"',
    ' [1 , 2]\n',
    '{"a":{"b":[1,{"c":"d"}]}}',
    '"\\u0041\\n\\"\\\\"',
    '"\\ud83d\\ude00"',
    '"😀"',
    '{"a\\u0062":1,"a":2}',
    '9007199254740991',
    '-9007199254740991',
    '1.50',
    '0.1',
    '1e3',
    '1E+2',
    '-1.5e-3',
    '0.000001',
    '100',
    '0.0',
    '123456789012345',
    '{"constructor":1,"toString":2}',
  ])('takes %s as JSON.parse does', (text) => {
    expect(decode(text)).toEqual(JSON.parse(text));
  });

  it.each([
    ['an empty text', ''],
    ['blank', ' '],
    ['a cut object', '{"a":1'],
    ['a trailing comma', '[1,]'],
    ['a comment', '/*x*/1'],
    ['two values', '1 2'],
    ['NaN', 'NaN'],
    ['Infinity', '-Infinity'],
    ['single quotes', "{'a':1}"],
    ['a bare key', '{a:1}'],
    ['a leading zero', '01'],
    ['a plus sign', '+1'],
    ['hex', '0x10'],
    ['a raw control character', '"a\u0001"'],
    ['a raw line feed in text', '"a\nb"'],
    ['a byte order mark', '\ufeff{}'],
    ['an undefined escape', '"\\x41"'],
    ['a cut escape', '"\\u12"'],
    ['a non-breaking space', '[\u00a01]'],
    ['a form feed as blank', '[\f1]'],
  ])('refuses %s', (_, text) => {
    expect(refusal(text).code).toBe('invalid-request');
  });

  it.each([
    ['twice the same key', '{"a":1,"a":1}', 'a'],
    ['the same key once escaped', '{"a":1,"\\u0061":2}', 'a'],
    ['a double key far inside', '{"lines":[{},{"x":{"y":1,"z":2,"y":3}}]}', 'lines[1].x.y'],
    ['a double empty key', '{"":1,"":2}', undefined],
    ['a double key behind nested ones', '{"a":{"b":1},"b":[{"a":1}],"a":2}', 'a'],
    ['2^53', '{"n":9007199254740992}', 'n'],
    ['2^53 + 1', '{"n":[0,9007199254740993]}', 'n[1]'],
    ['a number too large', '[1e400]', '[0]'],
    ['a number too small', '[1e-400]', '[0]'],
    ['minus zero', '{"n":-0}', 'n'],
    ['minus zero, spelled out', '[-0.0e5]', '[0]'],
    ['more digits than a double keeps', '{"n":0.1000000000000000055}', 'n'],
    ['a large whole number by exponent', '[1e21]', '[0]'],
    ['a price with too many digits', '[1234567890.12345678901]', '[0]'],
    ['a lone high surrogate', '{"t":"\\ud83d"}', 't'],
    ['a lone low surrogate', '["\\udE00"]', '[0]'],
    ['surrogates in the wrong order', '["\\ude00\\ud83d"]', '[0]'],
    ['a high surrogate before a raw pair', '["\\ud83d😀"]', '[0]'],
    ['__proto__', '{"a":{"__proto__":{"x":1}}}', 'a.__proto__'],
    ['__proto__, escaped', '{"\\u005f_proto__":1}', '__proto__'],
  ])('refuses %s and names the field', (_, text, field) => {
    const error = refusal(text);
    expect(error.code).toBe('invalid-request');
    expect(error.field).toBe(field);
  });

  it('finds a double key among thousands without comparing each with each', () => {
    const keys = Array.from({ length: 20_000 }, (_, at) => `"k${at}":1`);
    expect(decode(`{${keys.join(',')}}`)).toHaveProperty('k19999', 1);
    expect(refusal(`{${keys.join(',')},"k777":2}`).field).toBe('k777');
  });

  it.each(['\\ud800', '"', '\\', 'a\u007f', '{', ',', ':', ']', '/'])('is not led astray by %s inside text', (part) => {
    const text = JSON.stringify({ [part]: [part, { inner: `${part}${part}` }], last: -1 });
    expect(decode(text)).toEqual(JSON.parse(text));
  });

  it('takes the greatest depth and refuses one more', () => {
    const deep = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);
    expect(decode(deep(jsonLimits.maxDepth))).toBeDefined();
    expect(refusal(deep(jsonLimits.maxDepth + 1)).code).toBe('invalid-request');
    expect(refusal(deep(100_000)).code).toBe('invalid-request');
    expect(refusal(`${'{"a":'.repeat(33)}1${'}'.repeat(33)}`).code).toBe('invalid-request');
  });

  it('takes the greatest size and refuses one byte more', () => {
    const sized = (bytes: number): string => `"${'x'.repeat(bytes - 2)}"`;
    expect(decode(sized(jsonLimits.maxBytes))).toHaveLength(jsonLimits.maxBytes - 2);
    expect(refusal(sized(jsonLimits.maxBytes + 1)).code).toBe('too-large');
  });

  it.each([
    ['a lone continuation byte', [0x22, 0x80, 0x22]],
    ['a cut sequence', [0x22, 0xc3, 0x22]],
    ['an overlong slash', [0x22, 0xc0, 0xaf, 0x22]],
    ['a surrogate in UTF-8', [0x22, 0xed, 0xa0, 0x80, 0x22]],
    ['above U+10FFFF', [0x22, 0xf4, 0x90, 0x80, 0x80, 0x22]],
    ['UTF-16', [0x22, 0x00, 0x41, 0x00, 0x22, 0x00, 0xff]],
    ['Latin-1', [0x22, 0xe9, 0x22]],
  ])('refuses bytes that are no UTF-8: %s', (_, bytes) => {
    expect(refusal(Uint8Array.from(bytes)).code).toBe('invalid-request');
  });

  it('never quotes the text in its errors', () => {
    expect(refusal('{"pin":"123456" x').message).not.toContain('123456');
    expect(refusal('{"pin":"123456","pin":"654321"}').message).not.toContain('654321');
  });

  it('clips a field path made of a very long key', () => {
    const key = 'k'.repeat(100_000);
    expect(refusal(`{"${key}":1,"${key}":1}`).field?.length).toBeLessThan(300);
  });

  it(`reads back whatever JSON.stringify writes of exact values (seed ${seed})`, () => {
    const value = fc.jsonValue({ maxDepth: 6, noUnicodeString: false }).filter((one) => isKeptExactly(one));
    fc.assert(
      fc.property(value, fc.constantFrom(undefined, 2), (one, indent) => {
        expect(decode(JSON.stringify(one, null, indent))).toEqual(one);
      }),
      runs,
    );
  });

  it(`throws UkeyError alone, and what it takes JSON.parse takes as well, for mutated texts (seed ${seed})`, () => {
    const base = bytesOf('{"a":[1,2.5,{"b":"x\\u00e9\\ud83d\\ude00","c":null}],"d":-12,"e":"é"}');
    const mutation = fc.array(fc.record({ at: fc.nat(base.length - 1), byte: fc.nat(255) }), { minLength: 1, maxLength: 6 });
    fc.assert(
      fc.property(mutation, (changes) => {
        const bytes = Buffer.from(base);
        for (const { at, byte } of changes) bytes[at] = byte;
        let value: unknown;
        try {
          value = decodeJson(bytes);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(UkeyError);
          return;
        }
        expect(JSON.stringify(value)).toBe(JSON.stringify(JSON.parse(bytes.toString('utf8'))));
      }),
      { seed, numRuns: 3_000 },
    );
  });
});

describe('exact numbers', () => {
  it(`are those whose decimal value a double gives back (seed ${seed})`, () => {
    fc.assert(
      fc.property(fc.integer({ min: -(10 ** 12), max: 10 ** 12 }), fc.nat(6), (digits, scale) => {
        const text = (digits / 10 ** scale).toFixed(scale);
        expect(isExactNumber(text)).toBe(!/^-0(\.0*)?$/.test(text));
        expect(isExactNumber(`${text}${scale === 0 ? '.' : ''}000`)).toBe(isExactNumber(text));
      }),
      runs,
    );
  });

  it.each(['123456789012345678', '12345678901234567.5', '0.30000000000000004441', '1e-324', '179769313486231580793e300'])(
    'are not %s',
    (token) => {
      expect(isExactNumber(token)).toBe(false);
    },
  );
});

function isKeptExactly(value: unknown): boolean {
  if (typeof value === 'number')
    return Number.isFinite(value) && !Object.is(value, -0) && (!Number.isInteger(value) || Number.isSafeInteger(value));
  if (typeof value === 'string') return value.isWellFormed();
  if (typeof value !== 'object' || value === null) return true;
  return Object.entries(value).every(([key, inner]) => key !== '__proto__' && key.isWellFormed() && isKeptExactly(inner));
}
