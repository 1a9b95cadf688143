import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import sqlite3 from 'sqlite3';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { silentLog } from '#ground/log.ts';
import { type AdminEvent, encodeAdminEvent } from '#ipc-schema/admin.ts';
import { asUkeyError } from '#ipc-schema/errors.ts';
import { acknowledge } from '#ledger/acknowledging.ts';
import { openBatch } from '#ledger/batches.ts';
import { LedgerIndex } from '#ledger/ledger-index.ts';
import { type IndexRow, keyHashOf, Lookup } from '#ledger/lookup.ts';
import { rowFromLog } from '#ledger/stored.ts';
import { BuiltToken } from '#test/support/batch-builder.ts';
import { documentDraft, LedgerRig } from '#test/support/ledger-rig.ts';

let rig: LedgerRig;
afterEach(() => rig?.close());

const documents = 40;

/** A ledger with documents and credit notes, closed. */
async function filled(): Promise<void> {
  rig = await LedgerRig.open();
  for (let at = 0; at < documents; at += 1)
    await rig.ledger.add(documentDraft(`key-${at}`, { total: `${at + 1}.00`, terminal: `till-${at % 3}` }));
  const corrects = { sequence: 2, number: 'A-00000001' };
  await rig.ledger.add(documentDraft('credit', { total: '0.40', corrects }));
  await rig.custody.close();
}

/** What the index says about everything. */
async function answers(): Promise<unknown[]> {
  const ledger = await rig.restart();
  const said: unknown[] = [];
  const ask = async (which: Parameters<typeof ledger.find>[0]): Promise<void> => {
    said.push(
      await ledger.find(which).then(
        ({ leaf, batchIndex, body }) => [leaf.sequence, leaf.number, batchIndex, Buffer.from(body).toString()],
        (error: { code: string }) => error.code,
      ),
    );
  };
  for (let at = 0; at < documents; at += 1) await ask({ keyHash: keyHashOf(`till-${at % 3}`, `key-${at}`) });
  for (let at = 1; at <= documents + 3; at += 1) await ask({ sequence: at });
  for (const number of ['A-00000001', 'A-00000040', 'C-00000001', 'A-00000041']) await ask({ number });
  for (const newestOf of [null, 'till-0', 'till-1', 'till-2', 'nobody']) await ask({ newestOf });
  const { lookup } = await openedLookup();
  said.push((await lookup.correctionsOf(2)).map((row) => row.number));
  await lookup.close();
  return said;
}

async function openedLookup(): Promise<{ lookup: Lookup }> {
  return { lookup: await Lookup.open(rig.indexFile) };
}

test('the index and the files beside it are their owner’s alone, also where an older service left them open', async () => {
  rig = await LedgerRig.open();
  await rig.ledger.add(documentDraft('key-1'));
  const modes = (): string[] =>
    ['', '-wal', '-shm'].flatMap((suffix) => {
      const file = rig.indexFile + suffix;
      return existsSync(file) ? [(statSync(file).mode & 0o777).toString(8)] : [];
    });
  expect(modes()).toEqual(['600', '600', '600']);
  await rig.custody.close();
  chmodSync(rig.indexFile, 0o644);
  await rig.restart();
  expect(new Set(modes())).toEqual(new Set(['600']));
});

describe('an index that is', () => {
  const spoil: Record<string, () => Promise<void> | void> = {
    deleted: () => Lookup.remove(rig.indexFile),
    'full of garbage': () => {
      Lookup.remove(rig.indexFile);
      writeFileSync(rig.indexFile, Buffer.alloc(64 * 1024, 0xa5));
    },
    'a text': () => {
      Lookup.remove(rig.indexFile);
      writeFileSync(rig.indexFile, 'SQLite format 3 it is not');
    },
    empty: () => {
      Lookup.remove(rig.indexFile);
      writeFileSync(rig.indexFile, '');
    },
    'of garbage behind a good head': () => {
      const fd = openSync(rig.indexFile, 'r+');
      writeSync(fd, Buffer.alloc(readFileSync(rig.indexFile).length - 4_096, 0x5a), 0, undefined, 4_096);
      closeSync(fd);
    },
    'of a newer version': async () => {
      const { default: sqlite3 } = await import('sqlite3');
      const database = new sqlite3.Database(rig.indexFile);
      await new Promise((resolve) => database.exec('PRAGMA user_version = 99', resolve));
      await new Promise((resolve) => database.close(resolve));
    },
    'of another token': () => changeHead((head) => ({ ...head, tokenId: '00'.repeat(16) })),
    'of another seal': () => changeHead((head) => ({ ...head, sealHash: '00'.repeat(32) })),
    'ahead of the log': () => changeHead((head) => ({ ...head, batch: head.batch + 1 })),
    'without a head': async () => {
      const { lookup } = await openedLookup();
      await lookup.clear();
      await lookup.close();
    },
  };

  async function changeHead(
    change: (head: { tokenId: string; batch: number; sealHash: string }) => { tokenId: string; batch: number; sealHash: string },
  ): Promise<void> {
    const { lookup } = await openedLookup();
    const head = await lookup.head();
    if (head === null) throw new Error('no head');
    // Rows that belong to nothing come with it.
    await lookup.write([foreignRow], change(head));
    await lookup.close();
  }

  test.each(Object.keys(spoil))('%s gives the same answers', async (how) => {
    await filled();
    const before = await answers();
    expect(before.filter((answer) => answer === 'not-found').length).toBe(3);
    await rig.custody.close();
    await spoil[how]?.();
    expect(await answers()).toEqual(before);
    const known = await rig.ledger.add(documentDraft('key-7', { total: '8.00', terminal: 'till-1' }));
    expect(known.repeated).toBe(true);
    expect((await rig.ledger.add(documentDraft('new'))).leaf.number).toBe('A-00000041');
  });

  test('ahead of a log that has lost what was answered stops it, and is kept until the right one is back', async () => {
    await filled();
    const before = await answers();
    const lost = rig.holder.stored.pop();
    await expect(rig.restart()).rejects.toMatchObject({
      code: 'halted',
      message: /^rollback: this machine's index has batch 42, .* ends at 41$/,
    });
    await expect(rig.restart()).rejects.toMatchObject({ code: 'halted' });
    if (lost !== undefined) rig.holder.stored.push(lost);
    expect(await answers()).toEqual(before);
  });

  test('ahead of such a log, and locked by another program, stops it as well, and is still there', { timeout: 30_000 }, async () => {
    await filled();
    const lost = rig.holder.stored.pop();
    const other = await new Promise<sqlite3.Database>((resolve, reject) => {
      const opened = new sqlite3.Database(rig.indexFile, (error) => (error === null ? resolve(opened) : reject(error)));
    });
    await new Promise<void>((resolve, reject) => other.exec('BEGIN IMMEDIATE', (error) => (error === null ? resolve() : reject(error))));
    const standing = (): string => rig.custody.standing().reason;
    await rig.restart().catch(() => undefined); // it waits for the lock longer than a caller waits
    await expect.poll(standing, { timeout: 20_000 }).toMatch(/^rollback: this machine's index has batch 42/);
    await new Promise<void>((resolve) => other.close(() => resolve()));
    await expect(rig.restart()).rejects.toMatchObject({ code: 'halted' });
    if (lost !== undefined) rig.holder.stored.push(lost);
    await rig.restart();
  });

  test('ahead of a log that was handed over says that another KEY has gone on', async () => {
    rig = await LedgerRig.open();
    const own = (event: AdminEvent) => {
      const body = encodeAdminEvent(event);
      return rig.ledger.addOwn({ kind: 'own', entryKind: 'admin', bodyMaxBytes: body.length, body: () => body });
    };
    await own({ event: 'handover' });
    await own({ event: 'handover-cancelled' }); // in the place of the other's first
    await rig.custody.close();
    rig.holder.stored.pop();
    await expect(rig.restart()).rejects.toMatchObject({ code: 'halted', message: expect.stringContaining('another one has gone on') });
  });

  test('ahead of a log that has lost acknowledgements alone keeps its rows', async () => {
    await filled();
    const before = await answers();
    await acknowledge(rig.ledger, rig.charter, rig.ack(42));
    const { tip } = rig.ledger;
    rig.holder.stored.pop();
    await rig.custody.close();
    const { lookup } = await openedLookup();
    await lookup.write([{ ...foreignRow, batch: 1, sequence: -1 }], (await lookup.head()) ?? { tokenId: '', batch: 0, sealHash: '' });
    await lookup.close();
    expect(await answers()).toEqual(before);
    expect(rig.ledger.tip.nextBatch).toBe(tip.nextBatch - 1);
    await rig.custody.close();
    const after = (await openedLookup()).lookup;
    expect(await after.bySequence(-1)).not.toBeNull(); // not made anew
    await after.close();
  });

  test('behind reads on from where it stands', async () => {
    await filled();
    renameSync(rig.indexFile, `${rig.indexFile}.old`);
    await rig.restart();
    await rig.ledger.add(documentDraft('later'));
    const before = await answers();
    await rig.custody.close();
    Lookup.remove(rig.indexFile);
    renameSync(`${rig.indexFile}.old`, rig.indexFile);
    expect(await answers()).toEqual(before);
    expect((await rig.ledger.add(documentDraft('later'))).repeated).toBe(true);
  });

  test('spoilt while it is in use is made anew, and the key is still found', async () => {
    await filled();
    await rig.restart();
    await rig.settle();
    // Every page but the first, under the feet of the open connection; it reads them again once another connection has written.
    const bytes = readFileSync(rig.indexFile);
    const other = await openedLookup();
    const head = await other.lookup.head();
    if (head === null) throw new Error('no head');
    await other.lookup.write([], head);
    await other.lookup.close();
    const fd = openSync(rig.indexFile, 'r+');
    writeSync(fd, Buffer.alloc(bytes.length - 4_096, 0x5a), 0, undefined, 4_096);
    closeSync(fd);
    let repeated: boolean | null = null;
    for (let at = 0; at < 20 && repeated === null; at += 1) {
      const ledger = await rig.custody.use();
      repeated = await ledger.add(documentDraft('key-7', { total: '8.00', terminal: 'till-1' })).then(
        (issued) => issued.repeated,
        () => null, // busy: the index is being made anew
      );
    }
    expect(repeated).toBe(true);
    expect((await (await rig.custody.use()).add(documentDraft('new'))).leaf.number).toBe('A-00000041');
  });

  test('damaged where only learning its keys finds it, while the ledger is being opened, is made anew all the same', async () => {
    const parts: { onOpened?: () => Promise<void> } = {};
    rig = await LedgerRig.open({ parts });
    await Promise.all(Array.from({ length: 600 }, (_, at) => rig.ledger.add(documentDraft(`key-${at}`))));
    await rig.custody.close();
    spoilRowsWith('A-00000300');
    parts.onOpened = () => setTimeout(150);
    await rig.restart();
    expect(await addAtLast('key-300')).toMatchObject({ repeated: true });
    expect(await addAtLast('new')).toMatchObject({ repeated: false });
    await expectWritten();
  });

  test('damaged where only writing finds it is made anew before the ledger is full of what waits', async () => {
    rig = await LedgerRig.open();
    await Promise.all(Array.from({ length: 600 }, (_, at) => rig.ledger.add(documentDraft(`key-${at}`))));
    await rig.settle();
    const { write } = Lookup.prototype;
    let spoilt: Lookup | null = null;
    Lookup.prototype.write = function (this: Lookup, ...request) {
      spoilt ??= this;
      if (this !== spoilt) return write.apply(this, request);
      return Promise.reject(Object.assign(new Error('SQLITE_CORRUPT: malformed'), { code: 'SQLITE_CORRUPT' }));
    };
    await addAtLast('new');
    await expect.poll(() => spoilt).not.toBeNull();
    expect(await addAtLast('newer')).toMatchObject({ repeated: false });
    expect(await addAtLast('new')).toMatchObject({ repeated: true });
    await expectWritten();
    Lookup.prototype.write = write;
  });

  /** The table's page that holds this number. */
  function spoilRowsWith(number: string): void {
    const pageBytes = 4_096;
    const tableLeaf = 0x0d; // SQLite's file format, 1.6
    const bytes = readFileSync(rig.indexFile);
    const pages = Array.from({ length: bytes.length / pageBytes }, (_, at) => at * pageBytes);
    const page = pages.find((at) => bytes[at] === tableLeaf && bytes.subarray(at, at + pageBytes).includes(number));
    if (page === undefined) throw new Error('no page has it');
    const fd = openSync(rig.indexFile, 'r+');
    writeSync(fd, Buffer.alloc(pageBytes, 0x5a), 0, undefined, page);
    closeSync(fd);
  }

  /** All that is in the log is in the index's file. */
  async function expectWritten(): Promise<void> {
    await rig.custody.close();
    const { lookup } = await openedLookup();
    const head = await lookup.head();
    await lookup.close();
    expect(head?.batch).toBe(rig.holder.stored.length);
  }

  test('impossible to keep on disk is kept in memory', async () => {
    await filled();
    Lookup.remove(rig.indexFile);
    mkdirSync(rig.indexFile); // no file can be made there
    writeFileSync(`${rig.indexFile}/x`, '');
    await rig.restart();
    expect((await rig.ledger.add(documentDraft('key-7', { total: '8.00', terminal: 'till-1' }))).repeated).toBe(true);
    expect((await rig.ledger.add(documentDraft('new'))).leaf.number).toBe('A-00000041');
    rmSync(rig.indexFile, { recursive: true });
  });
});

/** As a till does: the same again while the index is being made anew. */
async function addAtLast(key: string): Promise<{ readonly repeated: boolean }> {
  for (let at = 0; at < 20; at += 1) {
    try {
      return await (await rig.custody.use()).add(documentDraft(key));
    } catch (error) {
      if (asUkeyError(error).code !== 'busy') throw error;
      await setTimeout(20);
    }
  }
  throw new Error('busy for ever');
}

/** What the index on the disk says, beside the ledger that has it open. */
async function askedLookup<T>(question: (lookup: Lookup) => Promise<T>): Promise<T> {
  const lookup = await Lookup.openToRead(rig.indexFile);
  return await question(lookup).finally(() => lookup.close());
}

const foreignRow: IndexRow = {
  ...{
    sequence: 77,
    batch: 77,
    place: 0,
    kind: 1,
    number: 'A-00000077',
    terminal: 'till-9',
    keyHash: 'foreign',
    digest: 'd',
    corrects: null,
  },
};
const rowOf = (sequence: number, more: Partial<IndexRow> = {}): IndexRow => ({
  ...{
    sequence,
    batch: sequence,
    place: 0,
    kind: 1,
    number: `A-${sequence}`,
    terminal: 't',
    keyHash: hashOf(sequence),
    digest: 'd',
    corrects: null,
  },
  ...more,
});
const hashOf = (sequence: number) => keyHashOf('t', `k${sequence}`);
const headOf = (batch: number) => ({ tokenId: 'ab', batch, sealHash: 'cd' });

describe('a filling', () => {
  test('ends with what row by row gives: the newest row of a key is the one, and everything is found', async () => {
    rig = await LedgerRig.open();
    const lookup = await Lookup.open(':memory:');
    await lookup.beginFilling();
    await lookup.write([rowOf(1), rowOf(2, { keyHash: rowOf(1).keyHash }), rowOf(3, { corrects: 1, kind: 2 })], headOf(1));
    expect((await lookup.byNumber('A-3'))?.sequence).toBe(3);
    await lookup.endFilling();
    expect((await lookup.byKey(rowOf(1).keyHash ?? ''))?.sequence).toBe(2);
    expect(await lookup.bySequence(1)).toBeNull();
    expect((await lookup.newest('t'))?.sequence).toBe(3);
    expect((await lookup.correctionsOf(1)).map((row) => row.sequence)).toEqual([3]);
    await lookup.write([rowOf(4, { keyHash: rowOf(3).keyHash })], headOf(2));
    expect((await lookup.byKey(rowOf(3).keyHash ?? ''))?.sequence).toBe(4);
    await lookup.close();
  });

  test('that was cut off is an index that is behind: it reads on, and every key is found', async () => {
    await filled();
    const before = await answers();
    await rig.custody.close();
    const { lookup } = await openedLookup();
    await lookup.beginFilling();
    await lookup.close(); // as a kill leaves it
    expect(await answers()).toEqual(before);
    expect((await rig.ledger.add(documentDraft('key-7', { total: '8.00', terminal: 'till-1' }))).repeated).toBe(true);
  });

  test('takes the request of the document, not one that stands inside of something else', () => {
    const bodyWith = (more: object): Uint8Array => Buffer.from(JSON.stringify({ kind: 'invoice', ...more }));
    const request = { terminal: 'till-1', key: 'right', digest: 'd' };
    const foreign = { terminal: 'till-2', key: 'wrong', digest: 'e' };
    const bodies = [
      bodyWith({ note: '"request":{"key":"wrong"}', request }),
      bodyWith({ ext: { request: foreign }, request }),
      bodyWith({ request, ext: { request: foreign } }),
      bodyWith({ request, ext: { list: [{ request: foreign }] } }),
      bodyWith({ request, later: 1 }),
    ];
    const built = new BuiltToken();
    const drafts = bodies.map((body) => ({ kind: 'body', entryKind: 'invoice', body, leaf: fiscalLeaf }) as const);
    const batch = openBatch(1, built.batch(drafts).bytes);
    for (const place of bodies.keys()) expect(rowFromLog(batch, place).row.keyHash, String(place)).toBe(keyHashOf('till-1', 'right'));
  });
});

const fiscalLeaf = { number: 'A-1', currency: 'GBP', total: '1.00', taxTotal: '0.00' };

const nothingYet = { entries: 0, batch: 0, hasReleased: () => false };

describe('rows', () => {
  test('wait in memory while they cannot be written, are found there, and are tried again', async () => {
    rig = await LedgerRig.open();
    const lookup = await Lookup.open(':memory:');
    let mayWrite = false;
    const write = lookup.write.bind(lookup);
    lookup.write = (...given) => (mayWrite ? write(...given) : Promise.reject(new Error('the disk is full')));
    const broken: string[] = [];
    const index = new LedgerIndex({ ...nothingYet, lookup, log: silentLog, onBroken: () => broken.push('told') });
    index.add([rowOf(1), rowOf(2, { corrects: 1, kind: 2 })], headOf(1));
    await setTimeout(80);
    index.add([rowOf(3)], headOf(2));
    expect(await lookup.head()).toBeNull();
    expect((await index.byKey(hashOf(1)))?.sequence).toBe(1);
    expect((await index.byNumber('A-3'))?.sequence).toBe(3);
    expect((await index.bySequence(2))?.number).toBe('A-2');
    expect((await index.newest('t'))?.sequence).toBe(3);
    expect((await index.newest(null))?.sequence).toBe(3);
    expect((await index.correctionsOf(1)).map((row) => row.sequence)).toEqual([2]);
    mayWrite = true;
    await expect.poll(() => lookup.head(), { timeout: 5_000 }).toEqual(headOf(2));
    expect((await index.correctionsOf(1)).map((row) => row.sequence)).toEqual([2]);
    expect((await lookup.byKey(hashOf(3)))?.sequence).toBe(3);
    expect(broken).toEqual([]);
    await index.close();
  });

  test('that come while others are written are written next', async () => {
    rig = await LedgerRig.open();
    const lookup = await Lookup.open(':memory:');
    const index = new LedgerIndex({ ...nothingYet, lookup, log: silentLog, onBroken: () => undefined });
    for (let batch = 1; batch <= 400; batch += 1) {
      index.add([rowOf(batch)], headOf(batch));
      await index.byNumber('nobody'); // the writes stand in the same line
      if (batch % 40 === 0) await setTimeout(26);
    }
    await expect.poll(() => lookup.head(), { timeout: 5_000 }).toEqual(headOf(400));
    for (let sequence = 1; sequence <= 400; sequence += 1) expect((await lookup.byKey(hashOf(sequence)))?.sequence).toBe(sequence);
    await index.close();
  });

  test('are many at most: then nothing new is taken', async () => {
    rig = await LedgerRig.open();
    const lookup = await Lookup.open(':memory:');
    lookup.write = () => Promise.reject(new Error('the disk is full'));
    const broken: boolean[] = [];
    const index = new LedgerIndex({ ...nothingYet, lookup, log: silentLog, onBroken: (isSpoilt) => broken.push(isSpoilt) });
    const rows = Array.from({ length: 49_999 }, (_, at) => rowOf(at + 1));
    index.add(rows, headOf(1));
    expect(index.full).toBe(false);
    await setTimeout(20);
    expect(broken).toEqual([]);
    index.add([rowOf(50_000)], headOf(2));
    expect(index.full).toBe(true);
    await expect.poll(() => broken, { timeout: 5_000 }).toEqual([false]);
    await index.close();
  });

  test('that no disk takes any more are kept in memory in the end: the ledger goes on, and the file is left as it is', async () => {
    rig = await LedgerRig.open();
    await rig.ledger.add(documentDraft('key-1'));
    await expect.poll(async () => (await askedLookup((lookup) => lookup.byNumber('A-00000001')))?.sequence).toBeDefined();
    const inMemory = new Set<Lookup>();
    const [open, write] = [Lookup.open.bind(Lookup), Lookup.prototype.write];
    vi.spyOn(Lookup, 'open').mockImplementation(async (file) => {
      const lookup = await open(file);
      if (file === ':memory:') inMemory.add(lookup);
      return lookup;
    });
    vi.spyOn(Lookup.prototype, 'write').mockImplementation(function (this: Lookup, ...given) {
      return inMemory.has(this) ? write.apply(this, given) : Promise.reject(new Error('the disk is full'));
    });
    const add = vi.spyOn(LedgerIndex.prototype, 'add');
    try {
      await rig.ledger.add(documentDraft('key-2'));
      const index = add.mock.contexts[0] as LedgerIndex | undefined;
      const rows = Array.from({ length: 50_000 }, (_, at) => rowOf(at + 100));
      index?.add(rows, headOf(1));
      expect((await addAtLast('key-3')).repeated).toBe(false);
      for (const key of ['key-1', 'key-2', 'key-3']) expect((await addAtLast(key)).repeated).toBe(true);
      expect(inMemory.size).toBe(1);
    } finally {
      vi.restoreAllMocks();
    }
    expect((await askedLookup((lookup) => lookup.head()))?.batch).toBe(rig.holder.stored.length - 2);
    const ledger = await rig.restart(); // there is room again
    expect((await ledger.add(documentDraft('key-3'))).repeated).toBe(true);
    await rig.custody.close();
    expect((await askedLookup((lookup) => lookup.head()))?.batch).toBe(rig.holder.stored.length);
  });
});

test('the file says nothing but what its header says: no amount, no name, no plain key', async () => {
  rig = await LedgerRig.open();
  const secret = 'BUYER-OF-SOMETHING';
  await rig.ledger.add(documentDraft(`plain-key-${secret}`, { total: '987654.32' }));
  await rig.custody.close();
  const bytes = Buffer.concat(
    rig
      .indexFiles()
      .filter(existsSync)
      .map((file) => readFileSync(file)),
  );
  expect(bytes.length).toBeGreaterThan(4_096);
  expect(bytes.includes('A-00000001')).toBe(true);
  for (const word of [secret, 'plain-key', '987654', 'filler', 'GBP']) expect(bytes.includes(word), word).toBe(false);
});
