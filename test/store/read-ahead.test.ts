import { describe, expect, it } from 'vitest';
import { aheadBytes, ReadAhead } from '#store/read-ahead.ts';
import { seededRandom } from '#test/support/seed.ts';

const mebibyte = 1024 * 1024;

describe('what is read before it is written', () => {
  it('begins with the page in which a write ended', () => {
    expect(new ReadAhead(mebibyte).after(8192 + 512)).toEqual({ positionBytes: 8192, lengthBytes: aheadBytes });
  });

  it('goes on where it ended, once half of it is written over', () => {
    const ahead = new ReadAhead(mebibyte);
    ahead.after(512);
    expect(ahead.after(aheadBytes / 2 - 512)).toBeNull();
    expect(ahead.after(aheadBytes / 2 + 512)).toEqual({ positionBytes: aheadBytes, lengthBytes: aheadBytes });
  });

  it('is nothing where whole pages are written, which need none, and forgets nothing then', () => {
    const ahead = new ReadAhead(8 * mebibyte);
    ahead.after(5 * mebibyte + 512);
    expect(ahead.after(16384)).toBeNull();
    expect(ahead.after(5 * mebibyte + 1024)).toBeNull();
  });

  it('ends with the device', () => {
    const ahead = new ReadAhead(mebibyte);
    expect(ahead.after(mebibyte - 512)).toEqual({ positionBytes: mebibyte - 4096, lengthBytes: 4096 });
    expect(ahead.after(mebibyte - 512)).toBeNull();
  });

  it('knows every page that a log goes on to, wherever it begins', () => {
    const random = seededRandom(5);
    const ahead = new ReadAhead(64 * mebibyte);
    const known = new Set<number>();
    for (let segment = 0; segment < 40; segment += 1) {
      let endBytes = 512 * Math.floor(random() * 100_000);
      for (let frame = 0; frame < 300; frame += 1) {
        const firstPage = Math.floor(endBytes / 4096);
        endBytes += 512 * (1 + Math.floor(random() * 12));
        // The first write of all finds nothing, and each later one what those before it asked for.
        if (frame > 0) for (let page = firstPage; page * 4096 < endBytes; page += 1) expect(known.has(page)).toBe(true);
        const stretch = ahead.after(endBytes);
        for (let at = 0; stretch !== null && at < stretch.lengthBytes; at += 4096) known.add((stretch.positionBytes + at) / 4096);
        if (frame === 0 && endBytes % 4096 === 0) break;
      }
    }
  });
});
