// Rot: bytes that were durable change. Nothing wrong is ever handed out, and nothing that was there is silently missing.
import { describe, expect, it } from 'vitest';
import { UkeyError } from '#ipc-schema/errors.ts';
import { formatStore, readStoreHeader } from '#store/log.ts';
import { UnfitMirror } from '#store/salvage.ts';
import { flipBit, type Medium, MemoryDevice, patchMedium, readMedium } from '#test/support/memory-device.ts';
import {
  appendAll,
  dataKey,
  deviceOn,
  failureOf,
  formatOptions,
  newStore,
  open,
  openBoth,
  payloadOf,
  readAll,
  StutteringDevice,
  seeded,
  segmentBytes,
  sizeFor,
  storeId,
  tokenKeyId,
} from './rig.ts';

const mebibyte = 1024 * 1024;
const segments = 4;
const sizes = [300, 1500, 40, 4000, 700, 30_000, 29_000, 600, 90, 2500, 1000];
const seed = Number(process.env['SEED'] ?? 7);

/** Three lives over two segments; the last one closed cleanly, so the superblock vouches for the last frame. */
async function history(clean: boolean): Promise<Medium> {
  let medium = (await newStore(segments)).snapshot();
  let next = 1;
  for (const [life, count] of [4, 3, 4].entries()) {
    const device = deviceOn(medium, segments);
    const log = await open(device, 30 + life);
    await appendAll(log, next, sizes.slice(next - 1, next - 1 + count));
    next += count;
    if (clean) await log.close();
    medium = device.snapshot();
  }
  return medium;
}

type Verdict = { readonly kind: 'halted'; readonly message: string } | { readonly kind: 'served'; readonly frames: number };

/** Opens and reads all. Throws when a wrong payload is handed out. */
async function verdictOn(medium: Medium): Promise<Verdict> {
  try {
    const log = await open(deviceOn(medium, segments), 60);
    const frames = await readAll(log);
    for (const frame of frames) expect(Buffer.from(frame.payload)).toEqual(payloadOf(frame.index, sizes[frame.index - 1] ?? 0));
    return { kind: 'served', frames: frames.length };
  } catch (thrown) {
    const { code, message } = thrown as { code?: string; message: string };
    if (code !== 'halted') throw thrown;
    return { kind: 'halted', message };
  }
}

/** Byte positions that hold anything. */
function occupied(medium: Medium): number[] {
  const positions: number[] = [];
  for (const [page, bytes] of medium) for (const [at, byte] of bytes.entries()) if (byte !== 0) positions.push(page * 4096 + at);
  return positions;
}

const sectorsOf = (medium: Medium, from: number, to: number): number[] => {
  const all: number[] = [];
  for (let at = from; at < to; at += 512) if (readMedium(medium, at, 512).some((byte) => byte !== 0)) all.push(at);
  return all;
};
const logEnd = 4 * mebibyte + segments * segmentBytes;

describe('after a clean close', () => {
  it('every flipped bit is found or harmless', { timeout: 120_000 }, async () => {
    const random = seeded(seed);
    const medium = await history(true);
    const places = occupied(medium);
    const tally = { served: 0, halted: 0 };
    for (let flip = 0; flip < 800; flip += 1) {
      const position = places[Math.floor(random() * places.length)] ?? 0;
      const verdict = await verdictOn(flipBit(medium, position, Math.floor(random() * 8)));
      tally[verdict.kind] += 1;
      if (verdict.kind === 'served') expect(verdict.frames, `seed ${seed} position ${position}`).toBe(sizes.length);
    }
    console.log(`seed=${seed} flips=800 halted=${tally.halted} harmless=${tally.served} served_wrong=0 undetected=0`);
    expect(tally.halted).toBeGreaterThan(600);
  });

  it('every lost, foreign or misplaced sector is found', { timeout: 120_000 }, async () => {
    const medium = await history(true);
    const sectors = sectorsOf(medium, 4 * mebibyte, logEnd);
    expect(sectors.length).toBeGreaterThan(100);
    for (const [place, position] of sectors.entries()) {
      const other = sectors[(place + 1) % sectors.length] ?? 0;
      for (const bytes of [new Uint8Array(512), new Uint8Array(512).fill(0xff), readMedium(medium, other, 512)]) {
        const verdict = await verdictOn(patchMedium(medium, position, bytes));
        // A sector may hold nothing but padding's neighbours; what counts is that nothing is missing unnoticed.
        if (verdict.kind === 'served') expect(verdict.frames, `sector at ${position}`).toBe(sizes.length);
      }
    }
  });

  it('a lost erase block is found wherever it lies', async () => {
    const medium = await history(true);
    for (const blockBytes of [4096, 16_384, 65_536]) {
      for (let at = 4 * mebibyte; at < logEnd; at += blockBytes) {
        const held = readMedium(medium, at, blockBytes).some((byte) => byte !== 0);
        const verdict = await verdictOn(patchMedium(medium, at, new Uint8Array(blockBytes)));
        expect(verdict.kind, `${blockBytes} at ${at}`).toBe(held ? 'halted' : 'served');
      }
    }
  });
});

it('a superblock of another store among ours hides none of them', async () => {
  const medium = await history(true);
  const other = new MemoryDevice({ sizeBytes: sizeFor(segments) });
  const foreign = { ...formatOptions, storeId: storeId.map((byte) => byte ^ 0x55), dataKey: dataKey.map((byte) => byte ^ 0xff) };
  await formatStore(other, foreign);
  for (let copy = 0; copy < 4; copy += 1) {
    const strange = readMedium(other.snapshot(), copy * mebibyte, 16_384);
    expect(await verdictOn(patchMedium(medium, copy * mebibyte, strange))).toEqual({ kind: 'served', frames: sizes.length });
  }
});

it('without the data key, a superblock of another store hides none of the token that asks', async () => {
  const medium = await history(true);
  const other = new MemoryDevice({ sizeBytes: sizeFor(segments) });
  const foreign = { ...formatOptions, storeId: storeId.map((byte) => byte ^ 0x55), tokenKeyId: tokenKeyId.map((byte) => byte ^ 0x55) };
  await formatStore(other, foreign);
  for (const strays of [[0], [3], [0, 1, 2]]) {
    let mixed = medium;
    for (const copy of strays) mixed = patchMedium(mixed, copy * mebibyte, readMedium(other.snapshot(), copy * mebibyte, 16_384));
    const device = deviceOn(mixed, segments);
    expect((await failureOf(readStoreHeader(device)))?.code).toBe('halted');
    expect((await readStoreHeader(device, null, tokenKeyId))?.storeId).toEqual(storeId);
    expect((await readStoreHeader(device, null, foreign.tokenKeyId))?.storeId).toEqual(foreign.storeId);
    expect(
      (
        await failureOf(
          readStoreHeader(
            device,
            null,
            tokenKeyId.map((byte) => byte ^ 0xff),
          ),
        )
      )?.code,
    ).toBe('halted');
  }
  // Two stores of one token are damage: nobody can say which of them is the right one.
  const twin = new MemoryDevice({ sizeBytes: sizeFor(segments) });
  await formatStore(twin, { ...foreign, tokenKeyId });
  const mixed = deviceOn(patchMedium(medium, 0, readMedium(twin.snapshot(), 0, 16_384)), segments);
  expect((await failureOf(readStoreHeader(mixed, null, tokenKeyId)))?.code).toBe('halted');
});

describe('after a kill', () => {
  it('only the last write can pass as torn; all that lies before it is found', { timeout: 120_000 }, async () => {
    const medium = await history(false);
    for (const position of sectorsOf(medium, 4 * mebibyte, logEnd)) {
      const verdict = await verdictOn(patchMedium(medium, position, new Uint8Array(512)));
      if (verdict.kind === 'served') expect(verdict.frames, `sector at ${position}`).toBeGreaterThanOrEqual(sizes.length - 1);
    }
  });
});

it('what cannot be read for a moment does not pass for the end of the log', { timeout: 60_000 }, async () => {
  const count = 40; // over two segments, and nothing of it in the superblock
  const device = await newStore(segments);
  const log = await open(device);
  await appendAll(
    log,
    1,
    Array.from({ length: count }, () => 2_000),
  );
  let stuttered = 0;
  for (const failures of [1, 3, 20]) {
    for (const place of [0, 1, 5, 12, 17, 25]) {
      const again = new StutteringDevice({ sizeBytes: sizeFor(segments), medium: device.snapshot() });
      again.fromBytes = 4 * mebibyte + place * 4096;
      again.failuresLeft = failures;
      const opened = await open(again, 50);
      expect(opened.mounted.nextIndex).toBe(count + 1);
      stuttered += again.failuresLeft === 0 ? 1 : 0;
    }
  }
  expect(stuttered).toBeGreaterThan(10);
});

it('nor does it with a mirror that stutters in the same places', { timeout: 60_000 }, async () => {
  const count = 40;
  const [flash, mirror] = [await newStore(segments), new MemoryDevice({ sizeBytes: sizeFor(segments) })];
  await appendAll(
    await openBoth(flash, mirror, 'sync'),
    1,
    Array.from({ length: count }, () => 2_000),
  );
  let stuttered = 0;
  for (const failures of [1, 2, 5, 20]) {
    for (const fromBytes of [0, 1, 2].map((segment) => 4 * mebibyte + segment * segmentBytes)) {
      const again = [flash, mirror].map((one) => {
        const device = new StutteringDevice({ sizeBytes: sizeFor(segments), medium: one.snapshot() });
        return Object.assign(device, { fromBytes, failuresLeft: failures });
      });
      const [flashAgain, mirrorAgain] = again as [StutteringDevice, StutteringDevice];
      // Where neither gives a page for longer than an opening waits, the FLASH goes on alone (holder/mirroring).
      const opened = await openBoth(flashAgain, mirrorAgain, 'sync').catch((thrown: unknown) => {
        if (!(thrown instanceof UkeyError) || !(thrown.cause instanceof UnfitMirror)) throw thrown;
        return open(flashAgain, 50);
      });
      expect(opened.mounted.nextIndex).toBe(count + 1);
      stuttered += again.filter(({ failuresLeft }) => failuresLeft === 0).length;
    }
  }
  expect(stuttered).toBeGreaterThan(10);
});

it('what cannot be read at all behind the end is torn, as a write is that was cut', async () => {
  const device = await newStore(segments);
  const log = await open(device);
  await appendAll(log, 1, [2_000, 2_000]);
  const again = deviceOn(device.snapshot(), segments);
  again.failReads(4 * mebibyte + 5 * 4096, 4096);
  expect((await open(again, 51)).mounted.nextIndex).toBe(3);
});

describe('damage', () => {
  it('is named by the frames that are gone', async () => {
    const device = await newStore(segments);
    await appendAll(await open(device), 1, [1000, 1000, 1000, 1000, 1000]);
    const medium = device.snapshot();
    // Frames of 1000 bytes take three sectors each behind the first page of the segment.
    const frameAt = (index: number): number => 4 * mebibyte + 4096 + (index - 1) * 1536;
    const third = await failureOf(open(deviceOn(flipBit(medium, frameAt(3) + 200, 1), segments)));
    expect(third).toMatchObject({ code: 'halted' });
    expect(third?.message).toMatch(/frames 3 were/);
    const two = await failureOf(open(deviceOn(flipBit(flipBit(medium, frameAt(2) + 5, 1), frameAt(3) + 1000, 1), segments)));
    expect(two?.message).toMatch(/frames 2-3 were/);
    const header = await failureOf(open(deviceOn(flipBit(medium, 4 * mebibyte + 100, 1), segments)));
    expect(header?.message).toMatch(/frames 1-5 were/);
  });

  it('in an older segment stops the reading of that frame and of no other', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await appendAll(
      log,
      1,
      Array.from({ length: 50 }, () => 3000),
    );
    await log.close();
    const damaged = deviceOn(flipBit(device.snapshot(), 4 * mebibyte + 4096 + 4 * 3584 + 500, 3), segments);
    const after = await open(damaged);
    expect((await after.read(1, 1_000_000)).map((frame) => frame.index)).toEqual([1, 2, 3, 4]);
    expect((await failureOf(after.read(5, 1)))?.code).toBe('halted');
    expect((await after.read(4, 1))[0]?.index).toBe(4);
    expect((await after.read(6, 1))[0]?.index).toBe(6);
  });

  it('of the head of a segment names the frames of that segment', async () => {
    const device = await newStore(segments);
    const log = await open(device);
    await appendAll(
      log,
      1,
      Array.from({ length: 50 }, () => 3000),
    );
    await log.close();
    const medium = device.snapshot();
    const head = await failureOf(open(deviceOn(flipBit(medium, 4 * mebibyte + segmentBytes + 30, 3), segments)));
    expect(head?.code).toBe('halted');
    expect(head?.message).toMatch(/frames 18-34 were/);
  });
});
