import { describe, expect, test } from 'vitest';
import { codeOf } from '#test/suites/token-suite.ts';
import { checkPin, pinLimits, pinText, wipe } from '#token/pin.ts';

const limits = { minBytes: 4, maxBytes: 8 };

describe('a PIN', () => {
  test.each(['1234', '12345678', 'päß4', 'a b c', '\u{feff}123'])('%j can be one, and becomes that very string', (text) => {
    const bytes = Buffer.from(text);
    checkPin(bytes, limits);
    expect(pinText(bytes)).toBe(text);
  });

  test.each([
    ['empty', Buffer.alloc(0)],
    ['too short', Buffer.from('123')],
    ['too long', Buffer.from('123456789')],
    ['with a line feed', Buffer.from('1234\n')],
    ['with a carriage return', Buffer.from('1234\r')],
    ['with a zero byte', Buffer.from('12\x0034')],
    ['with a delete', Buffer.from('1234\x7f')],
    ['not UTF-8', Buffer.from([0xff, 0xfe, 0x31, 0x32])],
    ['cut inside a character', Buffer.from('123ä').subarray(0, 4)],
  ])('%s is refused as a request, with its field', (_, bytes) => {
    expect(codeOf(() => checkPin(bytes, limits, 'newPin'))).toBe('invalid-request');
    expect(() => checkPin(bytes, limits, 'newPin')).toThrow(expect.objectContaining({ field: 'newPin' }));
  });

  test('never stands in the text of its refusal', () => {
    for (const bytes of [Buffer.from('123456789'), Buffer.from('4711\n')]) {
      try {
        checkPin(bytes, limits);
        expect.unreachable();
      } catch (error) {
        expect(JSON.stringify([String(error), error])).not.toMatch(/123456789|4711/u);
      }
    }
  });

  test.each([
    [4, 255, 4, 255],
    [0, 0, 1, 255],
    [6, 4, 6, 255],
    [4, 100_000, 4, 255],
    [4, 15, 4, 15],
    [500, 600, 255, 255],
  ])('limits %d..%d of a module are taken as %d..%d', (min, max, minBytes, maxBytes) => {
    expect(pinLimits(min, max)).toEqual({ minBytes, maxBytes });
  });

  test('is overwritten in place', () => {
    const a = Buffer.from('1234');
    const b = new Uint8Array([1, 2]);
    wipe(a, b);
    expect([...a, ...b]).toEqual([0, 0, 0, 0, 0, 0]);
  });
});
