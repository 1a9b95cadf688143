// Owns: what every implementation of server/database.ts must do. Each test gets a database of its own; `reopen` closes it and opens it again.
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ChainHead } from '#ipc-schema/verify.ts';
import { type Alarm, type Database, type NewBatch, type NewEntry, type TokenRecord, tokenMaxAlarms } from '#server/database.ts';

export interface DatabasePlace {
  open(): Promise<Database>;
  remove(): Promise<void>;
}

const tokenId = 'ab'.repeat(16);
const code = { codeHash: 'c0'.repeat(32), grant: '{"of":"this"}', madeAtMs: 1_000, expiresAtMs: 2_000 };

export function record(id: string): TokenRecord {
  return {
    tokenId: id,
    serial: 'S-1',
    issuerTaxId: 'GB1',
    issuerName: 'Ünïcode & Co',
    spki: randomBytes(91),
    certificate: Buffer.from(`certificate of ${id}`),
    enrolledAtMs: 1_893_456_000_123,
  };
}

export function entry(sequence: number, change: Partial<NewEntry> = {}): NewEntry {
  const number = `A-${sequence}`;
  return { sequence, kind: 'invoice', number, issuedAtMs: 5, currency: 'GBP', total: '1.20', taxTotal: '0.20', flaw: null, ...change };
}

export function batch(batchIndex: number, entries: readonly NewEntry[]): NewBatch {
  const bytes = randomBytes(100);
  return { batchIndex, firstSequence: entries[0]?.sequence ?? 1, bytes, bytesHash: randomBytes(32), sealHash: randomBytes(32), entries };
}

export function headAfter(added: NewBatch): ChainHead {
  return { batchIndex: added.batchIndex, nextSequence: added.firstSequence + added.entries.length, sealHash: added.sealHash };
}

export function databaseSuite(name: string, makePlace: () => Promise<DatabasePlace>): void {
  describe(`${name} as the ticket server's database`, () => {
    let place: DatabasePlace;
    let database: Database;

    beforeEach(async () => {
      place = await makePlace();
      database = await place.open();
    });

    afterEach(async () => {
      await database.close();
      await place.remove();
    });

    const reopen = async (): Promise<void> => {
      await database.close();
      database = await place.open();
    };

    const enrolled = async (id = tokenId): Promise<ChainHead> => {
      const codeHash = id.repeat(2);
      await database.addCode({ ...code, codeHash });
      expect(await database.enrol(codeHash, record(id), '{}')).toBe('enrolled');
      return (await database.findToken(id))?.head as ChainHead;
    };

    test('stays with the authority that it was bound to first', async () => {
      await database.bindAuthority('aa');
      await database.bindAuthority('aa');
      await reopen();
      await expect(database.bindAuthority('bb')).rejects.toMatchObject({ code: 'halted' });
      await database.bindAuthority('aa');
    });

    test('keeps the latest public URL', async () => {
      expect(await database.publicUrl()).toBeNull();
      await database.setPublicUrl('https://one');
      await database.setPublicUrl('https://two');
      await reopen();
      expect(await database.publicUrl()).toBe('https://two');
    });

    test('a recovery code belongs to the first key that asks, and keeps the answer to what was asked last', async () => {
      await database.addCode(code);
      await database.enrol(code.codeHash, record(tokenId), 'answer');
      await database.addRecovery({ codeHash: 'r', tokenId, madeAtMs: 1, expiresAtMs: 9, supersedes: false });
      expect(await database.findRecovery('other')).toBeNull();
      expect(await database.findRecovery('r')).toMatchObject({
        tokenId,
        expiresAtMs: 9,
        supersedes: false,
        usedBy: null,
        serial: null,
        asked: null,
      });
      const [slot, replyKey, reply] = [Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)];
      expect(await database.bindRecovery('r', 'key-1', slot, replyKey)).toBe(true);
      expect(await database.bindRecovery('r', 'key-2', slot, replyKey)).toBe(false);
      expect(await database.waitingRecoveries(tokenId)).toHaveLength(1);
      await database.replyRecovery('r', Uint8Array.of(9), reply);
      expect(await database.waitingRecoveries(tokenId)).toHaveLength(1);
      await database.replyRecovery('r', replyKey, reply);
      expect(await database.waitingRecoveries(tokenId)).toEqual([]);
      expect((await database.findRecovery('r'))?.asked?.reply).toEqual(reply);
    });

    test('a renewal is kept once, in order, and only while the same key may seal', async () => {
      await database.addCode(code);
      await database.enrol(code.codeHash, record(tokenId), 'answer');
      const renewal = { serial: 1, keyId: tokenId, renewedHash: Uint8Array.of(1), certificate: Uint8Array.of(2), madeAtMs: 3 };
      expect(await database.renewals(tokenId)).toEqual([]);
      expect(await database.renew('cd'.repeat(16), renewal, 0)).toBe('moved');
      expect(await database.renew(tokenId, { ...renewal, serial: 2 }, 0)).toBe('moved');
      expect(await database.renew(tokenId, renewal, 0)).toBe('renewed');
      expect(await database.renew(tokenId, renewal, 0)).toBe('moved');
      expect(await database.renew(tokenId, { ...renewal, serial: 2 }, 0)).toBe('moved'); // of the same certificate
      const second = { ...renewal, serial: 2, renewedHash: Uint8Array.of(9) };
      expect(await database.renew(tokenId, second, 0)).toBe('renewed');
      await reopen();
      expect(await database.renewals(tokenId)).toEqual([renewal, second]);
      const { head } = (await database.findToken(tokenId)) ?? {};
      if (head === undefined) throw new Error('no token');
      await database.addRecovery({ codeHash: 'r', tokenId, madeAtMs: 1, expiresAtMs: 9, supersedes: false });
      await database.bindRecovery('r', 'key-1', Uint8Array.of(1), Uint8Array.of(2));
      const next = { serial: 1, keyId: 'key-1', fromBatch: 2, previousSealHash: Uint8Array.of(4), signed: Uint8Array.of(5), madeAtMs: 6 };
      expect(await database.succeed('r', tokenId, head, next)).toBe('succeeded');
      const third = { ...renewal, serial: 3, renewedHash: Uint8Array.of(7) };
      expect(await database.renew(tokenId, third, 0)).toBe('moved');
      expect(await database.renew(tokenId, third, 1)).toBe('renewed');
    });

    test('a succession uses its code up, once, and only behind the head that was judged', async () => {
      await database.addCode(code);
      await database.enrol(code.codeHash, record(tokenId), 'answer');
      const head = (await database.findToken(tokenId))?.head;
      if (head === undefined) throw new Error('no token');
      await database.addRecovery({ codeHash: 'r', tokenId, madeAtMs: 1, expiresAtMs: 9, supersedes: true });
      await database.bindRecovery('r', 'key-1', Uint8Array.of(1), Uint8Array.of(2));
      const succession = {
        serial: 1,
        keyId: 'key-1',
        fromBatch: 2,
        previousSealHash: Uint8Array.of(4),
        signed: Uint8Array.of(5),
        madeAtMs: 6,
      };
      expect(await database.succeed('r', tokenId, { ...head, batchIndex: 1 }, succession)).toBe('moved');
      expect(await database.succeed('r', tokenId, head, { ...succession, serial: 2 })).toBe('moved');
      expect(await database.succeed('r', tokenId, head, { ...succession, keyId: tokenId })).toBe('key-known');
      expect(await database.successions(tokenId)).toEqual([]);
      expect(await database.succeed('r', tokenId, head, succession)).toBe('succeeded');
      expect(await database.successions(tokenId)).toEqual([succession]);
      expect(await database.succeed('r', tokenId, head, { ...succession, serial: 2, keyId: 'key-2' })).toBe('moved');
      await database.addCode({ ...code, codeHash: 'b' });
      expect(await database.enrol('b', record('key-1'), 'answer')).toBe('token-known');
    });

    test('a code is used by one token, once, and the answer is kept', async () => {
      await database.addCode(code);
      expect(await database.findCode('00'.repeat(32))).toBeNull();
      expect(await database.findCode(code.codeHash)).toEqual({ ...code, used: null });
      expect(await database.enrol(code.codeHash, record(tokenId), '{"a":1}')).toBe('enrolled');
      await reopen();
      expect(await database.findCode(code.codeHash)).toEqual({ ...code, used: { tokenId, answer: '{"a":1}' } });
      const other = 'cd'.repeat(16);
      expect(await database.enrol(code.codeHash, record(other), '{}')).toBe('code-used');
      expect(await database.findToken(other)).toBeNull();
    });

    test('a token is enrolled once, and a second code is left unused by it', async () => {
      await enrolled();
      await database.addCode(code);
      expect(await database.enrol(code.codeHash, record(tokenId), '{}')).toBe('token-known');
      expect((await database.findCode(code.codeHash))?.used).toBeNull();
    });

    test('a code that was never made enrols nobody', async () => {
      expect(await database.enrol(code.codeHash, record(tokenId), '{}')).toBe('code-used');
      expect(await database.findToken(tokenId)).toBeNull();
    });

    test('a new token stands at the start of its chain, with all its fields', async () => {
      const head = await enrolled();
      expect(head).toMatchObject({ batchIndex: 0, nextSequence: 1 });
      expect(await database.findToken(tokenId)).toMatchObject({
        serial: 'S-1',
        issuerName: 'Ünïcode & Co',
        enrolledAtMs: 1_893_456_000_123,
        documents: 0,
        lastContactMs: null,
        alarm: null,
      });
    });

    test('lists tokens in the order of their ids, in pages', async () => {
      const ids = ['0a', 'ff', '33'].map((byte) => byte.repeat(16));
      for (const id of ids) await enrolled(id);
      const sorted = [...ids].sort();
      expect((await database.listTokens('', 2)).map((token) => token.tokenId)).toEqual(sorted.slice(0, 2));
      expect((await database.listTokens(sorted[1] ?? '', 2)).map((token) => token.tokenId)).toEqual(sorted.slice(2));
    });

    test('what was stored is there, byte for byte, after it was opened again', async () => {
      const start = await enrolled();
      const one = batch(1, [entry(1), entry(2, { kind: 'admin', number: null, currency: null, total: null, taxTotal: null })]);
      const two = batch(2, [entry(3)]);
      expect(await database.store(tokenId, start, [one, two], headAfter(two), 77)).toBe('stored');
      await reopen();
      expect(await database.findToken(tokenId)).toMatchObject({
        documents: 2,
        lastContactMs: 77,
        head: { batchIndex: 2, nextSequence: 4 },
      });
      expect(Buffer.from((await database.findBatch(tokenId, 1))?.bytes ?? [])).toEqual(one.bytes);
      expect(await database.findBatch(tokenId, 3)).toBeNull();
      const marks = await database.marks(tokenId, 1, 10);
      expect(marks.map((mark) => Buffer.from(mark.bytesHash))).toEqual([one.bytesHash, two.bytesHash]);
      expect(marks.map((mark) => Buffer.from(mark.sealHash))).toEqual([one.sealHash, two.sealHash]);
      expect((await database.marks(tokenId, 2, 1)).map((mark) => mark.batchIndex)).toEqual([2]);
    });

    test('finds entries by number and from a sequence on, of this token alone', async () => {
      const start = await enrolled();
      const other = 'cd'.repeat(16);
      const otherStart = await enrolled(other);
      const mine = batch(1, [entry(1), entry(2), entry(3)]);
      const theirs = batch(1, [entry(1)]);
      await database.store(tokenId, start, [mine], headAfter(mine), 1);
      await database.store(other, otherStart, [theirs], headAfter(theirs), 1);
      expect(await database.findEntries(tokenId, { kind: 'number', number: 'A-2' }, 10)).toEqual([{ sequence: 2, batchIndex: 1 }]);
      expect((await database.findEntries(tokenId, { kind: 'range', fromSequence: 2 }, 10)).map((place) => place.sequence)).toEqual([2, 3]);
      expect((await database.findEntries(tokenId, { kind: 'range', fromSequence: 1 }, 1)).map((place) => place.sequence)).toEqual([1]);
      expect(await database.findEntries(other, { kind: 'number', number: 'A-2' }, 10)).toEqual([]);
      expect(await database.findEntries('00'.repeat(16), { kind: 'range', fromSequence: 1 }, 10)).toEqual([]);
      expect(await database.takenNumbers(tokenId, ['A-1', 'A-9'])).toEqual(new Set(['A-1']));
    });

    test('nothing is stored when the head has moved', async () => {
      const start = await enrolled();
      const one = batch(1, [entry(1)]);
      const rival = batch(1, [entry(1, { number: 'B-1' })]);
      expect(await database.store(tokenId, start, [one], headAfter(one), 1)).toBe('stored');
      expect(await database.store(tokenId, start, [rival], headAfter(rival), 2)).toBe('moved');
      expect(await database.findEntries(tokenId, { kind: 'number', number: 'B-1' }, 10)).toEqual([]);
      expect((await database.findToken(tokenId))?.lastContactMs).toBe(1);
    });

    test('the newest batch changes its spelling with the head, and not behind another head', async () => {
      const start = await enrolled();
      const [one, two] = [batch(1, [entry(1)]), batch(2, [entry(2)])];
      await database.store(tokenId, start, [one, two], headAfter(two), 1);
      const spelled = { batchIndex: 2, bytes: randomBytes(100), bytesHash: randomBytes(32), sealHash: randomBytes(32) };
      await database.respell(tokenId, headAfter(one), { ...spelled, batchIndex: 1 });
      await database.respell(tokenId, { ...headAfter(two), sealHash: one.sealHash }, spelled);
      expect(Buffer.from((await database.findToken(tokenId))?.head.sealHash ?? [])).toEqual(two.sealHash);
      await database.respell(tokenId, headAfter(two), spelled);
      await reopen();
      const head = { ...headAfter(two), sealHash: new Uint8Array(spelled.sealHash) };
      expect(await database.findToken(tokenId)).toMatchObject({ documents: 2, lastContactMs: 1 });
      expect(Buffer.from((await database.findToken(tokenId))?.head.sealHash ?? [])).toEqual(spelled.sealHash);
      expect(Buffer.from((await database.findBatch(tokenId, 1))?.bytes ?? [])).toEqual(one.bytes);
      expect(Buffer.from((await database.findBatch(tokenId, 2))?.bytes ?? [])).toEqual(spelled.bytes);
      const [, mark] = await database.marks(tokenId, 1, 2);
      expect([mark?.bytesHash, mark?.sealHash].map((hash) => Buffer.from(hash ?? []))).toEqual([spelled.bytesHash, spelled.sealHash]);
      const three = batch(3, [entry(3)]);
      expect(await database.store(tokenId, headAfter(two), [three], headAfter(three), 2)).toBe('moved');
      expect(await database.store(tokenId, head, [three], headAfter(three), 2)).toBe('stored');
    });

    test('nothing is stored of what was judged before another key was let go on', async () => {
      const start = await enrolled();
      const one = batch(1, [entry(1)]);
      await database.store(tokenId, start, [one], headAfter(one), 1);
      await database.addRecovery({ codeHash: 'r', tokenId, madeAtMs: 1, expiresAtMs: 9, supersedes: false });
      await database.bindRecovery('r', 'key-1', Uint8Array.of(1), Uint8Array.of(2));
      const succession = { serial: 1, keyId: 'key-1', fromBatch: 2, previousSealHash: one.sealHash, signed: Uint8Array.of(5), madeAtMs: 6 };
      expect(await database.succeed('r', tokenId, headAfter(one), succession)).toBe('succeeded');
      const two = batch(2, [entry(2)]);
      expect(await database.store(tokenId, headAfter(one), [two], headAfter(two), 2)).toBe('moved');
      expect(await database.store(tokenId, { ...headAfter(one), succession: 1 }, [two], headAfter(two), 2)).toBe('stored');
    });

    test('one of a run that cannot be stored leaves all of it out', async () => {
      const start = await enrolled();
      const one = batch(1, [entry(1)]);
      const doubled = batch(2, [entry(1)]); // the sequence is taken
      await expect(database.store(tokenId, start, [one, doubled], headAfter(doubled), 1)).rejects.toMatchObject({ code: 'internal' });
      expect((await database.findToken(tokenId))?.head.batchIndex).toBe(0);
      expect(await database.findBatch(tokenId, 1)).toBeNull();
      expect(await database.store(tokenId, start, [one], headAfter(one), 1)).toBe('stored');
    });

    test('no batches only note the contact', async () => {
      const start = await enrolled();
      expect(await database.store(tokenId, start, [], start, 99)).toBe('stored');
      expect(await database.findToken(tokenId)).toMatchObject({ lastContactMs: 99, documents: 0 });
    });

    test('tells the latest parked sequences, ascending', async () => {
      const start = await enrolled();
      const one = batch(1, [entry(1, { flaw: 'x' }), entry(2), entry(3, { flaw: 'y' }), entry(4, { flaw: 'z' })]);
      await database.store(tokenId, start, [one], headAfter(one), 1);
      expect(await database.parked(tokenId, 10)).toEqual([1, 3, 4]);
      expect(await database.parked(tokenId, 2)).toEqual([3, 4]);
    });

    test('keeps an alarm once, shows the latest, and not without end', async () => {
      await enrolled();
      const alarm: Alarm = { kind: 'fork', batchIndex: 1, detail: 'first', proof: Buffer.from('p'), raisedAtMs: 3 };
      await database.raiseAlarm(tokenId, alarm);
      await database.raiseAlarm(tokenId, { ...alarm, raisedAtMs: 4 });
      expect(await database.alarms(tokenId)).toHaveLength(1);
      for (let at = 0; at < tokenMaxAlarms + 5; at++)
        await database.raiseAlarm(tokenId, { ...alarm, detail: `d${at}`, proof: Buffer.from(`p${at}`) });
      await reopen();
      const kept = await database.alarms(tokenId);
      expect(kept).toHaveLength(tokenMaxAlarms);
      expect(kept[0]).toMatchObject({ kind: 'fork', detail: 'first', raisedAtMs: 3 });
      expect((await database.findToken(tokenId))?.alarm?.detail).toBe(`d${tokenMaxAlarms - 2}`);
      expect((await database.listTokens('', 10)).map((token) => token.alarm?.batchIndex)).toEqual([1]);
    });

    test('an alarm that is settled is shown no more, and its proof raises none again', async () => {
      await enrolled();
      const alarm: Alarm = { kind: 'fork', batchIndex: 2, detail: 'first', proof: Buffer.from('p'), raisedAtMs: 3 };
      await database.raiseAlarm(tokenId, alarm);
      expect(await database.settleAlarms('00'.repeat(16), 'not this one', 4)).toBe(0);
      expect((await database.findToken(tokenId))?.alarm).toMatchObject({ batchIndex: 2, raisedAtMs: 3 });
      expect(await database.settleAlarms(tokenId, 'a restored disk image', 4)).toBe(1);
      await database.raiseAlarm(tokenId, alarm);
      await reopen();
      expect((await database.findToken(tokenId))?.alarm).toBeNull();
      expect(await database.alarms(tokenId)).toEqual([]);
      await database.raiseAlarm(tokenId, { ...alarm, proof: Buffer.from('q'), detail: 'second' });
      expect((await database.findToken(tokenId))?.alarm?.detail).toBe('second');
      expect(await database.settleAlarms(tokenId, 'again', 5)).toBe(1);
    });
  });
}
