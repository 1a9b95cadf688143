import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { decodeFrameHeader, decodeRunHeader, frameHeaderBytes, maxPayloadBytes } from '#store/format.ts';
import { formatStore, openLog, readStoreHeader } from '#store/log.ts';
import { flipBit, MemoryDevice, patchMedium, readMedium } from '#test/support/memory-device.ts';
import {
  appendAll,
  checkpointBefore,
  dataKey,
  deviceOn,
  failureOf,
  formatOptions,
  identity,
  newStore,
  open,
  payloadOf,
  readAll,
  segmentBytes,
  sizeFor,
  slots,
  storeId,
  tokenKeyId,
} from './rig.ts';

const mebibyte = 1024 * 1024;

describe('formatting', () => {
  it('makes an empty store whose header needs no key', async () => {
    const device = await newStore(4);
    expect(await readStoreHeader(device)).toEqual({
      storeId,
      tokenKeyId,
      formatVersion: 1,
      mountEpoch: 0,
      sizeBytes: sizeFor(4),
      segmentBytes,
      slots,
    });
    const log = await open(device);
    expect(log.mounted).toEqual({
      identity,
      checkpoint: null,
      checkpointIndex: 1,
      oldestIndex: 1,
      nextIndex: 1,
      carried: null,
      tornBytes: 0,
      mountEpoch: 1,
      isEndHidden: false,
      mirror: null,
    });
    expect(await log.read(1, 1000)).toEqual([]);
    await log.close();
    expect(device.isClosed).toBe(true);
  });

  it('finds no store on a blank device, and opening does not make one', async () => {
    const device = new MemoryDevice({ sizeBytes: sizeFor(2) });
    expect(await readStoreHeader(device)).toBeNull();
    expect((await failureOf(open(device)))?.code).toBe('halted');
    expect(device.writes).toHaveLength(0);
  });

  it('refuses what is not blank, wherever the first byte is, unless it may erase', async () => {
    for (const position of [0, 511, mebibyte + 7, 4 * mebibyte - 1]) {
      const device = deviceOn(patchMedium(new Map(), position, Uint8Array.of(1)), 4);
      expect((await failureOf(formatStore(device, formatOptions)))?.code).toBe('halted');
      expect(device.writes).toHaveLength(0);
      await formatStore(device, { ...formatOptions, erase: true });
      await appendAll(await open(device), 1, [100]);
    }
  });

  it('erases an older store so that nothing of it comes back', async () => {
    const device = await newStore(4);
    const old = await open(device);
    await appendAll(old, 1, [3000, 3000, 3000, 40_000, 40_000]);
    const again = deviceOn(device.snapshot(), 4);
    await formatStore(again, { ...formatOptions, storeId: tokenKeyId, erase: true });
    const log = await open(again, 77);
    expect(log.mounted).toMatchObject({ nextIndex: 1, checkpoint: null, tornBytes: 0 });
    await appendAll(log, 1, [1200, 1200], 'new');
    const after = await open(deviceOn(again.snapshot(), 4), 78);
    expect((await readAll(after)).map((frame) => frame.payload)).toEqual([payloadOf(1, 1200, 'new'), payloadOf(2, 1200, 'new')]);
    expect(after.mounted.tornBytes).toBe(0);
  });

  it('refuses sizes that make no store, and blobs that do not fit', async () => {
    const small = new MemoryDevice({ sizeBytes: 4 * mebibyte });
    expect((await failureOf(formatStore(small, formatOptions)))?.code).toBe('halted');
    const device = new MemoryDevice({ sizeBytes: sizeFor(2) });
    expect((await failureOf(formatStore(device, { ...formatOptions, segmentBytes: 5000 })))?.code).toBe('halted');
    expect((await failureOf(formatStore(device, { ...formatOptions, identity: Buffer.alloc(8193) })))?.code).toBe('too-large');
    const wide = [{ method: 'x', blob: new Uint8Array(2049) }];
    expect((await failureOf(formatStore(device, { ...formatOptions, slots: wide })))?.code).toBe('too-large');
    expect(device.writes).toHaveLength(0);
  });
});

describe('a superblock', () => {
  it('survives the loss of any three copies and is repaired at mount', async () => {
    for (let kept = 0; kept < 4; kept += 1) {
      let medium = (await newStore(4)).snapshot();
      for (let copy = 0; copy < 4; copy += 1) if (copy !== kept) medium = flipBit(medium, copy * mebibyte + 300, 2);
      const device = deviceOn(medium, 4);
      expect((await open(device)).mounted.mountEpoch).toBe(1);
      const copies = [0, 1, 2, 3].map((copy) => Buffer.from(readMedium(device.snapshot(), copy * mebibyte, 16384)).toString('hex'));
      expect(new Set(copies).size).toBe(1);
    }
  });

  it('stops when no copy is whole, when another key made it, when it is newer, foreign, or the device is too small', async () => {
    const medium = (await newStore(4)).snapshot();
    let rotten = medium;
    for (let copy = 0; copy < 4; copy += 1) rotten = flipBit(rotten, copy * mebibyte + 300, 2);
    expect((await failureOf(open(deviceOn(rotten, 4))))?.code).toBe('halted');
    expect((await failureOf(openLog(deviceOn(medium, 4), new Uint8Array(32))))?.code).toBe('halted');
    const foreign = deviceOn(patchMedium(new Map(), 0, Buffer.from('another file system')), 4);
    expect((await failureOf(readStoreHeader(foreign)))?.code).toBe('halted');
    const newer = Buffer.from(readMedium(medium, 2 * mebibyte, 16384));
    newer.writeUInt32BE(2, 16);
    createHash('sha256').update(newer.subarray(0, 16352)).digest().copy(newer, 16352);
    const upgraded = await failureOf(readStoreHeader(deviceOn(patchMedium(medium, 2 * mebibyte, newer), 4)));
    expect(upgraded?.code).toBe('halted');
    expect((await failureOf(open(deviceOn(medium, 3))))?.code).toBe('halted');
    expect((await failureOf(open(deviceOn(medium, 4, { sectorBytes: 4096 }))))?.code).toBe('halted');
  });

  it('keeps identity and slots of the largest size through many mounts', async () => {
    const device = new MemoryDevice({ sizeBytes: sizeFor(2) });
    const large = {
      identity: Buffer.alloc(8192, 7),
      slots: [1, 2].map((fill) => ({ method: `m-${fill}`, blob: new Uint8Array(2048).fill(fill) })),
    };
    await formatStore(device, { ...formatOptions, ...large });
    for (let mount = 1; mount <= 3; mount += 1) {
      const log = await open(device, mount);
      expect(log.mounted.identity).toEqual(large.identity);
      expect(log.header.slots).toEqual(large.slots);
      expect(log.mounted.mountEpoch).toBe(mount);
    }
  });
});

describe('the log', () => {
  it('gives frames back in order, over openings and segments, each exactly as it was', async () => {
    const device = await newStore(8);
    const sizes = [0, 1, 63, 64, 500, 2000, 9000, 30_000, 40_000, 100];
    let next = 1;
    for (let opening = 1; opening <= 3; opening += 1) {
      const log = await open(device.isClosed ? device : deviceOn(device.snapshot(), 8), opening);
      await log.close();
    }
    let medium = device.snapshot();
    for (let opening = 1; opening <= 3; opening += 1) {
      const one = deviceOn(medium, 8);
      const log = await open(one, 10 + opening);
      expect(log.mounted.nextIndex).toBe(next);
      await appendAll(log, next, sizes);
      next += sizes.length;
      await log.close();
      medium = one.snapshot();
    }
    const log = await open(deviceOn(medium, 8), 20);
    for (const maxBytes of [1, 3000, 1_000_000]) {
      const frames = await readAll(log, maxBytes);
      expect(frames.map((frame) => frame.index)).toEqual(Array.from({ length: 30 }, (_, at) => at + 1));
      for (const frame of frames) expect(Buffer.from(frame.payload)).toEqual(payloadOf(frame.index, sizes[(frame.index - 1) % 10] ?? 0));
    }
    expect((await log.read(17, 1)).map((frame) => frame.index)).toEqual([17]);
    expect(log.usage()).toMatchObject({ segments: 8, sizeBytes: sizeFor(8) });
  });

  it('hands out the checkpoint of the newest run and the frames that it does not cover', async () => {
    const device = await newStore(4);
    await appendAll(await open(device), 1, [500, 500, 500]);
    const second = deviceOn(device.snapshot(), 4);
    const log = await open(second, 3);
    expect(log.mounted).toMatchObject({ checkpoint: checkpointBefore(1), checkpointIndex: 1, nextIndex: 4 });
    await appendAll(log, 4, [500, 500]);
    const third = await open(deviceOn(second.snapshot(), 4), 4);
    expect(third.mounted).toMatchObject({ checkpoint: checkpointBefore(4), checkpointIndex: 4, nextIndex: 6 });
  });

  it('begins no run before the first append, so restarts alone take no space', async () => {
    let medium = (await newStore(2)).snapshot();
    for (let mount = 1; mount <= 50; mount += 1) {
      const device = deviceOn(medium, 2);
      const log = await open(device, mount);
      await log.close();
      expect(log.usage().freeSegments).toBe(2);
      medium = device.snapshot();
    }
  });

  it('writes one after the other with overlapping appends, in call order', async () => {
    const device = await newStore(4);
    const log = await open(device);
    const release = device.stall();
    const appends = [1, 2, 3, 4, 5].map((index) => log.append(payloadOf(index, 700), checkpointBefore(index)));
    expect(await log.read(1, 1000)).toEqual([]);
    release();
    expect(await Promise.all(appends)).toEqual([1, 2, 3, 4, 5]);
    expect(device.overlap).toBe(1);
    expect(await readAll(log)).toHaveLength(5);
  });

  it('takes a payload of the largest size and refuses a larger one', async () => {
    const log = await open(await newStore(2));
    const largest = maxPayloadBytes(segmentBytes);
    expect(log.hasRoomFor(largest)).toBe(true);
    expect(log.hasRoomFor(largest + 1)).toBe(false);
    expect((await failureOf(log.append(Buffer.alloc(largest + 1), checkpointBefore(1))))?.code).toBe('too-large');
    expect((await failureOf(log.append(Buffer.alloc(1), Buffer.alloc(3841))))?.code).toBe('too-large');
    expect(await log.append(payloadOf(1, largest), Buffer.alloc(3840, 1))).toBe(1);
    expect((await readAll(log))[0]?.payload).toEqual(payloadOf(1, largest));
  });

  it('is full before it writes, says so beforehand, and still takes what is small enough', async () => {
    const device = await newStore(3);
    const log = await open(device);
    let index = 1;
    while (log.hasRoomFor(9000)) {
      expect(await log.append(payloadOf(index, 9000), checkpointBefore(index))).toBe(index);
      index += 1;
    }
    const writes = device.writes.length;
    expect((await failureOf(log.append(payloadOf(index, 9000), checkpointBefore(index))))?.code).toBe('store-full');
    expect(device.writes).toHaveLength(writes);
    expect(log.usage().freeSegments).toBe(0);
    while (log.hasRoomFor(300)) {
      await log.append(payloadOf(index, 300), checkpointBefore(index));
      index += 1;
    }
    expect((await failureOf(log.append(payloadOf(index, 300), checkpointBefore(index))))?.code).toBe('store-full');
    const after = await open(deviceOn(device.snapshot(), 3), 9);
    expect(await readAll(after)).toHaveLength(index - 1);
  });

  it('keeps small what is repetitive', async () => {
    const device = await newStore(2);
    const log = await open(device);
    await log.append(Buffer.alloc(20_000, 'invoice line '), checkpointBefore(1));
    await log.append(Buffer.alloc(20_000, 'invoice line '), checkpointBefore(2));
    expect(device.writes.at(-1)?.bytes.length).toBe(512);
    expect((await readAll(log)).every((frame) => Buffer.alloc(20_000, 'invoice line ').equals(frame.payload))).toBe(true);
  });

  it('pads to the sector of the device, and starts runs on fresh pages', async () => {
    const device = await newStore(4, 4096);
    const log = await open(device);
    await appendAll(log, 1, [10, 5000, 10]);
    for (const write of device.writes) {
      expect(write.positionBytes % 4096).toBe(0);
      expect(write.bytes.length % 4096).toBe(0);
    }
    expect(await readAll(log)).toHaveLength(3);
  });

  it('reads as many bytes at mount for thousands of frames as for three', async () => {
    const costs: number[] = [];
    for (const frames of [3, 4000]) {
      const device = await newStore(64);
      const log = await open(device);
      for (let index = 1; index <= frames; index += 1) await log.append(payloadOf(index, 300), checkpointBefore(index));
      const again = deviceOn(device.snapshot(), 64);
      await open(again, 5);
      costs.push(again.reads.reduce((sum, read) => sum + read.lengthBytes, 0));
    }
    expect(costs[1]).toBe(costs[0]);
  });

  it('refuses everything once closed, and closes once', async () => {
    const device = await newStore(2);
    const log = await open(device);
    await Promise.all([log.close(), log.close()]);
    expect((await failureOf(log.append(Buffer.alloc(1), Buffer.alloc(1))))?.code).toBe('halted');
    expect((await failureOf(log.read(1, 1)))?.code).toBe('halted');
    expect(log.hasRoomFor(1)).toBe(false);
  });

  it('waits at close for what is under way', async () => {
    const device = await newStore(2);
    const log = await open(device);
    const release = device.stall();
    const appends = [1, 2].map((index) => log.append(payloadOf(index, 700), checkpointBefore(index)));
    const closing = log.close();
    release();
    expect(await Promise.all(appends)).toEqual([1, 2]);
    await closing;
    expect(await readAll(await open(deviceOn(device.snapshot(), 2), 3))).toHaveLength(2);
  });
});

describe('a failed write', () => {
  for (const kind of ['not-written', 'written', 'torn'] as const) {
    it(`(${kind}) leaves everything pending and later unknown until the store is opened again`, async () => {
      for (let nth = 1; nth <= 3; nth += 1) {
        const device = await newStore(4);
        const log = await open(device);
        device.failWrite(nth, kind === 'torn' ? { kind, keeps: (sector) => sector !== 1 && sector !== 9 } : { kind });
        const results = await Promise.all(
          [1, 2, 3, 4].map((index) => failureOf(log.append(payloadOf(index, 900), checkpointBefore(index)))),
        );
        expect(results.map((result) => result?.code ?? 'done')).toEqual(
          [1, 2, 3, 4].map((index) => (index < nth ? 'done' : 'unknown-outcome')),
        );
        expect((await failureOf(log.append(Buffer.alloc(1), Buffer.alloc(1))))?.code).toBe('unknown-outcome');
        expect((await failureOf(log.read(1, 1)))?.code).toBe('unknown-outcome');
        const writes = device.writes.length;
        await log.close();
        expect(device.writes).toHaveLength(writes);
        const again = await open(deviceOn(device.snapshot(), 4), 6);
        const durable = kind === 'written' ? nth : nth - 1;
        expect(again.mounted.nextIndex).toBe(durable + 1);
        expect(again.mounted.tornBytes > 0).toBe(kind === 'torn');
        await appendAll(again, durable + 1, [900, 900]);
        expect((await readAll(again)).map((frame) => frame.payload)).toEqual(
          Array.from({ length: durable + 2 }, (_, at) => payloadOf(at + 1, 900)),
        );
      }
    });
  }
});

describe('reading only', () => {
  it('writes nothing at all, takes no epoch, and refuses to append', async () => {
    const device = await newStore(4);
    await appendAll(await open(device), 1, [500, 600]);
    const reader = deviceOn(device.snapshot(), 4, { readOnly: true });
    const log = await open(reader);
    expect(log.mounted.mountEpoch).toBe(1);
    expect(await readAll(log)).toHaveLength(2);
    expect(log.hasRoomFor(1)).toBe(false);
    expect((await failureOf(log.append(Buffer.alloc(1), Buffer.alloc(1))))?.code).toBe('halted');
    await log.close();
    expect(reader.writes).toHaveLength(0);
  });

  it('stands beside a writer that goes on appending', async () => {
    const device = await newStore(8);
    const log = await open(device);
    let written = 0;
    let released = 0;
    const writing = (async () => {
      for (let index = 1; index <= 1200; index += 1) {
        await log.append(payloadOf(index, 900), checkpointBefore(index));
        written = index;
        if (index % 10 === 0) {
          released = Math.max(released, index - 150);
          await log.release(released);
        }
      }
    })();
    // Shares the writer's bytes: each read sees the medium of that moment.
    const live = {
      path: 'live',
      sizeBytes: device.sizeBytes,
      sectorBytes: device.sectorBytes,
      readOnly: true,
      read: (positionBytes: number, lengthBytes: number) => device.read(positionBytes, lengthBytes),
      writeAndSync: () => Promise.reject(new Error('a reader writes')),
      close: async () => undefined,
    };
    let last = 0;
    while (written < 1200) {
      const before = written;
      const reader = await openLog(live, dataKey);
      expect(reader.mounted.nextIndex).toBeGreaterThan(before);
      // What it reads is right; what was released meanwhile is told to be gone, and nothing is taken for damage.
      for (let index = Math.max(reader.mounted.oldestIndex, reader.mounted.nextIndex - 20); index < reader.mounted.nextIndex; index += 7) {
        const [frame] = await reader.read(index, 1);
        expect(frame?.payload).toEqual(payloadOf(index, 900));
      }
      const oldest = reader.mounted.oldestIndex;
      const gone = await failureOf(reader.read(oldest, 1));
      if (gone !== null) expect([gone.code, released >= oldest]).toEqual(['not-found', true]);
      expect((await reader.check({ heal: false })).missing).toEqual([]);
      last = reader.mounted.nextIndex;
      await reader.close();
    }
    await writing;
    expect(last).toBeGreaterThan(0);
  });
});

describe('cipher keys', () => {
  it('never meet a nonce twice, over crashes that leave torn tails', async () => {
    const used = new Set<string>();
    const salts = new Map<string, string>();
    let medium = (await newStore(16)).snapshot();
    let pairs = 0;
    for (let mount = 1; mount <= 60; mount += 1) {
      const device = deviceOn(medium, 16);
      const log = await openLog(device, dataKey);
      device.failWrite(3, { kind: 'torn', keeps: (sector) => sector % 2 === mount % 2 });
      const next = log.mounted.nextIndex;
      for (let index = next; index < next + 3; index += 1) await failureOf(log.append(payloadOf(index, 600), checkpointBefore(index)));
      for (const { positionBytes, bytes } of device.writes.slice(4)) {
        const segment = Math.floor((positionBytes - 4 * mebibyte) / segmentBytes);
        const run = decodeRunHeader(bytes.subarray(0, 4096), storeId, segment, positionBytes);
        if (run !== null) salts.set(`${run.header.mountEpoch}/${run.header.runIndex}`, Buffer.from(run.header.salt).toString('hex'));
        const at = run === null ? 0 : 4096;
        const frame = decodeFrameHeader(bytes.subarray(at, at + frameHeaderBytes), storeId, positionBytes + at);
        expect(frame).not.toBeNull();
        used.add(`${salts.get(`${frame?.mountEpoch}/${frame?.runIndex}`)}/${frame?.ordinal}`);
        pairs += 1;
      }
      medium = device.snapshot();
    }
    expect(pairs).toBe(180);
    expect(used.size).toBe(pairs);
    expect(new Set(salts.values()).size).toBe(60);
  });
});
