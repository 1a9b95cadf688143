import { describe, expect, it } from 'vitest';
import { leadBytes, pieceBytes, ReadAhead, type Stretch } from '#store/read-ahead.ts';
import { seededRandom } from '#test/support/seed.ts';

const mebibyte = 1024 * 1024;
const pageBytes = 4096;

/** All that is asked for after a write that ended here. */
function askedAfter(ahead: ReadAhead, endBytes: number): Stretch[] {
  ahead.wrote(endBytes);
  const asked: Stretch[] = [];
  for (let piece = ahead.next(); piece !== null; piece = ahead.next()) asked.push(piece);
  return asked;
}

describe('what is read before it is written', () => {
  it('begins behind the page in which a write ended, the nearest piece first', () => {
    const asked = askedAfter(new ReadAhead(mebibyte), 8192 + 512);
    expect(asked[0]).toEqual({ positionBytes: 8192 + pageBytes, lengthBytes: pieceBytes });
    expect(asked.map(({ positionBytes }) => positionBytes)).toEqual(asked.map((_, place) => 8192 + pageBytes + place * pieceBytes));
  });

  it('goes on where it ended, a piece at a time', () => {
    const ahead = new ReadAhead(mebibyte);
    const first = askedAfter(ahead, 512);
    const heldTo = pageBytes + first.length * pieceBytes;
    expect(heldTo).toBeGreaterThanOrEqual(512 + leadBytes);
    expect(askedAfter(ahead, 1024)).toEqual([]);
    expect(askedAfter(ahead, heldTo - leadBytes + 512)).toEqual([{ positionBytes: heldTo, lengthBytes: pieceBytes }]);
  });

  it('is nothing where whole pages are written, which need none, and forgets nothing then', () => {
    const ahead = new ReadAhead(8 * mebibyte);
    askedAfter(ahead, 5 * mebibyte + 512);
    expect(askedAfter(ahead, 16384)).toEqual([]);
    expect(askedAfter(ahead, 5 * mebibyte + 1024)).toEqual([]);
  });

  it('ends with the device', () => {
    const ahead = new ReadAhead(mebibyte);
    expect(askedAfter(ahead, mebibyte - 2 * pageBytes + 512)).toEqual([{ positionBytes: mebibyte - pageBytes, lengthBytes: pageBytes }]);
    expect(askedAfter(ahead, mebibyte - 512)).toEqual([]);
  });

  it('is held when the log comes to it, lap after lap, though the kernel holds only what was read or written lately', () => {
    const random = seededRandom(5);
    const sizeBytes = 2 * mebibyte;
    const ahead = new ReadAhead(sizeBytes);
    const heldPages = 256; // of 512
    const held = new Set<number>();
    const hold = (page: number): void => {
      held.delete(page);
      held.add(page);
      if (held.size > heldPages) for (const oldest of held) return void held.delete(oldest);
    };
    let missed = 0;
    let laps = 0;
    let endBytes = 0;
    let hasJumped = true;
    for (let frame = 0; frame < 4_000; frame += 1) {
      const lengthBytes = 512 * (1 + Math.floor(random() * 24));
      if (endBytes + lengthBytes > sizeBytes) {
        laps += 1;
        endBytes = 0;
        hasJumped = true;
      }
      const firstPage = Math.floor(endBytes / pageBytes);
      endBytes += lengthBytes;
      for (let page = firstPage; page * pageBytes < endBytes; page += 1) {
        if (!held.has(page) && !hasJumped) missed += 1;
        hold(page);
      }
      // Where the log jumps nobody can know, until a write ends within a page.
      if (endBytes % pageBytes !== 0) hasJumped = false;
      for (const { positionBytes, lengthBytes: many } of askedAfter(ahead, endBytes))
        for (let at = 0; at < many; at += pageBytes) hold((positionBytes + at) / pageBytes);
    }
    expect(laps).toBeGreaterThan(5);
    expect(missed).toBe(0);
  });
});
